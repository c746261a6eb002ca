"""`agvae decompress`: turns .agv files into pictures."""

import argparse
import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from agvae.cli.jobs import Job, Result, jobs_of, run
from agvae.cli.progress import Share
from agvae.cli.streams import STANDARD, read
from agvae.errors import ConfigError

if TYPE_CHECKING:
    from agvae.codec import Codec


def decompress(options: argparse.Namespace) -> int:
    """Decompress each input with the given model, or else with the shipped model that made it."""
    from agvae.images import encode_image

    form = f".{(options.format or 'png').lower().removeprefix('.')}"
    jobs = jobs_of(options.paths, form, "OUT or a folder", lambda path: path.lower().endswith(".agv"))
    suffix = _output_suffix(options, jobs, form)
    codecs = Codecs(options)

    def work(job: Job, share: Share) -> Result:
        data = read(job.input)
        from agvae.codec.bitstream import Kind, unpack
        from agvae.codec.lossless import decompress_lossless

        file = unpack(data)
        if file.header.kind is Kind.LEARNED:
            codec = codecs.of(file.header.fingerprint)
            image = codec.decompress(file, max_pixels=options.max_pixels, progress=share)
            details = f"model {codec.name}"
        else:
            image, details = decompress_lossless(file, options.max_pixels), "lossless"
        encoded, lost = encode_image(image, suffix)
        return Result(encoded, f"{image.width}×{image.height}", [f"{job.target}: {phrase}" for phrase in lost], details)

    return run(jobs, work, options)


class Codecs:
    """The codecs that files need, each loaded once: that of the given model, or those of the shipped models."""

    def __init__(self, options: argparse.Namespace):
        self._options, self._lock = options, threading.Lock()
        self._load = functools.cache(self._loaded)

    def of(self, fingerprint: bytes) -> "Codec":
        """The codec for a file. Raises BitstreamError if no shipped model made it."""
        with self._lock:
            return self._load(None if self._options.model else fingerprint)

    def _loaded(self, fingerprint: bytes | None) -> "Codec":
        from agvae.codec import codec_for, open_codec
        from agvae.threads import use_threads

        use_threads(self._options.threads, only_free=True, shared_by=getattr(self._options, "jobs", 1))
        if fingerprint is None:
            return open_codec(self._options.model, self._options.device)
        return codec_for(fingerprint, self._options.device)


def _output_suffix(options: argparse.Namespace, jobs: list[Job], form: str) -> str:
    """The suffix of the output format. Raises ConfigError if it is unknown or given twice."""
    from agvae.images import ImageError, format_of

    if os.path.isdir(options.paths[-1]) or jobs[0].output == STANDARD:
        suffix = form
    elif options.format is None:
        suffix = Path(jobs[0].output).suffix
    else:
        raise ConfigError(
            "--format works only with a folder or standard output; the suffix of an output file sets its format"
        )
    try:
        format_of(suffix)
    except ImageError as error:
        folder = "" if Path(jobs[0].target).suffix else f"; a folder must be there or end in {os.sep}"
        raise ConfigError(f"{jobs[0].target}: {error}{folder}") from None
    return suffix
