"""Learned bodies: from the latent of a picture to the file that meets a target."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from agvae import metrics
from agvae.codec import bitstream
from agvae.codec.bitstream import Header
from agvae.codec.latent_codec import CodedCell, Coding, LatentCodec
from agvae.codec.picture_transforms import synthesize
from agvae.codec.rate_control import Sizes, SizeSearch, TargetError, Trial, smallest_reaching
from agvae.codec.rate_model import RateModel, SampledRate
from agvae.codec.rdoq import RDOQ, savable_share
from agvae.codec.targets import Target
from agvae.images import Picture
from agvae.quality import QUALITY_STEPS, quality_from_fixed, quality_to_fixed


class Latent(NamedTuple):
    """A picture after g_a, before its gain: y (1, M, H/16, W/16), and the picture itself."""

    y: Tensor
    picture: Picture
    z_symbols: Tensor | None = None
    """Symbols of z (1, N, H/64, W/64) that replace those of h_a. A refined latent has them."""


class LearnedEncoder:
    """Makes files with learned bodies."""

    def __init__(self, latent_codec: LatentCodec):
        self.latent_codec, self._model = latent_codec, latent_codec.model
        self._last_trained = (self._model.levels - 1) * QUALITY_STEPS
        self._last = self._model.last_quality * QUALITY_STEPS

    def meet(self, latent: Latent, header: Header, target: Target) -> bytes:
        """The file that meets a target of `Codec.compress`. `header` is the header of the picture, at any quality.

        Raises TargetError if a rate or metric is out of range, and ValueError if a quality is."""
        if target.name == "quality":
            return self.at_quality(latent, header, quality_to_fixed(target.value, self._model.last_quality))[0]
        return self._within(latent, header, target) if target.is_size else self._reaching(latent, header, target)

    def at_quality(self, latent: Latent, header: Header, q_fixed: int) -> tuple[bytes, Callable[[], np.ndarray]]:
        """The file of a quality, and a function that computes the pixels a decoder gives for it, as RGB.

        The encoder knows the decoder's ŷ, so only g_s is left to run."""
        header = self._at(header, q_fixed)
        coding = self._code(latent, header)

        def decoded() -> np.ndarray:
            quality = quality_from_fixed(q_fixed)
            pixels = synthesize(self._model, coding.y_hat, quality, header.height, header.width)
            return np.asarray(Picture(pixels, grey=True).to_pil().convert("RGB")) if header.grey else pixels

        return bitstream.pack(header, coding.encoder.finish()), decoded

    def _within(self, latent: Latent, header: Header, target: Target) -> bytes:
        """The file of at most the target size, and at most 1 % less."""
        rates = RateModel(self.latent_codec)
        guess = rates.guess(latent.y)
        measure = SampledRate.of(self.latent_codec, rates, latent.y, guess)
        z_symbols_of: dict[int, Tensor] = {}

        def code(q_fixed: int, anchor: int) -> Trial:
            rdoq, at_quality = RDOQ(self.latent_codec.tables), self._at(header, q_fixed)

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

        sizes = Sizes(code, self._last, guess, measure, savable_share(self._model))
        words = partial(target.size_in_words, width=header.width, height=header.height)
        size = max(1, int(target.bytes(header.width, header.height)))
        return SizeSearch(sizes, size, words, target.in_words).run()

    def _reaching(self, latent: Latent, header: Header, target: Target) -> bytes:
        """The smallest file whose decoded picture has at least the metric of the target."""
        if target.name == "ms_ssim" and min(header.width, header.height) < metrics.MS_SSIM_SMALLEST_SIDE:
            raise TargetError(
                f"MS-SSIM is not defined for a picture of {header.width}×{header.height}: five scales need sides "
                f"of at least {metrics.MS_SSIM_SMALLEST_SIDE} pixels"
            )
        measure = partial(getattr(metrics, target.name), latent.picture.pixels)

        def code(q_fixed: int) -> tuple[bytes, float]:
            file, decoded = self.at_quality(latent, header, q_fixed)
            return file, measure(decoded())

        return smallest_reaching(code, target.value, (self._last_trained, self._last), target.name)

    def _at(self, header: Header, q_fixed: int) -> Header:
        return header._replace(quality=q_fixed, extended=q_fixed > self._last_trained)

    def _code(
        self,
        latent: Latent,
        header: Header,
        z_symbols: Tensor | None = None,
        observe: Callable[[CodedCell], None] | None = None,
    ) -> Coding:
        """Code a latent at the quality of the header. The other arguments are those of `LatentCodec.encode`."""
        quality = quality_from_fixed(header.quality)
        y_bar = self._model.scale(latent.y, quality)
        # Coding overwrites ȳ with ŷ. Without gain, ȳ is the latent's own tensor.
        y_bar = y_bar.clone() if y_bar is latent.y else y_bar
        z_symbols = latent.z_symbols if z_symbols is None else z_symbols
        return self.latent_codec.encode(y_bar, quality, z_symbols, header.checksum, observe)
