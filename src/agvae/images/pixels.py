"""Converts pixels of every mode to 8 bits, upright, with alpha beside them. The only place that converts pixels."""

import re
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from agvae.images.picture import ImageError

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes a picture upright, by its EXIF orientation."""

_LOW_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
    "LA;16B": "RGBA",
}
"""Maps the raw mode in which Pillow unpacks the high bytes of 16-bit samples to the mode that unpacks the other bytes.
N is the byte order of this machine, assumed to be little-endian. Grey with alpha is unpacked with both bytes."""


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The operation that makes the image upright. None if it is upright."""
    image.load()
    if image.format == "JXL" and not getattr(image, "jpeg", None):
        return None  # its decoder turns the picture, so EXIF must be ignored (ISO/IEC 18181-2)
    try:
        return _TURNS.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # damaged metadata does not concern the pixels
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a new image of mode RGB, upright.

    The EXIF orientation is applied. Transparency, including that of a palette, is composited on white, as a web page or
    paper shows it. 16-bit grey is divided by 257 and rounded, so 65535 becomes 255. 32-bit integers are assumed to hold
    16-bit values, because PGM files arrive in that form. Float pictures must lie in [0, 1]. CMYK and the other colour
    spaces follow Pillow's conversion. ICC profiles are not applied.

    Raises ImageError if the values fit none of these ranges, or if the mode has no conversion.

    >>> to_rgb(Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))).getpixel((1, 0))
    (1, 1, 1)"""
    depth, turn = bit_depth(image), turn_of(image)
    upright = image if turn is None else image.transpose(turn)
    return opaque(plain(upright, depth)).convert("RGB")


def bit_depth(image: Image.Image) -> int:
    """Bits per value in the file, or 8 if Pillow does not tell. Only an image that is not loaded yet tells."""
    if isinstance(found := image.info.get("bit_depth"), int):  # of HEIC and AVIF
        return found
    # Other numbers, as in BGR;16, are bits per pixel.
    named = re.search(r"^L;([24])$|;(16)[BLN]$", raw_mode_of(image))
    return int(named[1] or named[2]) if named else 8


def raw_mode_of(image: Image.Image) -> str:
    """How the file stores its samples, in Pillow's words. Only an image that is not loaded yet tells."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


# ----------------------------------------------------- more than 8 bits


def is_deep(image: Image.Image) -> bool:
    """Whether the image itself has more than 8 bits per sample: integer and float modes."""
    return image.mode[0] in "IF"


def white_of(values: np.ndarray) -> int:
    """The white of samples that do not use their full range: the smallest 2ᵏ − 1 that is not below any of them.

    >>> white_of(np.array([3, 4000]))
    4095"""
    return max(1, 2 ** int(np.ceil(values.max())).bit_length() - 1)


