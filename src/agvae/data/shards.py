"""Images in shards, for a data set that is larger than a disk, or on storage where many small files are slow.

A shard is an uncompressed tar file of unchanged image files, in random order, which WebDataset's tools can read too.
The index beside the shards stores where each image begins. Reading an image is one ranged read, from a disk or, with
fsspec, from an object store. A sample thus stays a pure function of its number, whoever asks for it and when.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
import numpy as np

from agvae.data.datasets import Headers, read_headers
from agvae.data.layouts import list_images
from agvae.errors import ConfigError, DataError
from agvae.files import write_atomically
from agvae.images import ImageError, load_rgb

INDEX = "index.npz"


class ShardIndex(NamedTuple):
    """The position of each image: arrays (images,), in the order of the shards."""

    name: np.ndarray
    """UTF-8 path below the folder that was sharded."""
    shard: np.ndarray
    """Number of the shard: its file is `shard_name` of it."""
    offset: np.ndarray
    """First byte of the image in the shard."""
    length: np.ndarray
    """Size of the image in bytes."""
    height: np.ndarray
    width: np.ndarray


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:06d}.tar"


def write_shards(folder: Path, out: Path, shard_bytes: int, seed: int = 0) -> tuple[ShardIndex, Headers]:
    """Copy the images of `folder` into shards of about `shard_bytes` in `out`. Returns their index and the headers of
    all images.

    The same folder gives the same files again. The index is written last, because shards without it are not a data set.
    Raises ConfigError if `out` is not empty, DataError if `folder` is not a folder or has no image, and OSError if a
    file cannot be read or written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out} is not an empty folder: choose a new one, or empty it if an earlier `agvae shard` was interrupted"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: must be a folder of pictures")
    headers = read_headers(list_images(folder))
    if not headers.paths:
        raise DataError(f"{folder} has no image that can be read")
    out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(headers.paths))
    rows: list[tuple] = []
    for number, group in enumerate(_by_size([headers.paths[i] for i in order], shard_bytes)):
        file = out / shard_name(number)
        aside = file.with_suffix(".part")
        with tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in group:
                data = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
                start = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                height, width = headers.sizes[order[len(rows)]]
                rows.append((entry.name.encode(), number, start, len(data), height, width))
        os.replace(aside, file)
    kinds = (bytes, np.int32, np.int64, np.int64, np.int32, np.int32)
    index = ShardIndex(*(np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)))
    packed = io.BytesIO()
    np.savez(packed, **index._asdict())
    write_atomically(out / INDEX, packed.getvalue())
    return index, headers


def _by_size(paths: Sequence[Path], limit: int) -> Iterator[list[Path]]:
    """Consecutive groups of files whose sizes add up to at most `limit` bytes. A larger file is a group of its own."""
    group: list[Path] = []
    total = 0
    for path in paths:
        size = path.stat().st_size
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(path)
        total += size
    yield group


def read_index(root: str) -> ShardIndex:
    """The index of the shards in `root`, a folder or an address that fsspec knows. Raises DataError if there
    is none."""
    try:
        with fsspec.open(f"{root}/{INDEX}", "rb") as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as stored:
            return ShardIndex(**stored)
    except FileNotFoundError:
        raise DataError(
            f"{root} has no {INDEX}: to make shards from a folder, run `agvae shard FOLDER {root}`"
        ) from None
    except ImportError as error:  # fsspec names the package that knows this kind of address
        raise DataError(f"{root}: {error}") from error
    except Exception as error:  # a store or a damaged file can raise almost anything
        raise DataError(f"{root}/{INDEX} cannot be read: {' '.join(str(error).split())}") from error


class ShardImages:
    """The images of shards whose numbers are `rows`. They are read and decoded each time they are requested."""

    def __init__(self, root: str, index: ShardIndex, rows: np.ndarray):
        self.root = root
        self.index = ShardIndex(*(column[rows] for column in index))
        self.paths = _Names(self.index.name)

    def __getitem__(self, number: int) -> np.ndarray:
        _, shard, start, length, *_ = (column[number] for column in self.index)
        name = f"{self.root}/{shard_name(shard)}:{self.paths[number]}"
        try:
            # Requested each time, so that a forked worker makes a new file system. An old one does not work there.
            store, root = fsspec.url_to_fs(self.root)
            data = store.cat_file(f"{root}/{shard_name(shard)}", int(start), int(start + length))
        except Exception as error:
            raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
        return load_rgb(name, io.BytesIO(data))


class _Names(Sequence[PurePosixPath]):
    """Names in one array, because processes can share its memory."""

    def __init__(self, names: np.ndarray):
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: Any) -> Any:
        return PurePosixPath(self._names[number].decode())


def summary(index: ShardIndex) -> str:
    """Numbers of shards, images and bytes, in words."""
    shards = int(index.shard[-1]) + 1
    return f"{shards} shard{'s' * (shards > 1)}, {len(index.name)} images, {index.length.sum() / 1e9:.3g} GB"
