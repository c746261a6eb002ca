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


def largest_within(code: Callable[[int], tuple[bytes, np.ndarray]], target: int, last: int, start: int) -> bytes:
    """The file of at most `target` bytes, and at most 1 % less if the steps allow, that `code` gives for a quality.

    `code` gives, beside the file of a quality, a guess at the logarithm of the size at evenly spaced qualities from 0
    to `last`, the highest, right but for a factor. The first trial is at `start`; each gives the curve on which the
    next quality is read off. Raises TargetError if the target is below the smallest or above the largest file."""
    qualities = np.arange(last + 1)
    aim = math.log(target * (1 - _AIM * RATE_SLACK))
    files: dict[int, bytes] = {}
    low, high = -1, last + 1  # a quality known to fit, and one known not to
    quality, size_before, before = start, 0.0, None
    while True:
        files[quality], curve = code(quality)
        size = len(files[quality])
        if (1 - RATE_SLACK) * target <= size <= target:
            return files[quality]
        low, high = (quality, high) if size <= target else (low, quality)
        if high - low == 1:
            break
        log_size = math.log(size)
        predicted = np.interp(qualities, np.linspace(0, last, len(curve)), curve)
        predicted += log_size - predicted[quality]
        # Sizes have small dents: two trials close to each other say nothing about the slope.
        if before is not None and abs(quality - before) > last // 50:
            slope = (size_before - predicted[before]) / (before - quality)
            predicted += slope * (qualities - quality)
        size_before, before = log_size, quality
        quality = low + 1 + int(np.abs(predicted[low + 1 : high] - aim).argmin())
        if len(files) >= _TRIALS:
            quality = (low + high) // 2
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
