"""Images as training patches and as validation pictures, uint8 throughout."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from agvae.data.drawn import drawn_picture
from agvae.data.sample_stream import SampleStream
from agvae.errors import DataError
from agvae.images import ImageError, image_size, load_rgb
from agvae.strides import STRIDE_Z

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A loader's item: image (B, 3, H, W) uint8 in [0, 255], and the files it comes from."""

    image: Tensor
    path: list[str]


def collate(samples: Sequence[tuple[Tensor, str]]) -> Batch:
    """Samples (3, H, W) of one size as a batch."""
    images, paths = zip(*samples, strict=True)
    return Batch(torch.stack(images), list(paths))


class LatentBatch(NamedTuple):
    """What a loader of kept latents yields: latent y = g_a(x), (B, M, P/16, P/16), and the files x comes from."""

    latent: Tensor
    path: list[str]


def collate_latents(samples: Sequence[tuple[Tensor, str]]) -> LatentBatch:
    """Samples (M, P/16, P/16) as a batch."""
    latents, paths = zip(*samples, strict=True)
    return LatentBatch(torch.stack(latents), list(paths))


class Headers(NamedTuple):
    """The images with a readable header, with (height, width) of each, and why the others cannot be read."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    unreadable: list[str]


def read_headers(paths: Sequence[Path]) -> Headers:
    """Sizes of all images without decoding them."""

    def size_or_reason(path: Path) -> tuple[int, int] | str:
        try:
            return image_size(path)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(size_or_reason, paths))
    read = [(path, size) for path, size in zip(paths, sizes, strict=True) if not isinstance(size, str)]
    return Headers([path for path, _ in read], [size for _, size in read], [s for s in sizes if isinstance(s, str)])


class Place(NamedTuple):
    """A patch: the index of its image, its first row and column, and whether it is mirrored."""

    image: int
    top: int
    left: int
    mirrored: bool


class Images(Protocol):
    """Decoded images by index: uint8 (H, W, 3), an array, or a tensor on a device.

    Raises ImageError if one cannot be read. The implementation decides where images are kept. A sample does not depend
    on that."""

    @property
    def paths(self) -> Sequence[PurePath]: ...

    def __getitem__(self, index: int) -> np.ndarray | Tensor: ...


class FileImages:
    """Images that are decoded each time they are requested."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return load_rgb(self.paths[index])


