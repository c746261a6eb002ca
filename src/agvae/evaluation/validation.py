"""A validation during training: its measurements, its points as an RD curve, and the columns of rd.csv."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from agvae.evaluation.rd import METRICS, Curve

SHORT = dict(zip(METRICS, ("psnr", "ms_ssim"), strict=True))
"""Maps each metric of an RD curve to its name in logged values, in the points of a validation and in rd.csv."""


class Measured(NamedTuple):
    """A validation batch at one quality, in the form that callbacks see. `validation_step` returns one for each
    quality.

    bpp, psnr (dB) and ms_ssim (NaN if it is not defined) are (B,). channel_bpp (B, M) is the rate of each channel of y
    in bits per pixel. decoded (B, 3, H, W) is uint8. If the rate alone is measured, it is None and the
    metrics are NaN."""

    quality: float
    bpp: Tensor
    psnr: Tensor
    ms_ssim: Tensor
    channel_bpp: Tensor
    decoded: Tensor | None


def rd_curve(points: Sequence[dict[str, float]], name: str = "AG-VAE") -> Curve:
    """The RD points of a validation, {"quality", "bpp", "psnr", "ms_ssim"}, as a curve with the model's own rate.

    A metric that a point lacks is NaN."""
    results = {metric: [point.get(short, float("nan")) for point in points] for metric, short in SHORT.items()}
    results |= {key: [point[key] for point in points] for key in ("bpp", "quality")}
    return Curve(name, "validation while training", results)