def colour_samples(image: Image.Image, reopen: Callable[[], ImageFile] | None, raw_mode: str) -> np.ndarray | None:
    """The 16-bit samples (H, W, C) uint16 of a loaded colour image, as the file stores them. None if they are not
    available.

    Pillow has no 16-bit colour and keeps the high bytes. The low bytes are unpacked from the file a second time, from
    the image that `reopen` returns. `raw_mode` is that of the image before it was loaded."""
    if reopen is None or raw_mode not in _LOW_BYTES:
        return None
    other = _LOW_BYTES[raw_mode]
    with reopen() as again:
        again.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in again.tile
        ]
        low = np.asarray(again)
    if raw_mode == "LA;16B":
        pairs = low.astype(np.uint16)
        return pairs[..., ::2] << 8 | pairs[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | low


def colours_of(values: np.ndarray) -> np.ndarray:
    """Samples (H, W, C) without their alpha."""
    return values[..., :-1] if values.shape[2] in (2, 4) else values


def stretched(image: Image.Image, values: np.ndarray, white: int) -> Image.Image:
    """A plain image with its colours from 16-bit samples (H, W, C), scaled so that `white` becomes 255. Its alpha is
    kept."""
    scaled = _scaled(colours_of(values), white)
    if image.mode in ("L", "LA"):
        scaled = scaled[..., 0]
    result = Image.fromarray(np.ascontiguousarray(scaled))
    if image.mode.endswith("A"):
        result.putalpha(image.getchannel("A"))
    return result


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    wide: np.ndarray = values.astype(np.uint32 if white <= 65535 else np.uint64)
    return ((wide * 510 + white) // (2 * white)).astype(np.uint8)


def turned(values: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    """`Image.transpose` of an array (H, W, C)."""
    if turn is None:
        return values
    flips = {
        Image.Transpose.FLIP_LEFT_RIGHT: lambda: values[:, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: lambda: values[::-1],
        Image.Transpose.ROTATE_180: lambda: values[::-1, ::-1],
        Image.Transpose.TRANSPOSE: lambda: values.swapaxes(0, 1),
        Image.Transpose.TRANSVERSE: lambda: values[::-1, ::-1].swapaxes(0, 1),
        Image.Transpose.ROTATE_90: lambda: np.rot90(values),
        Image.Transpose.ROTATE_270: lambda: np.rot90(values, 3),
    }
    return np.ascontiguousarray(flips[turn]())


# ------------------------------------------------------------ to 8 bits


def plain(image: Image.Image, depth: int = 8, white: int | None = None) -> Image.Image:
    """The image as L, LA, RGB or RGBA. The same image if it is one of them.

    `depth` is the bit depth in which a colour key counts. `white` is the value of an integer or float mode that becomes
    255, if it is not the usual one. Raises ImageError for values beyond it."""
    if not image.width or not image.height:
        raise ImageError(f"a picture of {image.width}×{image.height} has no pixels")
    if "transparency" in image.info and (image.mode in ("1", "L", "RGB") or image.mode[0] == "I"):
        return _keyed(image, image.info["transparency"], depth, white)
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode[0] == "I":
        return Image.fromarray(_integers_to_bytes(np.asarray(image), white))
    if image.mode == "F":
        return Image.fromarray(_floats_to_bytes(np.asarray(image), white))
    try:
        if image.mode in ("1", "La"):
            return image.convert("L" if image.mode == "1" else "LA")
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ValueError as error:
        raise ImageError(f"images of mode {image.mode} cannot be converted to RGB ({error})") from error


def _keyed(image: Image.Image, key: int | tuple[int, ...], depth: int, white: int | None) -> Image.Image:
    """The image with the pixels of one value transparent, which is how PNG stores transparency without alpha."""
    values, see_through = np.asarray(image.convert("L") if image.mode == "1" else image), np.array(key)
    if image.mode == "RGB" and depth == 16:
        see_through >>= 8  # as Pillow does with the pixels
    elif depth < 8 and image.mode == "L":
        see_through = see_through * 255 // (2**depth - 1)
    differs = values != see_through
    alpha = differs.any(axis=2) if values.ndim == 3 else differs
    result = image.copy()
    del result.info["transparency"]
    result = plain(result, white=white)
    result.putalpha(Image.fromarray(alpha.astype(np.uint8) * 255))
    return result


def _integers_to_bytes(values: np.ndarray, white: int | None) -> np.ndarray:
    if values.min() < 0 or values.max() > (white or 65535):
        raise ImageError(f"pixel values must fit 16 bits, not go from {values.min()} to {values.max()}")
    return _scaled(values, white or 65535)


def _floats_to_bytes(values: np.ndarray, white: int | None) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= (white or 1)):  # written so that NaN fails too
        raise ImageError(f"float pixel values must lie in [0, 1], not go from {values.min():g} to {values.max():g}")
    return np.rint(values * (255 / (white or 1))).astype(np.uint8)


def opaque(image: Image.Image) -> Image.Image:
    """A plain image composited on white: L or RGB."""
    if image.mode not in ("LA", "RGBA"):
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(image.mode[:-1])


def arrays(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, 3) and alpha (H, W) or None of a plain image."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if image.mode.endswith("A") else None
    rows = max(
        1, 2**20 // width
    )  # at a time, because Pillow's conversion to an array takes the memory of two more pictures
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        strip = strip.reshape(len(strip), width, -1)
        if alpha is not None:
            alpha[top : top + rows] = strip[..., -1]
            strip = strip[..., :-1]
        pixels[top : top + rows] = strip
    return pixels, alpha
