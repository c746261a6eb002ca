"""From a target, in bytes or in a metric, to the quality that meets it.

Quality is a whole number of fixed-point steps. File size and metrics rise with it, except for small dents. A search
keeps a bracket of two qualities, one on either side of the target, and divides it where the target should lie. A few
trials are then enough.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agvae.quality import QUALITY_STEPS

RATE_SLACK = 0.01
"""A file may be this share smaller than its target."""

METRIC_SLACK = {"psnr": 0.05, "ms_ssim": 0.0005}
"""A metric may be this much above its target."""

_AIM = 0.4
"""The aim of a trial for a metric, as a share of its slack: the middle, a little to the safe side."""

_TRIALS = 6
"""After this many trials, the bracket is halved instead, because the curve cannot be trusted."""

_NEAR = QUALITY_STEPS // 4
"""Within this distance in quality, the symbols of z of one quality suit another quality as well as its own do."""


class TargetError(ValueError):
    """A target that is out of reach for this picture and model. The message names the possible range."""


class MetricError(TargetError):
    """No learned file has the metric. `smallest` is the smallest file, if even that exceeds the target."""

    def __init__(self, message: str, smallest: bytes | None):
        super().__init__(message)
        self.smallest = smallest


class Trial(NamedTuple):
    """A picture coded for a rate: its file, and information about other qualities.

    curve: the logarithm of the size at evenly spaced qualities from the lowest to the highest, except for a constant
    factor. shorten: makes the file smaller by the given number of bytes, or by a few more."""

    file: bytes
    curve: np.ndarray
    shorten: Callable[[int], bytes]


@dataclass(frozen=True)
class Sizes:
    """How the search finds the sizes of one picture. Qualities are in fixed point, from 0 to `last`."""

    code: Callable[[int, int], Trial]
    """A trial at a quality with the symbols of z of another one, its anchor. The anchor itself is tried first. If each
    quality used its own symbols of z, sizes would jump."""
    last: int
    guess: np.ndarray
    """The logarithm of the size, approximately, at evenly spaced qualities."""
    measure: Callable[[int], float] | None = None
    """The logarithm of the size at a quality. It is closer than `guess` and cheaper than `code`."""
    savable: float = 0.0
    """The share of its size by which a file can be shortened."""


class SizeSearch:
    """The search for a file of at most `target` bytes, and at most 1 % less if the steps allow it.

    The next trial is where the latest curve, fitted to the nearest sizes on either side, meets the target."""

    def __init__(self, sizes: Sizes, target: int, words: Callable[[int], str] = "{} bytes".format, wanted: str = ""):
        """`words` formats a size for an error message, and `wanted` is the target as it was given."""
        self._sizes, self._target, self._words, self._wanted = sizes, target, words, wanted or words(target)
        middle = target * (1 + (sizes.savable - RATE_SLACK) / 2)  # of the accepted range
        self._prediction = _Prediction(sizes.guess, sizes.last, math.log(middle))
        self._fitting = b""
        self._renewals = 1
        self._ends: set[int] = set()

    def run(self) -> bytes:
        """The file. Raises TargetError if the target is below the smallest or above the largest file."""
        first = self._first()
        self._anchor_at(first)
        quality: int | None = first
        while quality is not None:
            curve = self._try(quality)
            if len(self._fitting) >= (1 - RATE_SLACK) * self._target:
                break
            quality = self._between(quality, curve) if self._high - self._low > 1 else self._end()
        return self._fitting

    def _first(self) -> int:
        """The quality of the first trial, from the guess and from measurements near it."""
        quality = self._prediction.best(-1, self._sizes.last + 1)
        measure = self._sizes.measure
        if measure is None:
            return quality
        for _ in range(2):
            self._prediction.agree({quality: measure(quality)})
            before, quality = quality, self._prediction.best(-1, self._sizes.last + 1)
            if abs(quality - before) <= 2 * _NEAR:
                break
        return quality

    def _anchor_at(self, quality: int) -> None:
        """Use the symbols of z of `quality` from now on. Sizes with other symbols of z tell nothing about these."""
        self._anchor = quality
        # With this anchor: a quality that fits, one that does not, and the logarithms of all sizes.
        self._low, self._high = -1, self._sizes.last + 1
        self._known: dict[int, float] = {}

    def _try(self, quality: int) -> np.ndarray:
        """Code at `quality`, keep the file if it is the best one so far, and return the curve of the trial."""
        trial = self._sizes.code(quality, self._anchor)
        self._known[quality] = math.log(len(trial.file))
        excess = len(trial.file) - self._target
        file = trial.file
        if excess > 0:
            file = trial.shorten(excess) if excess <= self._sizes.savable * self._target else b""
        if len(self._fitting) < len(file) <= self._target:
            self._fitting = file
        if excess <= 0:
            self._low = quality
        else:
            self._high = quality
        return trial.curve

    def _between(self, quality: int, curve: np.ndarray) -> int:
        """The next quality inside the bracket, after a trial that had this curve."""
        self._prediction.follow(curve)
        self._prediction.agree(self._neighbours(quality))
        found = self._prediction.best(self._low, self._high)
        if len(self._known) >= _TRIALS:
            found = (self._low + self._high) // 2
        if self._renewals and abs(found - self._anchor) > _NEAR:
            self._renewals -= 1
            measure = self._sizes.measure
            if measure:
                # The trial was so far off that the slope should be measured too.
                size = self._prediction.sizes[quality]
                self._prediction.agree({quality: size, found: size + measure(found) - measure(quality)})
                found = self._prediction.best(self._low, self._high)
            self._anchor_at(found)
        return found

    def _neighbours(self, quality: int) -> dict[int, float]:
        """The sizes that give a slope: those on either side of the target.

        While all sizes are on one side, it uses the last one and one far enough from it, because sizes have small
        dents."""
        pair = [q for q in (self._low, self._high) if q in self._known]
        if len(pair) == 1:
            pair += [q for q in self._known if abs(q - quality) > self._sizes.last // 50][-1:]
        return {q: self._known[q] for q in pair}

    def _end(self) -> int | None:
        """The next quality if none is left inside the bracket: an end of the range, with its own symbols of z."""
        if self._low >= 0 and self._high <= self._sizes.last:
            return None
        quality = 0 if self._low < 0 else self._sizes.last
        if quality == self._anchor:
            sizes = (len(self._sizes.code(q, q).file) for q in (0, self._sizes.last))
            smallest, largest = map(self._words, sizes)
            raise TargetError(f"{self._wanted} is out of range: this picture can have {smallest} to {largest}")
        if quality in self._ends:
            return None
        self._ends.add(quality)
        self._anchor_at(quality)
        return quality


class _Prediction:
    """The predicted logarithm of the size at every quality, and the quality whose prediction is nearest to `aim`."""

    def __init__(self, guess: np.ndarray, last: int, aim: float):
        self._qualities, self._aim = np.arange(last + 1), aim
        self.follow(guess)

    def follow(self, curve: np.ndarray) -> None:
        """Set the predicted sizes to those of `curve`, which is given at evenly spaced qualities."""
        self.sizes = np.interp(self._qualities, np.linspace(0, self._qualities[-1], len(curve)), curve)

    def agree(self, known: dict[int, float]) -> None:
        """Shift and tilt the predicted sizes to agree with those known at one quality or two."""
        (quality, error), *other = [(q, size - self.sizes[q]) for q, size in known.items()]
        slope = (other[0][1] - error) / (other[0][0] - quality) if other else 0.0
        self.sizes += error + (self._qualities - quality) * slope

    def best(self, low: int, high: int) -> int:
        """The quality between the two, neither included, whose predicted size is nearest to the aim."""
        return low + 1 + int(np.abs(self.sizes[low + 1 : high] - self._aim).argmin())


def smallest_reaching(
    code: Callable[[int], tuple[bytes, float]], target: float, lasts: tuple[int, int], metric: str
) -> bytes:
    """The file whose metric is at least `target`, and at most the metric's slack above it if the steps allow.

    `code` gives the file and the metric of a quality. `lasts` are the highest trained quality and the highest of all,
    which is tried only if the trained one is not enough. Raises MetricError if the target is above the metric of the
    highest quality, or more than the slack below that of the lowest."""
    slack = METRIC_SLACK[metric]
    aim = target + _AIM * slack
    file_low, lowest = code(0)
    if target <= lowest <= target + slack:
        return file_low
    low, at_low = 0, lowest
    for high in dict.fromkeys(lasts):
        file_high, at_high = code(high)
        if lowest < target <= at_high:
            break
        low, at_low = high, at_high
    if not lowest < target <= at_high:
        words = f"{metric} {target:g} is out of range: this picture can have {lowest:.4f} to {at_high:.4f}"
        raise MetricError(words, file_low if target < lowest else None)
    bisect = False
    while at_high > target + slack and high - low > 1:
        # Bisect every other time: the curve bends, so one end of the bracket could stay for long.
        interpolated = low + round((high - low) * (aim - at_low) / (at_high - at_low))
        middle = (low + high) // 2 if bisect else min(max(interpolated, low + 1), high - 1)
        file, reached = code(middle)
        if reached >= target:
            high, file_high, at_high = middle, file, reached
        else:
            low, at_low = middle, reached
        bisect = not bisect
    return file_high
