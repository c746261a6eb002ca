"""Classical codecs that run in this process, and the search for the quality that meets a rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from PIL import Image

from agvae.codec.rate_control import TargetError
from agvae.errors import ConfigError
from agvae.metrics import bits_per_pixel


class MissingCodecError(ConfigError):
    """A codec whose package or program is missing. The message says how to get it."""


class ClassicalCodec(Protocol):
    """A codec with one quality setting. `scale` lists all its values and `qualities` a grid of them, from low to high
    rate."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def qualities(self) -> Sequence[float]: ...
    @property
    def scale(self) -> Sequence[float]: ...
    def encode(self, image: Image.Image, quality: float) -> bytes: ...
    def decode(self, data: bytes) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class Coded:
    """A picture decoded by a codec: `image` (H, W, 3) uint8, at `bpp` bits per pixel of the whole file."""

    image: np.ndarray
    bpp: float
    quality: float


def at_rate(codec: ClassicalCodec, image: Image.Image | np.ndarray, bpp: float) -> Coded:
    """The picture, from PIL or (H, W, 3) uint8, coded at the highest rate of the codec's scale that does not exceed
    `bpp`.

    The search is a bisection. Rate rises with quality, except for dents that can cost one step. A target above the rate
    of the highest quality gives the highest quality. A target below that of the lowest raises TargetError."""
    picture = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
    low, high, best = 0, len(codec.scale), None
    while low < high:
        middle = (low + high) // 2
        data = codec.encode(picture, codec.scale[middle])
        if bits_per_pixel(len(data), *picture.size) <= bpp:
            low = middle + 1
            if best is None or len(data) >= len(best[0]):
                best = data, codec.scale[middle]
        else:
            high, smallest = middle, len(data)
    if best is None:
        raise TargetError(
            f"{bpp:g} bpp is out of range: {codec.name} needs at least "
            f"{bits_per_pixel(smallest, *picture.size):.4f} bpp for this picture"
        )
    data, quality = best
    return Coded(np.array(codec.decode(data)), bits_per_pixel(len(data), *picture.size), quality)


@dataclass(frozen=True)
class PillowCodec:
    """A codec of Pillow. `options` are passed to every `Image.save`, and `load_plugin` registers the format with
    Pillow."""

    name: str
    description: str
    qualities: Sequence[float]
    scale: Sequence[float]
    format: str
    options: dict[str, Any] = field(default_factory=dict)
    load_plugin: Callable[[], None] | None = None

    def require(self) -> None:
        """Import the packages of the codec. Raises MissingCodecError if one is not installed."""
        try:
            if self.load_plugin is not None:
                self.load_plugin()
        except ImportError as error:
            raise MissingCodecError(
                f"{self.name} needs {error.name}, which is not installed: pip install -e '.[codecs]'"
            ) from error

    def encode(self, image: Image.Image, quality: float) -> bytes:
        """The whole file of an RGB image."""
        self.require()
        stream = BytesIO()
        image.save(stream, self.format, **self._rate(quality), **self.options)
        return stream.getvalue()

    def decode(self, data: bytes) -> Image.Image:
        """The RGB image in a file that `encode` made."""
        self.require()
        with Image.open(BytesIO(data), formats=[self.format]) as image:
            return image.convert("RGB")

    def _rate(self, quality: float) -> dict[str, Any]:
        return {"quality": quality}


class Jpeg2000Codec(PillowCodec):
    """JPEG 2000. Its quality is the target rate in bits per pixel."""

    def _rate(self, quality: float) -> dict[str, Any]:
        return {"quality_mode": "rates", "quality_layers": [24 / quality]}


def _load_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _load_jpegxl() -> None:
    import pillow_jxl  # noqa: F401  registers itself


_CODECS = (
    PillowCodec(
        "jpeg",
        "JPEG, libjpeg-turbo through Pillow: 4:4:4, baseline, optimised Huffman tables",
        (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
        range(1, 101),
        "JPEG",
        {"subsampling": "4:4:4", "optimize": True},
    ),
    PillowCodec(
        "webp",
        "WebP (lossy), libwebp through Pillow: method 6; 4:2:0, the only one that the format has",
        (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        range(101),
        "WEBP",
        {"method": 6},
    ),
    # The encoder's default tune suits neither metric: 11 to 15 % more bits than "ssim" at equal PSNR. "psnr" takes
    # 1 % fewer at equal PSNR, and 5 % more at equal MS-SSIM.
    PillowCodec(
        "avif",
        "AVIF, libaom through Pillow: 4:4:4, 8 bit, speed 6, tune=ssim",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        range(100),
        "AVIF",
        {"subsampling": "4:4:4", "speed": 6, "codec": "aom", "advanced": {"tune": "ssim"}},
    ),
    # Without mct=1, Pillow codes R, G and B separately, at 2 to 3 dB less.
    Jpeg2000Codec(
        "jpeg2000",
        "JPEG 2000, OpenJPEG through Pillow: 9/7 wavelet, 4:4:4, one layer; quality is the bpp aimed at",
        (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0),
        [step / 1000 for step in range(10, 10001)],
        "JPEG2000",
        {"irreversible": True, "mct": 1},
    ),
    # Left alone, or given an offset of 0, x265 adds 6 to the QP of 4:4:4 chroma, which costs 10 % more bits at equal
    # PSNR and 14 % at equal MS-SSIM; hence -1. tune=psnr takes 4 % fewer at equal PSNR and 8 % more at equal MS-SSIM.
    PillowCodec(
        "heic",
        "HEIC, x265 through pillow-heif: 4:4:4, 8 bit, preset slow, tune=ssim, chroma QP offset -1",
        (0, 5, 10, 15, 20, 30, 40, 50, 60, 70),
        range(100),
        "HEIF",
        {
            "chroma": 444,
            "enc_params": {"preset": "slow", "tune": "ssim", "x265:cbqpoffs": "-1", "x265:crqpoffs": "-1"},
        },
        _load_heif,
    ),
    # Effort 8 takes 1.8 % fewer bits than the encoder's own 7 at equal PSNR, for twice the time; 9 gives no more.
    PillowCodec(
        "jpegxl",
        "JPEG XL, libjxl through pillow-jxl-plugin: XYB, effort 8; quality 0 is the lowest that it has",
        (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        range(100),
        "JXL",
        {"effort": 8, "lossless_jpeg": False},  # so that an image opened from a JPEG file is also coded again
        _load_jpegxl,
    ),
)
CLASSICAL_CODECS = {codec.name: codec for codec in _CODECS}
"""The codecs that run in this process, by name. `heic` and `jpegxl` need the extra `codecs`."""

CODEC_TITLES = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "jpeg2000": "JPEG 2000",
    "heic": "HEIC",
    "jpegxl": "JPEG XL",
}
"""The codecs' names for text."""
