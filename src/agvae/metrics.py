"""Rate and quality of a coded picture: bits per pixel, PSNR and MS-SSIM in RGB.

Pictures are HWC uint8 arrays, or anything that `numpy.asarray` turns into one, such as a PIL image. Batches are float
tensors (B, 3, H, W) in [0, 1]. The mean squared error is always that of 8-bit values, on the scale [0, 255].
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from agvae.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    Pixels = ArrayLike | Image

MS_SSIM_SMALLEST_SIDE = 161
"""In pixels. Four halvings must leave more than the 10 pixels around the centre of an 11-tap window: 10 · 2⁴ + 1."""

_ROWS = 256


def bits_per_pixel(size: int, width: int, height: int) -> float:
    """The rate of a file of `size` bytes: 8 · size / (width · height).

    >>> bits_per_pixel(1000, width=100, height=80)
    1.0
    """
    return 8 * size / (width * height)


def psnr(reference: "Pixels", decoded: "Pixels") -> float:
    """Peak signal-to-noise ratio in dB: 10·log10(255² / MSE), the mean over pixels and channels together.

    Infinite for equal images.

    >>> round(psnr(np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 101, np.uint8)), 2)
    48.13
    """
    x, x_hat = _pair(reference, decoded)
    total = 0
    for row in range(0, len(x), _ROWS):  # so that memory does not grow with the picture
        difference = x[row : row + _ROWS].astype(np.int32) - x_hat[row : row + _ROWS]
        total += int((difference * difference).sum(dtype=np.int64))
    return 10 * math.log10(255**2 * x.size / total) if total else math.inf


def mse_of_batch(x_hat: "Tensor", x: "Tensor") -> "Tensor":
    """Mean squared error of each picture on the scale [0, 255], in float32: (B, 3, H, W) in [0, 1] twice -> (B,)."""
    return (x_hat.float() - x.float()).square().mean(dim=(1, 2, 3)) * 255**2


def psnr_of_mse(mse: "Tensor") -> "Tensor":
    """The same from mean squared errors of any shape; infinite at 0."""
    return 10 * (255**2 / mse).log10()


def ms_ssim(reference: "Pixels", decoded: "Pixels") -> float:
    """Multi-scale structural similarity in [0, 1], five scales, mean over channels (Wang et al. 2003).

    NaN if it is not defined: an image with a side under 161 pixels has no fifth scale."""
    images = _pair(reference, decoded)
    if min(images[0].shape[:2]) < MS_SSIM_SMALLEST_SIDE:
        return math.nan
    import torch
    from pytorch_msssim import ms_ssim as of_tensors

    x, y = (torch.tensor(image).permute(2, 0, 1)[None].float() for image in images)
    return of_tensors(x, y, data_range=255).item()


def ms_ssim_of_batch(x_hat: "Tensor", x: "Tensor") -> "Tensor":
    """The same for each picture of a batch, in float32 even under autocast: (B, 3, H, W) in [0, 1] twice -> (B,).

    It has a gradient. Raises ConfigError if a side is under 161 pixels."""
    import torch
    from pytorch_msssim import ms_ssim as of_tensors

    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_SIDE:
        raise ConfigError(
            f"MS-SSIM compares five scales, so both sides must be at least {MS_SSIM_SMALLEST_SIDE} pixels, "
            f"not {x.shape[-1]}x{x.shape[-2]}; choose larger patches and images, or loss=mse"
        )
    with torch.autocast(x.device.type, enabled=False):
        # Contiguous, because with channels last cuDNN may blur in TF32, which makes E[x²] − E[x]² far too inexact.
        x_hat, x = (v.float().contiguous() for v in (x_hat, x))
        return of_tensors(x_hat, x, data_range=1, size_average=False)


def ms_ssim_db(value: float) -> float:
    """MS-SSIM on the scale it is drawn and compared on, in dB: −10·log10(1 − value); infinite at 1.

    >>> round(ms_ssim_db(0.99), 3)
    20.0
    """
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def _pair(reference: "Pixels", decoded: "Pixels") -> tuple[np.ndarray, np.ndarray]:
    x, x_hat = np.asarray(reference), np.asarray(decoded)
    if x.shape != x_hat.shape:
        raise ValueError(f"both images must have the same shape, not {x.shape} and {x_hat.shape}")
    return x, x_hat
