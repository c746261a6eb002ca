"""The RD curve of a validation, gathered over images and ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

KEYS = ("bpp", "psnr", "ms_ssim", "loss")


class RDCurve(Metric):
    """Means over images of bpp, PSNR (dB), MS-SSIM and loss at each quality. NaN values are left out of a mean."""

    full_state_update = False

    def __init__(self, qualities: Sequence[float]):
        super().__init__()
        self.qualities = list(qualities)
        shape = (len(self.qualities), len(KEYS))
        # Doubles, so that the distribution of images over ranks changes the mean only by rounding.
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, index: int, *values: Tensor) -> None:
        """Add values (B,), in the order of KEYS, at the quality with this index."""
        row = torch.stack(values, dim=1).double()
        self.sums[index] += row.nansum(0)
        self.counts[index] += (~row.isnan()).sum(0)

    def compute(self) -> list[dict[str, float]]:
        """One dict per quality, rising: quality, bpp, psnr, ms_ssim, loss. NaN if nothing was measured."""
        means = (self.sums / self.counts).tolist()
        return [
            {"quality": q, **dict(zip(KEYS, row, strict=True))} for q, row in zip(self.qualities, means, strict=True)
        ]
