"""Figures 3 to 6: pictures decoded by codecs at one rate, and the parts of them to look at."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agvae.errors import ConfigError, DataError
from agvae.reporting.boxes import Box, busiest_boxes
from agvae.reporting.paper.files import compressed

if TYPE_CHECKING:
    from agvae.codec import Codec
    from agvae.evaluation.classical import ClassicalCodec, Coded
    from agvae.reporting.paper.figures import Decoded


class Target(NamedTuple):
    """A picture, by name, and the rate to compare at, in bits per pixel."""

    picture: str
    bpp: float


PAPER_TARGETS = (Target("kodim24", 0.230), Target("kodim13", 0.449))
PAPER_BOXES = {
    "kodim24": [Box(392, 222, 120, 120), Box(208, 168, 120, 120)],
    "kodim13": [Box(392, 22, 120, 120), Box(496, 384, 120, 120)],
}
"""The parts of the paper's pictures that we chose to show."""


@dataclass(frozen=True)
class Result:
    """A picture decoded by one codec, with its rate (bpp of the whole file) and quality (dB, [0, 1])."""

    name: str
    image: np.ndarray
    bpp: float
    quality: float
    psnr: float
    ms_ssim: float

    @classmethod
    def of(cls, name: str, original: np.ndarray, coded: "Coded") -> "Result":
        """The measured result."""
        from agvae.metrics import ms_ssim, psnr

        measured = psnr(original, coded.image), ms_ssim(original, coded.image)
        return cls(name, coded.image, coded.bpp, coded.quality, *measured)

    def decoded(self) -> "Decoded":
        """The picture with the lines of text below it."""
        from agvae.reporting.paper.figures import Decoded

        similarity = "MS-SSIM not defined" if math.isnan(self.ms_ssim) else f"MS-SSIM {self.ms_ssim:.4f}"
        return Decoded(self.name, self.image, (f"{self.bpp:.3f} bpp", f"{self.psnr:.2f} dB, {similarity}"))

    def numbers(self) -> dict[str, Any]:
        """The numbers without the pixels."""
        from agvae.evaluation.rd import finite_or_none

        numbers = {"bpp": self.bpp, "quality": self.quality, "psnr": self.psnr, "ms_ssim": self.ms_ssim}
        return {"codec": self.name, **{key: finite_or_none(value) for key, value in numbers.items()}}


def at_target(codec: "ClassicalCodec", image: np.ndarray, bpp: float, picture: str) -> "Coded":
    from agvae.evaluation.classical import at_rate

    try:
        return at_rate(codec, image, bpp)
    except (ConfigError, DataError):
        raise
    except (ValueError, OSError) as error:
        raise DataError(f"{picture}: {error}") from error


def ours_at_rate(codec: "Codec", image: np.ndarray, bpp: float, picture: str) -> "Coded":
    from agvae.codec.bitstream import quality_of
    from agvae.evaluation.classical import Coded
    from agvae.metrics import bits_per_pixel

    data = compressed(codec, image, picture, bpp=bpp)
    rate, quality = bits_per_pixel(len(data), image.shape[1], image.shape[0]), quality_of(data)
    return Coded(np.asarray(codec.decompress(data)), rate, quality)


def boxes_of(given: list[Box] | None, picture: str, image: np.ndarray) -> list[Box]:
    """The parts of a picture to show. Raises ConfigError if there are too many to distinguish, or one is outside the
    picture."""
    from agvae.reporting.paper.figures import BOX_COLOURS

    boxes = given or PAPER_BOXES.get(picture) or detailed_boxes(image)
    if len(boxes) > len(BOX_COLOURS):
        raise ConfigError(f"--box must be given at most {len(BOX_COLOURS)} times, not {len(boxes)}")
    for box in boxes:
        if not box.within(image):
            raise ConfigError(f"--box {box} must lie within {picture}, which is {image.shape[1]}×{image.shape[0]}")
    return boxes


def detailed_boxes(image: np.ndarray) -> list[Box]:
    """The two square boxes of a picture with most detail: the largest deviation of brightness."""
    side = max(min(120, image.shape[0] // 2, image.shape[1] // 2), 1)
    return busiest_boxes(image, side, side, (side, side), count=2)
