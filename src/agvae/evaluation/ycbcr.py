"""RGB and the raw Y′CbCr that video codecs code: ITU-R BT.709 weights, full range, 4:4:4 or 4:2:0 planes."""

import numpy as np
from PIL import Image

_KR, _KB = 0.2126, 0.0722
_KG = 1 - _KR - _KB


def rgb_to_ycbcr(rgb: np.ndarray, bits: int) -> np.ndarray:
    """Y′CbCr code values (H, W, 3) uint16 of `bits` bits of an RGB image (H, W, 3) uint8.

    With R, G, B in [0, 1], Y = 0.2126 R + 0.7152 G + 0.0722 B, Cb = (B − Y) / 1.8556 and Cr = (R − Y) / 1.5748
    (BT.709), a code is (2^bits − 1)·Y and (2^bits − 1)·C + 2^(bits − 1), rounded and clipped: the full range of
    ITU-T H.273. With 10 bits `ycbcr_to_rgb` gives every image back as it was; with 8 bits to within 1.
    """
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = _KR * red + _KG * green + _KB * blue
    chroma = (blue - luma) / (2 - 2 * _KB), (red - luma) / (2 - 2 * _KR)
    peak, middle = 2**bits - 1, 2 ** (bits - 1)
    codes = np.stack([peak * luma, *(peak * plane + middle for plane in chroma)], axis=-1)
    return np.rint(codes).clip(0, peak).astype(np.uint16)


def ycbcr_to_rgb(ycbcr: np.ndarray, bits: int) -> np.ndarray:
    """The RGB image (H, W, 3) uint8 of Y′CbCr code values (H, W, 3) of `bits` bits, as `rgb_to_ycbcr` has them."""
    luma, cb, cr = np.moveaxis(ycbcr.astype(np.float64), -1, 0)
    middle = 2 ** (bits - 1)
    red = luma + (2 - 2 * _KR) * (cr - middle)
    blue = luma + (2 - 2 * _KB) * (cb - middle)
    green = (luma - _KR * red - _KB * blue) / _KG
    rgb = np.stack([red, green, blue], axis=-1) * (255 / (2**bits - 1))
    return np.rint(rgb).clip(0, 255).astype(np.uint8)


def subsample(ycbcr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """4:2:0 planes Y (H, W), Cb and Cr (H/2, W/2) of 4:4:4 code values (H, W, 3), H and W even.

    A chroma sample is the rounded mean of the 2×2 pixels in whose middle it lies.
    """
    height, width = ycbcr.shape[:2]
    luma, *chroma = np.moveaxis(ycbcr, -1, 0)
    return luma, *(_resized(plane, width // 2, height // 2, Image.Resampling.BOX) for plane in chroma)


def upsample(luma: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """4:4:4 code values (H, W, 3) of 4:2:0 planes: chroma bilinear between samples, rounded."""
    height, width = luma.shape
    chroma = (_resized(plane, width, height, Image.Resampling.BILINEAR) for plane in (cb, cr))
    return np.stack([luma, *chroma], axis=-1)


def _resized(plane: np.ndarray, width: int, height: int, method: Image.Resampling) -> np.ndarray:
    resized = Image.fromarray(plane.astype(np.float32)).resize((width, height), method)
    return np.rint(np.asarray(resized)).astype(np.uint16)
