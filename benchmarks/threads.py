"""How long commands take beside another busy process, by the number of threads and the way in which they wait.

python benchmarks/threads.py [--rounds N] [--model M]

In each round, `agvae compress --psnr 32` and `agvae decompress` run once in each way on a photograph. All rounds run on
the machine as it is, and then again beside a process that keeps one core busy. The ways take turns, so that other work
on the machine affects all alike. The tables have medians in seconds, including the start of the command, and in
brackets their ratios to one thread.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import photo, table
from PIL import Image

SET_BY_USER = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WAYS = {
    "one": ["--threads", "1"],
    "the default": [],
    "two, passive": ["--threads", "2"],
    "two, spinning": ["--threads", "2"],
}
SPINS = {"two, spinning": {"GOMP_SPINCOUNT": "300000"}}  # libgomp's default


def measure(folder, model, rounds, busy):
    """The times, {way: [(seconds of compress, of decompress), …]}."""
    clean = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    agvae = [sys.executable, "-m", "agvae"]
    found = {way: [] for way in WAYS}
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        for _ in range(rounds):
            for way, options in WAYS.items():
                seconds = []
                for task in (["compress", "photo.png", "a.agv", "--psnr", "32"], ["decompress", "a.agv", "a.png"]):
                    start = time.perf_counter()
                    subprocess.run(
                        [*agvae, *task, "--model", model, *options],
                        cwd=folder,
                        env=clean | SPINS.get(way, {}),
                        stdout=subprocess.DEVNULL,
                        check=True,
                    )
                    seconds.append(time.perf_counter() - start)
                found[way].append(seconds)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="agvae-small-mse")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(photo(768, 512)).save(Path(folder) / "photo.png")
        for busy in (False, True):
            found = measure(folder, options.model, options.rounds, busy)
            medians = {way: [statistics.median(task) for task in zip(*found[way], strict=True)] for way in WAYS}
            where = "beside a busy process" if busy else "on the machine as it is"
            print(f"{where}, load {os.getloadavg()[0]:.1f}\n")
            rows = (
                (way, *(f"{s:.2f} ({s / one:.2f})" for s, one in zip(medians[way], medians["one"], strict=True)))
                for way in WAYS
            )
            table(("threads", "compress", "decompress"), rows)


if __name__ == "__main__":
    main()
