"""Picture files as bytes. Those that Pillow cannot write are assembled here."""

import io
import struct
import zlib

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    """A chunk of a PNG file. The checksum of a damaged one is wrong."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ damaged)


def png_of(rows: bytes, width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of a kind that Pillow cannot write. Each of `rows` begins with a zero byte."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def saved(image: Image.Image, form: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def exif_with(**tags) -> Image.Exif:
    names = {"orientation": 0x0112, "make": 0x010F, "copyright": 0x8298, "exposure": 0x829A}
    exif = Image.Exif()
    for name, value in tags.items():
        if name == "exposure":
            exif[0x8769] = {names[name]: value}
        else:
            exif[names[name]] = value
    return exif


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """The PNG file with these chunks inserted after its header."""
    end = len(SIGNATURE) + 25
    return png[:end] + b"".join(chunks) + png[end:]
