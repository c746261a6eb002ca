"""Files with lossless bodies: a WebP or PNG file of the picture, which Pillow writes and reads on every platform."""

import io
from dataclasses import replace
from functools import cached_property

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from agvae.codec import bitstream
from agvae.codec.bitstream import BitstreamError, File, Header, Kind
from agvae.codec.look import Look
from agvae.images import MAX_PIXELS, Picture, to_rgb
from agvae.strides import STRIDE_Z

WEBP_SIDE = 16383
"""The longest side that a WebP file can have. Larger pictures become PNG."""


class LosslessFile:
    """The lossless file of a picture. It is made when it is first needed."""

    def __init__(self, picture: Picture, header: Header):
        """`header` is the header of the picture, of any kind and quality."""
        self._picture, self._header = picture, header

    @cached_property
    def look(self) -> Look:
        """The look that decides whether the file is worth making."""
        return Look.at(self._picture.pixels)

    @cached_property
    def data(self) -> bytes:
        """The file."""
        kind, body = encode(self._picture)
        return bitstream.pack(self._header._replace(fingerprint=b"", quality=0, kind=kind), body)

    def within(self, size: float) -> bytes | None:
        """The file if it has at most `size` bytes. None if it is larger, or very likely to be."""
        return self.data if self.look.may_be_within(size) and len(self.data) <= size else None


def compress_lossless(picture: Picture) -> bytes:
    """The lossless file of a picture; no model is needed."""
    return LosslessFile(picture, bitstream.header_of(picture)).data


def decompress_lossless(file: File, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file with a lossless body; no model is needed. Raises BitstreamError as `Codec.decompress`."""
    header, body = file
    check_pixels(header, max_pixels)
    picture = decode(header.kind, body, header.width, header.height, header.grey)
    return replace(picture, **bitstream.unpack_extras(header)).to_pil()


def check_pixels(header: Header, max_pixels: int) -> None:
    """Raise BitstreamError if a picture exceeds the limit. Sides under 64 count as 64, the least that a model takes."""
    if max(header.width, STRIDE_Z) * max(header.height, STRIDE_Z) > max(max_pixels, STRIDE_Z**2):
        raise BitstreamError(f"a picture of {header.width}×{header.height} exceeds the limit of {max_pixels} pixels")


def held(picture: Picture) -> Picture:
    """The picture in the form that a lossless body stores: 16-bit samples only for greyscale without alpha. `lost`
    lists the rest."""
    return picture if picture.deep is None or picture.deep.shape[2] == 1 else picture.shallow()


def encode(picture: Picture) -> tuple[Kind, bytes]:
    """The pixels, without alpha and metadata: 16-bit greyscale if `deep` has it, 1-bit if `bilevel`, and 8-bit
    otherwise."""
    if picture.deep is not None and picture.deep.shape[2] == 1:
        return Kind.PNG, _saved(Image.fromarray(picture.deep[..., 0]), "PNG")
    if picture.bilevel and picture.alpha is None:
        return Kind.PNG, _saved(Image.fromarray(picture.pixels[..., 0] > 127), "PNG")
    if max(picture.pixels.shape[:2]) > WEBP_SIDE:
        pixels = picture.pixels[..., 0] if picture.grey else picture.pixels
        return Kind.PNG, _saved(Image.fromarray(np.ascontiguousarray(pixels)), "PNG")
    return Kind.WEBP, _saved(Image.fromarray(picture.pixels), "WEBP", lossless=True, quality=75, method=4)


def decode(kind: Kind, body: bytes, width: int, height: int, grey: bool) -> Picture:
    """Inverse of `encode`. Raises BitstreamError unless the body is a whole picture of the given size and kind."""
    try:
        if (
            kind is Kind.WEBP and body[12:16] != b"VP8L"
        ):  # other chunks may be lossy, animated, or larger than they claim
            raise BitstreamError("the body is not a lossless WebP file")
        # Image.open would refuse a large picture as a bomb. Here its size is known before a pixel is decoded.
        with (WebPImageFile if kind is Kind.WEBP else PngImageFile)(io.BytesIO(body)) as image:
            if image.size != (width, height):
                raise BitstreamError("the body and the header give different sizes of the picture")
            mode, values = image.mode, np.array(image)
            eight_bits = np.array(to_rgb(image))
    except BitstreamError:
        raise
    except Exception as error:  # Pillow raises almost anything on damaged data
        raise BitstreamError(f"the body cannot be read ({type(error).__name__})") from error
    if mode in ("I;16", "I"):
        return Picture(eight_bits, grey=True, deep=values.astype(np.uint16)[..., None])
    if mode == "1":
        return Picture(eight_bits, grey=grey, bilevel=True)
    if mode not in ("L", "RGB"):
        raise BitstreamError(f"the body is a picture of mode {mode}, which no encoder writes")
    return Picture(eight_bits, grey=grey)


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()
