"""Image files, PIL images and arrays to pictures."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from agvae.images import pixels
from agvae.images.metadata import metadata_of
from agvae.images.opening import PictureFile, limited, reason
from agvae.images.picture import MAX_PIXELS, SHALLOW, ImageError, Picture

if TYPE_CHECKING:
    from torch import Tensor

_DARK = 2**15
"""If all samples of a 16-bit picture are below this, it is reported: it may hold 12 bits and look black."""


def read_picture(
    source: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS, *, keep_depth: bool = False, stretch: bool = False
) -> Picture:
    """Decode an image file of at most `max_pixels` pixels.

    Damaged metadata is dropped and mentioned in `lost`. A JPEG or PNG file that is cut short is accepted if at least
    half of the picture is there; `lost` says how much. keep_depth: put 16-bit samples into `deep` if Pillow has them:
    grey ones, and those of PNG and TIFF files. stretch: white becomes the smallest 2ᵏ − 1 that no sample of more than 8
    bits exceeds, such as 4095 for 12-bit data, and not 65535.

    Pillow's own limit and warnings are disabled. Raises ImageError, which says why, for every failure."""
    with limited(max_pixels):
        try:
            return _read(PictureFile(source), keep_depth, stretch)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(f"the picture exceeds the limit of {max_pixels} pixels") from error
        except Exception as error:  # on a damaged file Pillow's plugins raise almost anything
            raise ImageError(reason(error)) from error


def _read(file: PictureFile, keep_depth: bool, stretch: bool) -> Picture:
    with (
        file.open() as image
    ):  # if this fails, it is not repaired: its header is damaged, or the picture exceeds the limit
        try:
            return _picture(image, file.lost, file.open, keep_depth, stretch)
        except (ImageError, MemoryError):
            raise
        except Exception:
            repaired = file.repaired()
            if repaired is None:
                raise
    with repaired.open() as image:
        return _picture(image, repaired.lost, repaired.open, keep_depth, stretch)


def picture_of(image: Image.Image) -> Picture:
    """The picture for coding, with the pixels of `to_rgb` but with alpha beside them.

    Pixels are those that the image stores, even under alpha 0. A greyscale mode makes a grey picture, whatever its
    values are; a palette makes a coloured one. EXIF is kept byte by byte except for its orientation, which is applied
    to the pixels. For an animation, the current frame is used, which is the first one of a file that was just opened.

    Raises ImageError as `to_rgb` does, and Pillow's exceptions for a damaged file."""
    return _picture(image, (), None, keep_depth=False, stretch=False)


def as_picture(image: "Picture | Image.Image | np.ndarray | Tensor | str | Path") -> Picture:
    """The picture for any kind of image argument.

    A `Picture`; a PIL image; a path; an array (H, W, 3), (H, W) or (H, W, 1) uint8; a tensor (3, H, W) or (1, H, W)
    float in [0, 1]. One channel makes a grey picture. Raises ValueError for anything else. For a file that cannot be
    read, it raises ImageError, which is a ValueError and names the path."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return picture_of(image)
    if isinstance(image, str | Path):
        try:
            return read_picture(image)
        except ImageError as error:
            raise ImageError(f"{image}: {error}") from error
    if isinstance(image, np.ndarray):
        return _picture_of_array(image)
    import torch

    if isinstance(image, torch.Tensor):
        return _picture_of_tensor(image)
    raise ValueError(f"an image must be a PIL image, an array, a tensor or a path, not {type(image).__name__}")


def _picture_of_array(image: np.ndarray) -> Picture:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3) or not image.size:
        raise ValueError(f"an array must be (H, W, 3) uint8 or (H, W) uint8, not {image.shape} {image.dtype}")
    if channels == 3:
        return Picture(image)
    return Picture(np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2), grey=True)


def _picture_of_tensor(image: "Tensor") -> Picture:
    if not image.is_floating_point() or image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise ValueError(f"a tensor must be (3, H, W) float or (1, H, W) float, not {tuple(image.shape)} {image.dtype}")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError("the values of a tensor must lie in [0, 1]")
    return _picture_of_array(image.mul(255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy())


def load_rgb(path: str | Path, file: BinaryIO | None = None) -> np.ndarray:
    """Decode an image file (the first picture, if it holds several) to a uint8 array (H, W, 3).

    If `file` is given, its bytes are read from there. A file that is cut short is an error. Raises ImageError, which
    names `path`, for every failure."""
    try:
        with PictureFile(file or path).open() as image:
            return np.array(pixels.to_rgb(image))
    except Exception as error:
        raise ImageError(f"{path}: {reason(error)}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the file's header, without decoding and without applying the EXIF orientation.

    Raises ImageError, which names the file."""
    try:
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except Exception:  # perhaps because of its metadata, or because a plugin is not loaded yet
            with PictureFile(path).open() as image:
                return image.height, image.width
    except Exception as error:
        raise ImageError(f"{path}: {reason(error)}") from error


