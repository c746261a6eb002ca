"""Measures the codec: speed beside CompressAI's, time of its stages, cost of targets, growth of time and memory.

    python benchmarks/codec.py [PART …] [--model PATH]

Each part prints a Markdown table. By default, all parts run:

versus    compress and decompress of a 768×512 photo by our `minnen2018` (N = 128, M = 192, symmetric, no context, one
          level) and by CompressAI's MeanScaleHyperprior(128, 192). Both are the same network with the same random
          weights, so both code the same symbols. CompressAI's takes and gives a float tensor, ours 8-bit pixels. The
          table also has the shipped agvae-mse and agvae-small-mse at their middle quality.
stages    the time of each stage of our codec on the same photo.
targets   coding to a size in bytes, which takes several passes, beside coding at a quality.
sizes     time and peak resident memory of the `agvae` command, on mirrored copies of a photo from 0.4 to 67
          megapixels. About 0.8 GiB of the memory are Python, torch and the model.
start     the start-up time of the command, and its time on a picture of 64×64.

Times are the shortest of a few runs (in `sizes`, of one), in the process's own number of threads. `sizes` and `start`
use the wall clock. The other parts use processor time with one thread, and the wall clock with more.

All parts but `versus` measure --model. Without it, they measure a model with random weights, whose symbols and σ spread
as in a trained one. The rates of random weights over quality are not natural.
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
SHIPPED = ("agvae-mse", "agvae-small-mse")
WIDTHS = {"N": 128, "M": 192}
TRANSFORMS = {"name": "minnen2018", **WIDTHS}
# This small process starts the command, because the peak of a process starts from that of its parent.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@torch.inference_mode()
def versus(_):
    """Our codecs and CompressAI's, timed in one run."""
    model = random_model(TRANSFORMS, levels=1)
    theirs = MeanScaleHyperprior(**WIDTHS).eval()
    weights = {name.replace("prior.", "entropy_bottleneck."): w for name, w in model.state_dict().items()}
    theirs.load_state_dict(theirs.state_dict() | weights)
    theirs.update(force=True)
    pixels = photo(*PHOTO)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 255
    strings = theirs.compress(x)
    runs = {"CompressAI": (lambda: theirs.compress(x), lambda: theirs.decompress(**strings))}
    sizes = {"CompressAI": sum(len(string) for (string,) in strings["strings"])}
    codecs = {"minnen2018": Codec(model_file.from_model(model))} | {name: Codec.load(name) for name in SHIPPED}
    for name, codec in codecs.items():
        quality = (codec.levels - 1) / 2
        data = codec.compress(pixels, quality=quality)
        runs[name] = (
            lambda codec=codec, quality=quality: codec.compress(pixels, quality=quality),
            lambda codec=codec, data=data: codec.decompress(data),
        )
        sizes[name] = len(data)
    # The codecs take turns, so that other work on the machine affects all alike.
    seconds = np.min(
        [[[best_time(run, 1)[0] for run in pair] for pair in runs.values()] for _ in range(REPEATS)], axis=0
    )
    rows = (
        (name, *(f"{1000 * s:.0f}" for s in pair), *(f"{ratio:.2f}" for ratio in pair / seconds[0]), sizes[name])
        for name, pair in zip(runs, seconds, strict=True)
    )
    table(("codec", "compress, ms", "decompress, ms", "relative to CompressAI: compress", "decompress", "bytes"), rows)


def stages(path):
    """The time that one `compress` and one `decompress` of the photo spend in each stage."""
    ours, pixels = load(path), photo(*PHOTO)
    quality = (ours.levels - 1) / 2
    networks = {"g_a": ours.model.g_a, "h_a": ours.model.h_a, "h_s, exact": ours.model.h_s, "g_s": ours.model.g_s}
    data = ours.compress(pixels, quality=quality)
    with Stopwatch() as watch:
        for stage, network in networks.items():
            watch.watch(stage, network, "forward")
        watch.watch("indices of σ", ours.latent_codec, "scale_indices")
        watch.watch("rANS and checksum", Encoder, "push_z", "push_y", "finish")
        watch.watch("rANS and checksum", Decoder, "__init__", "pop_z", "pop_y", "finish")
        runs = (lambda: ours.compress(pixels, quality=quality), lambda: ours.decompress(data))
        columns = [watch.best(run, REPEATS) for run in runs]
    names = ("g_a", "h_a", "h_s, exact", "indices of σ", "rANS and checksum", "g_s", "the rest", "all")
    rows = ((name, *(f"{1000 * column[name]:.1f}" if name in column else "" for column in columns)) for name in names)
    table(("stage", "compress, ms", "decompress, ms"), rows)


def targets(path):
    """The time of coding to a size in bytes beside coding at a quality: a low, a middle and a high one."""
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
    """The command's start-up time."""
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
    """Run the command. Returns its seconds and its peak resident memory in GiB."""
    command = [Path(sys.executable).with_name("agvae"), *arguments]
    process = subprocess.run([sys.executable, "-S", "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with status {process.returncode}")
    seconds, peak = map(float, process.stdout.split())
    return seconds, peak / 2**20


def save(folder):
    """Save the random model in the folder. Returns its path."""
    model_file.from_model(random_model(TRANSFORMS)).save(folder / "model.safetensors")
    return folder / "model.safetensors"


def load(path):
    """The codec of the model file, or of the random model if `path` is None."""
    return Codec.load(path) if path else Codec(model_file.from_model(random_model(TRANSFORMS)))


PARTS = {part.__name__: part for part in (versus, stages, targets, sizes, start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, help="a model file to measure instead of random weights")
    options = parser.parse_args()
    print(f"{conditions()}\n")
    for part in options.parts or PARTS:
        PARTS[part](options.model)


if __name__ == "__main__":
    main()