class MemoryImages:
    """Images that are decoded once, at construction, and kept as uint8.

    Construct it before the loader's workers are forked. They then share these pages and do not fill a cache each."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        with ThreadPoolExecutor() as pool:
            self._images = list(pool.map(_load_or_error, self.paths))

    def __getitem__(self, index: int) -> np.ndarray:
        image = self._images[index]
        if isinstance(image, ImageError):
            raise image
        return image


class DeviceImages(MemoryImages):
    """Images that are decoded once and then kept as uint8 on a device, which cuts the patches. Not for worker
    processes."""

    device = torch.device("cpu")
    _pixels: Tensor | None = None

    def move(self, device: torch.device) -> None:
        """From now on, keep the images on `device`, all in one tensor, and no longer in memory."""
        if self._pixels is not None and self.device == device:
            return
        self.device = device
        images = [image for image in self._images if not isinstance(image, ImageError)]
        self._pixels = torch.empty(
            sum(len(image) * image.shape[1] for image in images), 3, dtype=torch.uint8, device=device
        )
        self._first = [0] * len(self._images)  # the row of each image's first pixel in `_pixels`
        end = 0
        for index, image in enumerate(self._images):
            if not isinstance(image, ImageError):
                height, width = image.shape[:2]
                self._first[index] = end
                here = self._pixels[end : end + height * width].view(height, width, 3)
                self._images[index] = here.copy_(torch.as_tensor(image))
                end += height * width

    def cut(self, places: Sequence[Place], side: int) -> Tensor:
        """Patches (B, 3, side, side) of images that have been moved, in one operation, without waiting for the
        device."""
        assert self._pixels is not None
        starts = []
        for place in places:
            width = self[place.image].shape[1]
            starts.append((self._first[place.image] + place.top * width + place.left, width, place.mirrored))
        start, width, mirrored = to_device(torch.tensor(starts), self.device).unbind(1)
        steps = torch.arange(side, device=self.device)
        columns = torch.where(mirrored[:, None].bool(), steps.flip(0), steps)
        rows = start[:, None] + steps * width[:, None]
        return self._pixels[rows[:, :, None] + columns[:, None, :]].permute(0, 3, 1, 2)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on a device, which a GPU makes without letting this process wait."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _load_or_error(path: Path) -> np.ndarray | ImageError:
    try:
        return load_rgb(path)
    except ImageError as error:
        return error


class Patches(Dataset):
    """Random patches (3, P, P) of images that are all at least P × P, each mirrored with probability ½.

    The index is the number of the sample in the endless stream. If its image cannot be read, another one replaces it,
    the same one in every run, and the file is named in the log the first time. A share of `drawn` of the patches are
    drawn pictures instead. Raises DataError if no image is left."""

    def __init__(self, images: Images, patch_size: int, stream: SampleStream, drawn: float = 0.0):
        self.images = images
        self.patch_size = patch_size
        self.stream = stream
        self.drawn = drawn
        # shared with the workers, so that a bad file is tried and reported only once
        self.unreadable = torch.zeros(len(images.paths), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.images.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, str]:
        if (drawn := self._drawn(number)) is not None:
            return drawn
        image, place = self._place(number)
        path = str(self.images.paths[place.image])
        patch = image[place.top : place.top + self.patch_size, place.left : place.left + self.patch_size]
        if isinstance(patch, Tensor):
            return (patch.flip(1) if place.mirrored else patch).permute(2, 0, 1), path
        return _to_tensor(patch[:, ::-1] if place.mirrored else patch), path

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[Tensor, str]]:
        """The samples of a batch, which a loader asks for together. A device cuts all patches at once."""
        if not isinstance(self.images, DeviceImages):
            return [self[number] for number in numbers]
        samples = {number: self._drawn(number) for number in numbers}
        places = {number: self._place(number)[1] for number, drawn in samples.items() if drawn is None}
        patches = self.images.cut([*places.values()], self.patch_size) if places else ()
        for (number, place), patch in zip(places.items(), patches, strict=True):
            samples[number] = patch, str(self.images.paths[place.image])
        return [sample for sample in samples.values() if sample is not None]

    def _drawn(self, number: int) -> tuple[Tensor, str] | None:
        """The sample, if it is a drawn picture."""
        if (random := self.stream.drawing(number, self.drawn)) is None:
            return None
        patch = _to_tensor(drawn_picture(random, self.patch_size))
        return to_device(patch, self.images.device) if isinstance(self.images, DeviceImages) else patch, "drawn"

    def _place(self, number: int) -> tuple[np.ndarray | Tensor, Place]:
        """The image of the sample, or the one that replaces it, and the patch in it."""
        index = self.stream.image(number)
        image = self._read(index)
        if image is None:
            index, image = self._substitute(number)
        height, width = image.shape[:2]
        return image, Place(index, *self.stream.crop(number, height, width, self.patch_size))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which images are in the stream, wherever the folder lies."""
        names = "\n".join(f"{path.parent.name}/{path.name}" for path in self.images.paths)
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def _substitute(self, number: int) -> tuple[int, np.ndarray | Tensor]:
        for index in self.stream.substitutes(number):
            if (image := self._read(index)) is not None:
                return index, image
        raise DataError(
            f"none of the {len(self)} training images can be read ({self.images.paths[0]}, …): "
            "check that the disk is mounted and that the files are whole"
        )

    def _read(self, index: int) -> np.ndarray | Tensor | None:
        if self.unreadable[index]:
            return None
        try:
            image = self.images[index]
            if min(image.shape[:2]) < self.patch_size:
                raise ImageError(f"{self.images.paths[index]}: is now smaller than data.patch_size={self.patch_size}")
        except ImageError as error:
            self.unreadable[index] = True
            count = int(self.unreadable.sum())
            log.warning("unreadable image skipped: %s (%d of %d so far)", error, count, len(self))
            return None
        return image


class Pictures(Dataset):
    """Images as (3, H, W), cropped around the centre to multiples of 64, at most `limit` on a side.

    They are decoded once, at construction. Images that cannot be read, or are below 64 on a side, are left out. Of
    `images`, `count` are used, spread evenly. `skipped` has the files that were left out, each with the reason."""

    def __init__(self, images: Images, count: int | None, limit: int | None):
        paths = images.paths
        self.samples: list[tuple[Tensor, str]] = []
        self.skipped: list[str] = []
        spread = np.linspace(0, len(paths) - 1, min(count or len(paths), len(paths))).round().astype(int)
        # the rest replace those that turn out to be unusable
        order = [*spread, *sorted(set(range(len(paths))) - set(spread.tolist()))]
        for index in order:
            if len(self.samples) == len(spread):
                break
            try:
                picture = centre_crop(images[index], limit)
            except ImageError as error:
                self.skipped.append(str(error))
                continue
            if picture.size:
                self.samples.append((_to_tensor(picture), str(paths[index])))
            else:
                self.skipped.append(f"{paths[index]}: smaller than {STRIDE_Z} on a side")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.samples[index]


def centre_crop(image: np.ndarray, limit: int | None) -> np.ndarray:
    """The middle of an image (H, W, 3). Each side is the largest multiple of 64 within it and within `limit`."""
    height, width = (min(side, limit or side) // STRIDE_Z * STRIDE_Z for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
