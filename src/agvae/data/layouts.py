"""Which files of a data set are for training, which are held out, and which are evaluated on.

A layout is a function from the configuration to `Files`. To add one here, write it, name it in `LAYOUTS` and in
`agvae.configuration.data`, and add a YAML file to conf/data. docs/extending.md shows one in your own package.
"""

import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agvae import extensions
from agvae.configuration.data import DataConfig
from agvae.data.bundled_photos import HELD_OUT, TRAIN, sample_photos
from agvae.data.download import KODAK_SHA256, KODAK_URL, download
from agvae.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".ppm", ".pgm"})

WHERE_TO_GET = {
    "clic2020": "https://data.vision.ee.ethz.ch/cvl/clic (professional_train_2020.zip and its like)",
    "div2k": "https://data.vision.ee.ethz.ch/cvl/DIV2K/ (DIV2K_train_HR.zip and DIV2K_valid_HR.zip)",
    "vimeo90k": "http://toflow.csail.mit.edu (the septuplet or triplet archive)",
    "tecnick": "https://testimages.org (SAMPLING, 8 bit, RGB, 1200x1200)",
}


class Files(NamedTuple):
    """The sides of a data set, each in a fixed order.

    `train` is None for a set that is only for evaluation. `held_out` is None if the data set has no such side;
    `hold_out` then splits one off. `evaluate` is the side that evaluate.py uses."""

    train: list[Path] | None
    held_out: list[Path] | None
    evaluate: list[Path]


