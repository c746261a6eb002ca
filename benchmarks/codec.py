"""The whole codec: beside CompressAI's, where its time goes, what targets cost, and how time and memory grow.

    python benchmarks/codec.py [PART …] [--model PATH]

Parts, all by default, each a Markdown table:

versus    compress and decompress of a 768×512 photo by our `minnen2018` (N = 128, M = 192, symmetric, no context, one
          level) and by CompressAI's MeanScaleHyperprior(128, 192). It is one and the same network, with the same random
          weights, so both code the same symbols. Theirs gets and gives a float tensor, ours 8-bit pixels.
stages    where ours spends that time.
targets   a file of a given size, which takes several codings, beside one at a given quality.
sizes     the `agvae` command on mosaics from 0.4 to 67 megapixels: time and peak resident memory (of which some
          0.8 GiB are Python, torch and the model).
start     what the command takes before it works, and on a picture of 64×64.

Times are the shortest of a few runs (sizes: of one), in the process's own number of threads: the processor's with one
thread, else those of the clock. The model has random weights, scaled so that symbols and σ spread as a trained one's,
or is --model in all parts but the first; random weights make an unnatural curve of rates.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import Stopwatch, best_time, conditions, photo, random_model, table
from compressai.models import MeanScaleHyperprior
from PIL import Image

from agvae.codec import Codec, model_file
from agvae.entropy.coder import Decoder, Encoder
from agvae.metrics import bits_per_pixel

PHOTO = (768, 512)
SIZES = [(768, 512), (2048, 1536), (4000, 3000), (8192, 8192)]
REPEATS = 8
WIDTHS = {"N": 128, "M": 192}
TRANSFORMS = {"name": "minnen2018", **WIDTHS}
# A small process between this one and the command, whose peak would start from that of the process that starts it.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@torch.inference_mode()
def versus(_):
    model = random_model(TRANSFORMS, levels=1)
    theirs = MeanScaleHyperprior(**WIDTHS).eval()
    weights = {name.replace("prior.", "entropy_bottleneck."): w for name, w in model.state_dict().items()}
    theirs.load_state_dict(theirs.state_dict() | weights)
    theirs.update(force=True)
    ours, pixels = Codec(model_file.from_model(model)), photo(*PHOTO)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 255
    data, strings = ours.compress(pixels, quality=0), theirs.compress(x)
    runs = (
        lambda: ours.compress(pixels, quality=0),
        lambda: ours.decompress(data),
        lambda: theirs.compress(x),
        lambda: theirs.decompress(**strings),
    )
    # In turns, so that what else the machine does meets all alike.
    seconds = np.min([[best_time(run, 1)[0] for run in runs] for _ in range(REPEATS)], axis=0)
    sizes = len(data), sum(len(string) for (string,) in strings["strings"])
    rows = [
        (name, *(f"{1000 * s:.0f}" for s in pair), size)
        for name, pair, size in zip(("ours", "CompressAI"), (seconds[:2], seconds[2:]), sizes, strict=True)
    ]
    rows.append(("ratio", *(f"{ratio:.2f}" for ratio in seconds[:2] / seconds[2:]), f"{sizes[0] / sizes[1]:.3f}"))
    table(("codec", "compress, ms", "decompress, ms", "bytes"), rows)


def stages(path):
    """Where one `compress` and one `decompress` of the photo spend their time."""
    ours, pixels = load(path), photo(*PHOTO)
    quality = (ours.levels - 1) / 2
    networks = {"g_a": ours.model.g_a, "h_a": ours.model.h_a, "h_s, exact": ours.model.h_s, "g_s": ours.model.g_s}
    data = ours.compress(pixels, quality=quality)
    with Stopwatch() as watch:
        for stage, network in networks.items():
            watch.watch(stage, network, "forward")
        watch.watch("indices of σ", ours, "_indices")
        watch.watch("rANS and checksum", Encoder, "push_z", "push_y", "finish")
        watch.watch("rANS and checksum", Decoder, "__init__", "pop_z", "pop_y", "finish")
        runs = (lambda: ours.compress(pixels, quality=quality), lambda: ours.decompress(data))
        columns = [watch.best(run, REPEATS) for run in runs]
    names = ("g_a", "h_a", "h_s, exact", "indices of σ", "rANS and checksum", "g_s", "the rest", "all")
    rows = ((name, *(f"{1000 * column[name]:.1f}" if name in column else "" for column in columns)) for name in names)
    table(("stage", "compress, ms", "decompress, ms"), rows)


def targets(path):
    """The cost of a target in bytes, at rates of a low, a middle and a high quality."""
    ours = load(path)

    def rows():
        for size, share in product((SIZES[0], SIZES[2]), (0.23, 0.52, 0.81)):
            pixels, quality = photo(*size), share * (ours.levels - 1)
            repeats = REPEATS if size == SIZES[0] else 2
            plain, data = best_time(lambda: ours.compress(pixels, quality=quality), repeats)  # noqa: B023
            target, found = best_time(lambda: ours.compress(pixels, bytes=len(data) + 7), repeats)  # noqa: B023
            reached = f"{100 * (len(found) / (len(data) + 7) - 1):+.2f} %"
            rate = f"{bits_per_pixel(len(data), *size):.2f}"
            yield f"{size[0]}×{size[1]}", rate, f"{plain:.2f}", f"{target:.2f}", f"{target / plain:.2f}", reached

    table(("picture", "bpp", "quality, s", "bytes, s", "ratio", "size against target"), rows())


def sizes(path):
    """The command line's time and peak memory."""
    head = ("picture", "megapixels", "compress, s", "µs/pixel", "peak, GiB", "decompress, s", "µs/pixel", "peak, GiB")

    def rows(folder):
        model = path or save(folder)
        for width, height in SIZES:
            picture, file = folder / "in.ppm", folder / "x.agv"
            Image.fromarray(photo(width, height)).save(picture)
            row, pixels = [f"{width}×{height}", f"{width * height / 1e6:.1f}"], width * height
            for command in (("compress", picture, file), ("decompress", file, folder / "out.ppm")):
                seconds, peak = run(*command, "--model", model)
                row += [f"{seconds:.1f}", f"{1e6 * seconds / pixels:.2f}", f"{peak:.2f}"]
            yield row

    with tempfile.TemporaryDirectory() as folder:
        table(head, rows(Path(folder)))


