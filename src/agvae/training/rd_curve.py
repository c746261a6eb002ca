"""The RD curve of a validation, gathered over images and ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

KEYS = ("bpp", "psnr", "ms_ssim", "loss")


class Measured(NamedTuple):
    """A validation batch at one quality, as callbacks see it: `validation_step` returns one for each.

    bpp, psnr (dB) and ms_ssim (NaN where it is not defined) are (B,); channel_bpp (B, M) is the rate of each channel
    of y in bits per pixel; decoded (B, 3, H, W) is uint8."""

    quality: float
    bpp: Tensor
    psnr: Tensor
    ms_ssim: Tensor
    channel_bpp: Tensor
    decoded: Tensor


class RDCurve(Metric):
    """Means over images of bpp, PSNR (dB), MS-SSIM and loss at each quality; NaN values are left out of the mean."""

    full_state_update = False

    def __init__(self, qualities: Sequence[float]):
        super().__init__()
        self.qualities = list(qualities)
        shape = (len(self.qualities), len(KEYS))
        # Doubles, so that the mean does not depend on how images are spread over ranks by more than rounding.
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, index: int, *values: Tensor) -> None:
        """Add values (B,), in the order of KEYS, at the quality of this index."""
        row = torch.stack(values, dim=1).double()
        self.sums[index] += row.nansum(0)
        self.counts[index] += (~row.isnan()).sum(0)

    def compute(self) -> list[dict[str, float]]:
        """One dict per quality, rising: quality, bpp, psnr, ms_ssim, loss; NaN where nothing was measured."""
        means = (self.sums / self.counts).tolist()
        return [
            {"quality": q, **dict(zip(KEYS, row, strict=True))} for q, row in zip(self.qualities, means, strict=True)
        ]
