"""Metadata of an image: EXIF, ICC profile, XMP and text as an .agv file can store them, and the names of the rest."""

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image, TiffTags
from PIL.ExifTags import IFD, Base

from agvae.images import colour
from agvae.images.picture import EXIF_PREFIX, HELD

MAX_METADATA = 2**20
"""Largest size of an EXIF block, an ICC profile, an XMP packet, or all text, as Pillow reads them from PNG files."""

RAW_PROFILE = "Raw profile type "
"""The start of ImageMagick's keywords for binary metadata that it writes as PNG text."""

XMP_KEYWORD = "XML:com.adobe.xmp"

_TIFF_TAGS = (
    Base.DocumentName,
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.PageName,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Rating,
    Base.RatingPercent,
    Base.Copyright,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
    IFD.Exif,
    IFD.GPSInfo,
)
"""The tags of a TIFF file that belong to EXIF. It stores them among those that describe the layout of its pixels."""

_XMP, _IPTC, _PHOTOSHOP, _ICC = 700, 33723, 34377, 34675
_LAYOUT = {
    *range(254, 267),  # from NewSubfileType to FillOrder
    *(273, 274, *range(277, 285), *range(288, 298), 317, *range(320, 326)),  # strips, tiles, resolution, palette
    *(330, *range(332, 348), *range(512, 533), 559),  # other pictures, inks, kinds of samples, JPEG tables
    *(_XMP, _ICC, *_TIFF_TAGS),
}
"""Tags of TIFF files that describe the layout of the pixels, or that are handled separately."""

_NOT_TEXT = {"compression", "exif", "xmp", XMP_KEYWORD, "iptc", "text"}
"""Keys of `Image.info` whose value may be a string, but which are not text that somebody wrote."""

_WRITERS = "Created by OpenJPEG"
"""Comments that begin like this come from the writing program, not from the user."""

_DEFAULT_DPI = {1, 72, 96}
"""Resolutions that software writes into pictures that have none. 1 is Pillow's for TIFF."""


class Metadata(NamedTuple):
    """The metadata of an image in the form of `Picture`, and phrases for everything that is not in it."""

    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None
    text: dict[str, str]
    lost: tuple[str, ...]


def metadata_of(image: Image.Image, grey: bool) -> Metadata:
    """The metadata of a loaded image whose pixels are grey or RGB. Never raises, however damaged it is."""
    lost = []
    try:
        exif = _exif(image)
    except Exception:  # Pillow raises almost anything on damaged metadata
        exif = None
        lost.append("its EXIF data is damaged and is dropped")
    icc, phrases = _icc(image.info, grey)
    lost += phrases
    xmp, text = _xmp(image.info), _text(image)
    if exif and len(exif) > MAX_METADATA:
        exif = None
        lost.append(too_large("EXIF data"))
    if xmp and len(xmp) > MAX_METADATA:
        xmp = None
        lost.append(too_large("XMP"))
    if sum(len(value.encode()) for value in text.values()) > MAX_METADATA:
        lost.append(too_large(_words(text)))
        text = {}
    names = ["XMP"] * (xmp is not None and "xmp" not in HELD)
    names += [_words(text)] * (bool(text) and "text" not in HELD)
    if names := names + _others(image, exif):
        lost.append(f"its {_listed(names)} {'are' if len(names) > 1 else 'is'} dropped")
    return Metadata(exif, icc, xmp, text, tuple(lost))


def too_large(name: str) -> str:
    """The phrase for metadata of more than `MAX_METADATA` bytes."""
    return f"its {name} of over {MAX_METADATA // 2**20} MiB is dropped"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _words(text: dict[str, str]) -> str:
    """Text by its keywords, for a phrase."""
    named = [re.sub(r"\s+", " ", keyword)[:40] for keyword in text]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"text ({', '.join(named[:5])}{more})"


# ----------------------------------------------------------------- EXIF


def _exif(image: Image.Image) -> bytes | None:
    """EXIF data without its orientation, as TIFF structures."""
    tags = image.getexif()  # raises if they are damaged
    if image.info.get("exif"):
        exif = image.info["exif"]
    elif f"{RAW_PROFILE}exif" in image.info:
        exif = raw_profile(image.info[f"{RAW_PROFILE}exif"])
    else:
        kept = Image.Exif()
        for tag in _TIFF_TAGS:
            if tag in tags:
                kept[tag] = tags.get_ifd(tag) if tag in (IFD.Exif, IFD.GPSInfo) else tags[tag]
        exif = kept.tobytes() if kept else b""
    exif = exif.removeprefix(EXIF_PREFIX)
    return _without_orientation(exif) if exif else None


def raw_profile(text: str) -> bytes:
    """The bytes that ImageMagick wrote as text: a name, a length and hexadecimal digits. Raises ValueError."""
    return bytes.fromhex("".join(text.split("\n")[3:]))


def _without_orientation(exif: bytes) -> bytes:
    """`exif` without the tag in its first directory. All offsets stay the same."""
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    end = start + 2 + 12 * count
    entries = [exif[at : at + 12] for at in range(start + 2, end, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] != Base.Orientation]
    hole = bytes(12 * (count - len(kept)))
    following = exif[end : end + 4]  # the next directory's offset comes right after the last entry
    return b"".join((exif[:start], struct.pack(f"{order}H", len(kept)), *kept, following, hole, exif[end + 4 :]))