def start(path):
    """The command's start-up."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = path or save(folder)
        Image.fromarray(photo(64, 64)).save(folder / "in.png")
        commands = (
            ("--help",),
            ("info", folder / "x.agv"),
            ("compress", folder / "in.png", folder / "x.agv", "--model", model),
            ("decompress", folder / "x.agv", folder / "out.png", "--model", model),
        )
        run(*commands[2])
        seconds = [min(run(*command)[0] for _ in range(3)) for command in commands]
    rows = ((f"agvae {c[0]}", f"{s:.2f}") for c, s in zip(commands, seconds, strict=True))
    table(("command", "seconds"), rows)


def run(*arguments):
    """Run the command; seconds and peak resident memory in GiB."""
    command = [Path(sys.executable).with_name("agvae"), *arguments]
    process = subprocess.run([sys.executable, "-S", "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    seconds, peak = map(float, process.stdout.split())
    return seconds, peak / 2**20


def save(folder):
    """A file of the random model."""
    model_file.from_model(random_model(TRANSFORMS)).save(folder / "model.safetensors")
    return folder / "model.safetensors"


def load(path):
    """The codec of a model file, or of the random model."""
    return Codec.load(path) if path else Codec(model_file.from_model(random_model(TRANSFORMS)))


PARTS = {part.__name__: part for part in (versus, stages, targets, sizes, start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, help="a model file to measure in place of random weights")
    options = parser.parse_args()
    print(f"{conditions()}\n")
    for part in options.parts or PARTS:
        PARTS[part](options.model)


if __name__ == "__main__":
    main()
