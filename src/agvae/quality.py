"""Quality in fixed point, as streams carry it: encoder and decoder use this value, never the user's float."""

QUALITY_STEPS = 1024
"""Fixed-point steps per level in which a stream writes its quality: a step changes the rate by some 0.05 %."""


def check_quality(quality: float, levels: int) -> None:
    """Raises ValueError for a quality outside [0, levels − 1]."""
    if not 0 <= quality <= levels - 1:
        raise ValueError(f"quality {quality:g} is outside this model's range 0 to {levels - 1}")


def half_levels(levels: int) -> list[float]:
    """Every level and half-way between levels: where a model's curve is measured."""
    return [half / 2 for half in range(2 * levels - 1)]


def quality_to_fixed(quality: float, levels: int) -> int:
    """Quality in [0, levels − 1] as the integer that a stream carries.

    Raises ValueError outside the range."""
    check_quality(quality, levels)
    return round(quality * QUALITY_STEPS)


def quality_from_fixed(fixed: int) -> float:
    """The quality that a stream's integer stands for; exact in binary floating point."""
    return fixed / QUALITY_STEPS
