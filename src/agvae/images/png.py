"""PNG files without the metadata that prevents Pillow from opening them.

Pillow refuses a file if one ancillary chunk is damaged, or unpacks to more than it allows. Viewers skip such a chunk,
and so does `cleaned`. It also reads cICP, which Pillow does not, and keeps text separate from Pillow's own keys.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from agvae.images.metadata import MAX_METADATA, RAW_PROFILE, XMP_KEYWORD, raw_profile, too_large

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEAST = {b"tRNS": 1, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
"""Smallest lengths of the ancillary chunks that Pillow reads itself."""

_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_NAMED = {b"tRNS": "transparency", b"pHYs": "resolution", b"eXIf": "EXIF data", b"iCCP": "ICC profile"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


class Chunk(NamedTuple):
    """A chunk of a PNG file: its name, its data, and all its bytes. `whole` means that its checksum is right."""

    name: bytes
    data: memoryview
    raw: memoryview
    whole: bool


class Cleaned(NamedTuple):
    """A PNG file that Pillow can open, entries for `Image.info`, and phrases for everything that was left out."""

    data: bytes
    info: dict
    lost: tuple[str, ...]


class _TooLargeError(ValueError):
    pass


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file up to IEND, or up to its end or the first bytes that are not a chunk. The last one may
    be cut short."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name, end = data[position + 4 : position + 8], position + 8 + length
        if not name.isalpha():
            return
        body, stored = view[position + 8 : end], data[end : end + 4]
        yield Chunk(name, body, view[position : end + 4], stored == checksum(name, body))
        if name == b"IEND":
            return
        position = end + 4


def checksum(name: bytes, data: bytes | memoryview) -> bytes:
    """The checksum that ends a chunk."""
    return struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def pack(name: bytes, data: bytes | memoryview) -> bytes:
    """The bytes of a chunk."""
    return struct.pack(">I", len(data)) + name + bytes(data) + checksum(name, data)


def cleaned(data: bytes) -> Cleaned:
    """The file with its picture and the metadata that Pillow can read. For an animation, the first picture."""
    info: dict = {"text": {}}
    kept: list[bytes | memoryview] = [SIGNATURE]
    lost, frames, animated, pixels = [], 0, False, False
    for chunk in chunks(data):
        pixels |= chunk.name == b"IDAT"
        if chunk.name in _ANIMATION:
            if chunk.name == b"acTL" and chunk.whole and len(chunk.data) == 8:
                frames = int.from_bytes(chunk.data[:4])
            animated |= chunk.name == b"fcTL" and not pixels
        elif chunk.name == b"IDAT" or not chunk.name[0] & 32:  # critical
            cut = len(chunk.raw) < len(chunk.data) + 12 or len(chunk.data) < int.from_bytes(chunk.raw[:4])
            kept.append(pack(chunk.name, chunk.data) if cut else chunk.raw)
        else:
            try:
                if _take(chunk, info):
                    kept.append(chunk.raw)
            except _TooLargeError:
                lost.append(too_large(_name(chunk)))
            except (ValueError, IndexError, zlib.error):
                lost.append(f"its {_name(chunk)} is damaged and is dropped")
    if bytes(kept[-1][4:8]) != b"IEND":
        kept.append(pack(b"IEND", b""))
    frames += frames > 0 and not animated  # the picture for viewers that do not support animations
    if 1 < frames < 2**31:
        lost.append(f"only one of its {frames} frames is kept")
    return Cleaned(b"".join(kept), info, tuple(dict.fromkeys(lost)))


def _name(chunk: Chunk) -> str:
    if chunk.name not in _TEXTS:
        return _NAMED.get(chunk.name, f"{chunk.name.decode()} chunk")
    keyword = bytes(chunk.data[:80]).partition(b"\0")[0].decode("latin-1")
    return "XMP" if keyword == XMP_KEYWORD else f"text ({keyword})" if keyword.isprintable() else "text"


def _take(chunk: Chunk, info: dict) -> bool:
    """Put the content of an ancillary chunk into `info`, or return True to leave it to Pillow.

    Raises an error if it is damaged or too large. A chunk that is not used never counts as damaged."""
    name, data = chunk.name, chunk.data
    if name not in _LEAST.keys() | _TEXTS | {b"iCCP", b"eXIf", b"cICP"}:
        return False
    if not chunk.whole or len(data) < _LEAST.get(name, 1):
        raise ValueError("a checksum or a length is wrong")
    if name == b"iCCP":
        _, method, packed = _split(bytes(data), 1)
        if method != b"\0":
            raise ValueError("an unknown compression")
        _inflated(packed)
    elif name == b"eXIf" and len(data) > MAX_METADATA:
        raise _TooLargeError
    elif name == b"cICP":
        if len(data) != 4:
            raise ValueError("a length is wrong")
        info["cicp"] = tuple(data)
        return False
    elif name in _TEXTS:
        _take_text(*_text(name, bytes(data)), info)
        return False
    return True


def _split(data: bytes, methods: int) -> tuple[bytes, bytes, bytes]:
    """The keyword before a zero byte, the `methods` bytes after it, and the rest. Raises ValueError."""
    keyword, zero, rest = data.partition(b"\0")
    if not zero or not keyword or len(rest) < methods:
        raise ValueError("a chunk ends in its header")
    return keyword, rest[:methods], rest[methods:]


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, MAX_METADATA + 1)
    if len(found) > MAX_METADATA:
        raise _TooLargeError
    if not inflater.eof:
        raise ValueError("compressed data ends early")
    return found


def _text(name: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of a text chunk. Raises as `_take` does."""
    if name == b"tEXt":
        keyword, _, words = _split(data, 0)
    elif name == b"zTXt":
        keyword, method, packed = _split(data, 1)
        if method != b"\0":
            raise ValueError("an unknown compression")
        words = _inflated(packed)
    else:
        keyword, (is_packed, kind), rest = _split(data, 2)
        _language, _translated, words = rest.split(b"\0", 2)
        if is_packed and kind:
            raise ValueError("an unknown compression")
        words = _inflated(words) if is_packed else words
    if len(words) > MAX_METADATA:
        raise _TooLargeError
    return keyword.decode("latin-1"), words.decode() if name == b"iTXt" else words.decode("latin-1")


def _take_text(keyword: str, words: str, info: dict) -> None:
    """Put text into `info["text"]`, and metadata that is stored as text where `metadata_of` looks for it."""
    if keyword == XMP_KEYWORD:
        info["xmp"] = words.encode()
    elif keyword in (f"{RAW_PROFILE}exif", f"{RAW_PROFILE}APP1"):
        info.setdefault(f"{RAW_PROFILE}exif", words)
    elif keyword == f"{RAW_PROFILE}xmp":
        info.setdefault("xmp", raw_profile(words))
    elif keyword in (f"{RAW_PROFILE}icc", f"{RAW_PROFILE}icm"):
        info.setdefault("icc_profile", raw_profile(words))
    elif keyword in (f"{RAW_PROFILE}iptc", f"{RAW_PROFILE}8bim"):
        info["iptc"] = words
    else:
        info["text"][keyword] = "\n".join(filter(None, (info["text"].get(keyword), words)))
