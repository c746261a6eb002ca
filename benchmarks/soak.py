"""Long runs of the parts that must never fail. docs/soak.md has the results of the last ones.

    python benchmarks/soak.py streams --count 100000     mutated files of all models
    python benchmarks/soak.py models --count 10000       mutated model files
    python benchmarks/soak.py kills --count 100          kill -9 of training, at any moment
    python benchmarks/soak.py memory --count 1000        compressions and decompressions in one process
    python benchmarks/soak.py threads --count 400        8 threads on one codec
    python benchmarks/soak.py disasters                  full disks, read-only folders, lost files, a wrong clock

Each part stores its counts in --state and continues from there when you call it again. Only `memory` starts anew,
because it measures one process. Each case is drawn from its number, so --only N repeats a case that failed. The exit
status is 1 if a case failed.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import ROOT, peak_memory, table
from disasters import DISASTERS, last, same_weights, training
from PIL import Image

sys.path[:0] = [str(ROOT / "tests")]

from test_fuzz import MAX_PIXELS, MUTATIONS, Sample, content, samples_of  # noqa: E402
from test_strange_models import is_sentence, mutated, outcome  # noqa: E402

from agvae import shipped  # noqa: E402
from agvae.codec import BitstreamError, Codec  # noqa: E402
from agvae.data.bundled_photos import sample_photos  # noqa: E402
from agvae.images import load_rgb  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
THREADS = 8


class Tally(dict):
    """The counts of a part, stored in a file."""

    def __init__(self, path: Path, part: str):
        super().__init__(json.loads(path.read_text()) if path.exists() else {"done": 0, "failures": []})
        self.path, self.part = path, part

    def add(self, name: str, value: int = 1) -> None:
        self[name] = self.get(name, 0) + value

    def largest(self, name: str, value: float) -> None:
        self[name] = max(self.get(name, 0), round(value, 3))

    def fail(self, words: str) -> None:
        self["failures"] = [*self["failures"], words][:100]
        print(f"{self.part}: {words}", file=sys.stderr, flush=True)

    def save(self) -> None:
        self.path.write_text(json.dumps(self, indent=1))


def each(tally: Tally, count: int, case: Callable[[int], None], save_every: int = 50) -> None:
    """Run the cases that are not done yet."""
    for number in range(tally["done"], count):
        case(number)
        tally["done"] = number + 1
        if tally["done"] % save_every == 0:
            tally.save()


# --- mutated streams and model files


class Read(Sample):
    """A sample from an existing file."""

    def __init__(self, codec: Codec, data: bytes):
        self.data, self.picture = data, content(codec.decompress(data))


def pixels_of_photo() -> np.ndarray:
    """A photograph of 512×512, (H, W, 3) uint8, without its metadata."""
    return load_rgb(*sample_photos(("astronaut.png",)))


def corpus() -> list[tuple[str, Codec, list[Sample]]]:
    """Each model's name, its codec, and its files."""
    photo = Image.fromarray(pixels_of_photo())
    made = []
    for path in (*map(shipped.path, shipped.names()), *sorted(GOLDEN.glob("*.safetensors"))):
        codec = Codec.load(path)
        samples = samples_of(codec, photo)
        if path.parent == GOLDEN:
            samples.append(Read(codec, path.with_suffix(".agv").read_bytes()))
        made.append((path.stem, codec, samples))
    return made


