"""Targets of an encoder: one quality, rate or metric that a file has to meet."""

import math
from typing import NamedTuple

from agvae import metrics

NAMES = ("quality", "bpp", "bytes", "psnr", "ms_ssim")


class Target(NamedTuple):
    """`name` is one of NAMES; `value` is in levels, bits per pixel, bytes, dB, or from 0 to 1."""

    name: str
    value: float

    @property
    def is_size(self) -> bool:
        """Whether the target bounds the size of the file."""
        return self.name in ("bpp", "bytes")

    def bytes(self, width: int, height: int) -> float:
        """The size in bytes that the target allows for a picture of these sides."""
        return self.value * width * height / 8 if self.name == "bpp" else self.value

    @property
    def in_words(self) -> str:
        """The target of a size in the words of the user."""
        return f"{self.value:g} {self.name}"

    def size_in_words(self, size: int, width: int, height: int) -> str:
        """A size in the target's own unit."""
        return f"{size} bytes" if self.name == "bytes" else f"{metrics.bits_per_pixel(size, width, height):.4f} bpp"


def one_target(values: dict[str, float | None]) -> Target | None:
    """The one target among `values`, by name. None if there is none.

    Raises ValueError if there are several, and if a rate or metric is not a positive number."""
    given = [Target(name, value) for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give at most one of {', '.join(NAMES)}, not {len(given)}")
    if given and given[0].name != "quality" and not (math.isfinite(given[0].value) and given[0].value > 0):
        raise ValueError(f"{given[0].name} must be a positive number, not {given[0].value}")
    return given[0] if given else None
