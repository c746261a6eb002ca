"""Image files and PIL images of every mode as 8-bit pixels and back; the one place where pixels are converted."""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

MAX_PIXELS = 2**28
"""Largest picture, in pixels, that is read or decoded unless the caller allows more."""


class ImageError(ValueError):
    """A file or picture that cannot be read, converted or written; the message says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What an .agv file can hold of a picture.

    pixels (H, W, 3) uint8, upright, R = G = B where `grey`; alpha (H, W) uint8, straight, or None; exif as TIFF
    structures, without the "Exif" of JPEG before them; icc only for the colour space of the pixels. `lost` says
    what of the original is not here, one phrase each.
    """

    pixels: np.ndarray
    grey: bool = False
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    lost: tuple[str, ...] = ()

    def to_pil(self) -> Image.Image:
        """An image of mode L, LA, RGB or RGBA, EXIF and ICC profile in its `info`, where Pillow looks for them."""
        image = Image.fromarray(self.pixels)
        if self.grey:
            image = image.convert("L")
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        if self.exif is not None:
            image.info["exif"] = _EXIF_PREFIX + self.exif
        if self.icc is not None:
            image.info["icc_profile"] = self.icc
        return image


def picture_of(image: Image.Image) -> Picture:
    """The picture for coding: pixels as `to_rgb` has them, but with alpha beside them.

    Pixels are what the image stores, under alpha 0 too. A greyscale mode makes a grey picture, whatever the values;
    a palette makes a coloured one. EXIF is kept byte by byte but for its orientation, which the pixels take on. Of an
    animation the current frame is taken, the first one of a file just opened.

    Raises ImageError as `to_rgb` does, and what Pillow raises on a damaged file.
    """
    lost = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        lost.append(f"one of its {frames} frames is kept")
    depth = _depth(image)  # known until the image is loaded
    image.load()
    if depth > 8 or image.mode[0] in "IF":
        kind = {"F": "float", "I": "16-bit"}.get(image.mode[0], f"{depth}-bit")
        lost.append(f"its {kind} values are kept as 8 bits")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        lost.append(f"its {image.mode} colours are converted to RGB")
    try:
        exif = _exif(image)
    except Exception:  # Pillow raises nearly anything on damaged metadata
        exif = None
        lost.append("its EXIF data is damaged and is dropped")
    icc = image.info.get("icc_profile") or None
    if extra := _words(image):
        lost.append(f"its {' and '.join(extra)} {'are' if len(extra) > 1 else 'is'} dropped")
    plain = _plain(_upright(image), depth)
    grey = plain.mode in ("L", "LA")
    if icc is not None and not _fits(icc, grey):
        lost.append(f"its ICC profile, not one of {'grey' if grey else 'RGB'}, is dropped")
        icc = None
    pixels, alpha = _arrays(plain)
    return Picture(pixels, grey, alpha, exif, icc, tuple(lost))


