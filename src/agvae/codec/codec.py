"""The codec: pictures to files and back, with one model at every rate.

It has three floors: pictures and files here, pictures and latents in agvae.codec.picture_transforms, latents and
streams in agvae.codec.latent_codec.
"""

import math
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agvae import metrics
from agvae.codec import bitstream, model_file, pretrained
from agvae.codec.bitstream import BitstreamError, File, Header
from agvae.codec.effort import STEPS, Search
from agvae.codec.latent_codec import CodedCell, Coding, LatentCodec
from agvae.codec.model_file import ModelFile
from agvae.codec.picture_transforms import Progress, analyze, padded, synthesize
from agvae.codec.rate_control import Sizes, SizeSearch, TargetError, Trial, smallest_reaching
from agvae.codec.rate_model import RateModel, SampledRate
from agvae.codec.rdoq import RDOQ, savable_share
from agvae.entropy.coder import CodingError
from agvae.errors import ConfigError
from agvae.images import MAX_PIXELS, Picture, as_picture
from agvae.models.agvae import AGVAE
from agvae.models.fixed_point import is_exact
from agvae.quality import QUALITY_STEPS, quality_from_fixed, quality_to_fixed
from agvae.shipped import DEFAULT_MODEL
from agvae.strides import STRIDE_Z

ImageLike = Picture | Image.Image | np.ndarray | Tensor | str | Path
"""What stands for a picture."""

_TRANSFORM = 0.7
"""Share of the time that g_a or g_s takes, about; coding the latent takes the rest."""

_SEARCH_STARTS = 0.02
"""Share of the time after which a search for a better latent starts, about."""


class Latent(NamedTuple):
    """A picture after g_a, before its gain: y (1, M, H/16, W/16), and the picture itself."""

    y: Tensor
    picture: Picture
    z_symbols: Tensor | None = None
    """Symbols of z (1, N, H/64, W/64) in place of those that h_a gives: of a latent that was refined."""


