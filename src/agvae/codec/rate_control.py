"""From a target, in bytes or in a metric, to the quality that meets it.

Quality is a whole number of fixed-point steps, and both file size and metrics rise with it but for small dents. A
search keeps a bracket of two qualities on either side of the target and divides it where the target should lie, so
that a few trials are enough.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agvae.quality import QUALITY_STEPS

RATE_SLACK = 0.01
"""A file may be this share smaller than its target."""

METRIC_SLACK = {"psnr": 0.05, "ms_ssim": 0.0005}
"""A metric may be this much above its target."""

_AIM = 0.4
"""Where in its slack a trial for a metric aims: the middle, a little to the safe side."""

_TRIALS = 6
"""Trials after which the bracket is halved instead: the curve is not to be trusted."""

_NEAR = QUALITY_STEPS // 4
"""Distance within which the symbols of z of one quality serve another as well as its own do."""


class TargetError(ValueError):
    """A target that this picture cannot have with this model; the message names the range that it can have."""


class Trial(NamedTuple):
    """A picture coded for a rate: its file, and what it says of others.

    curve: the logarithm of the size, right but for a factor, at evenly spaced qualities from the lowest to the highest;
    trim: makes the file smaller by so many bytes or a few more."""

    file: bytes
    curve: np.ndarray
    trim: Callable[[int], bytes]


def largest_within(
    code: Callable[[int, int], Trial],
    target: int,
    last: int,
    guess: np.ndarray,
    spare: float = 0.0,
    measure: Callable[[int], float] | None = None,
    words: Callable[[int], str] = "{} bytes".format,
) -> bytes:
    """A file of at most `target` bytes, and at most 1 % less if the steps allow, at a quality from 0 to `last`.

    code: a trial at a quality, with the symbols of z of another, its anchor, which is itself tried first: with those of
    its own sizes would jump; guess: the logarithm of the size, about, at evenly spaced qualities; spare: by what share
    of its size a file may be trimmed; measure: the logarithm of the size at a quality, more closely than by `guess`
    and cheaper than by `code`; words: a size as an error names it.

    The next trial is where the latest curve, made to agree with the nearest sizes on either side, meets the target.
    Raises TargetError if the target is below the smallest or above the largest file."""
    middle = target * (1 + (spare - RATE_SLACK) / 2)  # of what will do
    predicted = _Prediction(guess, last, math.log(middle))
    quality = predicted.best(-1, last + 1)
    for _ in range(2 if measure else 0):
        predicted.agree({quality: measure(quality)})
        before, quality = quality, predicted.best(-1, last + 1)
        if abs(quality - before) <= 2 * _NEAR:
            break

    anchor, renewals, ends = quality, 1, set()
    low, high, sizes = -1, last + 1, {}  # with this anchor: a quality known to fit, one known not to, and all log sizes
    fitting = b""
    while True:
        trial = code(quality, anchor)
        sizes[quality] = math.log(len(trial.file))
        excess = len(trial.file) - target
        file = trial.file if excess <= 0 else trial.trim(excess) if excess <= spare * target else b""
        if len(fitting) < len(file) <= target:
            fitting = file
        if len(fitting) >= (1 - RATE_SLACK) * target:
            return fitting
        low, high = (quality, high) if excess <= 0 else (low, quality)
        if high - low > 1:
            predicted.take(trial.curve)
            # Two sizes make a slope: those on either side of the target, or, as long as all are on one side, the last
            # one and one far enough from it, for sizes have small dents.
            pair = [q for q in (low, high) if q in sizes]
            if len(pair) == 1:
                pair += [q for q in sizes if abs(q - quality) > last // 50][-1:]
            predicted.agree({q: sizes[q] for q in pair})
            before, quality = quality, predicted.best(low, high) if len(sizes) < _TRIALS else (low + high) // 2
            if not renewals or abs(quality - anchor) <= _NEAR:
                continue
            renewals -= 1
            if measure:
                # So far off that the slope had better be measured too.
                known = predicted.sizes[before]
                predicted.agree({before: known, quality: known + measure(quality) - measure(before)})
                quality = predicted.best(low, high)
        else:
            if low >= 0 and high <= last:
                return fitting
            # The end of the range, which has its own symbols of z.
            quality = 0 if low < 0 else last
            if quality == anchor:
                smallest, largest = (len(code(q, q).file) for q in (0, last))
                raise TargetError(
                    f"{words(target)} is out of range: this picture takes {words(smallest)} to {words(largest)}"
                )
            if quality in ends:
                return fitting
            ends.add(quality)
        anchor = quality
        low, high, sizes = -1, last + 1, {}


class _Prediction:
    """The logarithm of the size at every quality, and which quality is nearest to `aim` by it."""

    def __init__(self, guess: np.ndarray, last: int, aim: float):
        self._qualities, self._aim = np.arange(last + 1), aim
        self.take(guess)

    def take(self, curve: np.ndarray) -> None:
        """Have the sizes of `curve`, which is given at evenly spaced qualities."""
        self.sizes = np.interp(self._qualities, np.linspace(0, self._qualities[-1], len(curve)), curve)

    def agree(self, known: dict[int, float]) -> None:
        """Be moved, and tilted, to agree with the sizes at one quality or two."""
        (quality, error), *other = [(q, size - self.sizes[q]) for q, size in known.items()]
        slope = (other[0][1] - error) / (other[0][0] - quality) if other else 0.0
        self.sizes += error + (self._qualities - quality) * slope

    def best(self, low: int, high: int) -> int:
        """The quality between the two, neither included, whose size is nearest to the aim."""
        return low + 1 + int(np.abs(self.sizes[low + 1 : high] - self._aim).argmin())


def smallest_reaching(code: Callable[[int], tuple[bytes, float]], target: float, last: int, metric: str) -> bytes:
    """The file whose metric is at least `target`, and at most the metric's slack above if the steps allow.

    `code` gives the file and the metric of a quality, `last` is the highest. Raises TargetError if the target is
    above what the highest quality gives, or more than the slack below what the lowest gives."""
    slack = METRIC_SLACK[metric]
    aim = target + _AIM * slack
    low, high = 0, last
    (file_low, at_low), (file_high, at_high) = code(low), code(high)
    if at_high < target or at_low > target + slack:
        raise TargetError(f"{metric} {target:g} is out of range: this picture can have {at_low:.4f} to {at_high:.4f}")
    if at_low >= target:
        return file_low
    while at_high > target + slack and high - low > 1:
        # A bisection every other time: the curve bends, and one end could stay for long.
        share = (aim - at_low) / (at_high - at_low)
        middle = min(max(low + round((high - low) * share), low + 1), high - 1)
        file, reached = code(middle)
        if reached >= target:
            high, file_high, at_high = middle, file, reached
        else:
            low, at_low = middle, reached
        if at_high > target + slack and high - low > 1:
            middle = (low + high) // 2
            file, reached = code(middle)
            if reached >= target:
                high, file_high, at_high = middle, file, reached
            else:
                low, at_low = middle, reached
    return file_high
