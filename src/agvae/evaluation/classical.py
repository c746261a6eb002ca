"""Classical codecs to compare with, each an adapter around Pillow's encoder and decoder."""

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class PillowCodec:
    """A codec of Pillow's: `qualities` is its grid, low to high rate; `options` go to every `Image.save`."""

    name: str
    description: str
    qualities: tuple[float, ...]
    format: str
    options: dict[str, Any] = field(default_factory=dict)

    def encode(self, image: Image.Image, quality: float) -> bytes:
        """The whole file of an RGB image."""
        stream = BytesIO()
        image.save(stream, self.format, **self._rate(quality), **self.options)
        return stream.getvalue()

    def decode(self, data: bytes) -> Image.Image:
        """The RGB image in a file of `encode`'s."""
        with Image.open(BytesIO(data), formats=[self.format]) as image:
            return image.convert("RGB")

    def _rate(self, quality: float) -> dict[str, Any]:
        return {"quality": quality}


class Jpeg2000Codec(PillowCodec):
    """JPEG 2000, whose quality is the rate aimed at, in bits per pixel."""

    def _rate(self, quality: float) -> dict[str, Any]:
        return {"quality_mode": "rates", "quality_layers": [24 / quality]}


_CODECS = (
    PillowCodec(
        "jpeg",
        "JPEG, libjpeg-turbo through Pillow: 4:4:4, baseline, optimised Huffman tables",
        (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
        "JPEG",
        {"subsampling": "4:4:4", "optimize": True},
    ),
    PillowCodec(
        "webp",
        "WebP (lossy), libwebp through Pillow: method 6; 4:2:0, the only one that the format has",
        (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        "WEBP",
        {"method": 6},
    ),
    # The encoder's own default tune is for neither metric: 11 to 15 % more bits than "ssim" at equal PSNR.
    PillowCodec(
        "avif",
        "AVIF, libaom through Pillow: 4:4:4, 8 bit, speed 6, tune=ssim",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90),
        "AVIF",
        {"subsampling": "4:4:4", "speed": 6, "codec": "aom", "advanced": {"tune": "ssim"}},
    ),
    # Without mct=1 Pillow codes R, G and B apart, for 2 to 3 dB less.
    Jpeg2000Codec(
        "jpeg2000",
        "JPEG 2000, OpenJPEG through Pillow: 9/7 wavelet, 4:4:4, one layer; quality is the bpp aimed at",
        (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0),
        "JPEG2000",
        {"irreversible": True, "mct": 1},
    ),
)
CLASSICAL_CODECS = {codec.name: codec for codec in _CODECS}
