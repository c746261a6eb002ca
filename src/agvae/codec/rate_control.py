"""From a target, in bytes or in a metric, to the quality that meets it.

Quality is a whole number of fixed-point steps, and both file size and metrics rise with it but for small dents. A
search keeps a bracket of two qualities on either side of the target and divides it where a straight line through
its ends (of the logarithm of the size, or of the metric) meets the target, so that a few trials are enough.
"""

import math
from collections.abc import Callable

RATE_SLACK = 0.01
"""A file may be this share smaller than its target."""

METRIC_SLACK = {"psnr": 0.05, "ms_ssim": 0.0005}
"""A metric may be this much above its target."""

_AIM = 0.4
"""Where in the slack a trial aims: its middle, a little to the safe side."""

_SLOPE = 0.5 / 1024
"""How fast the logarithm of the size rises per step, where nothing better is known: e-fold in two levels."""


class TargetError(ValueError):
    """A target that this picture cannot have with this model; the message names the range that it can have."""


def largest_within(
    code: Callable[[int], bytes], target: int, last: int, guess: tuple[int, float] | None = None
) -> bytes:
    """The file of at most `target` bytes, and at least 1 % less if the steps allow, that `code` gives for a quality.

    `last` is the highest quality, `guess` a first quality and the slope there: by how much the logarithm of the size
    rises per step. Raises TargetError if the target is below the smallest or above the largest file."""
    aim = math.log(target * (1 - _AIM * RATE_SLACK))
    files: dict[int, bytes] = {}

    def error(quality: int) -> float:
        """Logarithm of the size above the aim."""
        if quality not in files:
            files[quality] = code(quality)
        return math.log(len(files[quality])) - aim

    def fits(quality: int) -> bool:
        return len(files[quality]) <= target

    def good(quality: int) -> bool:
        return fits(quality) and len(files[quality]) >= (1 - RATE_SLACK) * target

    def out_of_range() -> TargetError:
        error(0), error(last)
        smallest, largest = len(files[0]), len(files[last])
        return TargetError(f"{target} bytes is out of range: this picture takes {smallest} to {largest} bytes")

    low = high = None
    quality, slope = guess or (last // 2, _SLOPE)
    for _ in range(3):
        quality = min(max(quality, 0), last)
        miss = error(quality)
        if good(quality):
            return files[quality]
        low, high = (quality, high) if fits(quality) else (low, quality)
        following = quality - round(miss / slope)
        if (low is not None and following <= low) or (high is not None and following >= high):
            break
        quality = following
    if low is None:
        low = 0
        error(low)
        if not fits(low):
            raise out_of_range()
    if high is None:
        high = last
        error(high)
        if good(high):
            return files[high]
        if fits(high):
            raise out_of_range()
    while not good(low) and high - low > 1:
        below, above = error(low), error(high)
        middle = low + round((high - low) * -below / (above - below)) if above > below else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        error(middle)
        low, high = (middle, high) if fits(middle) else (low, middle)
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
