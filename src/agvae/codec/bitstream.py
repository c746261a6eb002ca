"""The container of a compressed picture: a small header, then a body.

    magic        3 bytes  "AGV"
    version      1 byte   1 or 2: the lower one that can hold the file
    flags        1 byte   1: greyscale, 2: alpha, 4: EXIF, 8: ICC profile; in version 2 also 16: XMP, 32: text
    kind         1 byte   version 2 alone, of the body: 0 learned, 1 WebP, 2 PNG
    fingerprint  4 bytes  of the model that coded it (learned)
    width        varint   pixels
    height       varint   pixels
    quality      varint   in 1/1024 level (learned)
    alpha        varint   length, then a PNG file of the alpha channel, 8-bit grey         (if flagged)
    EXIF         varint   length, then the EXIF block, deflated (zlib)                    (if flagged)
    ICC          varint   length, then the ICC profile, deflated (zlib)                   (if flagged)
    XMP          varint   length, then the XMP packet, deflated (zlib)                    (if flagged)
    text         varint   length, then a JSON object of strings in UTF-8, deflated (zlib) (if flagged)
    length       varint   bytes of the body, which end the file
    body

A varint is little-endian base 128, the high bit set in all bytes but the last, in as few bytes as the number needs.

A learned body is one coded stream: symbols of z, then of y in the context's order (agvae.entropy.coder). The stream's
checksum starts from the CRC-32 of everything before `length`. A lossless body is a CRC-32 (4 bytes, little endian) of
everything before `length` and of the rest of the body, which is a whole WebP or PNG file. So no byte of a file can
change unnoticed. A plain RGB picture's header has at most 24 bytes.
"""

import io
import json
import zlib
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from agvae.images import Picture
from agvae.quality import quality_from_fixed

MAGIC = b"AGV"
VERSIONS = (1, 2)
HEADER_MAX = 24
"""Largest size in bytes of the header of a plain RGB picture."""

_VARINT_MAX = 5
_GREY = 1
_EXTRAS = {"alpha": 2, "exif": 4, "icc": 8, "xmp": 16, "text": 32}
_EXTRAS_OF = {1: ("alpha", "exif", "icc"), 2: tuple(_EXTRAS)}
_INFLATED_MAX = 2**24
"""Largest size in bytes of an inflated block. Real ones have at most a few hundred thousand."""

_CRC_BYTES = 4


class BitstreamError(ValueError):
    """Data that this codec cannot decode: it is foreign, truncated, altered, or made by another model."""


class Kind(IntEnum):
    """The kind of a file's body."""

    LEARNED = 0
    WEBP = 1
    PNG = 2


class Header(NamedTuple):
    """Everything before the body: sizes in pixels, and extras in the form that the file stores.

    fingerprint (4 bytes) and quality, in 1/1024 level, belong to a learned body. extended means that the quality is
    past the model's last level."""

    fingerprint: bytes
    width: int
    height: int
    quality: int
    grey: bool = False
    alpha: bytes = b""
    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    text: bytes = b""
    kind: Kind = Kind.LEARNED
    extended: bool = False

    @property
    def version(self) -> int:
        """The lowest version of the format that can store this header."""
        return 2 if self.kind is not Kind.LEARNED or self.extended or self.xmp or self.text else 1

    def to_bytes(self) -> bytes:
        """The header up to the body's length."""
        version, learned = self.version, self.kind is Kind.LEARNED
        extras = {name: getattr(self, name) for name in _EXTRAS_OF[version] if getattr(self, name)}
        flags = _GREY * self.grey + sum(_EXTRAS[name] for name in extras)
        return b"".join(
            (
                MAGIC,
                bytes((version, flags)),
                bytes((self.kind,)) if version > 1 else b"",
                self.fingerprint if learned else b"",
                *map(_to_varint, (self.width, self.height)),
                _to_varint(self.quality) if learned else b"",
                *(_to_varint(len(extra)) + extra for extra in extras.values()),
            )
        )

    @property
    def checksum(self) -> int:
        """The CRC-32 of `to_bytes`, from which the body's checksum starts."""
        return zlib.crc32(self.to_bytes())


class File(NamedTuple):
    """A file after its header was read. The body is a stream, or a WebP or PNG file without its CRC-32."""

    header: Header
    body: bytes


def pack(header: Header, body: bytes) -> bytes:
    """Header and body as the bytes of a file."""
    start = header.to_bytes()
    if header.kind is not Kind.LEARNED:
        body = zlib.crc32(body, zlib.crc32(start)).to_bytes(_CRC_BYTES, "little") + body
    return start + _to_varint(len(body)) + body