def list_images(root: str | Path) -> list[Path]:
    """All image files below `root`, sorted by their path below it.

    Suffixes may be in any case, and links to folders are followed. Names that start with a dot are left out, because
    they are thumbnails and the like. Raises DataError if `root` is not a folder."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: data.root and data.val_root must be folders of images")
    found: list[Path] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if name[0] != ".")
        if real not in seen:
            seen.add(real)
            images = (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
            found.extend(Path(folder, name) for name in images)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def hold_out(keys: list[str], share: float) -> list[bool]:
    """For each key, whether it is on the held-out side: whether a hash of the key is below `share`.

    Equal keys stay together, and a key stays on its side if others are added or removed. If no key is below `share`,
    the lowest hash is held out, so that both sides have something if there are two different keys."""
    hashes = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64 for key in keys]
    threshold = max(share, min(hashes, default=0.0))
    chosen = [value <= threshold for value in hashes]
    if all(chosen) and len(set(hashes)) > 1:
        chosen = [value < max(hashes) for value in hashes]
    return chosen


def find_files(config: DataConfig) -> Files:
    """The files of a data set by its layout. data.val_root, if given, is the held-out side.

    Raises DataError if the folders of the layout are missing."""
    if config.download and config.layout != "kodak":
        where = WHERE_TO_GET.get(config.layout)
        hint = f": get it from {where}, and unpack it into data.root" if where else ""
        raise ConfigError(f"data.download=true works only with data=kodak, not with data={config.layout}{hint}")
    try:
        layout = extensions.find("layout", config.layout, LAYOUTS)
    except ValueError as error:
        raise ConfigError(f"data.layout: {error}") from error
    files = layout(config)
    if config.val_root is None or files.train is None:
        return files
    # data.val_root may lie below data.root, however either is spelled. Held-out images are never trained on
    val_root = Path(config.val_root).resolve()
    kept_back = functools.cache(lambda folder: folder.resolve().is_relative_to(val_root))
    outside = [path for path in files.train if not kept_back(path.parent)]
    return files._replace(train=outside, held_out=list_images(config.val_root))


def evaluation_images(config: Mapping[str, Any]) -> tuple[str, list[Path]]:
    """The name of the data set and the images that evaluate.py uses, from the keys of conf/data.

    sample: the held-out photos; folder: every image of data.root; a preset: its test or validation side. Raises
    DataError if there are none."""
    checked = DataConfig.from_dict(config)
    images = find_files(checked).evaluate
    if not images:
        raise DataError(f"{checked.root} has no images to evaluate on (looked for {', '.join(sorted(SUFFIXES))})")
    return data_name(checked), images


def data_name(config: DataConfig) -> str:
    """The name of the data set in results: data.name, or the name of the folder."""
    return config.name or Path(config.root or config.layout).resolve().name


def _sample(config: DataConfig) -> Files:
    held_out = sample_photos(HELD_OUT)
    return Files(sample_photos(TRAIN), held_out, held_out)


def _folder(config: DataConfig) -> Files:
    images = list_images(config.folder)
    return Files(images, None, images)


def _clic2020(config: DataConfig) -> Files:
    """Folders named after their side, at any depth: train, valid, professional_train_2020, mobile/valid, …"""
    sides: dict[str, list[Path]] = {"train": [], "valid": []}
    for path in list_images(config.folder):
        words = re.split(r"[^a-z]+", path.relative_to(config.folder).parent.as_posix().lower())
        side = next((word for word in words if word in ("train", "valid", "test")), None)
        if side in sides:
            sides[side].append(path)
    return _both_sides(config, sides["train"], sides["valid"], "folders named train and valid")


def _div2k(config: DataConfig) -> Files:
    train, valid = (config.folder / f"DIV2K_{side}_HR" for side in ("train", "valid"))
    if not (train.is_dir() and valid.is_dir()):
        raise _missing(config, "DIV2K_train_HR and DIV2K_valid_HR")
    return _both_sides(config, list_images(train), list_images(valid), "images in DIV2K_train_HR and DIV2K_valid_HR")


def _vimeo90k(config: DataConfig) -> Files:
    """Every frame of the training sequences, and the first frame of each test sequence.

    The sides follow (sep|tri)_trainlist.txt and _testlist.txt. Without these files, a share of the sequences is held
    out, never single frames, because the frames of one sequence are almost the same picture."""
    root = config.folder
    sequences: dict[str, list[Path]] = {}
    if (root / "sequences").is_dir():
        for path in list_images(root / "sequences"):
            sequences.setdefault(path.parent.relative_to(root / "sequences").as_posix(), []).append(path)
    lists = [sorted(root.glob(f"*_{side}list.txt")) for side in ("train", "test")]
    if all(lists):
        train, test = ([name for name in files[0].read_text().split() if name in sequences] for files in lists)
    else:
        held = hold_out(list(sequences), config.val_share)
        train = [name for name, out in zip(sequences, held, strict=True) if not out]
        test = [name for name, out in zip(sequences, held, strict=True) if out]
    frames = [path for name in train for path in sequences[name]]
    return _both_sides(config, frames, [sequences[name][0] for name in test], "sequences/…/im1.png")


def _kodak(config: DataConfig) -> Files:
    root = config.folder
    if config.download:
        download(root, KODAK_SHA256, KODAK_URL)
    found = {path.name.lower(): path for path in list_images(root)}
    missing = [name for name in KODAK_SHA256 if name not in found]
    if missing:
        lacking = f"{root} lacks {len(missing)} of Kodak's 24 images ({missing[0]} first)"
        if len(missing) == len(KODAK_SHA256):
            raise DataError(f"{lacking}: add data.download=true to fetch them")
        log.warning("%s: the results cover the others; data.download=true fetches the missing files", lacking)
    return Files(None, None, [found[name] for name in KODAK_SHA256 if name in found])


def _tecnick(config: DataConfig) -> Files:
    images = [path for path in list_images(config.folder) if "1200x1200" in path.as_posix()]
    colour = [path for path in images if "GRAY" not in path.as_posix().upper()]
    if not colour:
        raise _missing(config, "RGB/…1200x1200…")
    # SAMPLING also holds each picture shifted by fractions of a pixel. C00C00 is the picture itself
    unshifted = [path for path in colour if "C00C00" in path.as_posix()]
    return Files(None, None, unshifted or colour)


def _shards(config: DataConfig) -> Files:
    raise ConfigError(
        "data=shards is only for training: to evaluate, use a folder of pictures, data=folder data.root=DIR"
    )


def _both_sides(config: DataConfig, train: list[Path], held_out: list[Path], sought: str) -> Files:
    if not (train and held_out):
        raise _missing(config, sought)
    return Files(train, held_out, held_out)


def _missing(config: DataConfig, sought: str) -> DataError:
    return DataError(
        f"{config.root} does not have the layout of data={config.layout} (looked for {sought}): "
        f"get it from {WHERE_TO_GET[config.layout]}, or use data=folder"
    )


LAYOUTS: dict[str, Callable[[DataConfig], Files]] = {
    "sample": _sample,
    "folder": _folder,
    "clic2020": _clic2020,
    "div2k": _div2k,
    "vimeo90k": _vimeo90k,
    "kodak": _kodak,
    "tecnick": _tecnick,
    "shards": _shards,
}
