"""Measures pictures that are no photographs: how each shipped model codes them, beside PNG and lossless WebP.

    python benchmarks/robustness.py [--quality 2.5] [--models MODEL …]     # the tables of docs/robustness.md
    python benchmarks/robustness.py calming [--models MODEL …]            # a photo with a patch, coded in two ways
    python benchmarks/robustness.py beyond [--models MODEL …]             # qualities past the last level
    python benchmarks/robustness.py cost [--models MODEL …]               # the time of these checks on photographs

The pictures are 256×256, except the last two: one pixel, and one row of 5000 pixels, from a photo of scikit-image.
"learned" is the learned body alone, as `Codec.compress(lossless=False)` makes it. "file" is the file that users get.
"""

import argparse
import io
import math
import time
from functools import partial

import matplotlib
import numpy as np
import torch
from common import table
from PIL import Image, ImageDraw, ImageFont

from agvae import Codec, shipped
from agvae.codec.bitstream import unpack
from agvae.codec.calming import broken
from agvae.codec.learned import Latent
from agvae.codec.look import Look
from agvae.codec.picture_transforms import analyze
from agvae.data.bundled_photos import sample_photos
from agvae.images import Picture, load_rgb
from agvae.metrics import bits_per_pixel, psnr

SIDE = 256


def flat(*colour):
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, 2)


def page():
    """Black text on white."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 11)
    words = "Sphinx of black quartz, judge my vow. How vexingly quick daft zebras jump! 0123456789"
    for row in range(0, SIDE, 14):
        ImageDraw.Draw(image).text((4, row), words[row // 14 % 30 :], fill="black", font=font)
    return np.asarray(image)


def chart():
    """Coloured bars on two axes."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")
    for index, (height, colour) in enumerate(zip((80, 150, 60, 200, 120), colours, strict=True)):
        draw.rectangle((20 + 45 * index, 236 - height, 50 + 45 * index, 236), fill=colour, outline="black")
    draw.line((10, 5, 10, 236, 251, 236), fill="black")
    return np.asarray(image)


