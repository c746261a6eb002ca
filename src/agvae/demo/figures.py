"""Numbers and pictures of the page: a table of codecs, the facts of a file, and a map of the bits."""

import html
import math

import matplotlib
import numpy as np
from PIL import Image

from agvae import metrics
from agvae.codec import Codec
from agvae.codec.bitstream import quality_of, unpack
from agvae.demo.coding import Coded, Photo
from agvae.evaluation.classical import CODEC_TITLES
from agvae.reporting.latents import bit_map
from agvae.strides import STRIDE_Y

TITLES = {name: CODEC_TITLES[name] for name in ("jpeg", "webp", "avif")}
"""Names of the classical codecs on the page, in the order of its tabs."""


def table(photo: Photo, rows: list[Coded]) -> str:
    """HTML: a row per codec with bytes, bpp, PSNR, MS-SSIM and times, and a line with the time of g_a."""
    heads = ("Codec", "Bytes", "bpp", "PSNR", "MS-SSIM", "Encode", "Decode")
    lines = [_row("th", heads)]
    for coded in rows:
        cells = (
            TITLES.get(coded.codec, coded.codec),
            f"{len(coded.file):,}",
            f"{coded.bpp:.3f}",
            "exact" if math.isinf(coded.psnr) else f"{coded.psnr:.2f} dB",
            _similarity(coded.ms_ssim),
            f"{coded.encoding:.2f} s",
            "…" if coded.decoding is None else f"{coded.decoding:.2f} s",
        )
        lines.append(_row("td", cells))
    height, width = photo.pixels.shape[:2]
    note = f"{width}×{height}. The analysis transform ran once for this photo, in {photo.seconds:.2f} s."
    return f'<table class="numbers">{"".join(lines)}</table><p>{note}</p>'


def _similarity(value: float | None) -> str:
    if value is None:
        return "…"
    return "too small" if math.isnan(value) else f"{value:.4f}"


def _row(tag: str, cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def facts(data: bytes, codec: Codec | None, seconds: float) -> str:
    """HTML: the content of an .agv file's header, and how long decoding took. A lossless file has no codec."""
    header, _ = unpack(data)
    model = {"Body": "lossless"}
    if codec is not None:
        model = {"Model": codec.name, "Quality": f"{quality_of(data):.3g} of 0 to {codec.levels - 1}"}
    rows = {
        **model,
        "Size": f"{header.width}×{header.height}",
        "Bytes": f"{len(data):,}",
        "bpp": f"{metrics.bits_per_pixel(len(data), header.width, header.height):.3f}",
        "Decode": f"{seconds:.2f} s",
    }
    return f'<table class="numbers">{"".join(_row("td", row) for row in rows.items())}</table>'


def bits_per_pixel(codec: Codec, photo: Photo, quality: float) -> np.ndarray:
    """(⌈H/16⌉, ⌈W/16⌉): the model's own rate at each place of a photo, in bits per pixel."""
    bits = bit_map(codec.model.code(photo.latent.y, quality))[0].cpu().numpy() / STRIDE_Y**2
    height, width = (-(-side // STRIDE_Y) for side in photo.pixels.shape[:2])
    return bits[:height, :width]


def heat_map(rates: np.ndarray, photo: Photo) -> Image.Image:
    """`rates` as colours from black through red to yellow, its largest value, each over its 16×16 pixels."""
    colors = matplotlib.colormaps["inferno"](rates / max(rates.max(), 1e-9), bytes=True)[..., :3]
    height, width = photo.pixels.shape[:2]
    squares = Image.fromarray(np.ascontiguousarray(colors))
    size = (squares.width * STRIDE_Y, squares.height * STRIDE_Y)
    return squares.resize(size, Image.Resampling.NEAREST).crop((0, 0, width, height))


def sentence(text: str) -> str:
    """HTML: an error message as a sentence that starts with a capital letter and ends with a full stop."""
    return html.escape(text[:1].upper() + text[1:]) + ("" if text.endswith((".", "!", "?")) else ".")
