"""The data of a training run, for Lightning."""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, DistributedSampler

from agvae.configuration.data import DataConfig
from agvae.data.cache import DiskImages
from agvae.data.datasets import (
    Batch,
    DeviceImages,
    FileImages,
    Images,
    MemoryImages,
    Patches,
    Pictures,
    collate,
    read_headers,
)
from agvae.data.layouts import find_files, hold_out, list_images
from agvae.data.sample_stream import SampleStream, ShardStream, StreamSampler
from agvae.data.shards import ShardImages, read_index
from agvae.errors import ConfigError, DataError
from agvae.strides import STRIDE_Z

log = logging.getLogger(__name__)


def batches_done(trainer: Trainer) -> int:
    """The number of batches that each process has trained on since the run began. Lightning restores it on resuming."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


class ImageDataModule(LightningDataModule):
    """Random training patches and a fixed set of held-out pictures, as `Batch`es of uint8.

    After a checkpoint, training continues with exactly the next batch, even in the middle of an epoch, if seed, images,
    batch size and number of processes are the same. Validation uses the same pictures in every process, so its figures
    do not depend on the number of processes.

    Raises ConfigError for a data set that is not for training and, in `setup`, DataError if no usable image is left.
    `setup` needs no trainer and does its work once: call it before `Trainer.fit` to fail early."""

    def __init__(self, config: DataConfig, seed: int = 0):
        super().__init__()
        if config.layout in ("kodak", "tecnick"):
            raise ConfigError(
                f"data={config.layout} is only for evaluation: to train, use data=sample or data=folder data.root=DIR"
            )
        self.config = config
        self.seed = seed
        self.patches: Patches | None = None
        self.pictures: Pictures | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], seed: int = 0) -> "ImageDataModule":
        """Build it from the keys of conf/data as a plain dictionary."""
        return cls(DataConfig.from_dict(config), seed)

    def setup(self, stage: str | None = None) -> None:
        """Find and check the images, and decode them if they fit. For shards, only the index is read."""
        if self.patches is not None:
            return
        of_layout = self._of_shards if self.config.layout == "shards" else self._of_files
        self.patches, self.pictures = of_layout()
        self.patches[0]  # if nothing can be decoded, fail now and not in a worker

    def _of_files(self) -> tuple[Patches, Pictures]:
        config = self.config
        files = find_files(config)
        assert files.train is not None  # sets without this side were refused before
        headers = read_headers(files.train)
        _report("cannot be read", headers.unreadable, len(files.train))
        train, held_out = self._split(headers.paths, files.held_out)
        sizes = dict(zip(headers.paths, headers.sizes, strict=True))
        large = [path for path in train if min(sizes[path]) >= config.patch_size]
        small = [str(path) for path in train if min(sizes[path]) < config.patch_size]
        too_small = f"smaller than data.patch_size={config.patch_size}"
        _report(f"are {too_small}", small, len(train))
        if not large:
            raise DataError(
                f"{self._where()} has no image to train on: {len(files.train)} files, "
                f"{len(headers.unreadable)} unreadable, {len(small)} {too_small}; "
                + ("set a smaller data.patch_size" if small else "check data.root")
            )
        pictures = self._held_out(FileImages(held_out))
        images = self._images(large, [sizes[path] for path in large])
        return Patches(images, config.patch_size, SampleStream(len(large), self.seed), config.drawn), pictures

    def _of_shards(self) -> tuple[Patches, Pictures]:
        config, root = self.config, str(self.config.root)
        index = read_index(root)
        held_out = np.zeros(len(index.name), bool)
        if config.val_root is None:
            held_out[:] = hold_out([name.decode() for name in index.name], config.val_share)
        large = np.minimum(index.height, index.width) >= config.patch_size
        small = [name.decode() for name in index.name[~held_out & ~large]]
        too_small = f"smaller than data.patch_size={config.patch_size}"
        _report(f"are {too_small}", small, int((~held_out).sum()))
        rows = np.flatnonzero(~held_out & large)
        if not len(rows):
            raise DataError(f"{root} has no image to train on: {len(index.name)} images, {len(small)} {too_small}")
        pictures = self._held_out(
            ShardImages(root, index, np.flatnonzero(held_out))
            if config.val_root is None
            else FileImages(list_images(config.val_root))
        )
        stream = ShardStream(index.shard[rows], config.shuffle_shards, self.seed)
        return Patches(ShardImages(root, index, rows), config.patch_size, stream, config.drawn), pictures

    def _held_out(self, images: Images) -> Pictures:
        pictures = Pictures(images, self.config.val_images, self.config.val_crop)
        _report("cannot be validated on", pictures.skipped, len(images.paths))
        if not pictures:
            raise DataError(
                f"none of the {len(images.paths)} held-out images can be used: set data.val_root to a folder of "
                f"pictures of at least {STRIDE_Z}×{STRIDE_Z}"
            )
        return pictures

    def train_dataloader(self) -> DataLoader:
        """Patches (B, 3, P, P). The last batch of an epoch is as large as the others."""
        assert self.patches is not None  # Lightning calls `setup` first
        return self._loader(self.patches, collate, self._workers())

    def _loader(self, samples: Any, collate_fn: Callable[..., Any], workers: int) -> DataLoader:
        """A loader of this process's share of an endless stream of samples, from where training stands."""
        trainer = self.trainer
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        batch_size = self.config.batch_size
        epoch = self.config.samples_per_epoch or len(samples)
        # whole steps only, because at the end of an epoch Lightning takes a step with any number of batches
        together = trainer.accumulate_grad_batches if trainer else 1
        batches = math.ceil(epoch / (batch_size * world_size * together)) * together
        on_device = isinstance(samples, Patches) and isinstance(samples.images, DeviceImages)
        if on_device:
            samples.images.move(trainer.strategy.root_device if trainer else torch.device("cpu"))
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return _ResumableLoader(
            samples,
            batch_size=batch_size,
            sampler=StreamSampler(samples, batches, batch_size, rank, world_size, self._batches_done),
            collate_fn=collate_fn,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_trainer if workers else None,
            pin_memory=on_gpu and not on_device,
            # forked workers share the decoded images. Newer Pythons would spawn workers and copy the images
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )

    def val_dataloader(self) -> DataLoader:
        """Held-out pictures (1, 3, H, W), H and W multiples of 64, in a fixed order."""
        # one replica: Lightning would distribute the pictures, some twice if they do not divide evenly
        everything = DistributedSampler(self.pictures, num_replicas=1, rank=0, shuffle=False)
        return DataLoader(self.pictures, batch_size=1, sampler=everything, collate_fn=collate)

    def _batches_done(self) -> int:
        return batches_done(self.trainer) if self.trainer else 0

    def _split(self, train: list[Path], held_out: list[Path] | None) -> tuple[list[Path], list[Path]]:
        if held_out is not None:
            return train, held_out
        keys = [path.relative_to(self.config.folder).as_posix() for path in train]
        chosen = hold_out(keys, self.config.val_share)
        if len(train) == 1:
            raise DataError(
                f"{self._where()} has only one readable image, which is held out for validation: add more, or "
                "set data.val_root=DIR"
            )
        kept = [path for path, out in zip(train, chosen, strict=True) if not out]
        return kept, [path for path, out in zip(train, chosen, strict=True) if out]

    def _images(self, paths: list[Path], sizes: list[tuple[int, int]]) -> Images:
        config = self.config
        if config.cache == "none":
            return FileImages(paths)
        if config.cache == "disk":
            try:
                return DiskImages(paths, config.cache_dir)
            except OSError as error:
                _say("data.cache=disk cannot be used, so images are decoded again for every patch: %s", error)
                return FileImages(paths)
        gib = sum(3 * height * width for height, width in sizes) / 2**30
        if gib > config.cache_gib:
            _say(
                "the %d training images take %.1f GiB when decoded, more than data.cache_gib=%g: "
                "each is decoded again for every patch; raise data.cache_gib, or use data.cache=disk",
                len(paths),
                gib,
                config.cache_gib,
            )
            return FileImages(paths)
        return DeviceImages(paths) if config.cache == "device" else MemoryImages(paths)

    def _workers(self) -> int:
        if self.config.num_workers is not None:
            return self.config.num_workers
        if self.patches is not None and isinstance(self.patches.images, MemoryImages):
            return 0  # cutting patches from memory is faster than passing them between processes
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = self.trainer.num_devices if self.trainer is not None else 1
        if SLURMEnvironment.detect() and "SLURM_CPUS_PER_TASK" in os.environ:  # a task for each process
            cores, processes = min(cores, int(os.environ["SLURM_CPUS_PER_TASK"])), 1
        return max(1, min(8, cores // processes - 1))

    def _where(self) -> str:
        return str(self.config.root or f"data={self.config.layout}")


class _ResumableLoader(DataLoader):
    """A loader that Lightning can resume in mid-epoch: its sampler asks the trainer for the position.

    A checkpoint stores only which images there were, to report if they have changed. `waited` is the number of seconds
    spent waiting for batches."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict[str, str]:
        return {"images": self.dataset.fingerprint}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["images"] != self.dataset.fingerprint:
            _say("the training images differ from those of the checkpoint: the run continues with other samples")


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ignore signals: Ctrl-C, torchrun and SLURM signal all processes of a run, whose last step may still need this
    worker's batch."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@rank_zero_only
def _say(message: str, *values: object) -> None:
    log.warning(message, *values)


def _report(what: str, names: Sequence[str], total: int) -> None:
    if names:
        first = "; ".join(names[:3]) + ("; …" if len(names) > 3 else "")
        _say("%d of %d images %s and are left out: %s", len(names), total, what, first)
