"""The keys of conf/data, checked once, for training and evaluation alike."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from agvae.errors import ConfigError
from agvae.strides import STRIDE_Z

Layout = Literal["sample", "folder", "clic2020", "div2k", "vimeo90k", "kodak", "tecnick", "shards"]

Cache = Literal["device", "memory", "disk", "none"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What conf/data/*.yaml holds; conf/data/folder.yaml says what each key means.

    Raises ConfigError for a value that cannot be meant.
    """

    layout: Layout = "folder"
    name: str | None = None
    root: str | Path | None = None
    val_root: str | Path | None = None
    val_share: float = 0.05
    val_images: int | None = 24
    val_crop: int | None = 512
    download: bool = False
    batch_size: int = 16
    patch_size: int = 256
    drawn: float = 0.0
    samples_per_epoch: int | None = None
    cache: Cache = "memory"
    cache_gib: float = 4.0
    cache_dir: str | Path | None = None
    num_workers: int | None = None
    shuffle_shards: int | None = 16

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "DataConfig":
        """The configuration as checked values; raises ConfigError for a key that does not exist."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(config) - set(known)):
            raise ConfigError(f"data.{unknown[0]} does not exist; the keys of data are {', '.join(known)}")
        # of a configuration that no command line brought
        paths = {key: _path(config[key]) for key in ("root", "val_root", "cache_dir") if config.get(key)}
        return cls(**{**config, **paths})

    @property
    def folder(self) -> Path:
        """data.root as a path; data=sample has none."""
        assert self.root is not None
        return Path(self.root)

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ConfigError(f"data.layout={self.layout} is none of {', '.join(get_args(Layout))}")
        if self.layout != "sample" and self.root is None:
            raise ConfigError(f"data.root is not set: data={self.layout} reads images from disk, so add data.root=DIR")
        if self.layout == "sample" and self.root is not None:
            raise ConfigError(f"data=sample has no data.root: to use the images in {self.root}, add data=folder")
        if self.cache not in get_args(Cache):
            raise ConfigError(f"data.cache={self.cache} is none of {', '.join(get_args(Cache))}")
        if self.layout == "shards" and self.cache != "none":
            raise ConfigError(f"data.cache={self.cache}: shards are read as they are needed, with data.cache=none")
        if self.cache == "device" and self.num_workers:
            raise ConfigError(
                "data.cache=device cuts patches on the device, without workers: leave data.num_workers out"
            )
        if not (_is_number(self.val_share) and 0 < self.val_share < 1):
            raise ConfigError(f"data.val_share={self.val_share} is not between 0 and 1")
        if not (_is_number(self.drawn) and 0 <= self.drawn <= 1):
            raise ConfigError(f"data.drawn must be a share from 0 to 1, not {self.drawn}")
        if not (_is_number(self.cache_gib) and self.cache_gib >= 0):
            raise ConfigError(f"data.cache_gib={self.cache_gib} is not a size in GiB")
        for key, least in _LEAST.items():
            value = getattr(self, key)
            if value is None and key in _MAY_BE_NULL:
                continue
            if type(value) is not int or value < least:
                raise ConfigError(f"data.{key}={value} is not a whole number of at least {least}")
            if least == STRIDE_Z and value % STRIDE_Z:
                raise ConfigError(
                    f"data.{key}={value} is not a multiple of {STRIDE_Z}, the stride of the model: "
                    f"try {round(value / STRIDE_Z) * STRIDE_Z}"
                )


_LEAST = {
    "batch_size": 1,
    "patch_size": STRIDE_Z,
    "samples_per_epoch": 1,
    "val_images": 1,
    "val_crop": STRIDE_Z,
    "num_workers": 0,
    "shuffle_shards": 1,
}
_MAY_BE_NULL = ("samples_per_epoch", "val_images", "val_crop", "num_workers", "shuffle_shards")


def _path(value: str | Path) -> str | Path:
    return value if "://" in str(value) else Path(value).expanduser()


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
