"""`agvae compress`: pictures into .agv files."""

import argparse
import dataclasses
import functools
import io
from typing import TYPE_CHECKING

from agvae.cli.jobs import Job, Result, jobs_of, run
from agvae.cli.progress import Progress
from agvae.cli.streams import STANDARD, read
from agvae.errors import ConfigError
from agvae.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from agvae.codec import Codec

TARGETS = ("quality", "bpp", "bytes", "psnr", "ms_ssim")


def compress(options: argparse.Namespace) -> int:
    """Compress each input; without a target, at the middle of the model's qualities."""
    from agvae.images import is_picture

    jobs = jobs_of(options.paths, ".agv", "OUT.agv or a folder")
    if wrong := [job.output for job in jobs if is_picture(job.output)]:
        raise ConfigError(f"{wrong[0]}: the output of compress is an .agv file or a folder, not a picture")
    target = {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}

    @functools.cache
    def codec() -> "Codec":
        from agvae.codec import open_codec
        from agvae.quality import check_quality
        from agvae.threads import use_threads

        use_threads(options.threads, only_free=True)
        loaded = open_codec(options.model or DEFAULT_MODEL, options.device)
        if not target:
            target["quality"] = (loaded.levels - 1) / 2
        if "quality" in target:
            try:
                check_quality(target["quality"], loaded.levels)
            except ValueError as error:
                raise ConfigError(error) from None
        return loaded

    def work(job: Job, progress: Progress) -> Result:
        from agvae.codec.bitstream import quality_of
        from agvae.images import read_picture
        from agvae.metrics import bits_per_pixel

        source = io.BytesIO(read(job.input)) if job.input == STANDARD else job.input
        picture = read_picture(source, options.max_pixels, stretch=options.stretch)
        if options.strip:
            picture = dataclasses.replace(picture, exif=None, icc=None, xmp=None, text={})
        loaded = codec()
        data = loaded.compress(picture, **target, effort=options.effort, progress=progress, saved=progress.save)
        height, width = picture.pixels.shape[:2]
        rate = bits_per_pixel(len(data), width, height)
        words = f"{len(data)} bytes, {rate:.4f} bpp, quality {quality_of(data):.4g}"
        if options.effort:
            words += f", effort {options.effort}"
        return Result(data, words, [f"{job.source}: {phrase}" for phrase in picture.lost])

    return run(jobs, work)
