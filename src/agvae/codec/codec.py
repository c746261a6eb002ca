"""The codec: pictures to files and back, with one model at every rate.

It has three layers. This module turns pictures into files and back, agvae.codec.picture_transforms turns pictures into
latents, and agvae.codec.latent_codec turns latents into streams.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agvae import metrics
from agvae.codec import bitstream, model_file, pretrained
from agvae.codec.bitstream import BitstreamError, File, Header, Kind
from agvae.codec.calming import calmed
from agvae.codec.effort import STEPS, Search
from agvae.codec.latent_codec import LatentCodec
from agvae.codec.learned import Latent, LearnedEncoder
from agvae.codec.lossless import LosslessFile, check_pixels, decompress_lossless
from agvae.codec.model_file import ModelFile
from agvae.codec.picture_transforms import Progress, analyze, padded, synthesize
from agvae.codec.rate_control import MetricError
from agvae.codec.refinement import Saved
from agvae.codec.targets import Target, one_target
from agvae.entropy.coder import CodingError
from agvae.errors import ConfigError
from agvae.images import MAX_PIXELS, Picture, as_picture
from agvae.models.agvae import AGVAE
from agvae.models.fixed_point import is_exact
from agvae.quality import quality_from_fixed, quality_to_fixed
from agvae.shipped import DEFAULT_MODEL
from agvae.strides import STRIDE_Z

ImageLike: TypeAlias = Picture | Image.Image | np.ndarray | Tensor | str | Path
"""A picture in one of the forms that the codec accepts."""

_TRANSFORM = 0.7
"""Share of the total time that g_a or g_s takes, approximately. Coding the latent takes the rest."""

_SEARCH_STARTS = 0.02
"""Share of the total time at which a search for a better latent starts, approximately."""

_AS_GOOD = 0.01
"""If a picture is worse than its mean colour by less than this, in dB, it counts as equally good."""


class Codec:
    """Compresses and decompresses pictures with a trained model.

    Every file stores the quality at which it was made, so one model and one decoder serve all rates. Networks run in
    tiles, so the memory beyond the picture and its latent does not grow with the picture. `latent_codec` codes latents
    without pictures or files.

    Several threads may use one codec at once. A codec can be pickled, with its model, for worker processes. The child
    of a fork may use its parent's codec or load its own; it computes on one thread (agvae.threads)."""

    def __init__(self, model: ModelFile, name: str = "agvae", device: str | torch.device = "cpu"):
        """Raises ConfigError if the device's float64 rounds differently from IEEE 754."""
        self.name = name
        self.device = torch.device(device)
        if self.device.type != "cpu" and not is_exact(self.device):
            raise ConfigError(
                f"device {device} cannot be used, because its float64 arithmetic is not exact; use the CPU"
            )
        self._file = model
        self.fingerprint = model.fingerprint
        self.config = model.config
        self.info = model.info
        self.latent_codec = LatentCodec(model.build(self.device), model.tables)
        self._learned = LearnedEncoder(self.latent_codec)
        self.levels = self.model.levels

    def __reduce__(self):
        return type(self), (self._file, self.name, str(self.device))

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_MODEL, device: str | torch.device = "cpu") -> "Codec":
        """The codec of an included model, by name, or of a .safetensors file.

        Raises ModelError if there is no such model, or if the file is invalid."""
        return cls(model_file.load(name_or_path), Path(name_or_path).stem, device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> "Codec":
        """The codec of a training checkpoint, as it would be after export. Raises ModelError."""
        return cls(model_file.from_checkpoint(path), Path(path).stem, device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Codec":
        """The codec of a folder that `save_pretrained` wrote, on this machine. Raises ModelError."""
        return cls(pretrained.load(folder), Path(folder).resolve().name, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model in the layout of the Hugging Face Hub: config.json, model.safetensors, README.md."""
        pretrained.save(self._file, folder, self.name)

    @property
    def model(self) -> AGVAE:
        """The model in the form that codes: in exact arithmetic and in evaluation mode."""
        return self.latent_codec.model

    @property
    def last_quality(self) -> int:
        """The highest quality: levels − 1 for a fixed-rate model, and two more, past the last trained level, with gain
        units."""
        return self.model.last_quality

    @torch.inference_mode()
    def analyze(self, image: ImageLike, progress: Progress | None = None) -> Latent:
        """Run g_a once, for any number of calls of `compress` and `estimate`.

        `image` is anything that `agvae.images.as_picture` accepts: a PIL image, a path, an (H, W, 3) or (H, W) uint8
        array, a (3, H, W) or (1, H, W) float tensor in [0, 1], which is rounded to 8 bits, or a `Picture`. Raises
        ValueError for another shape or type, and for a file that cannot be read."""
        picture = as_picture(image)
        run = partial(analyze, self.model, device=self.device)
        y = run(picture.pixels, progress=progress)
        return Latent(calmed(self.model, picture.pixels, y, run), picture)

    @torch.inference_mode()
    def compress(
        self,
        image: ImageLike | Latent,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        bytes: int | None = None,
        psnr: float | None = None,
        ms_ssim: float | None = None,
        lossless: bool | None = None,
        effort: int = 0,
        progress: Progress | None = None,
        saved: Callable[[float], None] | None = None,
    ) -> bytes:
        """The picture as the bytes of an .agv file that meets one target. Without a target, it takes the middle
        quality.

        quality: any value from 0, the smallest file, to levels − 1, and up to two levels past the last one, for which
        the model was not trained; bpp (bits per pixel), bytes: the whole file is never larger, and at most 1 % smaller;
        psnr (dB), ms_ssim: the metric of the decoded 8-bit picture in RGB is never lower, and at most 0.05 dB or 0.0005
        higher. Alpha, EXIF, ICC profile, XMP and text of a PIL image or `Picture` are kept.

        lossless: True keeps every pixel exactly and takes no target. By default, a lossless file is chosen if it meets
        the target in no more bytes than a learned one, if only it meets the target, if the learned picture would be
        worse than its mean colour, and for a 1-bit picture at any quality. False never chooses one.

        effort: how long to search for a better latent, from 0 (no search) to 3 (see agvae.codec.effort). The target
        holds at every effort. `progress` is called with the share done, and `saved` with the bits that the search has
        saved.

        Raises TargetError, which names the possible range for this picture, if a rate or metric is out of range, and
        ValueError if a quality is out of range or more than one target is given."""
        target = one_target({"quality": quality, "bpp": bpp, "bytes": bytes, "psnr": psnr, "ms_ssim": ms_ssim})
        if lossless and target is not None:
            raise ValueError(f"lossless and {target.name} cannot be combined: a lossless file has no target")
        target = target or Target("quality", (self.levels - 1) / 2)
        if target.name == "quality":
            quality_to_fixed(target.value, self.last_quality)  # a wrong quality is refused before any work
        if effort not in range(len(STEPS)):
            raise ValueError(f"effort must be from 0 to {len(STEPS) - 1}, not {effort}")
        picture = image.picture if isinstance(image, Latent) else as_picture(image)
        header = bitstream.header_of(picture, self.fingerprint)
        other = LosslessFile(picture, header)
        if lossless or (lossless is None and picture.bilevel and target.name == "quality"):
            return other.data
        if lossless is None and target.is_size and (file := other.within(target.bytes(header.width, header.height))):
            return file
        share = _SEARCH_STARTS if effort else _TRANSFORM
        latent = image if isinstance(image, Latent) else self.analyze(picture, _part(progress, 0, share))
        try:
            file = self._learned.meet(latent, header, target)
        except MetricError as error:
            file = other.data if error.smallest is None else other.within(len(error.smallest))
            if lossless is False or file is None:
                raise
            return file
        if effort:
            report = _report(_part(progress, share, 1), saved)
            meet = partial(self._learned.meet, header=header, target=target)
            file = self.search.improve(file, latent, meet, target.name, STEPS[effort], report)
        if lossless is False:
            return file
        return other.within(len(file)) or self._no_worse_than_flat(file, latent, header, target, other)

    @torch.inference_mode()
    def decompress(
        self, data: bytes | File, *, max_pixels: int = MAX_PIXELS, progress: Progress | None = None
    ) -> Image.Image:
        """The picture in `data`, with its alpha and metadata. Its mode is 1, L, LA or I;16 if it was greyscale.

        `data` is a file, or one whose header has been read. Raises BitstreamError if it is not an .agv file, is
        damaged, was made by another model, or is larger than `max_pixels`. `progress` is called with the share done."""
        file = data if isinstance(data, File) else bitstream.unpack(data)
        header, stream = file
        if header.kind is not Kind.LEARNED:
            return decompress_lossless(file, max_pixels)
        self._check(header, len(stream), max_pixels)
        quality = quality_from_fixed(header.quality)
        height, width = (side // STRIDE_Z for side in padded(header.height, header.width))
        try:
            y_hat = self.latent_codec.decode(stream, quality, height, width, header.checksum)
        except CodingError as error:
            raise BitstreamError(f"the file is damaged: {error}") from error
        extras = bitstream.unpack_extras(header)  # before the pixels, because those take longest
        pixels = synthesize(self.model, y_hat, quality, header.height, header.width, _part(progress, 1 - _TRANSFORM, 1))
        return Picture(pixels, header.grey, **extras).to_pil()

    @torch.inference_mode()
    def preview(self, latent: Latent, *, quality: float) -> tuple[bytes, Callable[[], Image.Image]]:
        """The learned file of a quality, and what makes the picture that `decompress` gives for it, in half the time.

        The encoder has computed the decoder's ŷ, so only g_s is left to run. Raises ValueError for a quality out of
        range."""
        header = bitstream.header_of(latent.picture, self.fingerprint)
        file, decoded = self._learned.at_quality(latent, header, quality_to_fixed(quality, self.last_quality))
        extras = bitstream.unpack_extras(header)
        return file, torch.inference_mode()(lambda: Picture(decoded(), header.grey, **extras).to_pil())

    @torch.inference_mode()
    def estimate(self, image: ImageLike | Latent, *, quality: float) -> float:
        """The model's own rate, in bits, for the symbols that `compress` would code, without header or coder."""
        latent = image if isinstance(image, Latent) else self.analyze(image)
        quality = quality_from_fixed(quality_to_fixed(quality, self.last_quality))
        return self.latent_codec.bits(self.model.scale(latent.y, quality), quality, latent.z_symbols).item()

    @cached_property
    def search(self) -> Search:
        """The search for better latents, which `effort` asks for."""
        return Search(
            self._learned, lambda file: np.asarray(self.decompress(file).convert("RGB")), self._file, self.device
        )

    def _no_worse_than_flat(
        self, file: bytes, latent: Latent, header: Header, target: Target, other: "LosslessFile"
    ) -> bytes:
        """A learned file, or a lossless one if its picture is worse than its mean colour. Photographs are not decoded
        to find out."""
        pixels = latent.picture.pixels
        if not other.look.doubts(len(file)):
            return file
        flat = np.broadcast_to(pixels.mean((0, 1)).round().astype(np.uint8), pixels.shape)
        decoded = np.asarray(self.decompress(file).convert("RGB"))
        if metrics.psnr(pixels, decoded) >= metrics.psnr(pixels, flat) - _AS_GOOD:
            return file
        if not target.is_size:
            return other.data
        flat_latent = self.analyze(replace(latent.picture, pixels=np.ascontiguousarray(flat)))
        coded = self._learned.meet(flat_latent, header, Target("quality", self.levels - 1))
        return min(file, coded, key=len)

    def _check(self, header: Header, length: int, max_pixels: int) -> None:
        """Raise BitstreamError if a header is impossible, before any memory is spent on it."""
        if header.fingerprint != self.fingerprint:
            raise BitstreamError(
                f"the file was made by the model {header.fingerprint.hex()}, not by {self.name} "
                f"({self.fingerprint.hex()})"
            )
        check_pixels(header, max_pixels)
        last_trained, quality = self.levels - 1, quality_from_fixed(header.quality)
        if quality > self.last_quality or (quality > last_trained and header.version == 1):
            raise BitstreamError(
                f"the header gives quality {quality:g}, but the last level of the model is {last_trained}"
            )
        if header.extended and quality <= last_trained:
            raise BitstreamError("the file has version 2, but nothing in it needs that version")
        height, width = padded(header.height, header.width)
        if 8 * length + 64 < self.latent_codec.least_bits(height // STRIDE_Z, width // STRIDE_Z):
            raise BitstreamError(f"a stream of {length} bytes cannot hold a picture of {header.width}×{header.height}")


def _report(share: Progress | None, saved: Callable[[float], None] | None) -> Saved:
    """A search's progress as two callbacks."""

    def report(done: float, bits: float) -> None:
        if share is not None:
            share(done)
        if saved is not None:
            saved(bits)

    return report


def _part(progress: Progress | None, start: float, stop: float) -> Progress | None:
    """Progress of a part of the work, from the share `start` to `stop` of the whole."""
    return progress and (lambda share: progress(start + (stop - start) * share))
