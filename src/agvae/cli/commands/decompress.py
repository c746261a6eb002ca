"""`agvae decompress`: .agv files into pictures."""

import argparse
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agvae.cli.jobs import Job, Result, jobs_of, run
from agvae.cli.progress import Progress
from agvae.cli.streams import STANDARD, read
from agvae.errors import ConfigError

if TYPE_CHECKING:
    from agvae.codec import Codec


def decompress(options: argparse.Namespace) -> int:
    """Decompress each input, with the shipped model that made it unless another is given."""
    from agvae.images import encode_image

    form = f".{(options.format or 'png').lower().removeprefix('.')}"
    jobs = jobs_of(options.paths, form, "OUT or a folder")
    suffix = _output_suffix(options, jobs, form)

    @functools.cache
    def codec_of(fingerprint: bytes | None) -> "Codec":
        from agvae.codec import codec_for, open_codec
        from agvae.threads import use_threads

        use_threads(options.threads, only_free=True)
        if fingerprint is None:
            return open_codec(options.model, options.device)
        return codec_for(fingerprint, options.device)

    def work(job: Job, progress: Progress) -> Result:
        data = read(job.input)
        from agvae.codec.bitstream import unpack

        file = unpack(data)
        codec = codec_of(None if options.model else file.header.fingerprint)
        image = codec.decompress(file, max_pixels=options.max_pixels, progress=progress)
        encoded, lost = encode_image(image, suffix)
        return Result(encoded, f"{image.width}×{image.height}", [f"{job.target}: {phrase}" for phrase in lost])

    return run(jobs, work)


def _output_suffix(options: argparse.Namespace, jobs: list[Job], form: str) -> str:
    """The suffix of the pictures' format. Raises ConfigError if it is unknown or said twice."""
    from agvae.images import ImageError, format_of

    if os.path.isdir(options.paths[-1]) or jobs[0].output == STANDARD:
        suffix = form
    elif options.format is None:
        suffix = Path(jobs[0].output).suffix
    else:
        raise ConfigError("--format is for a folder or standard output; the suffix of a file says its format")
    try:
        format_of(suffix)
    except ImageError as error:
        folder = "" if Path(jobs[0].target).suffix else f"; a folder must be there or end in {os.sep}"
        raise ConfigError(f"{jobs[0].target}: {error}{folder}") from None
    return suffix
