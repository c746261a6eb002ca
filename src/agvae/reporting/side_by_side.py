"""One photo decoded by several codecs at one rate: `python -m agvae.reporting.side_by_side PHOTO -o OUT.png`.

Each classical codec and each model makes the largest file within the rate. One part of the photo is shown, large enough
to judge by eye. Below it are the codec's name, rate, PSNR and MS-SSIM.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agvae.arguments import Parser, positive
from agvae.errors import DataError, exit_on_error
from agvae.reporting.boxes import Box, box, busiest_boxes
from agvae.reporting.figures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODECS = ("jpeg", "webp", "avif")
MODELS = ("agvae-mse", "agvae-msssim")


class Shown(NamedTuple):
    """A picture (H, W, 3) uint8 with the name of its codec, and a line with its rate and quality."""

    name: str
    image: np.ndarray
    words: str


def side_by_side(pictures: Sequence[Shown], part: Box, title: str) -> Figure:
    """The same part of each picture in a grid of three columns, with pixels drawn as squares."""
    columns = 3
    rows = -(-len(pictures) // columns)
    wide, gap, text, heading = 4.0, 0.12, 0.42, 0.36  # inches
    tall = wide * part.height / part.width
    width = gap + columns * (wide + gap)
    height = heading + rows * (tall + text)
    figure = new_figure(width, height, dpi=130, layout=None)
    figure.text(gap / width, 1 - 0.1 / height, title, va="top", color=INK, fontsize=13, fontweight="bold")
    for index, (name, image, words) in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = gap + column * (wide + gap), heading + row * (tall + text)
        axes = figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))
        axes.imshow(part.of(image), interpolation="none", aspect="auto")
        axes.set_axis_off()
        x, y = left / width, 1 - (top + tall + 0.07) / height
        figure.text(x, y, name, va="top", color=INK, fontsize=11, fontweight="bold")
        figure.text(x + wide / width, y, words, va="top", ha="right", color=INK, fontsize=10)
    return figure


def at_one_rate(image: np.ndarray, bpp: float, codecs: Sequence[str], models: Sequence[str]) -> list[Shown]:
    """The picture (H, W, 3) uint8, and its decoded versions from each codec and each model at `bpp` or just below.

    Raises DataError if a codec or a model cannot reach that rate."""
    from agvae.codec import open_codec
    from agvae.evaluation import at_rate, classical_codec
    from agvae.evaluation.classical import CODEC_TITLES
    from agvae.metrics import bits_per_pixel, ms_ssim, psnr

    def shown(name: str, decoded: np.ndarray, rate: float) -> Shown:
        similarity = ms_ssim(image, decoded)
        words = f"{rate:.3f} bpp, {psnr(image, decoded):.2f} dB"
        return Shown(name, decoded, words if math.isnan(similarity) else f"{words}, MS-SSIM {similarity:.4f}")

    pictures = [Shown("original", image, "")]
    try:
        for name in codecs:
            coded = at_rate(classical_codec(name), image, bpp)
            pictures.append(shown(CODEC_TITLES.get(name, name), coded.image, coded.bpp))
        for name in models:
            codec = open_codec(name)
            data = codec.compress(image, bpp=bpp, lossless=False)
            rate = bits_per_pixel(len(data), image.shape[1], image.shape[0])
            pictures.append(shown(codec.name, np.asarray(codec.decompress(data)), rate))
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    return pictures


def busiest_part(image: np.ndarray) -> Box:
    """The part of a picture where brightness varies most: 240×180 pixels, or less in a smaller picture."""
    height, width = min(180, image.shape[0]), min(240, image.shape[1])
    (part,) = busiest_boxes(image, width, height, (max(1, width // 3), max(1, height // 3)))
    return part


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, those of the process by default."""
    parser = Parser("python -m agvae.reporting.side_by_side", description=__doc__.partition("\n")[0])
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("--bpp", type=positive, default=0.2, metavar="B", help="rate of all files (default: 0.2)")
    parser.add_argument(
        "--codecs",
        nargs="*",
        default=CODECS,
        metavar="CODEC",
        help=f"as in evaluate.py (default: {' '.join(CODECS)})",
    )
    parser.add_argument(
        "--models",
        nargs="*",
        default=MODELS,
        metavar="MODEL",
        help=f"shipped models or files (default: {' '.join(MODELS)})",
    )
    parser.add_argument(
        "--part", type=box, metavar="X,Y,W,H", help="part to show, in pixels (default: the part with most detail)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("side_by_side.png"), metavar="OUT.png")
    exit_on_error(_draw, parser.parse_args(arguments))


def _draw(options: argparse.Namespace) -> None:
    from agvae.files import write_atomically
    from agvae.images import load_rgb

    image = load_rgb(options.photo)
    part = options.part or busiest_part(image)
    if not part.within(image):
        raise DataError(f"--part {part} must lie within the picture, which is {image.shape[1]}×{image.shape[0]}")
    pictures = at_one_rate(image, options.bpp, options.codecs, options.models)
    file = BytesIO()
    side_by_side(pictures, part, f"{options.photo.stem} at {options.bpp:g} bits per pixel").savefig(file, format="png")
    write_atomically(options.output, file.getvalue())
    print(options.output)


if __name__ == "__main__":
    main()
