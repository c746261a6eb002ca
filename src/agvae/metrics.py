"""Quality of a decoded 8-bit image: PSNR and MS-SSIM in RGB.

Both take images as HWC uint8 arrays (or anything `numpy.asarray` makes one of, such as a PIL image).
"""

import math

import numpy as np
from numpy.typing import ArrayLike

# Four halvings must leave more than the 11-tap window: (11 - 1) * 2**4.
MS_SSIM_LARGEST_REFUSED_SIDE = 160

_ROWS = 256


def psnr(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB: 10·log10(255² / MSE), the mean over pixels and channels together.

    Infinite for equal images.

    >>> round(psnr(np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 101, np.uint8)), 2)
    48.13
    """
    reference, decoded = _pair(reference, decoded)
    total = 0
    for row in range(0, len(reference), _ROWS):  # so that memory does not grow with the picture
        difference = reference[row : row + _ROWS].astype(np.int32) - decoded[row : row + _ROWS]
        total += int((difference * difference).sum(dtype=np.int64))
    return 10 * math.log10(255**2 * reference.size / total) if total else math.inf


def ms_ssim(reference: ArrayLike, decoded: ArrayLike) -> float:
    """Multi-scale structural similarity in [0, 1], five scales, mean over channels (Wang et al. 2003).

    NaN where it is not defined: an image whose short side is at most 160 pixels has no fifth scale.
    """
    reference, decoded = _pair(reference, decoded)
    if min(reference.shape[:2]) <= MS_SSIM_LARGEST_REFUSED_SIDE:
        return math.nan
    import torch
    from pytorch_msssim import ms_ssim as _ms_ssim

    x, y = (torch.tensor(image).permute(2, 0, 1)[None].float() for image in (reference, decoded))
    return _ms_ssim(x, y, data_range=255).item()


def ms_ssim_db(value: float) -> float:
    """MS-SSIM on the scale it is drawn and compared on, in dB: −10·log10(1 − value); infinite at 1.

    >>> round(ms_ssim_db(0.99), 3)
    20.0
    """
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def _pair(reference: ArrayLike, decoded: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    reference, decoded = np.asarray(reference), np.asarray(decoded)
    if reference.shape != decoded.shape:
        raise ValueError(f"images differ in shape: {reference.shape} and {decoded.shape}")
    return reference, decoded
