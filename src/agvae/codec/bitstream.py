"""The container of a compressed picture: a small header, then one coded stream with the checksum of all of it inside.

    magic        3 bytes  "AGV"
    version      1 byte   1
    flags        1 byte   1: greyscale, 2: alpha, 4: EXIF, 8: ICC profile; no others
    fingerprint  4 bytes  of the model that coded it
    width        varint   pixels
    height       varint   pixels
    quality      varint   in 1/1024 level
    alpha        varint   length, then a PNG file of the alpha channel, 8-bit grey   (if flagged)
    EXIF         varint   length, then the EXIF block, deflated (zlib)              (if flagged)
    ICC          varint   length, then the ICC profile, deflated (zlib)             (if flagged)
    length       varint   bytes of the stream, which end the file
    stream                symbols of z, then of y in the context's order (agvae.entropy.coder)

A varint is little-endian base 128, the high bit set in all bytes but the last, in as few bytes as the number needs.
The stream's checksum starts from the CRC-32 of everything before `length`, so that no byte of a file can change
unnoticed. A plain RGB picture's header has at most 24 bytes.
"""

import io
import zlib
from typing import NamedTuple

import numpy as np

from agvae.quality import quality_from_fixed

MAGIC = b"AGV"
VERSION = 1
HEADER_MAX = 24
"""Most bytes of a plain RGB picture's header."""

_FIXED = len(MAGIC) + 1 + 1 + 4
_VARINT_MAX = 5
_GREY = 1
_EXTRAS = {"alpha": 2, "exif": 4, "icc": 8}
_INFLATED_MAX = 2**24
"""Most bytes of an EXIF block or ICC profile; real ones have at most some hundred thousand."""


class BitstreamError(ValueError):
    """Data that is not a picture this codec can decode: foreign, truncated, altered, or of another model."""


class Header(NamedTuple):
    """What comes before the stream: sizes in pixels, quality in 1/1024 level, extras as the file holds them."""

    fingerprint: bytes
    width: int
    height: int
    quality: int
    grey: bool = False
    alpha: bytes = b""
    exif: bytes = b""
    icc: bytes = b""

    def to_bytes(self) -> bytes:
        """The header up to the stream's length."""
        flags = _GREY * self.grey + sum(flag for name, flag in _EXTRAS.items() if getattr(self, name))
        extras = [getattr(self, name) for name in _EXTRAS if getattr(self, name)]
        return b"".join(
            (
                MAGIC,
                bytes((VERSION, flags)),
                self.fingerprint,
                *map(_to_varint, (self.width, self.height, self.quality)),
                *(_to_varint(len(extra)) + extra for extra in extras),
            )
        )

    @property
    def checksum(self) -> int:
        """Where the stream's checksum starts."""
        return zlib.crc32(self.to_bytes())


class File(NamedTuple):
    """A file whose header has been read."""

    header: Header
    stream: bytes


def pack(header: Header, stream: bytes) -> bytes:
    """Header and stream as the bytes of a file."""
    return header.to_bytes() + _to_varint(len(stream)) + stream


def unpack(data: bytes) -> File:
    """Inverse of `pack`; raises BitstreamError for anything that `pack` does not write."""
    if not data:
        raise BitstreamError("the file is empty")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError("this is not an AGV file")
    if len(data) < _FIXED:
        raise BitstreamError(f"the file ends after {len(data)} bytes, inside its header")
    version, flags = data[3], data[4]
    if version != VERSION:
        raise BitstreamError(f"the file is of format version {version}; this program reads version {VERSION}")
    if flags > _GREY + sum(_EXTRAS.values()):
        raise BitstreamError(f"the file uses features (flags {flags:#x}) that this program does not know")
    position = _FIXED
    numbers = []
    for _ in range(3):
        number, position = _from_varint(data, position)
        numbers.append(number)
    extras = {}
    for name, flag in _EXTRAS.items():
        if flags & flag:
            length, position = _from_varint(data, position)
            extras[name] = data[position : position + length]
            position += length
            if not length or position > len(data):
                raise BitstreamError(f"the header announces {length} bytes of {name}, which the file does not hold")
    length, position = _from_varint(data, position)
    width, height, quality = numbers
    if not width or not height:
        raise BitstreamError(f"the header gives a size of {width}×{height}")
    if len(data) - position != length:
        raise BitstreamError(f"the header announces a stream of {length} bytes, the file holds {len(data) - position}")
    header = Header(data[5:9], width, height, quality, bool(flags & _GREY), **extras)
    return File(header, data[position:])


def quality_of(data: bytes) -> float:
    """The quality that the file `data` names. Raises BitstreamError."""
    return quality_from_fixed(unpack(data).header.quality)


def pack_alpha(alpha: np.ndarray | None) -> bytes:
    """An alpha channel (H, W) uint8 as a PNG file; empty for None."""
    from PIL import Image

    if alpha is None:
        return b""
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    return file.getvalue()


def unpack_alpha(data: bytes, width: int, height: int) -> np.ndarray | None:
    """Inverse of `pack_alpha`; raises BitstreamError unless it is 8-bit grey of that size."""
    from PIL.PngImagePlugin import PngImageFile

    if not data:
        return None
    try:
        # Not Image.open, which refuses what it takes for a bomb: here the size is known before a pixel is decoded.
        with PngImageFile(io.BytesIO(data)) as image:
            if image.mode == "L" and image.size == (width, height):
                return np.array(image)
    except Exception as error:  # Pillow raises nearly anything on damaged data
        raise BitstreamError(f"the alpha channel cannot be read ({type(error).__name__})") from error
    raise BitstreamError("the alpha channel is not that of the picture")


def pack_block(block: bytes | None) -> bytes:
    """An EXIF block or ICC profile, deflated; empty for None and for one that is too large to be meant."""
    return zlib.compress(block, 9) if block and len(block) <= _INFLATED_MAX else b""


def unpack_block(data: bytes) -> bytes | None:
    """Inverse of `pack_block`; raises BitstreamError if it does not inflate, or to too much."""
    if not data:
        return None
    inflater = zlib.decompressobj()
    try:
        block = inflater.decompress(data, _INFLATED_MAX)
    except zlib.error as error:
        raise BitstreamError("an EXIF or ICC block does not inflate") from error
    if not inflater.eof or inflater.unused_data:
        raise BitstreamError("an EXIF or ICC block is cut short, too large, or followed by something else")
    return block


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
