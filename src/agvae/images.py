"""Image files and PIL images of every mode as 8-bit RGB; the one place where pixels are converted."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class ImageError(ValueError):
    """A file or picture that cannot be turned into 8-bit RGB; the message names it and says why."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a new image of mode RGB, upright.

    The EXIF orientation is applied. Transparency, of a palette too, is composited on white, as a web page or
    paper shows it. 16-bit grey is divided by 257 and rounded, so 65535 becomes 255; 32-bit integers are taken
    to hold 16-bit values, which is how PGM files arrive. Float pictures must lie in [0, 1]. CMYK and the
    other colour spaces follow Pillow's conversion; ICC profiles are not applied.

    Raises ImageError if the values fit none of these ranges, or the mode has no conversion.

    >>> to_rgb(Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))).getpixel((1, 0))
    (1, 1, 1)
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _grey_to_rgb(_integers_to_bytes(np.asarray(image)))
    if image.mode == "F":
        return _grey_to_rgb(_floats_to_bytes(np.asarray(image)))
    try:
        if image.has_transparency_data:
            # La has no direct way to RGBA
            straight = image.convert("LA") if image.mode == "La" else image
            rgba = straight.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"images of mode {image.mode} cannot be converted to RGB ({error})") from error


def _integers_to_bytes(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"integer values from {values.min()} to {values.max()}, but only 16 bits are taken")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _floats_to_bytes(values: np.ndarray) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails too
        raise ImageError(f"float values from {values.min():g} to {values.max():g}, but only [0, 1] is taken")
    return np.rint(values * 255).astype(np.uint8)


def _grey_to_rgb(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def load_rgb(path: str | Path) -> np.ndarray:
    """Decode an image file (the first picture, if it holds several) to a uint8 array (H, W, 3).

    Raises ImageError, which names the file, whatever the reason why it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.array(to_rgb(image))
    except Exception as error:  # on a damaged file Pillow's plugins raise nearly anything
        raise ImageError(f"{path}: {_reason(error)}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the file's header, nothing decoded and EXIF orientation not applied.

    Raises ImageError, which names the file.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise ImageError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that can be read"
    return str(error) or type(error).__name__
