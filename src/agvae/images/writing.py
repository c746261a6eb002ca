"""Pictures to image files of every format that Pillow writes."""

import io
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from agvae.images import pixels, plugins
from agvae.images.metadata import XMP_KEYWORD, fits
from agvae.images.opening import reason
from agvae.images.picture import EXIF_PREFIX, SHALLOW, ImageError

_METADATA = {"AVIF", "HEIF", "JPEG", "JXL", "MPO", "PNG", "TIFF", "WEBP"}
"""Formats in which Pillow and its plugins write EXIF and XMP and, except for JXL, ICC profiles."""

_MODES = {
    "AVIF": ("L", "RGB", "RGBA"),
    "BLP": ("P",),
    "BMP": ("1", "L", "RGB"),
    "DIB": ("1", "L", "RGB"),
    "EPS": ("L", "RGB"),
    "GIF": ("1", "L", "P"),
    "HEIF": ("L", "RGB", "RGBA"),
    "JPEG": ("L", "RGB"),
    "MPO": ("L", "RGB"),
    "MSP": ("1",),
    "PALM": ("1",),
    "PCX": ("1", "L", "RGB"),
    "PNG": ("1", "L", "LA", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB"),
    "QOI": ("RGB", "RGBA"),
    "SGI": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "XBM": ("1",),
}
"""Modes that survive Pillow's writer and reader. In formats that are not listed, L, LA, RGB and RGBA do."""

_USUAL_MODES = ("L", "LA", "RGB", "RGBA")

_DEEP = ("PNG", "TIFF")
"""Formats in which 16-bit greyscale survives."""

_CHOICES = {
    "1": ("1", "L", "RGB", "P"),
    "I;16": ("I;16",),
    "L": ("L", "RGB", "P", "1"),
    "LA": ("LA", "RGBA", "L", "RGB", "P", "1"),
    "RGB": ("RGB", "P", "L", "1"),
    "RGBA": ("RGBA", "RGB", "P", "L", "1"),
}
"""Modes in which a picture can be written, by its own mode, the best first."""

_APPROXIMATE_ALPHA = {"AVIF", "HEIF", "JXL"}

_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": {"quality": 90},
    "HEIF": {"quality": 90},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "JXL": {"quality": 95},
    "MPO": {"quality": 95, "subsampling": "4:4:4"},
    "PDF": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"compress_level": 4},  # 2.5 times as fast as Pillow's 6, and 5 % larger
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"quality": 95, "exact": True},  # exact: pixels under alpha 0 do not change
}

_JPEG_SEGMENT = 65533
_EXIF_IN_JPEG = _JPEG_SEGMENT - len(EXIF_PREFIX)
"""Largest size of EXIF data that a JPEG file can hold."""

_XMP_IN_JPEG = _JPEG_SEGMENT - len(b"http://ns.adobe.com/xap/1.0/\0")
_XMP_TAG = 700
_PALETTES = {"P": "256 colours", "L": "no colours", "1": "black and white only"}


def format_of(suffix: str) -> str:
    """Pillow's name of the format for files with `suffix` (".png").

    Raises ImageError if there is none, or if the package that writes it is not installed."""
    plugins.load_for_suffix(suffix)
    name = Image.registered_extensions().get(suffix.lower())
    if name not in Image.SAVE:
        raise ImageError(f"no picture format has the suffix {suffix or '(none)'}; use .png, for example")
    return name


def encode_image(image: Image.Image, suffix: str) -> tuple[bytes, tuple[str, ...]]:
    """A whole file in the format of `suffix` (".jpg"), and what that format could not keep, one phrase each.

    Lossy formats are written close to transparent. EXIF, ICC profile, XMP and text are taken from `image.info`, where
    `Picture.to_pil` puts them. A mode that the format does not support becomes the nearest one that it does; alpha is
    then composited on white.

    Raises ImageError if no format has the suffix, and if the format cannot hold the picture."""
    name = format_of(suffix)
    lost = []
    if image.mode == "I;16" and name not in _DEEP:
        lost.append(SHALLOW)
    kept = image.mode == "1" or (image.mode == "I;16" and name in _DEEP)
    picture = image if kept and "transparency" not in image.info else pixels.plain(image)
    options = dict(_OPTIONS.get(name, {}))
    mode = next(mode for mode in _CHOICES[picture.mode] if mode in _MODES.get(name, _USUAL_MODES))
    if picture.mode.endswith("A"):
        seen_through = cast("tuple[int, int]", picture.getchannel("A").getextrema())[0] < 255
        if not mode.endswith("A"):
            picture = pixels.opaque(picture)
            if seen_through:
                lost.append(f"{name} has no alpha: the picture is composited on white")
        elif name in _APPROXIMATE_ALPHA and seen_through:
            lost.append(f"{name} keeps alpha only approximately")
    if picture.mode not in ("1", "I;16") and (mode in ("P", "1") or (mode == "L" and picture.mode[0] != "L")):
        lost.append(f"{name} has {_PALETTES[mode]}")
    if name == "ICO" and max(picture.size) <= 256:
        options["sizes"] = [picture.size]
    elif name in ("ICO", "ICNS"):
        lost.append(f"{name} holds icons of fixed sizes: the picture is scaled to them")
    if name in ("AVIF", "HEIF") and mode != "L":
        options["subsampling"] = "4:4:4"
    metadata, dropped = _metadata_for(name, mode, image.info)
    if name == "TIFF" and "exif" in metadata:
        del options["compression"]  # with it libtiff writes, which supports no directories below the first
    return _saved(picture, mode, name, options | metadata), (*lost, *dropped)


