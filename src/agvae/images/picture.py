"""The codec's input and output: a picture with its metadata, and the error for one that cannot be read."""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

MAX_PIXELS = 2**28
"""Largest picture, in pixels, that is read or decoded unless the caller allows more."""

HELD = frozenset({"exif", "icc", "xmp", "text"})
"""Fields of `Picture` with metadata that an .agv file can store. The reader reports the metadata of all other fields as
lost. A container that can store more adds the name of the field here."""

EXIF_PREFIX = b"Exif\0\0"
"""The prefix that JPEG and Pillow put before the TIFF structures of EXIF data."""


class ImageError(ValueError):
    """A file or picture that cannot be read, converted or written. The message says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in the form that the codec takes.

    pixels (H, W, 3) uint8, upright, with R = G = B if `grey`. alpha (H, W) uint8, straight, or None. exif holds TIFF
    structures, without the "Exif" that JPEG puts before them. icc is set only for the colour space of the pixels. xmp
    is an XMP packet. text holds the texts of PNG files and the comments of JPEG and GIF files by their keywords.
    `bilevel`: the file has 1 bit per pixel, so all pixels are 0 or 255. deep (H, W, C) uint16, with C = 1, 2, 3 or 4
    for grey, grey and alpha, RGB and RGBA: the samples of a 16-bit picture, if the reader was asked for them. `lost`
    names, one phrase each, the parts of the original that are missing here, or that an .agv file cannot store
    (`HELD`)."""

    pixels: np.ndarray
    grey: bool = False
    alpha: np.ndarray | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    lost: tuple[str, ...] = ()
    xmp: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    bilevel: bool = False
    deep: np.ndarray | None = None

    def to_pil(self) -> Image.Image:
        """An image of mode 1, L, LA, RGB or RGBA, or I;16 for a `deep` of one channel.

        EXIF, ICC profile and XMP are in its `info`, where Pillow looks for them. `info["text"]` has the text."""
        image = Image.fromarray(self.pixels)
        if self.grey or self.bilevel:
            image = image.convert("L")
        if self.deep is not None and self.deep.shape[2] == 1:
            image = Image.fromarray(self.deep[..., 0])
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        elif self.bilevel:
            image = image.convert("1", dither=Image.Dither.NONE)
        if self.exif is not None:
            image.info["exif"] = EXIF_PREFIX + self.exif
        if self.icc is not None:
            image.info["icc_profile"] = self.icc
        if self.xmp is not None:
            image.info["xmp"] = self.xmp
        if self.text:
            image.info["text"] = self.text
        return image

    def shallow(self) -> "Picture":
        """This picture without `deep`, which is added to `lost`. The same picture if it has none."""
        return self if self.deep is None else replace(self, deep=None, lost=(SHALLOW, *self.lost))


SHALLOW = "its 16-bit values are kept as 8 bits"