def streams(tally: Tally, count: int) -> None:
    """A mutated file gives the right picture or a BitstreamError."""
    models = corpus()
    tally["models"], before = len(models), peak_memory()

    def case(number: int) -> None:
        rng = np.random.default_rng(number)
        name, codec, samples = models[number % len(models)]
        sample, other = (samples[i] for i in rng.integers(len(samples), size=2))
        mutation = MUTATIONS[number // len(models) % len(MUTATIONS)]
        data, start = mutation(sample.data, other.data, rng), time.process_time()
        words = f"case {number}, {name}, {mutation.__name__}"
        try:
            found = content(codec.decompress(data, max_pixels=MAX_PIXELS))
        except BitstreamError as error:
            tally.add("refused")
            if not is_sentence(str(error)):
                tally.fail(f"{words}: {str(error)[:200]!r}")
        except Exception as error:
            tally.fail(f"{words}: {error!r}")
        else:
            if found not in [s.picture for s in samples if s.data == data]:
                tally.fail(f"{words}: decodes to another picture")
        tally.largest("longest, s", time.process_time() - start)
        tally.largest("memory above that of the codecs, MiB", (peak_memory() - before) / 2**20)

    each(tally, count, case)


def models(tally: Tally, count: int) -> None:
    """A mutated model file loads, or is refused with one sentence."""
    paths = sorted(GOLDEN.glob("*.safetensors"))
    small = shipped.path("agvae-small-mse").read_bytes()
    files, scratch = [path.read_bytes() for path in paths], tally.path.with_suffix(".safetensors")
    before = peak_memory()

    def case(number: int) -> None:
        # One case in 16 mutates a model of full size.
        name, file = mutated(small if number % 16 == 15 else files[number // 16 % len(files)], number)
        try:
            sentence, seconds = outcome(scratch, file)
        except Exception as error:
            tally.fail(f"case {number}, {name}: {error!r}")
            return
        tally.add("loaded" if sentence is None else "refused")
        if sentence is not None and not is_sentence(sentence):
            tally.fail(f"case {number}, {name}: {sentence[:200]!r}")
        tally.largest("longest refusal, s" if sentence else "longest load, s", seconds)
        tally.largest("memory above the start, MiB", (peak_memory() - before) / 2**20)

    each(tally, count, case)
    scratch.unlink(missing_ok=True)


# --- training that is killed, and other disasters


def kills(tally: Tally, count: int) -> None:
    """Runs that are killed at any moment, and resumed until they end, reach the weights of an uninterrupted run."""
    folder = tally.path.parent / "kills"
    whole, cut = folder / "whole", folder / "cut"
    if not (whole / "checkpoints/last.ckpt").exists():
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        training(whole).communicate()
        tally["seconds of a run"] = round(time.perf_counter() - start, 1)
    expected = last(whole)

    def case(number: int) -> None:
        checkpoint = cut / "checkpoints/last.ckpt"
        process = training(cut, *(["ckpt_path=last"] if checkpoint.exists() else []))
        try:
            _, errors = process.communicate(timeout=random.Random(number).uniform(0, tally["seconds of a run"]))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            tally.add("killed")
            tally.add("of these with a checkpoint", checkpoint.exists())
            return
        if process.returncode:
            tally.fail(f"case {number}: {errors.strip().splitlines()[-1]}")
        elif not same_weights(last(cut), expected):
            tally.fail(f"case {number}: the weights differ from those of the uninterrupted run")
        tally.add("runs completed")
        shutil.rmtree(cut)

    each(tally, count, case, save_every=1)


def disasters(tally: Tally, count: int) -> None:
    """Every disaster ends with one line and leaves whole files behind."""
    folder = tally.path.parent / "disaster"
    for number, disaster in enumerate(DISASTERS):
        if number < tally["done"]:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        if words := disaster(folder):
            tally.fail(f"{disaster.__name__}: {words}")
        tally[disaster.__name__.replace("_", " ")] = f"{time.perf_counter() - start:.0f} s"
        tally["done"] = number + 1
        tally.save()
    shutil.rmtree(folder, ignore_errors=True)


# --- one process


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory(tally: Tally, count: int) -> None:
    """Memory stays flat: it grows by at most 1 kB with each pair of compress and decompress.

    The slope is that over the last three quarters of the pairs."""
    codec, photo = Codec.load("agvae-small-mse"), pixels_of_photo()
    rng, sizes = np.random.default_rng(0), []
    tally["done"] = 0
    for _ in range(count):
        height, width = rng.integers(64, 257, 2)
        top, left = rng.integers(0, 256, 2)
        picture = photo[top : top + height, left : left + width]
        codec.decompress(codec.compress(picture, quality=rng.uniform(0, codec.levels - 1)))
        sizes.append(resident())
        tally["done"] += 1
    later = sizes[count // 4 :]
    slope = np.polyfit(np.arange(len(later)), later, 1)[0]
    tally["slope, bytes a pair"] = round(slope)
    tally["memory at a quarter and at the end, MiB"] = [round(size / 2**20, 1) for size in (later[0], later[-1])]
    if slope > 1000:
        tally.fail(f"memory grows by {slope:.0f} bytes with each compression and decompression")


def threads(tally: Tally, count: int) -> None:
    """Threads that share a codec get the same bytes and pictures as each gets alone."""
    codec, photo = Codec.load("agvae-small-mse"), Image.fromarray(pixels_of_photo())

    def job(number: int) -> tuple[bytes, bytes]:
        rng = np.random.default_rng(number)
        left, top = (int(n) for n in rng.integers(0, 380, 2))
        targets = ({"quality": rng.uniform(0, 5)}, {"bpp": 0.5}, {"psnr": 30.0}, {"quality": 3.0, "effort": 1})
        data = codec.compress(photo.crop((left, top, left + 120, top + 90)), **targets[number % 20 // 5])
        return data, codec.decompress(data).tobytes()

    while tally["done"] < count:
        numbers = range(tally["done"], min(count, tally["done"] + 5 * THREADS))
        alone = [job(number) for number in numbers]
        with ThreadPoolExecutor(THREADS) as pool:
            for number, one, other in zip(numbers, alone, pool.map(job, numbers), strict=True):
                if one != other:
                    tally.fail(f"case {number}: a thread got other bytes or pixels")
        tally["done"] = numbers.stop
        tally.save()


PARTS = {part.__name__: part for part in (streams, models, kills, memory, threads, disasters)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int, default=100, help="number of cases, including those of earlier calls")
    parser.add_argument("--only", type=int, metavar="N", help="run this case alone, with counts of its own")
    parser.add_argument("--state", type=Path, default=ROOT / "outputs" / "soak", help="folder of the counts")
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    name = options.part if options.only is None else f"{options.part}-{options.only}"
    tally, start = Tally(options.state / f"{name}.json", name), time.perf_counter()
    if options.only is not None:
        tally["done"], options.count = options.only, options.only + 1
    try:
        PARTS[options.part](tally, options.count)
    finally:
        tally.add("minutes", round((time.perf_counter() - start) / 60, 1))
        tally.save()
    figures = {key: value for key, value in tally.items() if key != "failures"}
    table(("part", *figures, "failures"), [(name, *figures.values(), len(tally["failures"]))])
    return bool(tally["failures"])


if __name__ == "__main__":
    sys.exit(main())
