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

Times are the shortest of a few runs after one to warm up (sizes: of one), in the process's own number of threads. The
model has random weights, scaled so that symbols and σ spread as a trained one's, or is --model in all parts but the
first; random weights make an unnatural curve of rates.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior
from PIL import Image

from agvae.codec import Codec, codec, model_file
from agvae.models import AGVAE

PHOTO = (768, 512)
SIZES = [(768, 512), (2048, 1536), (4000, 3000), (8192, 8192)]
REPEATS = 7
WIDTHS = {"N": 128, "M": 192}


def photo(width, height):
    """A photograph of that size, repeated in mirrors where it is too small, so that its detail is the same."""
    with resources.files("skimage.data").joinpath("astronaut.png").open("rb") as file:
        pixels = np.array(Image.open(file).convert("RGB"))
    rows, columns = (np.arange(side) % (2 * 512) for side in (height, width))
    return pixels[np.minimum(rows, 1023 - rows)[:, None], np.minimum(columns, 1023 - columns)]


def random_model(levels):
    """Our model with lively random weights; `levels` 1 is CompressAI's model."""
    torch.manual_seed(0)
    entropy = {"name": "symmetric"} if levels == 1 else {"name": "asymmetric", "form": "half_mass"}
    model = AGVAE.from_config(
        {
            "transforms": {"name": "minnen2018", **WIDTHS},
            "gain": {"name": "hcvr" if levels > 1 else "none", "levels": levels},
            "entropy": entropy,
            "context": {"name": "none"},
            "quantizer": {"name": "universal"},
        }
    )
    model.initialise_gains([2.0**level for level in range(levels)])
    with torch.no_grad():
        model.g_a[-1].weight *= 10
        scales = model.h_s[-1].bias[: -model.M]
        scales.copy_(torch.empty_like(scales).uniform_(-2.5, 0.5).exp())
    return model.eval()


def best_time(function, repeats=REPEATS):
    """Shortest of a few runs in seconds, after one to warm up, and the result."""
    result, times = function(), []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times), result


def table(*rows):
    """A Markdown table, its head first."""
    for index, row in enumerate(rows):
        print("|", " | ".join(map(str, row)), "|")
        if not index:
            print("|" + "---|" * len(row))
    print(flush=True)


@torch.inference_mode()
def versus(_):
    model = random_model(levels=1)
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
    table(
        ("codec", "compress, ms", "decompress, ms", "bytes"),
        *(
            (name, *(f"{1000 * s:.0f}" for s in pair), size)
            for name, pair, size in zip(("ours", "CompressAI"), (seconds[:2], seconds[2:]), sizes, strict=True)
        ),
        ("ratio", *(f"{ratio:.2f}" for ratio in seconds[:2] / seconds[2:]), f"{sizes[0] / sizes[1]:.3f}"),
    )


class Stopwatch:
    """Adds up the time spent in functions, by stage."""

    def __init__(self):
        self.seconds = {}

    def watch(self, stage, owner, *names):
        for name in names:
            setattr(owner, name, self._watched(stage, getattr(owner, name)))

    def _watched(self, stage, function):
        def timed(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[stage] = self.seconds.get(stage, 0) + time.perf_counter() - start
            return result

        return timed


def stages(path):
    """Where one `compress` and one `decompress` of the photo spend their time."""
    ours, pixels = load(path), photo(*PHOTO)
    quality = (ours.levels - 1) / 2
    watch, model = Stopwatch(), ours._model
    for stage, network in (("g_a", model.g_a), ("h_a", model.h_a), ("h_s, exact", model.h_s), ("g_s", model.g_s)):
        watch.watch(stage, network, "forward")
    watch.watch("indices of σ", ours, "_indices")
    methods = (
        (codec.Encoder, ("push_z", "push_y", "finish")),
        (codec.Decoder, ("__init__", "pop_z", "pop_y", "finish")),
    )
    for coder, names in methods:
        watch.watch("rANS and checksum", coder, *names)
    data = ours.compress(pixels, quality=quality)
    columns = []
    for run in (lambda: ours.compress(pixels, quality=quality), lambda: ours.decompress(data)):
        found = []
        for _ in range(REPEATS + 1):
            watch.seconds = {}
            start = time.perf_counter()
            run()
            whole = time.perf_counter() - start
            found.append(watch.seconds | {"the rest": whole - sum(watch.seconds.values()), "all": whole})
        columns.append(min(found[1:], key=lambda seconds: seconds["all"]))
    names = ("g_a", "h_a", "h_s, exact", "indices of σ", "rANS and checksum", "g_s", "the rest", "all")
    rows = ((name, *(f"{1000 * column[name]:.1f}" if name in column else "" for column in columns)) for name in names)
    table(("stage", "compress, ms", "decompress, ms"), *rows)


def targets(path):
    """The cost of a target in bytes, at rates of a low, a middle and a high quality."""
    ours, rows = load(path), []
    for size in (SIZES[0], SIZES[2]):
        pixels = photo(*size)
        for share in (0.23, 0.52, 0.81):
            quality = share * (ours.levels - 1)
            repeats = REPEATS if size == SIZES[0] else 1
            plain, data = best_time(lambda: ours.compress(pixels, quality=quality), repeats)  # noqa: B023
            target, found = best_time(lambda: ours.compress(pixels, bytes=len(data) + 7), repeats)  # noqa: B023
            reached = f"{100 * (len(found) / (len(data) + 7) - 1):+.2f} %"
            rate = f"{8 * len(data) / pixels[..., 0].size:.2f}"
            rows.append(
                (f"{size[0]}×{size[1]}", rate, f"{plain:.2f}", f"{target:.2f}", f"{target / plain:.2f}", reached)
            )
    table(("picture", "bpp", "quality, s", "bytes, s", "ratio", "size against target"), *rows)


def sizes(path):
    """The command line's time and peak memory."""
    rows = [("picture", "megapixels", "compress, s", "µs/pixel", "peak, GiB", "decompress, s", "µs/pixel", "peak, GiB")]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = path or save(folder)
        for width, height in SIZES:
            picture, file = folder / "in.ppm", folder / "x.agv"
            Image.fromarray(photo(width, height)).save(picture)
            row, pixels = [f"{width}×{height}", f"{width * height / 1e6:.1f}"], width * height
            for command in (("compress", picture, file), ("decompress", file, folder / "out.ppm")):
                seconds, peak = run(*command, "--model", model)
                row += [f"{seconds:.1f}", f"{1e6 * seconds / pixels:.2f}", f"{peak:.2f}"]
            rows.append(tuple(row))
    table(*rows)


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
    table(("command", "seconds"), *((f"agvae {c[0]}", f"{s:.2f}") for c, s in zip(commands, seconds, strict=True)))


def run(*arguments):
    """Run the command; seconds and peak resident memory in GiB."""
    command = [Path(sys.executable).with_name("agvae"), *arguments]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


def save(folder):
    """A file of the random model."""
    model_file.from_model(random_model(levels=6)).save(folder / "model.safetensors")
    return folder / "model.safetensors"


def load(path):
    """The codec of a model file, or of the random model."""
    return Codec.load(path) if path else Codec(model_file.from_model(random_model(levels=6)))


PARTS = {part.__name__: part for part in (versus, stages, targets, sizes, start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, help="a model file to measure in place of random weights")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n")
    for part in options.parts or PARTS:
        PARTS[part](options.model)


if __name__ == "__main__":
    main()