def read_picture(source: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file of at most `max_pixels` pixels.

    Pillow's own limit and its warnings stay out of it. Raises ImageError, which says why, whatever the reason.
    """
    with _limited(max_pixels):
        try:
            with Image.open(source) as image:
                return picture_of(image)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(f"the picture is over {max_pixels} pixels, the limit") from error
        except Exception as error:  # on a damaged file Pillow's plugins raise nearly anything
            raise ImageError(_reason(error)) from error


@contextmanager
def _limited(max_pixels: int) -> Iterator[None]:
    usual = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


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
    depth = _depth(image)
    return _opaque(_plain(_upright(image), depth)).convert("RGB")


def load_rgb(path: str | Path, file: BinaryIO | None = None) -> np.ndarray:
    """Decode an image file (the first picture, if it holds several) to a uint8 array (H, W, 3).

    Its bytes are those of `file`, where that is given. Raises ImageError, which names `path`, whatever the reason why
    it cannot be read.
    """
    try:
        with Image.open(file or path) as image:
            return np.array(to_rgb(image))
    except Exception as error:
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
    if isinstance(error, MemoryError):
        return "not enough memory"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ---------------------------------------------------------------- pixels

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(Base.Orientation))
    except Exception:  # damaged metadata says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _depth(image: Image.Image) -> int:
    """Bits per value in the file, 8 where Pillow does not tell; only an image not yet loaded tells."""
    if not getattr(image, "tile", None):
        return 8
    arguments = image.tile[0][3]
    rawmode = arguments[0] if isinstance(arguments, tuple) else arguments
    # Other numbers, as in BGR;16, are bits per pixel.
    found = re.search(r"^L;([24])$|;(16)[BLN]$", str(rawmode))
    return int(found[1] or found[2]) if found else 8


def _plain(image: Image.Image, depth: int = 8) -> Image.Image:
    """The image as L, LA, RGB or RGBA, itself if it is one of them. `depth` is what a colour key counts in."""
    if not image.width or not image.height:
        raise ImageError(f"a picture of {image.width}×{image.height} has no pixels")
    if "transparency" in image.info and (image.mode in ("1", "L", "RGB") or image.mode[0] == "I"):
        return _keyed(image, image.info["transparency"], depth)
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode[0] == "I":
        return Image.fromarray(_integers_to_bytes(np.asarray(image)))
    if image.mode == "F":
        return Image.fromarray(_floats_to_bytes(np.asarray(image)))
    try:
        if image.mode in ("1", "La"):
            return image.convert("L" if image.mode == "1" else "LA")
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ValueError as error:
        raise ImageError(f"images of mode {image.mode} cannot be converted to RGB ({error})") from error


def _keyed(image: Image.Image, key: int | tuple[int, ...], depth: int) -> Image.Image:
    """The image with the pixels of one value transparent, which is how PNG stores transparency without alpha."""
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if image.mode == "RGB" and depth == 16:
        key = np.array(key) >> 8  # as Pillow does with the pixels
    elif depth < 8 and image.mode == "L":
        key = key * 255 // (2**depth - 1)
    differs = values != key
    alpha = differs.any(axis=2) if values.ndim == 3 else differs
    opaque = image.copy()
    del opaque.info["transparency"]
    opaque = _plain(opaque)
    opaque.putalpha(Image.fromarray(alpha.astype(np.uint8) * 255))
    return opaque


def _integers_to_bytes(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"integer values from {values.min()} to {values.max()}, but only 16 bits are taken")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _floats_to_bytes(values: np.ndarray) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails too
        raise ImageError(f"float values from {values.min():g} to {values.max():g}, but only [0, 1] is taken")
    return np.rint(values * 255).astype(np.uint8)


def _opaque(image: Image.Image) -> Image.Image:
    """A plain image composited on white: L or RGB."""
    if image.mode not in ("LA", "RGBA"):
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(image.mode[:-1])


def _arrays(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, 3) and alpha (H, W) or None of a plain image."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if image.mode.endswith("A") else None
    rows = max(1, 2**20 // width)  # at a time: Pillow's way to an array takes the memory of two more pictures
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        strip = strip.reshape(len(strip), width, -1)
        if alpha is not None:
            alpha[top : top + rows] = strip[..., -1]
            strip = strip[..., :-1]
        pixels[top : top + rows] = strip
    return pixels, alpha


# -------------------------------------------------------------- metadata

_EXIF_PREFIX = b"Exif\0\0"

_TIFF_TAGS = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.Copyright,
    IFD.Exif,
    IFD.GPSInfo,
)
"""What of a TIFF file's tags is EXIF: it stores them among those that lay out its pixels."""


def _exif(image: Image.Image) -> bytes | None:
    """EXIF data without its orientation, as TIFF structures."""
    tags = image.getexif()  # raises if they are damaged
    if "exif" in image.info:
        exif = image.info["exif"]
    elif "Raw profile type exif" in image.info:  # ImageMagick's in PNG: a name, a length, hexadecimal digits
        exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    else:
        kept = Image.Exif()
        for tag in _TIFF_TAGS:
            if tag in tags:
                kept[tag] = tags.get_ifd(tag) if tag in (IFD.Exif, IFD.GPSInfo) else tags[tag]
        exif = kept.tobytes() if kept else b""
    exif = exif.removeprefix(_EXIF_PREFIX)
    return _without_orientation(exif) if exif else None


def _without_orientation(exif: bytes) -> bytes:
    """`exif` without the tag in its first directory, all offsets as they are."""
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    end = start + 2 + 12 * count
    entries = [exif[at : at + 12] for at in range(start + 2, end, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] != Base.Orientation]
    hole = bytes(12 * (count - len(kept)))
    following = exif[end : end + 4]  # the next directory's offset comes right after the last entry
    return b"".join((exif[:start], struct.pack(f"{order}H", len(kept)), *kept, following, hole, exif[end + 4 :]))


def _words(image: Image.Image) -> list[str]:
    """Names of what people write into files beside EXIF."""
    found = ["XMP"] if image.info.keys() & {"xmp", "XML:com.adobe.xmp"} else []
    named = [key for key in ("Title", "Author", "Description", "Copyright", "Comment") if key in image.info]
    return found + ([f"text ({', '.join(named)})"] if named else [])


def _fits(icc: bytes, grey: bool) -> bool:
    return icc[16:20] == (b"GRAY" if grey else b"RGB ")  # the profile header's colour space


# --------------------------------------------------------------- writing

_METADATA = {"AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}
"""Formats in which Pillow writes EXIF and ICC profiles."""

_MODES = {
    "AVIF": ("L", "RGB", "RGBA"),
    "BLP": ("P",),
    "BMP": ("L", "RGB"),
    "DIB": ("L", "RGB"),
    "EPS": ("L", "RGB"),
    "GIF": ("L", "P"),
    "JPEG": ("L", "RGB"),
    "MPO": ("L", "RGB"),
    "MSP": ("1",),
    "PALM": ("1",),
    "PCX": ("L", "RGB"),
    "PPM": ("L", "RGB"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "XBM": ("1",),
}
"""Modes in which a picture survives Pillow's writer and reader; in formats not listed L, LA, RGB and RGBA do."""

_CHOICES = {
    "L": ("L", "RGB", "P", "1"),
    "LA": ("LA", "RGBA", "L", "RGB", "P", "1"),
    "RGB": ("RGB", "P", "L", "1"),
    "RGBA": ("RGBA", "RGB", "P", "L", "1"),
}
"""Modes to write a picture in, by its own mode, the best first."""

_OPTIONS = {
    "AVIF": {"quality": 90},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "MPO": {"quality": 95, "subsampling": "4:4:4"},
    "PDF": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"compress_level": 4},  # 2.5 times as fast as Pillow's 6, and 5 % larger
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"quality": 95, "exact": True},  # exact: pixels under alpha 0 stay what they are
}

_EXIF_IN_JPEG = 65533 - len(_EXIF_PREFIX)
"""Most bytes of EXIF that a JPEG file can hold."""


def format_of(suffix: str) -> str:
    """Pillow's name of the format that files with `suffix` (".png") are written in; raises ImageError for none."""
    name = Image.registered_extensions().get(suffix.lower())
    if name not in Image.SAVE:
        raise ImageError(f"no picture format has the suffix {suffix or '(none)'}")
    return name


def encode_image(image: Image.Image, suffix: str) -> tuple[bytes, tuple[str, ...]]:
    """A whole file in the format of `suffix` (".jpg"), and what that format could not keep, one phrase each.

    Lossy formats are written close to transparent; EXIF and ICC profile are taken from `image.info`. A mode that the
    format does not hold becomes the nearest one that it does; alpha is then composited on white.

    Raises ImageError for a suffix of no format and for a picture that the format cannot hold.
    """
    name = format_of(suffix)
    picture = _plain(image)
    options = dict(_OPTIONS.get(name, {}))
    holds = _MODES.get(name, tuple(_CHOICES))
    mode = next(mode for mode in _CHOICES[picture.mode] if mode in holds)
    lost = []
    if picture.mode.endswith("A"):
        seen_through = picture.getchannel("A").getextrema()[0] < 255
        if not mode.endswith("A"):
            picture = _opaque(picture)
            if seen_through:
                lost.append(f"{name} has no alpha: the picture is composited on white")
        elif name == "AVIF" and seen_through:
            lost.append(f"{name} keeps alpha approximately")
    if mode in ("P", "1") or (mode == "L" and picture.mode[0] != "L"):
        lost.append(f"{name} has {_PALETTES[mode]}")
    if name == "ICO" and max(picture.size) <= 256:
        options["sizes"] = [picture.size]
    elif name in ("ICO", "ICNS"):
        lost.append(f"{name} holds icons of fixed sizes: the picture is scaled to them")
    if name == "AVIF" and mode != "L":
        options["subsampling"] = "4:4:4"
    metadata, dropped = _metadata_for(name, mode, image.info)
    if name == "TIFF" and "exif" in metadata:
        del options["compression"]  # with it libtiff writes, which takes no directories below the first
    file = io.BytesIO()
    try:
        if mode == "P":
            picture = picture.convert("RGB").quantize()
        if picture.mode != mode:
            picture = picture.convert(mode)
        picture.save(file, name, **options, **metadata)
    except Exception as error:  # writers raise nearly anything on a picture they do not take
        raise ImageError(f"{name} cannot hold this picture ({_reason(error)})") from error
    return file.getvalue(), (*lost, *dropped)


_PALETTES = {"P": "256 colours", "L": "no colours", "1": "black and white only"}


def _metadata_for(name: str, mode: str, info: dict) -> tuple[dict[str, bytes], list[str]]:
    """What of EXIF and ICC profile goes into a file of this format and mode, and what cannot."""
    metadata, dropped = {}, []
    exif, icc = info.get("exif", b"").removeprefix(_EXIF_PREFIX), info.get("icc_profile")
    if exif and name in ("JPEG", "MPO") and len(exif) > _EXIF_IN_JPEG:
        dropped.append(f"{name} cannot hold EXIF data of {len(exif)} bytes")
    elif exif and name in _METADATA:
        metadata["exif"] = _EXIF_PREFIX + exif
    elif exif:
        dropped.append(f"{name} cannot keep EXIF data")
    if icc and name in _METADATA and _fits(icc, mode in ("L", "LA")):
        metadata["icc_profile"] = icc
    elif icc:
        dropped.append(f"{name} cannot keep {'this' if name in _METADATA else 'an'} ICC profile")
    return metadata, dropped