class Codec:
    """Compresses and decompresses pictures with a trained model.

    Every file names the quality at which it was made, so one model and one decoder serve all rates. Networks run in
    tiles, so that memory beyond the picture and its latent does not grow with the picture. `latent_codec` codes latents
    without pictures or files.
    """

    def __init__(self, model: ModelFile, name: str = "agvae", device: str | torch.device = "cpu"):
        """Raises ConfigError for a device whose float64 rounds otherwise than IEEE 754."""
        self.name = name
        self.device = torch.device(device)
        if self.device.type != "cpu" and not is_exact(self.device):
            raise ConfigError(f"device {device} cannot be used: its float64 is not exact")
        self._file = model
        self.fingerprint = model.fingerprint
        self.config = model.config
        self.info = model.info
        self.latent_codec = LatentCodec(model.build(self.device), model.tables)
        self.levels = self.model.levels

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_MODEL, device: str | torch.device = "cpu") -> "Codec":
        """The codec of a model that comes with the package, by name, or of a .safetensors file.

        Raises ModelError if there is no such model or the file is not sound."""
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
        """Write the model as the Hugging Face Hub lays it out: config.json, model.safetensors, README.md."""
        pretrained.save(self._file, folder, self.name)

    @property
    def model(self) -> AGVAE:
        """The model as it codes: in exact arithmetic, in evaluation mode."""
        return self.latent_codec.model

    @torch.inference_mode()
    def analyze(self, image: ImageLike, progress: Progress | None = None) -> Latent:
        """Run g_a once, for any number of calls of `compress` and `estimate`.

        `image` is all that `agvae.images.as_picture` takes: a PIL image, a path, an (H, W, 3) or (H, W) uint8 array, a
        (3, H, W) or (1, H, W) float tensor in [0, 1], which is rounded to 8 bits, or a `Picture`. Raises ValueError
        for another shape or type, and for a file that cannot be read."""
        picture = as_picture(image)
        return Latent(analyze(self.model, picture.pixels, self.device, progress), picture)

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
        effort: int = 0,
        progress: Progress | None = None,
        saved: Callable[[float], None] | None = None,
    ) -> bytes:
        """The picture as the bytes of an .agv file that meets one target.

        quality: from 0, the smallest file, to levels − 1, and any value between; bpp (bits per pixel), bytes: the
        whole file is never larger, and at most 1 % smaller; psnr (dB), ms_ssim: that of the decoded 8-bit picture in
        RGB is never less, and at most 0.05 dB or 0.0005 more. Alpha, EXIF and ICC profile of a PIL image or
        `Picture` are kept.

        effort: how long to search for a better latent, from 0, not at all, to 3 (see agvae.codec.effort). The target
        holds at every effort. `progress` is called with the share done, `saved` with the bits saved by the search.

        Raises TargetError, naming what this picture can have, for a rate or metric out of range, and ValueError for
        a quality out of range or when not exactly one target is given."""
        targets = {"quality": quality, "bpp": bpp, "bytes": bytes, "psnr": psnr, "ms_ssim": ms_ssim}
        given = [(name, value) for name, value in targets.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one target of {', '.join(targets)}, not {len(given)}")
        ((name, target),) = given
        if effort not in range(len(STEPS)):
            raise ValueError(f"effort must be 0 to {len(STEPS) - 1}, not {effort}")
        if name == "quality":
            quality_to_fixed(target, self.levels)  # refuses it before the work
        elif not (math.isfinite(target) and target > 0):
            raise ValueError(f"{name} {target} is no target")
        analysis = _SEARCH_STARTS if effort else _TRANSFORM
        latent = image if isinstance(image, Latent) else self.analyze(image, _part(progress, 0, analysis))
        file = self._meet(latent, name, target)
        if not effort:
            return file
        share = _part(progress, analysis, 1)

        def report(done: float, bits: float) -> None:
            if share is not None:
                share(done)
            if saved is not None:
                saved(bits)

        meet = partial(self._meet, name=name, target=target)
        return self.search.improve(file, latent, meet, name, STEPS[effort], report)

    @cached_property
    def search(self) -> Search:
        """The search for better latents, which `effort` asks for."""
        return Search(self, self._file)

    def _meet(self, latent: Latent, name: str, target: float) -> bytes:
        """The file that meets one target of `compress`."""
        header = self._header(latent.picture)
        if name == "quality":
            return self._at_quality(latent, header, quality_to_fixed(target, self.levels))
        if name == "bpp":
            unit = header.width * header.height / 8
            return self._within(latent, header, target * unit, lambda size: f"{size / unit:.4f} bpp")
        if name == "bytes":
            return self._within(latent, header, target, "{} bytes".format)
        return self._reaching(latent, header, target, name)

    @torch.inference_mode()
    def decompress(
        self, data: bytes | File, *, max_pixels: int = MAX_PIXELS, progress: Progress | None = None
    ) -> Image.Image:
        """The picture that `data` holds, with its alpha, EXIF and ICC profile; L or LA if it was greyscale.

        `data` is a file, or one whose header has been read. Raises BitstreamError if it is not an .agv file, damaged,
        made by another model, or larger than `max_pixels`. `progress` is called with the share done."""
        header, stream = data if isinstance(data, File) else bitstream.unpack(data)
        self._check(header, len(stream), max_pixels)
        quality = quality_from_fixed(header.quality)
        z_size = (side // STRIDE_Z for side in padded(header.height, header.width))
        try:
            y_hat = self.latent_codec.decode(stream, quality, *z_size, header.checksum)
        except CodingError as error:
            raise BitstreamError(f"the file is damaged: {error}") from error
        # Before the pixels, which take longest.
        alpha = bitstream.unpack_alpha(header.alpha, header.width, header.height)
        exif, icc = bitstream.unpack_block(header.exif), bitstream.unpack_block(header.icc)
        pixels = synthesize(self.model, y_hat, quality, header.height, header.width, _part(progress, 1 - _TRANSFORM, 1))
        return Picture(pixels, header.grey, alpha, exif, icc).to_pil()

    @torch.inference_mode()
    def estimate(self, image: ImageLike | Latent, *, quality: float) -> float:
        """The model's own rate for the symbols that `compress` would code, in bits, without header or coder."""
        latent = image if isinstance(image, Latent) else self.analyze(image)
        quality = quality_from_fixed(quality_to_fixed(quality, self.levels))
        return self.latent_codec.bits(self.model.scale(latent.y, quality), quality, latent.z_symbols).item()

    def _at_quality(self, latent: Latent, header: Header, q_fixed: int) -> bytes:
        """The file at a quality in fixed point."""
        header = header._replace(quality=q_fixed)
        return bitstream.pack(header, self._code(latent, header).encoder.finish())

    def _within(self, latent: Latent, header: Header, size: float, words: Callable[[int], str]) -> bytes:
        """The file of at most `size` bytes, and at most 1 % less. `words` is a size as an error names it."""
        rates = RateModel(self.latent_codec)
        guess = rates.guess(latent.y)
        measure = SampledRate.of(self.latent_codec, rates, latent.y, guess)
        z_symbols_of: dict[int, Tensor] = {}

        def code(q_fixed: int, anchor: int) -> Trial:
            rdoq, at_quality = RDOQ(self.latent_codec.tables), header._replace(quality=q_fixed)

            def observe(coded: CodedCell) -> None:
                rates.count(coded)
                rdoq.offer(coded)

            coding = self._code(latent, at_quality, z_symbols_of.get(anchor), observe)
            if anchor not in z_symbols_of:
                z_symbols_of.clear()
                z_symbols_of[anchor] = coding.z_symbols

            def shorten(excess: int) -> bytes:
                # A stream is up to a byte longer than its bits.
                rdoq.lower(coding.encoder, 8 * (excess + 1))
                return bitstream.pack(at_quality, coding.encoder.finish())

            return Trial(bitstream.pack(at_quality, coding.encoder.finish()), rates.curve(q_fixed), shorten)

        sizes = Sizes(code, self._last, guess, measure, savable_share(self.model))
        return SizeSearch(sizes, max(1, int(size)), words).run()

    def _reaching(self, latent: Latent, header: Header, target: float, metric: str) -> bytes:
        """The smallest file whose decoded picture has a metric of at least `target`."""
        if metric == "ms_ssim" and min(header.width, header.height) < metrics.MS_SSIM_SMALLEST_SIDE:
            raise TargetError(
                f"MS-SSIM is not defined for a picture of {header.width}×{header.height}: five scales need sides "
                f"of at least {metrics.MS_SSIM_SMALLEST_SIDE} pixels"
            )
        measure = partial(getattr(metrics, metric), latent.picture.pixels)

        def code(q_fixed: int) -> tuple[bytes, float]:
            at_quality = header._replace(quality=q_fixed)
            coding = self._code(latent, at_quality)
            quality = quality_from_fixed(q_fixed)
            decoded = synthesize(self.model, coding.y_hat, quality, header.height, header.width)
            if header.grey:
                decoded = np.asarray(Picture(decoded, grey=True).to_pil().convert("RGB"))
            return bitstream.pack(at_quality, coding.encoder.finish()), measure(decoded)

        return smallest_reaching(code, target, self._last, metric)

    def _code(
        self,
        latent: Latent,
        header: Header,
        z_symbols: Tensor | None = None,
        observe: Callable[[CodedCell], None] | None = None,
    ) -> Coding:
        """Code a latent at the header's quality; the other arguments are those of `LatentCodec.encode`."""
        quality = quality_from_fixed(header.quality)
        y_bar = self.model.scale(latent.y, quality)
        # Coding writes ŷ in the place of ȳ, which without gain is the latent's own.
        y_bar = y_bar.clone() if y_bar is latent.y else y_bar
        z_symbols = latent.z_symbols if z_symbols is None else z_symbols
        return self.latent_codec.encode(y_bar, quality, z_symbols, header.checksum, observe)

    @property
    def _last(self) -> int:
        """The highest quality, in fixed point."""
        return (self.levels - 1) * QUALITY_STEPS

    def _header(self, picture: Picture) -> Header:
        """The header of a picture, at quality 0."""
        return Header(
            self.fingerprint,
            width=picture.pixels.shape[1],
            height=picture.pixels.shape[0],
            quality=0,
            grey=picture.grey,
            alpha=bitstream.pack_alpha(picture.alpha),
            exif=bitstream.pack_block(picture.exif),
            icc=bitstream.pack_block(picture.icc),
        )

    def _check(self, header: Header, length: int, max_pixels: int) -> None:
        """Raise BitstreamError for a header that cannot be right, before memory is spent on it."""
        if header.fingerprint != self.fingerprint:
            raise BitstreamError(
                f"the file was made by the model {header.fingerprint.hex()}, not by {self.name} "
                f"({self.fingerprint.hex()})"
            )
        # A side under 64 takes what one of 64 does: a picture of 1×2^28 would take 64 times as much as it seems to.
        if max(header.width, STRIDE_Z) * max(header.height, STRIDE_Z) > max(max_pixels, STRIDE_Z**2):
            raise BitstreamError(f"a picture of {header.width}×{header.height} is over {max_pixels} pixels, the limit")
        if header.quality > self._last:
            quality = quality_from_fixed(header.quality)
            raise BitstreamError(f"quality {quality:g} is past the model's last level, {self.levels - 1}")
        height, width = padded(header.height, header.width)
        if 8 * length + 64 < self.latent_codec.least_bits(height // STRIDE_Z, width // STRIDE_Z):
            raise BitstreamError(f"a stream of {length} bytes cannot hold a picture of {header.width}×{header.height}")


def _part(progress: Progress | None, start: float, stop: float) -> Progress | None:
    """Progress of a part of the work, from the share `start` to `stop` of the whole."""
    return progress and (lambda share: progress(start + (stop - start) * share))
