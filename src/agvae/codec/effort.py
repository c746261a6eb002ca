"""Effort: an encoder with more time refines the latent, and then meets the target again.

The file of effort 0 is made first. It determines the quality at which the target is met, and it is returned if
refinement gains nothing. So no effort makes a file worse.
"""

from collections.abc import Callable

import numpy as np
import torch

from agvae import metrics
from agvae.codec import bitstream
from agvae.codec.bitstream import Header
from agvae.codec.learned import Latent, LearnedEncoder
from agvae.codec.model_file import ModelFile
from agvae.codec.rate_control import TargetError
from agvae.codec.refinement import Latents, Refiner, Saved
from agvae.images import Picture
from agvae.quality import QUALITY_STEPS, quality_from_fixed

STEPS = (0, 60, 200, 600)
"""Steps of gradient descent at each effort."""

_AGAIN = 4
"""After the quality has moved, this fraction of the steps follows: one in so many."""

_APART = QUALITY_STEPS // 4
"""Distance in quality over which the slope of the target is measured. No quality moves by more than twice this."""


class Search:
    """Searches for better latents of pictures, for one codec."""

    def __init__(
        self,
        encoder: LearnedEncoder,
        decode: Callable[[bytes], np.ndarray],
        model: ModelFile,
        device: torch.device,
    ):
        """`encoder` and `decode` are those of the codec of `model`. `decode` gives a file's pixels, (H, W, 3) uint8.

        Raises ConfigError if the model does not name the loss that it was trained for."""
        self._encoder, self._decode, self._model = encoder, decode, encoder.latent_codec.model
        with torch.inference_mode(False):
            self._refiner = Refiner(model.build_float(device), model.info)

    def improve(
        self,
        file: bytes,
        latent: Latent,
        meet: Callable[[Latent], bytes],
        target: str,
        steps: int,
        progress: Saved | None = None,
    ) -> bytes:
        """A better file than `file`, which `meet` made from `latent` at effort 0, or `file` itself.

        `target` is the target that `meet` meets: quality, bpp, bytes, psnr or ms_ssim. Better means a smaller R + λ·D
        at the same quality, a smaller distortion within the same size, or a smaller file with the same metric."""
        header = bitstream.unpack(file).header
        fixed = header.quality
        if target == "quality":
            refined = meet(self.refine(latent, fixed, steps, progress))
            return min(file, refined, key=lambda f: self.cost(f, latent.picture))
        share = _AGAIN / (_AGAIN + 1)
        first = self.refine(latent, fixed, steps, progress and (lambda done, bits: progress(done * share, bits)))
        moved = self._moved(latent, first, header, target)
        again = progress and (lambda done, bits: progress(share + done * (1 - share), bits))
        second = self.refine(first, moved, max(1, steps // _AGAIN), again)
        try:
            refined = meet(second)
        except TargetError:  # at the ends of the range, because refinement moves them
            return file
        if target in ("bpp", "bytes"):
            return min(file, refined, key=lambda f: self.distortion(f, latent.picture))
        return min(file, refined, key=len)

    def refine(self, latent: Latent, fixed: int, steps: int, progress: Saved | None = None) -> Latent:
        """A latent with a smaller R + λ·D at quality `fixed`, in fixed point, after `steps` steps. The same latent if
        none is found."""
        quality, model = quality_from_fixed(fixed), self._model
        with torch.inference_mode():
            y_bar = model.scale(latent.y, quality)
            z_symbols = latent.z_symbols
            if z_symbols is None:
                z_symbols = model.hyper_symbols(model.hyper_analyze(y_bar, quality))
            gain = model.scale(torch.ones_like(y_bar[:, :, :1, :1]), quality)
        latents = self._refiner.refine(latent.picture.pixels, Latents(y_bar, z_symbols), quality, steps, progress)
        return latent._replace(y=latents.y_bar / gain, z_symbols=latents.z_symbols)

    def cost(self, file: bytes, picture: Picture) -> float:
        """R + λ·D of a file, in bits, at its own quality."""
        quality = quality_from_fixed(bitstream.unpack(file).header.quality)
        pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        return 8 * len(file) + self._refiner.lagrangian(quality) * pixels * self.distortion(file, picture)

    def distortion(self, file: bytes, picture: Picture) -> float:
        """The distortion, in the units of the model's training loss, of the picture that `file` decodes to."""
        return self._refiner.distortion(picture.pixels, self._decode(file))

    def _moved(self, latent: Latent, refined: Latent, header: Header, target: str) -> int:
        """The quality at which a refined latent has, approximately, the size or the metric that `latent` has at that of
        `header`."""
        pixels, fixed, last = latent.picture.pixels, header.quality, self._model.last_quality * QUALITY_STEPS

        def reached(source: Latent, quality: int) -> float:
            file, decoded = self._encoder.at_quality(source, header, quality)
            return np.log(len(file)) if target in ("bpp", "bytes") else getattr(metrics, target)(pixels, decoded())

        low, high = max(0, fixed - _APART), min(last, fixed + _APART)
        slope = (reached(latent, high) - reached(latent, low)) / (high - low)
        ahead = (reached(latent, fixed) - reached(refined, fixed)) / slope
        return round(np.clip(fixed + np.clip(ahead, -2 * _APART, 2 * _APART), 0, last))
