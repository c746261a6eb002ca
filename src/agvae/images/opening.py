"""Image files as Pillow opens them, with additional information, and with protection from its faults."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.ImageFile import ImageFile

from agvae.images import plugins, png, salvage

_LOCK = threading.RLock()
_START = 2**16
"""Bytes at the start of an AVIF file that are searched for its description."""


@contextmanager
def limited(max_pixels: int) -> Iterator[None]:
    """Let Pillow open pictures of at most `max_pixels`, and silence its warnings.

    Both are settings of the whole process, so only one thread at a time may do this."""
    with _LOCK, warnings.catch_warnings():
        usual = Image.MAX_IMAGE_PIXELS
        warnings.simplefilter("ignore")  # of odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def reason(error: Exception) -> str:
    """Why a picture cannot be read or written, from any exception of Pillow, without the name of the file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class PictureFile:
    """An image file, given by its path or as an open file, that can be opened more than once. `lost` has phrases for
    everything that was left out so that it can be opened.

    Raises OSError, and ImageError if the package that reads its format is not installed."""

    def __init__(self, source: str | Path | BinaryIO):
        self._source: str | Path | bytes
        self._info: dict = {}
        self.lost: tuple[str, ...] = ()
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                start = file.read(len(png.SIGNATURE) + plugins.SNIFFED)
                # Pillow maps other files into memory.
                self._source = start + file.read() if start.startswith(png.SIGNATURE) or _has_boxes(start) else source
        else:
            self._source = source.read()
            start = self._source[: plugins.SNIFFED]
        plugins.load_for_data(start)
        if isinstance(self._source, bytes):
            if start.startswith(png.SIGNATURE):
                self._source, self._info, self.lost = png.cleaned(self._source)
            elif _has_boxes(start):
                self._info = _described(self._source)

    def open(self) -> ImageFile:
        """The image before decoding, with more in its `info` than Pillow reads: `cicp`, `bit_depth`, `text`, `xmp`."""
        image = Image.open(io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source)
        image.info.update(self._info)
        if codes := image.info.get("nclx_profile"):  # of pillow-heif
            image.info["cicp"] = codes["color_primaries"], codes["transfer_characteristics"], 0, 1
        return image

    def repaired(self) -> "PictureFile | None":
        """This file, completed if it is cut short. None if its format cannot be completed.

        Raises ImageError if too little of the picture is there."""
        data = self._source if isinstance(self._source, bytes) else Path(self._source).read_bytes()
        found = salvage.salvaged(data)
        if found is None:
            return None
        file = PictureFile.__new__(PictureFile)
        file._source, file._info, file.lost = found[0], self._info, (found[1], *self.lost)
        return file


def _has_boxes(start: bytes) -> bool:
    """Whether a file consists of boxes, as AVIF, HEIC, and JPEG XL with metadata do."""
    return start[4:8] in (b"ftyp", b"JXL ")


def _described(data: bytes) -> dict:
    """Facts that AVIF and JPEG XL files state and Pillow's readers leave out, as entries for `Image.info`."""
    info: dict = {}
    if data[4:8] == b"JXL ":
        for name, body in _boxes(data):
            if name == b"xml ":
                info["xmp"] = bytes(body)
        return info
    start = data[:_START] if data[8:12] in (b"avif", b"avis") else b""
    if (at := start.find(b"colrnclx")) >= 0 and at + 12 <= len(start):
        primaries, transfer = struct.unpack_from(">HH", start, at + 8)
        info["cicp"] = primaries, transfer, 0, 1  # Pillow has applied matrix and range
    if (at := start.find(b"av1C")) >= 0 and at + 7 <= len(start):
        high, twelve = start[at + 6] >> 6 & 1, start[at + 6] >> 5 & 1
        info["bit_depth"] = 12 if high and twelve else 10 if high else 8
    return info


def _boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of the outermost boxes of a file (ISO/IEC 14496-12), up to the first incomplete one."""
    view, position = memoryview(data), 0
    while position + 8 <= len(data):
        (length,), name, head = struct.unpack_from(">I", data, position), data[position + 4 : position + 8], 8
        if length == 1 and position + 16 <= len(data):
            (length,), head = struct.unpack_from(">Q", data, position + 8), 16
        elif length == 0:
            length = len(data) - position
        if length < head or position + length > len(data):
            return
        yield name, view[position + head : position + length]
        position += length
