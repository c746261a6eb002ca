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
    def codec_of(name: str) -> "Codec":
        from agvae.codec import open_codec
        from agvae.threads import use_threads

        use_threads(options.threads, only_free=True)
        return open_codec(name, options.device)

    model_of = functools.cache(_model_of)

    def work(job: Job, progress: Progress) -> Result:
        data = read(job.input)
        from agvae.codec.bitstream import unpack

        header, _ = unpack(data)
        codec = codec_of(options.model or model_of(header.fingerprint))
        image = codec.decompress(data, max_pixels=options.max_pixels, progress=progress)
        file, lost = encode_image(image, suffix)
        return Result(file, f"{image.width}×{image.height}", [f"{job.target}: {phrase}" for phrase in lost])

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


def _model_of(fingerprint: bytes) -> str:
    from agvae.codec import BitstreamError, model_file

    for name in model_file.names_of_models():
        if model_file.load(name).fingerprint == fingerprint:
            return name
    raise BitstreamError(
        f"made by the model {fingerprint.hex()}, which does not come with agvae; give its file with --model"
    )