def _saved(picture: Image.Image, mode: str, name: str, options: dict[str, Any]) -> bytes:
    """The file of a picture in one of the modes that its format supports."""
    file = io.BytesIO()
    try:
        if mode == "P":
            picture = picture.convert("RGB").quantize()
        if picture.mode != mode:
            picture = picture.convert(mode)
        picture.save(file, name, **options)
    except Exception as error:  # writers raise almost anything on a picture that they do not support
        raise ImageError(f"{name} cannot hold this picture ({reason(error)})") from error
    return file.getvalue()


def _metadata_for(name: str, mode: str, info: dict) -> tuple[dict[str, Any], list[str]]:
    """Options of Pillow's writer for the metadata that a file of this format and mode can hold, and phrases for the
    rest."""
    holds, jpeg = name in _METADATA, name in ("JPEG", "MPO")
    options: dict[str, Any] = {}
    dropped = []
    if holds:
        options["icc_profile"] = None  # otherwise some writers take the one of `info`, even if it does not fit
    if jpeg or name == "GIF":
        options["comment"] = b""
    exif, icc = info.get("exif", b"").removeprefix(EXIF_PREFIX), info.get("icc_profile")
    if exif and jpeg and len(exif) > _EXIF_IN_JPEG:
        dropped.append(f"{name} cannot hold EXIF data of {len(exif)} bytes")
    elif exif and holds:
        options["exif"] = EXIF_PREFIX + exif
    elif exif:
        dropped.append(f"{name} cannot keep EXIF data")
    if icc and holds and name != "JXL" and fits(icc, mode in ("1", "L", "LA")):
        options["icc_profile"] = icc
    elif icc:
        dropped.append(f"{name} cannot keep {'this' if holds and name != 'JXL' else 'an'} ICC profile")
    xmp = info.get("xmp")
    if xmp and jpeg and len(xmp) > _XMP_IN_JPEG:
        dropped.append(f"{name} cannot hold XMP of {len(xmp)} bytes")
    elif xmp and name == "TIFF":
        options["exif"] = _with_xmp(options.get("exif"), xmp)
    elif xmp and name != "PNG" and holds:
        options["xmp"] = xmp
    elif xmp and not holds:
        dropped.append(f"{name} cannot keep XMP")
    text = info.get("text") or {}
    if name == "PNG" and (xmp or text):
        options["pnginfo"] = _png_text(text, xmp)
    elif text:
        comment = text.get("Comment", "").encode()
        fitting = comment and (name == "GIF" or (jpeg and len(comment) <= _JPEG_SEGMENT))
        if fitting:
            options["comment"] = comment
        if rest := [keyword for keyword in text if not (fitting and keyword == "Comment")]:
            dropped.append(f"{name} cannot keep text ({', '.join(rest[:5])}{' and more' if len(rest) > 5 else ''})")
    return options, dropped


def _with_xmp(exif: bytes | None, xmp: bytes) -> Image.Exif:
    """EXIF data with XMP as one more tag, which is how TIFF files store both."""
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    tags[_XMP_TAG] = xmp
    return tags


def _png_text(text: dict[str, str], xmp: bytes | None) -> PngInfo:
    """Text and XMP as chunks, uncompressed, so that readers with a limit for unpacking accept them."""
    chunks = PngInfo()
    for keyword, words in text.items():
        name = keyword.encode("latin-1", "replace").replace(b"\0", b"")[:79]
        chunks.add_text(name or b"Comment", words.replace("\0", ""))
    if xmp:
        chunks.add_itxt(XMP_KEYWORD, xmp)
    return chunks
