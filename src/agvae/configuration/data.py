"""The keys of `data`, for training and evaluation alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agvae.configuration.checking import checked
from agvae.configuration.values import Amount, Count, FilePath, Part, Section, Share, Text
from agvae.strides import STRIDE_Z

Side = Annotated[int, Field(ge=STRIDE_Z, le=2**16, multiple_of=STRIDE_Z)]
"""A side of a picture in pixels: a multiple of the model's stride."""

Layout = Annotated[
    str, Part("layout", "sample", "folder", "clic2020", "div2k", "vimeo90k", "kodak", "tecnick", "shards")
]


class DataConfig(Section):
    """The images: where they are, how they are divided, and how they are read and cut."""

    layout: Layout = Field("folder", description="layout of the files on disk")
    name: Text | None = Field(None, description="name of the data set in results; null: that of data.root")
    root: FilePath | Path | None = Field(None, description="folder of the images")
    val_root: FilePath | Path | None = Field(
        None,
        description="folder of held-out images; null: the data set's own held-out images, or else val_share of "
        "data.root",
    )
    val_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="share of data.root that is held out, chosen by a hash of the path; at least one image"
    )
    val_images: Count | None = Field(
        24, description="number of held-out images in validation, spread evenly; null: all"
    )
    val_crop: Side | None = Field(
        512, description="longest side in validation, cropped around the centre; null: whole images"
    )
    download: bool = Field(
        False, description="download the files into data.root and check their SHA-256 (only for kodak)"
    )
    batch_size: Annotated[int, Field(ge=1, le=2**16)] = Field(16, description="patches per step and device")
    patch_size: Side = Field(256, description="side of the square patches")
    drawn: Share = Field(
        0.0, description="share of training patches that are drawn pictures: text, charts, patterns, noise"
    )
    samples_per_epoch: Count | None = Field(
        None, description="patches per epoch over all devices; null: as many as there are images"
    )
    cache: Literal["memory", "device", "disk", "none"] = Field(
        "memory",
        description="where decoded images are kept: in memory, on the device (which then also cuts the patches), "
        "on disk for many runs and processes, or nowhere",
    )
    cache_gib: Amount = Field(
        4.0,
        description="limit for each process; a data set that is larger when decoded is not kept in memory or on the "
        "device",
    )
    cache_dir: FilePath | Path | None = Field(
        None, description="folder of cache=disk; null: agvae in $XDG_CACHE_HOME, or in ~/.cache"
    )
    shuffle_shards: Count | None = Field(
        16, description="data=shards: number of shards whose images are mixed at a time; null: all"
    )
    num_workers: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None,
        description="loading processes per device; null: 0 if images are in memory, else up to 8, with one core left "
        "free",
    )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "DataConfig":
        """The checked configuration, with folders as paths. Raises ConfigError."""
        config = dict(config)
        for key in ("root", "val_root", "cache_dir"):
            # of a configuration that did not come from a command line
            if isinstance(config.get(key), str) and config[key] and "://" not in config[key]:
                config[key] = Path(config[key]).expanduser()
        return checked(cls, config, "data")

    @property
    def folder(self) -> Path:
        """data.root as a path. data=sample has none."""
        assert self.root is not None
        return Path(self.root)

    @model_validator(mode="after")
    def _fits_together(self) -> "DataConfig":
        if self.layout != "sample" and self.root is None:
            raise ValueError(
                f"data.root must be the folder of the images, not null: data={self.layout} reads from disk; "
                "add data.root=DIR"
            )
        if self.layout == "sample" and self.root is not None:
            raise ValueError(
                f"data.root must be null with data=sample, not {self.root}: to use your own images, add data=folder"
            )
        if self.layout == "shards" and self.cache != "none":
            raise ValueError(f"data.cache must be none for shards, which are read as needed, not {self.cache}")
        if self.cache == "device" and self.num_workers:
            raise ValueError(
                "data.num_workers must be null with data.cache=device, which cuts patches without workers, "
                f"not {self.num_workers}"
            )
        return self
