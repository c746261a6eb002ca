"""Image files and PIL images of every mode as 8-bit pixels with metadata, and back to files."""

from agvae.images.picture import HELD, MAX_PIXELS, ImageError, Picture
from agvae.images.pixels import to_rgb
from agvae.images.plugins import is_picture
from agvae.images.reading import as_picture, image_size, load_rgb, picture_of, read_picture
from agvae.images.writing import encode_image, format_of

__all__ = [
    "HELD",
    "MAX_PIXELS",
    "ImageError",
    "Picture",
    "as_picture",
    "encode_image",
    "format_of",
    "image_size",
    "is_picture",
    "load_rgb",
    "picture_of",
    "read_picture",
    "to_rgb",
]
