"""A cheap look at a picture, before any network runs: could a lossless file be better?

For text, charts and patterns, a model trained on photographs makes larger and worse files than a lossless codec. For
photographs, a lossless file need not even be tried. This look takes a small part of the time.
"""

import zlib
from typing import NamedTuple

import numpy as np

_SAMPLE = 2**14
"""Smallest number of pixels in a sample. A smaller picture is used whole, and a lossless file is always tried."""
_SHARE = 32
"""For a large picture, the sample has one pixel in so many."""
_BAND = 16
"""Number of rows that are sampled together."""

_SMALLEST = 0.4
"""A lossless file of a photograph takes at least this share of the estimate. Measured: 0.54 to 0.78."""
_DRAWN = 2.0
"""Estimated bits per pixel of drawn pictures, of which a lossless file may take a hundredth."""

_UNLIKE = 0.75
"""No photograph has a lower correlation of neighbours than this, but noise and fine patterns do."""
_LARGE = 1 / 8
"""Learned files of photographs stay below this share of the estimate, except at the highest rates."""


class Look(NamedTuple):
    """lossless: the size of a lossless file in bytes, roughly. correlation: the correlation of neighbouring pixels."""

    pixels: int
    lossless: float
    correlation: float

    @classmethod
    def at(cls, pixels: np.ndarray) -> "Look":
        """A look at some rows of (H, W, 3) uint8.

        The size is that of a fast deflate of the differences to the left neighbour, or of the pixels themselves if that
        is smaller."""
        sample = _sample(pixels)
        shifted = np.roll(sample, 1, axis=1)
        size = min(len(zlib.compress(part.tobytes(), 1)) for part in (sample - shifted, sample))
        count = pixels.shape[0] * pixels.shape[1]
        return cls(count, size * count / (sample.shape[0] * sample.shape[1]), _correlation(sample, shifted))

    def may_be_within(self, size: float) -> bool:
        """Whether a lossless file of at most `size` bytes is likely enough to be worth a trial."""
        return _SMALLEST * self.lossless <= size or 8 * self.lossless / self.pixels < _DRAWN or self.pixels < _SAMPLE

    def doubts(self, size: int) -> bool:
        """Whether the decoded picture should be checked: because of the picture, or because a learned file of `size`
        bytes is so large."""
        return self.correlation < _UNLIKE or size > _LARGE * self.lossless


def _sample(pixels: np.ndarray) -> np.ndarray:
    """Some bands of rows. For wide pictures, their middle part."""
    height, width = pixels.shape[:2]
    bands = max(1, max(_SAMPLE, height * width // _SHARE) // (width * _BAND))
    if bands * _BAND < height:
        tops = np.linspace(0, height - _BAND, bands + 2).astype(int)[1:-1]
        pixels = np.concatenate([pixels[top : top + _BAND] for top in tops])
    columns = max(1, _SAMPLE // len(pixels))
    if bands == 1 and width > columns:
        pixels = pixels[:, (width - columns) // 2 :][:, :columns]
    return pixels


def _correlation(sample: np.ndarray, shifted: np.ndarray) -> float:
    """Correlation of green at neighbouring columns. 1 if nothing varies."""
    green, left = (part[:, 1:, 1].astype(np.float32) for part in (sample, shifted))
    variance = green.var() if green.size else 0.0
    return float(1 - np.square(green - left).mean() / (2 * variance)) if variance > 0 else 1.0