def unpack(data: bytes) -> File:
    """Inverse of `pack`. Raises BitstreamError for anything that `pack` does not write."""
    if not data:
        raise BitstreamError("the file is empty")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError("this is not an AGV file")
    if len(data) <= len(MAGIC):
        raise BitstreamError(f"the file ends after {len(data)} bytes, inside its header")
    version = data[3]
    if version not in VERSIONS:
        raise BitstreamError(
            f"the file has format version {version}, but this version of agvae reads only 1 and 2; update agvae"
        )
    reader = _Reader(data, len(MAGIC) + 1)
    flags = reader.byte()
    names = _EXTRAS_OF[version]
    if flags > _GREY + sum(_EXTRAS[name] for name in names):
        raise BitstreamError(
            f"the file uses features (flags {flags:#x}) that this version of agvae does not know; update agvae"
        )
    number = reader.byte() if version > 1 else Kind.LEARNED
    if number not in set(Kind):
        raise BitstreamError(
            f"the body of the file has a kind ({number}) that this version of agvae does not know; update agvae"
        )
    kind = Kind(number)
    learned = kind is Kind.LEARNED
    fingerprint = reader.take(4) if learned else b""
    width, height = reader.varint(), reader.varint()
    quality = reader.varint() if learned else 0
    if not width or not height:
        raise BitstreamError(f"the header gives a size of {width}×{height}, but both sides must be at least 1")
    extras: dict[str, Any] = {name: reader.block(name) for name in names if flags & _EXTRAS[name]}
    end = reader.position
    length = reader.varint()
    body = data[reader.position :]
    if len(body) != length:
        raise BitstreamError(f"the header announces a body of {length} bytes, but the file holds {len(body)}")
    header = Header(fingerprint, width, height, quality, bool(flags & _GREY), kind=kind)._replace(**extras)
    if version > header.version:
        header = header._replace(extended=True)  # the codec knows the last level and has to confirm it
    if learned:
        return File(header, body)
    found, body = body[:_CRC_BYTES], body[_CRC_BYTES:]
    if found != zlib.crc32(body, zlib.crc32(data[:end])).to_bytes(_CRC_BYTES, "little"):
        raise BitstreamError("the file is damaged: its checksum does not match")
    return File(header, body)


class _Reader:
    """Reads a header from `data`, from `position` on."""

    def __init__(self, data: bytes, position: int):
        self._data, self.position = data, position

    def take(self, count: int) -> bytes:
        part = self._data[self.position : self.position + count]
        if len(part) < count:
            raise BitstreamError(f"the file ends after {len(self._data)} bytes, inside its header")
        self.position += count
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number, self.position = _from_varint(self._data, self.position)
        return number

    def block(self, name: str) -> bytes:
        length = self.varint()
        if not length or self.position + length > len(self._data):
            raise BitstreamError(f"the header announces {length} bytes of {name}, but the file ends before them")
        return self.take(length)


def quality_of(data: bytes) -> float:
    """The quality that the header of the file `data` gives. Raises BitstreamError."""
    return quality_from_fixed(unpack(data).header.quality)


def header_of(picture: Picture, fingerprint: bytes = b"") -> Header:
    """The header of a picture, at quality 0."""
    height, width = picture.pixels.shape[:2]
    return Header(fingerprint, width, height, 0, picture.grey)._replace(**pack_extras(picture))


def pack_extras(picture: Picture) -> dict[str, Any]:
    """Alpha and metadata of a picture in the form that a header stores."""
    return {
        "alpha": pack_alpha(picture.alpha),
        "exif": pack_block(picture.exif),
        "icc": pack_block(picture.icc),
        "xmp": pack_block(picture.xmp),
        "text": pack_text(picture.text),
    }


def unpack_extras(header: Header) -> dict[str, Any]:
    """Inverse of `pack_extras`: fields of a `Picture`. Raises BitstreamError."""
    return {
        "alpha": unpack_alpha(header.alpha, header.width, header.height),
        "exif": unpack_block(header.exif),
        "icc": unpack_block(header.icc),
        "xmp": unpack_block(header.xmp),
        "text": unpack_text(header.text),
    }


def pack_alpha(alpha: np.ndarray | None) -> bytes:
    """An alpha channel (H, W) uint8 as a PNG file; empty for None."""
    from PIL import Image

    if alpha is None:
        return b""
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    return file.getvalue()


def unpack_alpha(data: bytes, width: int, height: int) -> np.ndarray | None:
    """Inverse of `pack_alpha`. Raises BitstreamError unless it is 8-bit grey and has the given size."""
    from PIL.PngImagePlugin import PngImageFile

    if not data:
        return None
    try:
        # Image.open would refuse a large picture as a bomb. Here its size is known before a pixel is decoded.
        with PngImageFile(io.BytesIO(data)) as image:
            if image.mode == "L" and image.size == (width, height):
                return np.array(image)
    except Exception as error:  # Pillow raises almost anything on damaged data
        raise BitstreamError(f"the alpha channel cannot be read ({type(error).__name__})") from error
    raise BitstreamError("the alpha channel has not the size of the picture")


def pack_block(block: bytes | None) -> bytes:
    """An EXIF block, ICC profile or XMP packet, deflated. Empty for None, and for a block too large to be genuine."""
    return zlib.compress(block, 9) if block and len(block) <= _INFLATED_MAX else b""


def unpack_block(data: bytes) -> bytes | None:
    """Inverse of `pack_block`. Raises BitstreamError if it does not inflate, or inflates to too much."""
    if not data:
        return None
    inflater = zlib.decompressobj()
    try:
        block = inflater.decompress(data, _INFLATED_MAX)
    except zlib.error as error:
        raise BitstreamError("a block of metadata does not inflate") from error
    if not inflater.eof or inflater.unused_data:
        raise BitstreamError("a block of metadata is cut short, too large, or followed by something else")
    return block


def pack_text(text: dict[str, str]) -> bytes:
    """Texts by their keywords as a block. Empty if there are none."""
    return pack_block(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) if text else b""


def unpack_text(data: bytes) -> dict[str, str]:
    """Inverse of `pack_text`. Raises BitstreamError for anything but an object of strings."""
    block = unpack_block(data)
    if block is None:
        return {}
    try:
        text = json.loads(block)
    except (ValueError, RecursionError) as error:
        raise BitstreamError("the text is not JSON") from error
    if not isinstance(text, dict) or not all(isinstance(words, str) for words in text.values()):
        raise BitstreamError("the text is not an object of strings")
    return text


def _to_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _from_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(data[position : position + _VARINT_MAX]):
        number |= (byte & 127) << 7 * index
        if byte < 128:
            if index and not byte:
                raise BitstreamError("a number in the header is written longer than it needs")
            return number, position + index + 1
    raise BitstreamError("a number in the header does not end")
