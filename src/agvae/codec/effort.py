"""Effort: what an encoder does with more time. It refines the latent, and then meets the target anew.

The file of effort 0 comes first. It says at which quality the target is met, and it is returned where refinement gains
nothing, so that no effort makes a file worse.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from agvae import metrics
from agvae.codec import bitstream
from agvae.codec.rate_control import TargetError
from agvae.codec.refinement import Saved
from agvae.quality import QUALITY_STEPS

if TYPE_CHECKING:
    from agvae.codec.codec import Codec, Latent

STEPS = (0, 60, 200, 600)
"""Steps of gradient descent at each effort."""

_AGAIN = 4
"""The part of the steps that follow after the quality has moved is one in so many."""

_APART = QUALITY_STEPS // 4
"""Distance in quality over which the target's slope is measured; no quality moves by more than twice as much."""


def improve(
    codec: "Codec",
    file: bytes,
    latent: "Latent",
    meet: Callable[["Latent"], bytes],
    target: str,
    steps: int,
    progress: Saved | None = None,
) -> bytes:
    """A better file than `file`, which `meet` made of `latent` at effort 0, or `file` itself.

    `target` is what `meet` meets: quality, bpp, bytes, psnr or ms_ssim. Better means a smaller R + λ·D at the same
    quality, a smaller distortion within the same size, or a smaller file with the same metric."""
    fixed = bitstream.unpack(file)[0].quality
    if target == "quality":
        return min(
            file, meet(codec.refine(latent, fixed, steps, progress)), key=lambda f: codec.cost(f, latent.picture)
        )
    share = _AGAIN / (_AGAIN + 1)
    first = codec.refine(latent, fixed, steps, progress and (lambda done, bits: progress(done * share, bits)))
    moved = _moved(codec, latent, first, fixed, target)
    again = progress and (lambda done, bits: progress(share + done * (1 - share), bits))
    second = codec.refine(first, moved, max(1, steps // _AGAIN), again)
    try:
        refined = meet(second)
    except TargetError:  # at the ends of the range, which refinement moves
        return file
    if target in ("bpp", "bytes"):
        return min(file, refined, key=lambda f: codec.distortion(f, latent.picture))
    return min(file, refined, key=len)


def _moved(codec: "Codec", latent: "Latent", refined: "Latent", fixed: int, target: str) -> int:
    """The quality at which a refined latent has, about, what `latent` has at `fixed`: its size or its metric."""
    pixels = latent.picture.pixels

    def reached(source: "Latent", quality: int) -> float:
        file = codec.compress(source, quality=quality / QUALITY_STEPS)
        if target in ("bpp", "bytes"):
            return np.log(len(file))
        return getattr(metrics, target)(pixels, np.asarray(codec.decompress(file).convert("RGB")))

    low, high = max(0, fixed - _APART), min((codec.levels - 1) * QUALITY_STEPS, fixed + _APART)
    slope = (reached(latent, high) - reached(latent, low)) / (high - low)
    ahead = (reached(latent, fixed) - reached(refined, fixed)) / slope
    return round(np.clip(fixed + np.clip(ahead, -2 * _APART, 2 * _APART), 0, (codec.levels - 1) * QUALITY_STEPS))
