"""Rate and quality of a coded picture: bits per pixel, PSNR and MS-SSIM in RGB.

Pictures are HWC uint8 arrays, or anything that `numpy.asarray` turns into one, such as a PIL image. Batches are float
tensors (B, 3, H, W) in [0, 1]. The mean squared error is always that of 8-bit values, on the scale [0, 255].
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from agvae.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, device

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

    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_SIDE:
        raise ConfigError(
            f"MS-SSIM compares five scales, so both sides must be at least {MS_SSIM_SMALLEST_SIDE} pixels, "
            f"not {x.shape[-1]}x{x.shape[-2]}; choose larger patches and images, or loss=mse"
        )
    with torch.autocast(x.device.type, enabled=False):
        # Contiguous, because with channels last cuDNN may blur in TF32, which makes E[x²] − E[x]² far too inexact.
        return _ms_ssim(x_hat.float().contiguous(), x.float().contiguous())


_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, from fine to coarse."""


def _ms_ssim(x: "Tensor", y: "Tensor") -> "Tensor":
    """MS-SSIM as pytorch_msssim computes it, but nothing in it or its gradient waits for a GPU."""
    import torch
    import torch.nn.functional as F

    similarity = x.new_ones(())
    for scale, weight in enumerate(_WEIGHTS):
        blurred = _blurred(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
        mean_x, mean_y, square_x, square_y, product = blurred
        covariance = product - mean_x * mean_y
        variances = square_x - mean_x * mean_x + (square_y - mean_y * mean_y)
        compared = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale < len(_WEIGHTS) - 1:
            odd = [side % 2 for side in x.shape[2:]]
            x, y = (F.avg_pool2d(v, 2, padding=odd) for v in (x, y))
        else:
            luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x * mean_x + mean_y * mean_y + 0.01**2)
            compared = luminance * compared
        # torch.prod would wait for a GPU in its backward pass.
        similarity = similarity * compared.flatten(2).mean(-1).relu() ** weight
    return similarity.mean(1)


def _blurred(x: "Tensor") -> "Tensor":
    """Maps (B, 3, H, W) after the 11×11 Gaussian window of σ = 1.5, without their borders: (B, 3, H − 10, W − 10)."""
    import torch.nn.functional as F

    window = _window(x.device, x.shape[1])
    return F.conv2d(F.conv2d(x, window.transpose(2, 3), groups=x.shape[1]), window, groups=x.shape[1])


@functools.cache
def _window(device: "device", channels: int) -> "Tensor":
    """The window, (channels, 1, 1, 11), on a device. A copy in each step would wait for a GPU."""
    import torch

    with torch.inference_mode(False):
        window = (-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2)).exp()
        return (window / window.sum()).repeat(channels, 1, 1, 1).to(device)


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
