"""Measures how fast the contexts code, beside no context and beside CompressAI's autoregressive model.

    python benchmarks/context.py [--threads N] [--sizes 768x512 2048x1536]

All models have the transforms of minnen2018 with N = M = 192 and random weights. They code a photograph, given as 8-bit
pixels to ours and as a float tensor to CompressAI's:

ours                the codec with the contexts none, checkerboard, quadtree and multiscale, asymmetric, six levels,
                    exact arithmetic
mbt2018-mean        CompressAI's MeanScaleHyperprior, which has only a hyperprior
mbt2018             CompressAI's JointAutoregressiveHierarchicalPriors, which codes one position after another

Times are the shortest of some runs. mbt2018 is slow, so it runs once, after a warm-up on a small picture. With one
thread, the times are processor time, which other work hardly changes. With more, they are wall-clock time. The tables:

- the times of compress and decompress, the part of g_a and g_s, which no context changes, and ratios;
- the share of entropy coding (scale indices, rANS, checksum) in `decompress`;
- the peak resident memory, in a process for each model.
"""

import argparse
import subprocess
import sys

import torch
from common import Stopwatch, best_time, conditions, peak_memory, photo, random_model, spread_scales, table
from compressai.models import JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior

from agvae.codec import Codec, model_file
from agvae.entropy.coder import Decoder

WIDTHS = {"N": 192, "M": 192}
OURS = ("none", "checkerboard", "quadtree", "multiscale")
THEIRS = {"mbt2018-mean": MeanScaleHyperprior, "mbt2018": JointAutoregressiveHierarchicalPriors}
QUALITY = 2.5
REPEATS = 3


def our_codec(context):
    """The codec of a random model, at about 0.6 bpp."""
    return Codec(model_file.from_model(random_model({"name": "minnen2018", **WIDTHS}, context=context)))


def their_model(name):
    """CompressAI's model with random weights, whose symbols and σ spread as in ours."""
    torch.manual_seed(0)
    model = THEIRS[name](**WIDTHS).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= 10
        final = model.h_s[-1] if name == "mbt2018-mean" else model.entropy_parameters[-1]
    spread_scales(final.bias[: WIDTHS["M"]])
    model.update(force=True)
    return model


@torch.inference_mode()
def measure(name, width, height, repeats=REPEATS):
    """Seconds of compress, of decompress, of g_a alone and of g_s alone, and the size in bytes."""
    pixels = photo(width, height)
    if name in OURS:
        ours = our_codec(name)
        encoding, data = best_time(lambda: ours.compress(pixels, quality=QUALITY, lossless=False), repeats)
        decoding, _ = best_time(lambda: ours.decompress(data), repeats)
        analysis, latent = best_time(lambda: ours.analyze(pixels), repeats)
        y = latent.y.contiguous(memory_format=torch.channels_last)
        synthesis, _ = best_time(lambda: ours.model.synthesize(y, QUALITY), repeats)
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
    """Print the table of times for one size of picture."""
    found = {name: measure(name, width, height) for name in (*OURS, *THEIRS)}
    base, slow = found["none"], found["mbt2018"]

    def rows():
        for name, own in found.items():
            encoding, decoding, analysis, synthesis, size = own
            rest = ((slow[i] - slow[i + 2]) / (own[i] - own[i + 2]) for i in (0, 1))
            yield (
                named(name),
                *(f"{seconds:.2f}" for seconds in (encoding, analysis, decoding, synthesis)),
                " and ".join(f"{own[i] / base[i]:.2f}" for i in (0, 1)),
                " and ".join(f"{slow[i] / own[i]:.1f}" for i in (0, 1)),
                " and ".join(f"{ratio:.0f}" for ratio in rest),
                size,
            )

    seconds = ("compress, s", "of which g_a", "decompress, s", "of which g_s")
    ratios = ("relative to ours, none", "mbt2018 relative to this", "the same without g_a, g_s")
    table((f"{width}×{height}", *seconds, *ratios, "bytes"), rows())


def shares(width, height):
    """Print the table of the time that entropy coding takes in `decompress`."""
    pixels, symbols = photo(width, height), WIDTHS["M"] * (width * height // 256 + width * height // 4096)

    def rows():
        for name in OURS:
            ours = our_codec(name)
            data = ours.compress(pixels, quality=QUALITY, lossless=False)
            with Stopwatch() as watch:
                watch.watch("indices", ours.latent_codec, "scale_indices")
                watch.watch("rans", Decoder, "__init__", "pop_z", "pop_y", "finish")
                best = watch.best(lambda: ours.decompress(data), REPEATS + 1)  # noqa: B023
            parts = (best["indices"], best["rans"])
            nanoseconds, share = f"{1e9 * sum(parts) / symbols:.1f}", f"{sum(parts) / best['all']:.1%}"
            yield name, *(f"{1e3 * part:.1f}" for part in parts), nanoseconds, share

    head = ("scale indices, ms", "rANS and checksum, ms", "ns/symbol", "share of decompress")
    table((f"{width}×{height}", *head), rows())


def peaks(width, height):
    """Print the table of the peak resident memory of a process that compresses and decompresses once."""

    def rows():
        for name in (*OURS, "mbt2018-mean"):
            command = [sys.executable, __file__, "--peak", name, f"{width}x{height}"]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            yield named(name), f"{peak / 2**30:.2f}"

    table((f"{width}×{height}", "peak resident memory, GiB"), rows())


def named(model):
    """The name of a model in the tables."""
    return model if model in THEIRS else f"ours, {model}"


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
    print(f"{conditions()}\n")
    for size in options.sizes:
        for part in (times, shares, peaks):
            part(*map(int, size.split("x")))


if __name__ == "__main__":
    main()
