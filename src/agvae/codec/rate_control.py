"""From a target, in bytes or in a metric, to the quality that meets it.

Quality is a whole number of fixed-point steps, and both file size and metrics rise with it but for small dents. A
search keeps a bracket of two qualities on either side of the target and divides it where the target should lie, so
that a few trials are enough.
"""

import math
from collections.abc import Callable

import numpy as np

RATE_SLACK = 0.01
"""A file may be this share smaller than its target."""

METRIC_SLACK = {"psnr": 0.05, "ms_ssim": 0.0005}
"""A metric may be this much above its target."""

_AIM = 0.4
"""Where in the slack a trial aims: its middle, a little to the safe side."""

_TRIALS = 6
"""Trials after which the bracket is halved instead: the curve is not to be trusted."""


class TargetError(ValueError):
    """A target that this picture cannot have with this model; the message names the range that it can have."""


def largest_within(code: Callable[[int], tuple[bytes, np.ndarray]], target: int, last: int, guess: np.ndarray) -> bytes:
    """The file of at most `target` bytes, and at most 1 % less if the steps allow, that `code` gives for a quality.

    `guess` is a guess at the logarithm of the size at evenly spaced qualities from 0 to `last`, the highest. `code`
    gives, beside the file of a quality, a better one, right but for a factor. The next trial is where the latest guess,
    made to agree with the nearest sizes on either side, meets the target. Raises TargetError if the target is below the
    smallest or above the largest file."""
    qualities = np.arange(last + 1)

    def at_all(curve: np.ndarray) -> np.ndarray:
        return np.interp(qualities, np.linspace(0, last, len(curve)), curve)

    aim = math.log(target * (1 - _AIM * RATE_SLACK))
    predicted = at_all(guess)
    files: dict[int, bytes] = {}
    low, high = -1, last + 1  # a quality known to fit, and one known not to
    while high - low > 1:
        # Halved instead after so many trials: the curve is not to be trusted.
        trusted = len(files) < _TRIALS
        quality = low + 1 + int(np.abs(predicted[low + 1 : high] - aim).argmin()) if trusted else (low + high) // 2
        files[quality], curve = code(quality)
        size = len(files[quality])
        if (1 - RATE_SLACK) * target <= size <= target:
            return files[quality]
        low, high = (quality, high) if size <= target else (low, quality)
        predicted = at_all(curve)
        # Two sizes make a slope: those on either side of the target, or, as long as all are on one side, the last one
        # and one far enough from it, for sizes have small dents.
        pair = [q for q in (low, high) if q in files]
        if len(pair) == 1:
            pair += [q for q in files if abs(q - quality) > last // 50][-1:]
        error = [math.log(len(files[q])) - predicted[q] for q in pair]
        predicted += (
            error[0]
            if len(pair) == 1
            else error[0] + (qualities - pair[0]) * ((error[1] - error[0]) / (pair[1] - pair[0]))
        )
    if low < 0 or high > last:
        smallest, largest = (len(files[q] if q in files else code(q)[0]) for q in (0, last))
        raise TargetError(f"{target} bytes is out of range: this picture takes {smallest} to {largest} bytes")
    return files[low]


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
