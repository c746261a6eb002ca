"""The container of a compressed picture: a small header, then one coded stream with its checksum inside.

    magic        3 bytes  "AGV"
    version      1 byte   1
    flags        1 byte   0; other values are kept for pictures with more than RGB
    fingerprint  4 bytes  of the model that coded it
    width        varint   pixels
    height       varint   pixels
    quality      varint   in 1/1024 level
    length       varint   bytes of the stream, which end the file
    stream                symbols of z, then of y in the context's order (agvae.entropy.coder)

A varint is little-endian base 128, the high bit set in all bytes but the last, in as few bytes as the number needs.
The header has at most 24 bytes; the checksum of the symbols costs the stream 4 bytes.
"""

from typing import NamedTuple

MAGIC = b"AGV"
VERSION = 1
HEADER_MAX = 24
"""Most bytes of a header."""

_FIXED = len(MAGIC) + 1 + 1 + 4
_VARINT_MAX = 5


class BitstreamError(ValueError):
    """Data that is not a picture this codec can decode: foreign, truncated, altered, or of another model."""


class Header(NamedTuple):
    """What a decoder must know before the stream. Sizes in pixels, quality in steps of 1/1024 level."""

    fingerprint: bytes
    width: int
    height: int
    quality: int


def pack(header: Header, stream: bytes) -> bytes:
    """Header and stream as the bytes of a file."""
    numbers = (header.width, header.height, header.quality, len(stream))
    return b"".join((MAGIC, bytes((VERSION, 0)), header.fingerprint, *map(_to_varint, numbers), stream))


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Inverse of `pack`; raises BitstreamError for anything that `pack` does not write."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError("this is not an AGV file")
    if len(data) < _FIXED:
        raise BitstreamError(f"the file ends after {len(data)} bytes, inside its header")
    version, flags = data[3], data[4]
    if version != VERSION:
        raise BitstreamError(f"the file is of format version {version}; this program reads version {VERSION}")
    if flags:
        raise BitstreamError(f"the file uses features (flags {flags:#x}) that this program does not know")
    numbers, position = [], _FIXED
    for _ in range(4):
        number, position = _from_varint(data, position)
        numbers.append(number)
    width, height, quality, length = numbers
    if not width or not height:
        raise BitstreamError(f"the header gives a size of {width}×{height}")
    if len(data) - position != length:
        raise BitstreamError(f"the header announces a stream of {length} bytes, the file holds {len(data) - position}")
    return Header(data[5:9], width, height, quality), data[position:]


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
