"""Estimates the size of a picture's file at any quality, from its latent, from a sample of it, or from one coding."""

import math

import numpy as np
import torch
from torch import Tensor

from agvae.codec.latent_codec import CodedCell, LatentCodec
from agvae.entropy.tables import scale_index
from agvae.quality import QUALITY_STEPS, half_levels, quality_from_fixed
from agvae.strides import Y_PER_Z

_EXCESS = 0.8
"""Logarithm of the ratio of a file's size to the guess from y alone, approximately."""

_SAMPLED = 1024
"""Number of positions in a sample of a large latent. A smaller latent is coded whole."""

_BORDERS = 0.06
"""Logarithm of the factor by which a sample is too large, approximately, because its parts lack their own neighbours.
"""


class RateModel:
    """Sizes at all qualities, from how often each scale is used in each channel at one quality.

    Between qualities, the scales of a channel change almost exactly by the ratio of its gains, and the entropies
    follow. A curve is the logarithm of the size in bytes at all levels, including the extrapolated ones, and half-way
    between them."""

    def __init__(self, codec: LatentCodec):
        self._model, self._scales = codec.model, codec.tables.scales
        self._step = math.log(self._scales[1] / self._scales[0])
        self._counts = np.zeros((self._model.M, len(self._scales)), dtype=np.int64)
        half = torch.arange(0, 8 * self._scales[-1], dtype=torch.float64)[None] + 0.5
        sigma = torch.from_numpy(self._scales)[:, None]
        # Of a Gaussian's integer bins: the central one, and the others in pairs.
        edges = torch.special.erfc(half / sigma / math.sqrt(2))
        self._entropy = (torch.special.entr(1 - edges[:, 0]) + 2 * torch.special.entr(-edges.diff() / 2).sum(1)).numpy()

    def count(self, coded: CodedCell) -> None:
        """Count the scales of a cell for the next `curve`."""
        self._count(coded.cell.channels, coded.left, coded.right)

    def curve(self, q_fixed: int) -> np.ndarray:
        """The curve, except for a constant factor, from the scales counted at a quality in fixed point. Resets the
        counts."""
        index = np.arange(self._counts.shape[1])
        qualities = torch.tensor(half_levels(self._model.last_quality + 1))
        gains = self._gain(qualities) / self._gain(quality_from_fixed(q_fixed))
        shifts = gains.double().log().cpu().numpy() / self._step
        entropies = np.interp(index + shifts[..., None], index, self._entropy)
        curve = np.log((entropies * self._counts).sum((1, 2)) + 1)
        self._counts[:] = 0
        return curve

    def guess(self, y: Tensor) -> np.ndarray:
        """The approximate curve from y (1, M, h, w) before its gain alone.

        It uses the distance of each element from the mean of its channel as its scale. The curve is right except for a
        factor, which depends more on the model than on the picture."""
        step = max(1, math.isqrt(y.shape[2] * y.shape[3] // 4096))
        part = y[0, :, ::step, ::step].flatten(1)
        q_fixed = (self._model.levels - 1) * QUALITY_STEPS // 2
        distance = ((part - part.mean(1, keepdim=True)) * self._gain(quality_from_fixed(q_fixed))[:, None]).abs()
        self._count(slice(None), scale_index(distance.T.contiguous(), self._scales).flatten().cpu().numpy())
        return self.curve(q_fixed) + _EXCESS + math.log(y.numel() / part.numel() / 8)

    def _count(self, channels: slice, *indices: np.ndarray) -> None:
        """Add scale indices, flat, with the channels of each position in order."""
        part = self._counts[channels]
        offsets = np.arange(len(part)) * part.shape[1]
        for side in indices:
            flat = (side.reshape(-1, len(part)) + offsets).ravel()
            part += np.bincount(flat, minlength=part.size).reshape(part.shape)

    def _gain(self, quality: Tensor | float) -> Tensor:
        if self._model.gain is None:
            return torch.ones(*torch.as_tensor(quality).shape, self._model.M, device=self._model.prior.medians.device)
        return self._model.gain.gain(quality)


class SampledRate:
    """The size of a large latent, from the model's own rate for a sample of it."""

    def __init__(self, codec: LatentCodec, part: Tensor, ratio: np.ndarray):
        """`part` is the sample, and `ratio` the curve of the whole minus that of the sample."""
        self._codec, self._part, self._ratio = codec, part, ratio

    @classmethod
    def of(cls, codec: LatentCodec, rates: RateModel, y: Tensor, guess: np.ndarray) -> "SampledRate | None":
        """The sampled size for y (1, M, h, w), given the guess of its curve. None if y is too small to be sampled."""
        part = _sample(y)
        # Scales the sample's size by the ratio that y alone predicts between the whole and the sample.
        return None if part is None else cls(codec, part, guess - rates.guess(part) - _BORDERS)

    def __call__(self, q_fixed: int) -> float:
        """The approximate logarithm of the size in bytes at a quality in fixed point."""
        quality = quality_from_fixed(q_fixed)
        bits = self._codec.bits(self._codec.model.scale(self._part, quality), quality).item()
        last = self._codec.model.last_quality * QUALITY_STEPS
        return math.log(bits / 8) + float(np.interp(q_fixed, np.linspace(0, last, len(self._ratio)), self._ratio))


def _sample(y: Tensor) -> Tensor | None:
    """Some thousand positions of y (1, M, h, w), at most a ninth, as a latent of its own. None if y has fewer.

    They are the areas of single hyper-latents, in rows and columns at regular distances."""
    height, width = y.shape[2:]
    if height * width < _SAMPLED:
        return None
    distance = max(3, math.isqrt(height * width // _SAMPLED))

    def kept(length: int) -> Tensor:
        block = torch.arange(length) // Y_PER_Z
        return (block % distance == min(distance // 2, block[-1])).nonzero()[:, 0]

    return y[:, :, kept(height)][:, :, :, kept(width)]
