"""The codecs behind the page: one photo, coded and decoded at any rate, with the time that it takes."""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from agvae import metrics
from agvae.codec import BitstreamError, Codec, open_codec
from agvae.codec.bitstream import Kind, unpack
from agvae.codec.codec import Latent
from agvae.codec.lossless import decompress_lossless
from agvae.evaluation import at_rate, classical_codec
from agvae.images import Picture

T = TypeVar("T")


class Photo(NamedTuple):
    """A picture after g_a, which took `seconds`. Files made of it are called `name`."""

    name: str
    model: str
    latent: Latent
    seconds: float

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self.latent.picture.pixels


class Coded(NamedTuple):
    """A photo as one codec gives it back: the file, the decoded picture, seconds for either, PSNR in dB and MS-SSIM.

    ms_ssim is None until it is measured, and NaN where it is not defined."""

    codec: str
    file: bytes
    image: Image.Image
    encoding: float
    decoding: float
    psnr: float
    ms_ssim: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return metrics.bits_per_pixel(len(self.file), self.image.width, self.image.height)


class Models:
    """Codecs by the name or path of their model, each loaded when it is first asked for."""

    def __init__(self, names: list[str], device: str = "cpu"):
        self.names = names
        self.get = cache(lambda name: open_codec(name, device))

    def of(self, fingerprint: bytes) -> Codec:
        """The codec of the model that `fingerprint` names. Raises BitstreamError if it is none of these."""
        for name in self.names:
            if (codec := self.get(name)).fingerprint == fingerprint:
                return codec
        raise BitstreamError(
            f"The file was made by the model {fingerprint.hex()}, which this page does not have. "
            "Start it with that model's file: agvae demo --model FILE."
        )


def analyze(models: Models, model: str, picture: Picture, name: str) -> Photo:
    """Run g_a of `model` on a picture."""
    latent, seconds = timed(lambda: models.get(model).analyze(picture))
    return Photo(name, model, latent, seconds)


def code(codec: Codec, photo: Photo, **target: float) -> Coded:
    """Compress a photo to one target of `Codec.compress`, and decompress it. The encoding time is without g_a.

    The body is always a learned one, because the page shows the model."""
    file, encoding = timed(lambda: codec.compress(photo.latent, **target, lossless=False))
    image, decoding = timed(lambda: codec.decompress(file))
    return Coded(codec.name, file, image, encoding, decoding, metrics.psnr(photo.pixels, image.convert("RGB")))


def decode(models: Models, data: bytes, max_pixels: int) -> tuple[Codec | None, Image.Image, float]:
    """The picture of a file, the codec of the model that made it, if one did, and the seconds that it took.

    Raises BitstreamError."""
    file = unpack(data)
    if file.header.kind is not Kind.LEARNED:
        return None, *timed(lambda: decompress_lossless(file, max_pixels))
    codec = models.of(file.header.fingerprint)
    return codec, *timed(lambda: codec.decompress(file, max_pixels=max_pixels))


def code_classical(name: str, photo: Photo, bpp: float) -> Coded:
    """Code a photo with a classical codec, at the highest rate up to `bpp`. Times are without the search for it.

    Raises TargetError if the codec has no file as small, and MissingCodecError if it is not installed."""
    codec = classical_codec(name)
    quality = at_rate(codec, photo.pixels, bpp).quality
    source = Image.fromarray(photo.pixels)
    file, encoding = timed(lambda: codec.encode(source, quality))
    image, decoding = timed(lambda: codec.decode(file))
    return Coded(name, file, image, encoding, decoding, metrics.psnr(photo.pixels, image))


def with_ms_ssim(coded: Coded, photo: Photo) -> Coded:
    """Measure MS-SSIM too, which takes as long as decoding."""
    return coded._replace(ms_ssim=metrics.ms_ssim(photo.pixels, coded.image.convert("RGB")))


def rate_range(codec: Codec, photo: Photo) -> tuple[float, float]:
    """The lowest and the highest bpp that the model has for a photo, rounded inwards to a thousandth."""
    height, width = photo.pixels.shape[:2]
    sizes = (len(codec.compress(photo.latent, quality=quality, lossless=False)) for quality in (0, codec.levels - 1))
    low, high = (metrics.bits_per_pixel(size, width, height) for size in sizes)
    return math.ceil(1000 * low) / 1000, math.floor(1000 * high) / 1000


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start