# ------------------------------------------------------ colours and words


def _icc(info: dict, grey: bool) -> tuple[bytes | None, list[str]]:
    """The ICC profile, or one for colours that the file describes differently, and phrases for everything that
    is lost."""
    icc, lost = info.get("icc_profile", b""), []
    if icc is None or (icc and not is_whole_profile(icc)):  # Pillow uses None for a damaged one
        lost.append("its ICC profile is damaged and is dropped")
    elif icc and not fits(icc, grey):
        lost.append(f"its ICC profile, not one of {'grey' if grey else 'RGB'}, is dropped")
    elif len(icc) > MAX_METADATA:
        lost.append(too_large("ICC profile"))
    kept = icc if icc and not lost else None
    if kept and "cicp" not in info:
        return kept, lost
    described, phrase = colour.describe(info, grey)
    if phrase and (kept is None or described is None):  # except for HDR, a profile and CICP codes say the same
        lost.append(phrase)
    return kept or described, lost


def is_whole_profile(icc: bytes) -> bool:
    """Whether this is an ICC profile with everything that its header and its directory announce."""
    if len(icc) < 132 or icc[36:40] != b"acsp":
        return False
    size, count = (int.from_bytes(icc[at : at + 4]) for at in (0, 128))
    if not 132 + 12 * count <= size <= len(icc):
        return False
    entries = (struct.unpack_from(">II", icc, 136 + 12 * index) for index in range(count))
    return all(start + length <= size for start, length in entries)


def fits(icc: bytes, grey: bool) -> bool:
    """Whether the colour space in a profile's header fits grey or RGB pixels."""
    return icc[16:20] == (b"GRAY" if grey else b"RGB ")


def _xmp(info: dict) -> bytes | None:
    """The XMP packet without its orientation, which has been applied to the pixels."""
    xmp = info.get("xmp") or info.get(XMP_KEYWORD)
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp.strip(b"\0 \r\n"):
        return None
    xmp = re.sub(rb'\s*tiff:Orientation\s*=\s*(["\'])[0-9]\1', b"", xmp)
    return re.sub(rb"<tiff:Orientation>\s*[0-9]\s*</tiff:Orientation>", b"", xmp)


def _text(image: Image.Image) -> dict[str, str]:
    """Texts by their keywords: the text of PNG files, and the comments of JPEG and GIF files as "Comment"."""
    info = image.info
    if isinstance(info.get("text"), dict):
        return dict(info["text"])
    comments = [data for name, data in getattr(image, "applist", ()) if name == "COM"] or [info.get("comment")]
    comments = [_decoded(comment) for comment in comments if isinstance(comment, bytes)]
    comments = [comment for comment in comments if comment and not comment.startswith(_WRITERS)]
    if comment := "\n".join(comments):
        return {"Comment": comment}
    if image.format not in (None, "PNG"):
        return {}
    strings = {key: value for key, value in info.items() if isinstance(key, str) and isinstance(value, str)}
    return {key: str(value) for key, value in strings.items() if not (key in _NOT_TEXT or key.startswith(RAW_PROFILE))}


def _decoded(comment: bytes) -> str:
    comment = comment.rstrip(b"\0")
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


# ------------------------------------------------------------- the rest


def _others(image: Image.Image, exif: bytes | None) -> list[str]:
    """Names of metadata that no field of `Picture` can hold."""
    info, tags = image.info, getattr(image, "tag_v2", {})
    found = []
    photoshop = info.get("photoshop")
    iptc = isinstance(photoshop, dict) and photoshop.get(0x0404)
    if iptc or _IPTC in tags or info.get("iptc"):
        found.append("IPTC data")
    if _PHOTOSHOP in tags:
        found.append("Photoshop data")
    if any(data.startswith(b"http://ns.adobe.com/xmp/extension/") for _, data in getattr(image, "applist", ())):
        found.append("extended XMP")
    if info.get("depth_images"):
        found.append("depth map")
    if info.get("aux"):
        found.append("auxiliary pictures")
    if resolution := _resolution(info, exif):
        found.append(resolution)
    unknown = sorted(tag for tag in tags if tag not in _LAYOUT | {_IPTC, _PHOTOSHOP})
    if unknown:
        names = [TiffTags.lookup(tag).name for tag in unknown]
        named = [str(tag) if name == "unknown" else name for tag, name in zip(unknown, names, strict=True)]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        found.append(f"TIFF tags ({', '.join(named[:5])}{more})")
    return found


def _resolution(info: dict, exif: bytes | None) -> str | None:
    """The resolution, unless it is a common default with square pixels, or the EXIF data has one."""
    try:
        x, y = (float(number) for number in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return _aspect(info)
    if exif is not None:
        tags = Image.Exif()
        tags.load(exif)
        if Base.XResolution in tags:
            return None
    if not (x > 0 and y > 0) or (x == y and round(x) in _DEFAULT_DPI):
        return None
    return f"resolution ({x:.4g} dpi)" if x == y else f"resolution ({x:.4g} by {y:.4g} dpi)"


def _aspect(info: dict) -> str | None:
    """The shape of pixels that are not square, if the file states it without a unit."""
    pair = info.get("aspect") or (info.get("jfif_density") if info.get("jfif_unit") == 0 else None)
    return f"shape of pixels ({pair[0]}:{pair[1]})" if pair and 0 not in pair and pair[0] != pair[1] else None
