"""The codecs behind the page: one photo, coded and decoded at any rate, with times."""

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
    """A picture after g_a, which took `seconds`. Files made from it are called `name`."""

    name: str
    model: str
    latent: Latent
    seconds: float

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self.latent.picture.pixels


class Coded(NamedTuple):
    """A photo coded by one codec: the file, the decoded picture, the seconds for each, PSNR in dB and MS-SSIM.

    decoding and ms_ssim are None until they are measured. ms_ssim is NaN if it is not defined."""

    codec: str
    file: bytes
    image: Image.Image
    encoding: float
    decoding: float | None
    psnr: float
    ms_ssim: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return metrics.bits_per_pixel(len(self.file), self.image.width, self.image.height)


class Models:
    """Codecs by the name or path of their model. Each is loaded when it is first needed."""

    def __init__(self, names: list[str], device: str = "cpu"):
        self.names = names
        self.get = cache(lambda name: open_codec(name, device))

    def of(self, fingerprint: bytes) -> Codec:
        """The codec of the model with this `fingerprint`. Raises BitstreamError if none of these has it."""
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


def at_quality(codec: Codec, photo: Photo, quality: float) -> Coded:
    """Code a photo at a quality, for a picture as soon as there can be one. The encoding time is without g_a.

    The body is always a learned one, because the page shows the model."""
    (file, decoded), encoding = timed(lambda: codec.preview(photo.latent, quality=quality))
    image = decoded()
    return Coded(codec.name, file, image, encoding, None, metrics.psnr(photo.pixels, image.convert("RGB")))


def at_bpp(codec: Codec, photo: Photo, bpp: float) -> Coded:
    """Code a photo to at most `bpp`, and at most 1 % less, and decode it. The body is a learned one here too."""
    file, encoding = timed(lambda: codec.compress(photo.latent, bpp=bpp, lossless=False))
    image, decoding = timed(lambda: codec.decompress(file))
    return Coded(codec.name, file, image, encoding, decoding, metrics.psnr(photo.pixels, image.convert("RGB")))


def with_decoding(codec: Codec, coded: Coded) -> Coded:
    """Decode the file to measure the time. The picture does not change."""
    if coded.decoding is None:
        coded = coded._replace(decoding=timed(lambda: codec.decompress(coded.file))[1])
    return coded


def quality_near(bpp: float, known: dict[float, float]) -> float:
    """The quality at which a photo takes about `bpp`, interpolated from the known bpp of some qualities, which are its
    keys."""
    qualities = sorted(known)
    return float(np.interp(math.log(bpp), [math.log(known[quality]) for quality in qualities], qualities))


def decode(models: Models, data: bytes, max_pixels: int) -> tuple[Codec | None, Image.Image, float]:
    """The picture of a file, the codec of the model that made it, if any, and the seconds that decoding took.

    Raises BitstreamError."""
    file = unpack(data)
    if file.header.kind is not Kind.LEARNED:
        return None, *timed(lambda: decompress_lossless(file, max_pixels))
    codec = models.of(file.header.fingerprint)
    return codec, *timed(lambda: codec.decompress(file, max_pixels=max_pixels))


def code_classical(name: str, photo: Photo, bpp: float) -> Coded:
    """Code a photo with a classical codec, at the highest rate up to `bpp`. Times do not include the search for it.

    Raises TargetError if the codec has no file that small, and MissingCodecError if it is not installed."""
    codec = classical_codec(name)
    quality = at_rate(codec, photo.pixels, bpp).quality
    source = Image.fromarray(photo.pixels)
    file, encoding = timed(lambda: codec.encode(source, quality))
    image, decoding = timed(lambda: codec.decode(file))
    return Coded(name, file, image, encoding, decoding, metrics.psnr(photo.pixels, image))


def with_ms_ssim(coded: Coded, photo: Photo) -> Coded:
    """Also measure MS-SSIM, which takes as long as decoding."""
    return coded._replace(ms_ssim=metrics.ms_ssim(photo.pixels, coded.image.convert("RGB")))


def rates_of_ends(codec: Codec, photo: Photo) -> dict[float, float]:
    """The bpp of a photo at the lowest and the highest trained quality, by quality."""
    height, width = photo.pixels.shape[:2]
    files = {quality: codec.preview(photo.latent, quality=quality)[0] for quality in (0.0, codec.levels - 1.0)}
    return {quality: metrics.bits_per_pixel(len(file), width, height) for quality, file in files.items()}


def rate_range(known: dict[float, float]) -> tuple[float, float]:
    """The lowest and the highest of the known bpp, rounded inwards to a thousandth."""
    low, high = known[min(known)], known[max(known)]
    return math.ceil(1000 * low) / 1000, math.floor(1000 * high) / 1000


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start