# -------------------------------------------------------- one image


def _picture(
    image: Image.Image,
    lost: Iterable[str],
    reopen: Callable[[], ImageFile] | None,
    keep_depth: bool,
    stretch: bool,
) -> Picture:
    """`picture_of`, with phrases for losses so far, and a function that opens the file again, if there is one."""
    lost = list(lost)
    if (frames := getattr(image, "n_frames", 1)) > 1:
        lost.append(f"only one of its {frames} frames is kept")
    depth, raw_mode = pixels.bit_depth(image), pixels.raw_mode_of(image)  # known only until the image is loaded
    turn = pixels.turn_of(image)
    values = _samples(image, depth, reopen, raw_mode, keep_depth or stretch)
    white, phrases = _white(image, values, stretch)
    deep = values.astype(np.uint16) if values is not None and keep_depth and _fits_16_bits(image, values) else None
    if deep is None and (depth > 8 or pixels.is_deep(image)):
        kind = {"F": "float", "I": "16-bit"}.get(image.mode[0], f"{depth}-bit")
        lost.append(f"its {kind} values are kept as 8 bits" if kind != "16-bit" else SHALLOW)
    lost += phrases
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        lost.append(f"its {image.mode} colours are converted to RGB")
    plain = pixels.plain(image, depth, white if pixels.is_deep(image) else None)
    if raw_mode == "LA;16B":  # which Pillow treats as colours
        plain = plain.convert("LA")
    if white and values is not None and not pixels.is_deep(image):
        plain = pixels.stretched(plain, values, white)
    if turn is not None:
        plain = plain.transpose(turn)
    grey = plain.mode in ("L", "LA")
    metadata = metadata_of(image, grey)
    rgb, alpha = pixels.arrays(plain)
    if deep is not None:
        deep = pixels.turned(deep, turn)
        if alpha is not None and deep.shape[2] in (1, 3):  # from a colour key
            deep = np.dstack((deep, alpha.astype(np.uint16) * 257))
    return Picture(
        rgb,
        grey,
        alpha,
        exif=metadata.exif,
        icc=metadata.icc,
        lost=(*lost, *metadata.lost),
        xmp=metadata.xmp,
        text=metadata.text,
        bilevel=image.mode == "1",
        deep=deep,
    )


def _samples(
    image: Image.Image, depth: int, reopen: Callable[[], ImageFile] | None, raw_mode: str, wanted: bool
) -> np.ndarray | None:
    """Samples (H, W, C) of more than 8 bits, if there are any. Those that need a second decoding are read only if they
    are wanted, or if the picture seems to be dark."""
    if not image.width or not image.height:
        return None
    if pixels.is_deep(image):
        return np.asarray(image)[..., None]
    if depth != 16 or image.mode not in ("RGB", "RGBA"):
        return None
    ranges = cast("tuple[tuple[int, int], ...]", image.getextrema())[: -1 if image.mode.endswith("A") else None]
    if wanted or max(high for _, high in ranges) < _DARK >> 8:
        return pixels.colour_samples(image, reopen, raw_mode)
    return None


def _fits_16_bits(image: Image.Image, values: np.ndarray) -> bool:
    return image.mode != "F" and values.min() >= 0 and values.max() <= 65535


def _white(image: Image.Image, values: np.ndarray | None, stretch: bool) -> tuple[int | None, list[str]]:
    """The sample that becomes white, if it is not the usual one, and phrases about the range that was found."""
    if values is None:
        return None, []
    colours = pixels.colours_of(values)
    low, high = colours.min(), colours.max()
    if not (low >= 0 and high > 0 and np.isfinite(high)):
        return None, []
    white, usual = pixels.white_of(colours), 1 if image.mode == "F" else 65535
    if stretch and white != usual:
        return white, [f"its values from {low:g} to {high:g} are stretched: {white} becomes white"]
    if not stretch and usual > 1 and high < _DARK:
        return None, [f"its values run from {low} to {high} of 65535, so it is dark; --stretch makes {white} white"]
    return None, []
