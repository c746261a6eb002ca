"""Quality in fixed point, as streams store it. Encoder and decoder use this value, never the user's float."""

QUALITY_STEPS = 1024
"""Fixed-point steps per level in which a stream stores its quality. One step changes the rate by about 0.05 %."""


EXTRA_LEVELS = 2
"""Levels past the last trained one that a codec reaches. The gains of y keep growing there, by a factor of 2 a level.
"""


def check_quality(quality: float, last: float) -> None:
    """Raises ValueError if a quality is outside [0, last]."""
    if not 0 <= quality <= last:
        raise ValueError(f"quality must be from 0 to {last:g} for this model, not {quality:g}")


def half_levels(levels: int) -> list[float]:
    """Every level, and the points half-way between levels: where the curve of a model is measured."""
    return [half / 2 for half in range(2 * levels - 1)]


def quality_to_fixed(quality: float, last: float) -> int:
    """Quality in [0, last] as the integer that a stream stores.

    Raises ValueError outside the range."""
    check_quality(quality, last)
    return round(quality * QUALITY_STEPS)


def quality_in_words(fixed: int, levels: int | None = None) -> str:
    """A quality from a stream as text, which says so if it is past the last of the model's `levels`, if they are known.

    >>> quality_in_words(2560, levels=6), quality_in_words(6000, levels=6)
    ('2.5', '5.859 (extrapolated past level 5)')
    """
    quality = quality_from_fixed(fixed)
    if levels is None or quality <= levels - 1:
        return f"{quality:.4g}"
    return f"{quality:.4g} (extrapolated past level {levels - 1})"


def quality_from_fixed(fixed: int) -> float:
    """The quality of an integer in a stream. It is exact in binary floating point."""
    return fixed / QUALITY_STEPS
