"""How fast the contexts code, beside none and beside CompressAI's autoregressive model.

    python benchmarks/context.py [--threads N] [--sizes 768x512 2048x1536]

All have minnen2018's transforms with N = M = 192, random weights, and a photograph to code, as 8-bit pixels (ours) or
as a float tensor (theirs):

ours                the codec with the contexts none, checkerboard, quadtree and multiscale, asymmetric, six levels,
                    exact arithmetic
mbt2018-mean        CompressAI's MeanScaleHyperprior: the hyperprior alone
mbt2018             CompressAI's JointAutoregressiveHierarchicalPriors: one position after another

Times are the shortest of some runs after one to warm up; mbt2018, which takes long, runs once, on a model that has
been warmed up on a small picture. With one thread they are the processor's seconds, which depend little on what else
the machine does; with more, those of the clock. Tables: times, with the part that g_a and g_s have in them, which no
context changes, and ratios; the share of entropy coding (scale indices, rANS, checksum) in `decompress`; peak
resident memory, each in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from codec import Stopwatch, photo, table
from compressai.models import JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior

from agvae.codec import Codec, codec, model_file
from agvae.models import AGVAE
from agvae.quality import QUALITY_STEPS

WIDTHS = {"N": 192, "M": 192}
OURS = ("none", "checkerboard", "quadtree", "multiscale")
THEIRS = {"mbt2018-mean": MeanScaleHyperprior, "mbt2018": JointAutoregressiveHierarchicalPriors}
QUALITY = 2.5
REPEATS = 3


def our_codec(context):
    """The codec of a random model whose symbols and σ spread as a trained one's do: near 0.6 bpp."""
    torch.manual_seed(0)
    model = AGVAE.from_config(
        {
            "transforms": {"name": "minnen2018", **WIDTHS},
            "gain": {"name": "hcvr", "levels": 6},
            "entropy": {"name": "asymmetric", "form": "half_mass"},
            "context": {"name": context},
            "quantizer": {"name": "universal"},
        }
    )
    model.initialise_gains([2.0**level for level in range(6)])
    with torch.no_grad():
        model.g_a[-1].weight *= 10
        final = model.h_s[-1] if context == "none" else model.context.head[-1]
        scales = final.bias[: -model.M]
        scales.copy_(torch.empty_like(scales).uniform_(-2.5, 0.5).exp())
    return Codec(model_file.from_model(model.eval()))


def their_model(name):
    """CompressAI's model, as lively."""
    torch.manual_seed(0)
    model = THEIRS[name](**WIDTHS).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= 10
        final = model.h_s[-1] if name == "mbt2018-mean" else model.entropy_parameters[-1]
        scales = final.bias[: WIDTHS["M"]]
        scales.copy_(torch.empty_like(scales).uniform_(-2.5, 0.5).exp())
    model.update(force=True)
    return model


def best_time(function, repeats):
    """Shortest of a few runs in seconds, and the result."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(repeats):
        start = clock()
        result = function()
        seconds.append(clock() - start)
    return min(seconds), result


@torch.inference_mode()
def measure(name, width, height, repeats=REPEATS):
    """Seconds of compress, of decompress, of g_a and of g_s alone, and the bytes."""
    pixels = photo(width, height)
    if name in OURS:
        ours = our_codec(name)
        quality = round(QUALITY * QUALITY_STEPS)
        encoding, data = best_time(lambda: ours.compress(pixels, quality=QUALITY), repeats)
        decoding, _ = best_time(lambda: ours.decompress(data), repeats)
        analysis, latent = best_time(lambda: ours.analyze(pixels), repeats)
        synthesis, _ = best_time(lambda: ours._synthesize(latent.y, quality, width, height), repeats)
        return encoding, decoding, analysis, synthesis, len(data)
    theirs, x = their_model(name), torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 255
    theirs.decompress(**theirs.compress(x[..., :64, :64].contiguous()))
    slow = 1 if name == "mbt2018" else repeats
    encoding, strings = best_time(lambda: theirs.compress(x), slow)
    decoding, _ = best_time(lambda: theirs.decompress(**strings), slow)
    analysis, y = best_time(lambda: theirs.g_a(x), repeats)
    synthesis, _ = best_time(lambda: theirs.g_s(y), repeats)
    size = sum(len(string) for part in strings["strings"] for string in part)
    return encoding, decoding, analysis, synthesis, size


def times(width, height):
    """The table of times of one size of picture."""
    found = {name: measure(name, width, height) for name in (*OURS, *THEIRS)}
    rows = [
        (
            f"{width}×{height}", "compress, s", "of it g_a", "decompress, s", "of it g_s",
            "to ours without context", "mbt2018 to this", "so without g_a, g_s", "bytes",
        )
    ]  # fmt: skip
    base, slow = found["none"], found["mbt2018"]
    for name, own in found.items():
        encoding, decoding, analysis, synthesis, size = own
        rest = ((slow[i] - slow[i + 2]) / (own[i] - own[i + 2]) for i in (0, 1))
        rows.append(
            (
                name if name in THEIRS else f"ours, {name}",
                *(f"{seconds:.2f}" for seconds in (encoding, analysis, decoding, synthesis)),
                " and ".join(f"{own[i] / base[i]:.2f}" for i in (0, 1)),
                " and ".join(f"{slow[i] / own[i]:.1f}" for i in (0, 1)),
                " and ".join(f"{ratio:.0f}" for ratio in rest),
                size,
            )
        )
    table(*rows)


def shares(width, height):
    """What entropy coding takes of `decompress`."""
    rows = [(f"{width}×{height}", "scale indices, ms", "rANS and checksum, ms", "ns/symbol", "share of decompress")]
    for name in OURS:
        ours, watch = our_codec(name), Stopwatch()
        data = ours.compress(photo(width, height), quality=QUALITY)
        originals = {method: getattr(codec.Decoder, method) for method in ("__init__", "pop_z", "pop_y", "finish")}
        watch.watch("indices", ours, "_indices")
        watch.watch("rans", codec.Decoder, *originals)
        found = []
        for _ in range(REPEATS + 1):
            watch.seconds, start = {}, time.perf_counter()
            ours.decompress(data)
            found.append(watch.seconds | {"all": time.perf_counter() - start})
        for method, original in originals.items():
            setattr(codec.Decoder, method, original)
        best = min(found[1:], key=lambda seconds: seconds["all"])
        entropy, symbols = (
            best["indices"] + best["rans"],
            WIDTHS["M"] * (width * height // 256 + width * height // 4096),
        )
        rows.append(
            (
                name,
                f"{1e3 * best['indices']:.1f}",
                f"{1e3 * best['rans']:.1f}",
                f"{1e9 * entropy / symbols:.1f}",
                f"{entropy / best['all']:.1%}",
            )
        )
    table(*rows)


def peak_memory():
    """This program's, in KiB. ru_maxrss would start from that of the process that started this one."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))


def peaks(width, height):
    """Peak resident memory of a process that compresses and decompresses once."""
    rows = [(f"{width}×{height}", "peak resident memory, GiB")]
    for name in (*OURS, "mbt2018-mean"):
        command = [sys.executable, __file__, "--peak", name, f"{width}x{height}"]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append((name if name in THEIRS else f"ours, {name}", f"{peak / 2**20:.2f}"))
    table(*rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", nargs="+", default=["768x512", "2048x1536"], metavar="WxH")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, size = options.peak
        measure(name, *map(int, size.split("x")), repeats=1)
        print(peak_memory())
        return
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n")
    for size in options.sizes:
        for part in (times, shares, peaks):
            part(*map(int, size.split("x")))


if __name__ == "__main__":
    main()