def pictures():
    """The pictures, (H, W, 3) uint8, by name."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:SIDE, :SIDE]
    stars = np.zeros((SIDE, SIDE), np.uint8)
    stars[tuple(rng.integers(0, SIDE, (2, 200)))] = rng.integers(100, 256, 200)
    photo = load_rgb(sample_photos(("coffee.png",))[0])
    return {
        "flat black": flat(0, 0, 0),
        "flat white": flat(255, 255, 255),
        "flat grey": flat(128, 128, 128),
        "pure red": flat(255, 0, 0),
        "pure green": flat(0, 255, 0),
        "pure blue": flat(0, 0, 255),
        "grey ramp": grey(column),
        "colour ramp": np.stack((column, row, 255 - column), 2).astype(np.uint8),
        "stripes of 1": grey(column % 2 * 255),
        "chequerboard of 1": grey((row + column) % 2 * 255),
        "chequerboard of 2": grey((row // 2 + column // 2) % 2 * 255),
        "chequerboard of 8": grey((row // 8 + column // 8) % 2 * 255),
        "text": page(),
        "chart": chart(),
        "noise": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "noise of 0 and 255": (rng.integers(0, 2, (SIDE, SIDE, 3)) * 255).astype(np.uint8),
        "starfield": grey(stars),
        "photo with stripes of 1": patched(photo),
        "1×1 of a photo": photo[200:201, 300:301],
        "5000×1 of a photo": np.concatenate([photo[r : r + 1] for r in range(100, 109)], 1)[:, :5000],
    }


def patched(photo):
    """A photo with a square of one-pixel stripes."""
    picture = photo[100 : 100 + SIDE, 200 : 200 + SIDE].copy()
    picture[64:192, 64:192] = grey(np.mgrid[:128, :128][1] % 2 * 255)
    return picture


def rate(size, pixels):
    return bits_per_pixel(size, pixels.shape[1], pixels.shape[0])


def saved(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **options)
    return len(file.getvalue())


def value(decibel):
    return "exact" if math.isinf(decibel) else f"{decibel:.1f}"


def kinds(codecs, quality):
    """Print a table for each model."""
    found = pictures()
    for codec in codecs:
        rows = []
        for name, pixels in found.items():
            pixels = np.ascontiguousarray(pixels)
            latent = codec.analyze(pixels)
            files = [codec.compress(latent, quality=quality, lossless=choice) for choice in (False, None)]
            cells = []
            for file in files:
                cells += [f"{rate(len(file), pixels):.3f}", value(psnr(pixels, codec.decompress(file).convert("RGB")))]
            mean = np.broadcast_to(pixels.mean((0, 1)).round().astype(np.uint8), pixels.shape)
            others = [saved(pixels, format="WEBP", lossless=True, method=4, quality=75), saved(pixels, format="PNG")]
            body = unpack(files[1]).header.kind.name.lower()
            cells += [body, value(psnr(pixels, mean)), *(f"{rate(size, pixels):.3f}" for size in others)]
            rows.append((name, *cells))
        print(f"\n### {codec.name}, quality {quality:g}\n")
        head = (
            "picture",
            "learned, bpp",
            "PSNR, dB",
            "file, bpp",
            "PSNR, dB",
            "body",
            "mean colour, dB",
            "WebP",
            "PNG",
        )
        table(head, rows)


def calming(codecs, quality):
    """Print a table of a photo with a patch of a pattern, coded without and with calming."""
    photo, found, rows = load_rgb(sample_photos(("coffee.png",))[0])[:384, :512], pictures(), []
    for codec in codecs:
        for name in (
            "stripes of 1",
            "chequerboard of 1",
            "chequerboard of 2",
            "chequerboard of 8",
            "noise of 0 and 255",
        ):
            pixels = photo.copy()
            pixels[128:256, 192:320] = found[name][:128, :128]
            plain = Latent(analyze(codec.model, pixels, codec.device), Picture(pixels))
            cells = []
            for latent in (plain, codec.analyze(pixels)):
                file = codec.compress(latent, quality=quality, lossless=False)
                cells.append(f"{rate(len(file), pixels):.2f} bpp, {psnr(pixels, codec.decompress(file)):.1f} dB")
            rows.append((codec.name, name, int(broken(codec.model, plain.y).sum()), *cells))
    table(("model", "patch", "broken places", "without calming", "with calming"), rows)


def beyond(codecs, quality):
    """Print a table of the rate and PSNR of photos at the last level and past it."""
    rows = []
    for codec in codecs:
        for path in sample_photos(("astronaut.png", "coffee.png", "chelsea.png")):
            pixels = load_rgb(path)
            latent, cells = codec.analyze(pixels), []
            for extra in (0, 0.5, 1, 1.5, 2):
                file = codec.compress(latent, quality=codec.levels - 1 + extra, lossless=False)
                cells.append(f"{rate(len(file), pixels):.2f} bpp, {psnr(pixels, codec.decompress(file)):.1f} dB")
            rows.append((codec.name, path.stem, *cells))
    table(("model", "photo", "last level", "+0.5", "+1", "+1.5", "+2"), rows)


def cost(codecs, quality):
    """Print the shares of the look and of the search for broken places in the time of `compress`: medians of nine."""
    rows = []
    for codec in codecs:
        for path in sample_photos(("coffee.png", "motorcycle_left.png", "retina.jpg")):
            pixels = load_rgb(path)
            latent = codec.analyze(pixels)
            whole = seconds(partial(codec.compress, pixels, quality=quality))
            look = seconds(partial(Look.at, pixels))
            places = seconds(partial(broken, codec.model, latent.y))
            size = f"{pixels.shape[1]}×{pixels.shape[0]}"
            rows.append((codec.name, size, f"{whole:.3f} s", f"{look / whole:.1%}", f"{places / whole:.1%}"))
    table(("model", "photo", "compress", "look", "broken places"), rows)


def seconds(work):
    times = []
    for _ in range(9):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[4]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"kinds": kinds, "calming": calming, "beyond": beyond, "cost": cost}
    parser.add_argument("part", nargs="?", choices=parts, default="kinds")
    parser.add_argument("--quality", type=float, default=2.5)
    parser.add_argument("--models", nargs="+", default=shipped.names(), metavar="MODEL")
    options = parser.parse_args()
    codecs = [Codec.load(name) for name in options.models]
    with torch.inference_mode():
        parts[options.part](codecs, options.quality)


if __name__ == "__main__":
    main()
