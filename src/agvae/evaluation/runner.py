"""Runs codecs over a data set and measures real bytes, the quality of decoded images, and times."""

import csv
import io
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from tqdm import tqdm

from agvae.errors import ConfigError, is_out_of_memory
from agvae.evaluation.rd import RESULTS, Curve, finite_or_none, mean_curve, slug
from agvae.files import write_atomically
from agvae.images import load_rgb
from agvae.metrics import bits_per_pixel, ms_ssim, psnr
from agvae.quality import check_quality, half_levels

log = logging.getLogger(__name__)

COLUMNS = ("image", "codec", "quality", "width", "height", "bytes", *RESULTS, "estimated_bpp")


class ImageCodec(Protocol):
    """A codec that can be evaluated: a classical adapter, or an agvae model in a `ModelCodec`."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def qualities(self) -> Sequence[float]: ...
    def encode(self, image: Any, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> Image.Image: ...


class ModelCodec:
    """An `agvae.Codec` at a list of qualities. Without one, every level and the points half-way between levels.

    An image is analysed once for all its qualities (`analyze`). `encode` and `estimate` take the result."""

    def __init__(self, codec, qualities: Sequence[float] | None = None, effort: int = 0):
        self.codec = codec
        self.effort = effort
        self.name = codec.name
        self.description = f"AG-VAE, one model, {codec.levels} trained levels"
        if effort:
            self.description += f", effort {effort}"
        if qualities is None:
            qualities = half_levels(codec.levels)
        self.qualities = sorted(set(qualities))
        for quality in self.qualities:
            try:
                check_quality(quality, codec.last_quality)
            except ValueError as error:
                raise ConfigError(f"{self.name}: {error}") from None

    def analyze(self, image: Image.Image) -> Any:
        """The latent of an image. Returns once it is computed, also on a GPU."""
        latent = self.codec.analyze(image)
        if self.codec.device.type == "cuda":
            torch.cuda.synchronize(self.codec.device)
        return latent

    def encode(self, latent: Any, quality: float) -> bytes:
        """The whole file, always with a learned body, because the model is measured."""
        return self.codec.compress(latent, quality=quality, effort=self.effort, lossless=False)

    def decode(self, data: bytes) -> Image.Image:
        """The decoded 8-bit RGB image."""
        return self.codec.decompress(data)

    def estimate(self, latent: Any, quality: float) -> float:
        """The model's own rate, in bits. NaN for a refined latent, whose symbols differ."""
        if self.effort:
            return math.nan
        return self.codec.estimate(latent, quality=quality)


@dataclass
class Evaluation:
    """The measurements of a run over a data set.

    `rows` has a dictionary of `COLUMNS` for each image, codec and quality, image by image. `skipped` maps each image
    that was left out to the reason. `interrupted` means that the images after the last row were not reached."""

    codecs: Sequence[ImageCodec]
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def images(self) -> list[str]:
        return list(dict.fromkeys(row["image"] for row in self.rows))

    @property
    def without_ms_ssim(self) -> list[str]:
        return list(dict.fromkeys(row["image"] for row in self.rows if math.isnan(row["ms-ssim-rgb"])))

    def curves(self) -> list[Curve]:
        """Each codec's means over the images."""
        return [
            mean_curve(self.rows, codec.name, codec.description, ours=isinstance(codec, ModelCodec))
            for codec in self.codecs
        ]

    def write_csv(self, path: Path) -> None:
        """Write `rows` as CSV. A value that is not finite is an empty cell."""
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for row in self.rows:
            writer.writerow([_cell(row[column]) for column in COLUMNS])
        write_atomically(path, table.getvalue().encode())


def evaluate_codecs(codecs: Sequence[ImageCodec], paths: Sequence[Path]) -> Evaluation:
    """Code every image with every codec at all its qualities, in one pass over the data set.

    An image is read once, and enters the rows with all codecs or with none, so that all means are over the same images.
    If an image cannot be read or coded, it is logged and listed in `skipped`. Ctrl-C ends the run with the images that
    are complete. Codecs see only pixels: no colour profile or EXIF gets into a file.

    Times are wall-clock seconds. A model analyses an image once for all qualities. The encoding time of each quality is
    that analysis plus its own coding, which is the time of encoding at this quality alone. The first image is first
    coded once without timing, so that no time includes the set-up of a first call."""
    names = [slug(codec.name) for codec in codecs]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"codecs must have different names, since result files are named after them: {', '.join(names)}"
        )
    evaluation = Evaluation(codecs)
    warm = False
    with tqdm(paths, unit="image", desc="evaluating", dynamic_ncols=True) as progress:
        try:
            for path in progress:
                try:
                    image = Image.fromarray(load_rgb(path))
                    rows = []
                    for codec in codecs:
                        progress.set_postfix_str(f"{codec.name}, {path.name}")
                        if not warm:
                            _measure(codec, image, codec.qualities[:1])
                        rows += _measure(codec, image, codec.qualities)
                    warm = True
                except (OSError, ValueError, MemoryError, RuntimeError) as error:
                    if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                        raise
                    evaluation.skipped[str(path)] = str(error).removeprefix(f"{path}: ")
                    log.warning("left out %s: %s", path, evaluation.skipped[str(path)])
                else:
                    evaluation.rows += [{"image": str(path), **row} for row in rows]
        except KeyboardInterrupt:
            if not evaluation.rows:
                raise
            evaluation.interrupted = True
            log.warning("interrupted: the results cover the %d images that were done", len(evaluation.images))
    if evaluation.skipped:
        log.warning("%d images were left out", len(evaluation.skipped))
    if evaluation.without_ms_ssim:
        log.warning(
            "%d images are too small for MS-SSIM and are not in its means",
            len(evaluation.without_ms_ssim),
        )
    return evaluation


def _measure(codec: ImageCodec, image: Image.Image, qualities: Sequence[float]) -> list[dict[str, Any]]:
    pixels = image.width * image.height
    start = time.perf_counter()
    source = codec.analyze(image) if isinstance(codec, ModelCodec) else image
    analysis_time = time.perf_counter() - start
    rows = []
    for quality in qualities:
        start = time.perf_counter()
        data = codec.encode(source, quality)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        end = time.perf_counter()
        estimate = codec.estimate(source, quality) if isinstance(codec, ModelCodec) else math.nan
        rows.append(
            {
                "codec": codec.name,
                "quality": quality,
                "width": image.width,
                "height": image.height,
                "bytes": len(data),
                "bpp": bits_per_pixel(len(data), image.width, image.height),
                "psnr-rgb": psnr(image, decoded),
                "ms-ssim-rgb": ms_ssim(image, decoded),
                "encoding_time": analysis_time + encoded - start,
                "decoding_time": end - encoded,
                "estimated_bpp": estimate / pixels,
            }
        )
    return rows


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        value = finite_or_none(value)
    return "" if value is None else value
