"""`agvae compress`: turns pictures into .agv files."""

import argparse
import dataclasses
import io
import math
import threading
from typing import TYPE_CHECKING

from agvae.cli.jobs import Job, Result, jobs_of, run
from agvae.cli.progress import Share
from agvae.cli.streams import STANDARD, read
from agvae.errors import ConfigError
from agvae.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from agvae.codec import Codec
    from agvae.images import Picture

TARGETS = ("quality", "bpp", "bytes", "psnr", "ms_ssim")
METRICS = {"psnr": "PSNR {:.2f} dB", "ms_ssim": "MS-SSIM {:.4f}"}

_JPEG = {10: 0.2, 30: 0.9, 50: 1.9, 70: 2.6, 80: 3.2, 85: 3.6, 90: 4.0, 95: 4.9}
"""JPEG's qualities 10 to 95, and the quality at which agvae-mse has the same PSNR, on the photos bundled with agvae."""


def compress(options: argparse.Namespace) -> int:
    """Compress each input. Without a target, use the middle of the model's qualities."""
    from agvae.images import is_picture

    jobs = jobs_of(options.paths, ".agv", "OUT.agv or a folder", is_picture)
    if wrong := [job.output for job in jobs if is_picture(job.output)]:
        raise ConfigError(f"{wrong[0]}: the output of compress must be an .agv file or a folder, not a picture")
    target = {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}
    if options.lossless and options.effort:
        raise ConfigError("--effort has no effect with --lossless; remove one of them")
    codec = _Lazy(options)

    def work(job: Job, share: Share) -> Result:
        source = io.BytesIO(read(job.input)) if job.input == STANDARD else job.input
        picture = _picture(source, options)
        if options.lossless:
            from agvae.codec.lossless import compress_lossless

            data = compress_lossless(picture)
        else:
            loaded = codec.get()
            data = loaded.compress(picture, **target, effort=options.effort, progress=share, saved=share.save)
        reached = [_reached(codec.get(), data, picture, name) for name in target if name in METRICS]
        notes = [f"{job.source}: {phrase}" for phrase in picture.lost]
        return Result(data, _words(data, codec.levels, reached), notes, _details(options))

    return run(jobs, work, options)


class _Lazy:
    """The codec. It is loaded once, after the first picture has been read."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._lock = options, threading.Lock()
        self._codec: Codec | None = None

    @property
    def levels(self) -> int | None:
        """The levels of the model, if it has been loaded."""
        return None if self._codec is None else self._codec.levels

    def get(self) -> "Codec":
        """The codec. Raises ConfigError if it does not have the requested quality."""
        with self._lock:
            if self._codec is None:
                from agvae.codec import open_codec
                from agvae.threads import use_threads

                use_threads(self._options.threads, only_free=True, shared_by=self._options.jobs)
                codec = open_codec(self._options.model or DEFAULT_MODEL, self._options.device)
                if self._options.quality is not None and self._options.quality > codec.last_quality:
                    raise ConfigError(_no_such_quality(self._options.quality, codec))
                self._codec = codec
            return self._codec


def _picture(source: str | io.BytesIO, options: argparse.Namespace) -> "Picture":
    from agvae.images import read_picture

    picture = read_picture(source, options.max_pixels, keep_depth=options.lossless, stretch=options.stretch)
    if options.strip:
        picture = dataclasses.replace(picture, exif=None, icc=None, xmp=None, text={})
    if options.lossless:
        from agvae.codec.lossless import held

        picture = held(picture)
    return picture


def _reached(codec: "Codec", data: bytes, picture: "Picture", metric: str) -> str:
    """The metric of the decoded picture."""
    from agvae import metrics

    reached = getattr(metrics, metric)(picture.pixels, codec.decompress(data).convert("RGB"))
    return METRICS[metric].format(reached) if reached < math.inf else "exact"


def _words(data: bytes, levels: int | None, reached: list[str]) -> str:
    from agvae.codec.bitstream import Kind, unpack
    from agvae.metrics import bits_per_pixel
    from agvae.quality import quality_in_words

    header = unpack(data).header
    lossless = header.kind is not Kind.LEARNED
    quality = "lossless" if lossless else f"quality {quality_in_words(header.quality, levels)}"
    rate = bits_per_pixel(len(data), header.width, header.height)
    return ", ".join((f"{len(data)} bytes", f"{rate:.4f} bpp", quality, *reached))


def _details(options: argparse.Namespace) -> str:
    return "no model" if options.lossless else f"model {options.model or DEFAULT_MODEL}"


def _no_such_quality(quality: float, codec: "Codec") -> str:
    words = f"--quality must be a level of {codec.name} from 0 to {codec.last_quality:g}, not {quality:g}"
    if not 10 <= quality <= 100:
        return words
    import numpy as np

    level = np.interp(quality, list(_JPEG), list(_JPEG.values()))
    return f"{words}; a JPEG file of quality {quality:g} has about the PSNR of --quality {level:.1f}"
