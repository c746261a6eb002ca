"""JPEG and PNG files that are cut short: the part that is there, and its share of the picture.

It changes no setting of Pillow. The file itself is completed, so reads on other threads are not affected.
"""

import io
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from agvae.images import png
from agvae.images.picture import ImageError

LEAST_SHARE = 0.5
"""Smallest share of a picture that must be there for it to be accepted."""

_END_OF_IMAGE = b"\xff\xd9"
_INFLATED_AT_ONCE = 64
"""Bytes of a damaged stream that are inflated at once. The output of the last ones before the fault is lost."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, and steps to the right and down, of the passes of an interlaced PNG file."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of channels, by the colour type of a PNG file."""


def salvaged(data: bytes) -> tuple[bytes, str] | None:
    """The file, completed so that Pillow decodes it, and a phrase for it. None if it has another format.

    `data` must be a file that Pillow opens, so that its header is sound. Raises ImageError if less than `LEAST_SHARE`
    of the picture is there, or if the file ends before its pixels."""
    if data.startswith(png.SIGNATURE):
        completed, share = _salvaged_png(data)
        missing = "the rest is black or transparent"
    elif data.startswith(b"\xff\xd8\xff"):
        completed, share, coarse = _salvaged_jpeg(data)
        if coarse:
            return completed, "it is cut short: the picture is whole, but coarser than it was"
        missing = "the rest is grey"
    else:
        return None
    _check(share)
    percent = int(100 * share)
    if share == 1:
        return completed, "it is cut short or damaged at its end: the picture is whole"
    return completed, f"it is cut short or damaged: {percent} % of the picture can be read, {missing}"


def _check(share: float) -> None:
    if share < LEAST_SHARE:
        raise ImageError(f"the file is truncated or damaged: only {int(100 * share)} % of the picture can be read")


# ------------------------------------------------------------------ PNG


def _salvaged_png(data: bytes) -> tuple[bytes, float]:
    """The file with the rows that can be inflated and zeros for the others, and the share of pixels in such rows."""
    parts = list(png.chunks(data))
    header = next((part for part in parts if part.name == b"IHDR"), None)
    stream = b"".join(part.data for part in parts if part.name == b"IDAT")
    if header is None or len(header.data) != 13 or header.data[9] not in _CHANNELS or not stream:
        raise ImageError("the file is truncated or damaged: it has no pixels")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header.data)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    starts, widths, end = [], [], 0
    for left, top, right, down in passes:
        columns, rows = -((left - width) // right), -((top - height) // down)
        if columns > 0 and rows > 0:
            step = 1 + (columns * depth * _CHANNELS[colour] + 7) // 8  # the byte of the filter, then the row
            starts.append(end + step * np.arange(rows))
            widths.append(np.full(rows, columns))
            end += step * rows
    starts = np.concatenate([*starts, [end]])
    rows = bytearray(_inflated(stream, end))
    whole = int(np.searchsorted(starts, len(rows), "right")) - 1
    filters = np.frombuffer(rows, np.uint8)[starts[:whole]] if whole else np.empty(0)
    if (wrong := np.flatnonzero(filters > 4)).size:
        whole = int(wrong[0])
    del rows[starts[whole] :]
    share = float(np.concatenate(widths)[:whole].sum() / (width * height))
    _check(share)  # before the rest is filled in
    before = [bytes(part.raw) for part in parts[: [part.name for part in parts].index(b"IDAT")]]
    pixels = zlib.compress(bytes(rows) + bytes(end - len(rows)), 1)
    return b"".join((png.SIGNATURE, *before, png.pack(b"IDAT", pixels), png.pack(b"IEND", b""))), share


def _inflated(stream: bytes, size: int) -> bytes:
    """At most `size` bytes of a stream, up to its first fault."""
    inflater, found, total = zlib.decompressobj(), [], 0
    try:
        for at in range(0, len(stream), _INFLATED_AT_ONCE):
            found.append(inflater.decompress(stream[at : at + _INFLATED_AT_ONCE]))
            total += len(found[-1])
            if total >= size:
                break
    except zlib.error:
        pass
    return b"".join(found)[:size]


# ----------------------------------------------------------------- JPEG


class _Scans(NamedTuple):
    """The end of the last complete segment or of the coded data of a JPEG file, and whether another segment follows the
    first scan of the first component, which is then complete."""

    end: int
    first_is_whole: bool


def _salvaged_jpeg(data: bytes) -> tuple[bytes, float, bool]:
    """The file with an end marker, the share of rows that can be read, and whether all can be read, but coarsely.

    A decoder continues after the end of the coded data: with grey if a marker follows, and with other pixels if
    arbitrary coded data follow. The readable rows are those above the first row that depends on what follows. In a file
    of several scans, such as a progressive one, the first scan has all rows coarsely."""
    scans = _scans(data)
    data = data[: scans.end].removesuffix(
        b"\xff"
    )  # of a marker, or of a byte pair of which only the first half is there
    completed = data + _END_OF_IMAGE
    if scans.first_is_whole:
        return completed, 1.0, True
    other = data + _arbitrary(data) + _END_OF_IMAGE
    with Image.open(io.BytesIO(completed)) as first, Image.open(io.BytesIO(other)) as second:
        for top in range(0, first.height, 16):
            strip = 0, top, first.width, min(top + 16, first.height)
            differs = np.asarray(first.crop(strip)) != np.asarray(second.crop(strip))
            if differs.any():
                rows = differs.reshape(len(differs), -1).any(axis=1)
                return completed, (top + int(rows.argmax())) / first.height, False
    return completed, 1.0, False


def _arbitrary(data: bytes) -> bytes:
    """Coded data to continue with after `data`, with the restart markers that a decoder may wait for.

    After a marker, a decoder assumes zeros, so this begins with ones: the first missing symbol then differs."""
    markers = re.findall(rb"\xff[\xd0-\xd7]", data)
    last = markers[-1][1] if markers else 0xD7
    noise = np.random.default_rng(0).integers(0, 255, (8, 256), dtype=np.uint8)  # without 255, which begins a marker
    noise[:, :2] = 254
    parts = (part.tobytes() + bytes((0xFF, 0xD0 + (last + 1 + index) % 8)) for index, part in enumerate(noise))
    return b"".join(parts)


def _scans(data: bytes) -> _Scans:
    component, first_is_whole, position = None, False, 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xD9:  # the end of the picture
            break
        if marker in range(0xD0, 0xD9):  # without a length
            position += 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if end > len(data):
            break
        segment = data[position + 4 : end]
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC) and len(segment) > 6:
            component = segment[6]  # of the frame, the first
        position = end
        if marker == 0xDA:
            follows = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL).search(data, end)
            if follows is None:
                return _Scans(len(data), first_is_whole)
            position = follows.start()
            first_is_whole |= _is_first(segment, component)
    return _Scans(position, first_is_whole)


def _is_first(scan: bytes, component: int | None) -> bool:
    """Whether the header of a scan is that of the first scan of this component: its DC coefficients, not a
    refinement."""
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return False
    start, _, precision = scan[1 + 2 * count : 4 + 2 * count]
    return component is not None and component in scan[1 : 1 + 2 * count : 2] and start == 0 and precision >> 4 == 0
