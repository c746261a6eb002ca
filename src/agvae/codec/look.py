"""A cheap look at a picture, before any network runs: whether a lossless file may be the better one.

Text, charts and patterns come out of a model trained on photographs larger than a lossless file of them, and worse. On
photographs a lossless file need not even be tried, and this look costs a small part of the time.
"""

import zlib
from typing import NamedTuple

import numpy as np

_SAMPLE = 2**14
"""Fewest pixels of a sample; a smaller picture is taken whole, and always tried."""
_SHARE = 32
"""A sample has one in so many pixels of a large picture."""
_BAND = 16
"""Rows that are sampled together."""

_SMALLEST = 0.4
"""A lossless file of a photograph takes at least this share of the estimate: 0.54 to 0.78 of it, as measured."""
_DRAWN = 2.0
"""Estimated bits per pixel of drawn pictures: a lossless file may take a hundredth of that."""

_UNLIKE = 0.75
"""Correlation of neighbours below which no photograph lies, but noise and fine patterns do."""
_LARGE = 1 / 8
"""Share of the estimate that learned files of photographs stay below, but for the highest rates."""


class Look(NamedTuple):
    """lossless: the size of a lossless file in bytes, roughly. correlation: that of neighbouring pixels."""

    pixels: int
    lossless: float
    correlation: float

    @classmethod
    def at(cls, pixels: np.ndarray) -> "Look":
        """A look at some rows of (H, W, 3) uint8.

        The size is that of a fast deflate of differences to the left neighbour, or of the pixels if that is less."""
        sample = _sample(pixels)
        shifted = np.roll(sample, 1, axis=1)
        size = min(len(zlib.compress(part.tobytes(), 1)) for part in (sample - shifted, sample))
        count = pixels.shape[0] * pixels.shape[1]
        return cls(count, size * count / (sample.shape[0] * sample.shape[1]), _correlation(sample, shifted))

    def may_be_within(self, size: float) -> bool:
        """Whether a lossless file of at most `size` bytes is likely enough for a trial."""
        return _SMALLEST * self.lossless <= size or 8 * self.lossless / self.pixels < _DRAWN or self.pixels < _SAMPLE

    def doubts(self, size: int) -> bool:
        """Whether the picture is such, or a learned file of `size` bytes so large, that it should be looked at."""
        return self.correlation < _UNLIKE or size > _LARGE * self.lossless


def _sample(pixels: np.ndarray) -> np.ndarray:
    """Some bands of rows; of wide pictures their middle part."""
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
    """Of green at neighbouring columns; 1 where nothing varies."""
    green, left = (part[:, 1:, 1].astype(np.float32) for part in (sample, shifted))
    variance = green.var() if green.size else 0.0
    return float(1 - np.square(green - left).mean() / (2 * variance)) if variance > 0 else 1.0
