"""Training on kept latents: y = g_a(x) of a fixed set of patches, computed once by a frozen g_a and read from disk."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from agvae.configuration.data import DataConfig
from agvae.data import ImageDataModule
from agvae.data.cache import fingerprint, locked
from agvae.data.datasets import Patches, collate, collate_latents
from agvae.data.sample_stream import SampleStream
from agvae.errors import ConfigError, DataError
from agvae.strides import STRIDE_Y

log = logging.getLogger(__name__)

_VALUES, _PATHS, _KEY = "latents.bin", "paths.jsonl", "key.json"

_TOGETHER = 8
"""Patches that g_a takes at a time."""


class Latents(Dataset):
    """The latents (M, P/16, P/16) of a fixed set of patches, in a file that is mapped into memory.

    The index is the sample's number in an endless stream, each of whose passes shows every latent once, in another
    order. `fingerprint` names the set."""

    def __init__(self, values: np.ndarray, paths: list[str], stream: SampleStream, fingerprint: str):
        self.values, self.paths, self.stream, self.fingerprint = values, paths, stream, fingerprint

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, number: int) -> tuple[Tensor, str]:
        index = self.stream.image(number)
        return torch.from_numpy(np.array(self.values[index])), self.paths[index]


class LatentDataModule(ImageDataModule):
    """Training latents in the place of patches, and the held-out pictures of `ImageDataModule`.

    The latents are those of the patches 0 to crops − 1 of the run's stream, and are computed by the trainer's model on
    its device before the first step. A run that is resumed, or another run with the same model, images and seed, finds
    those that are there already."""

    def __init__(self, config: DataConfig, latents: dict[str, Any], seed: int = 0):
        super().__init__(config, seed)
        self.latents = latents

    def train_dataloader(self) -> DataLoader:
        """Latents (B, M, P/16, P/16); the last batch of an epoch is as large as the others."""
        assert self.trainer is not None
        assert self.patches is not None
        module: Any = self.trainer.lightning_module
        kept = keep_latents(module, self.patches, self.seed, self.latents)
        return self._loader(kept, collate_latents, workers=0)


def check_size(latents: dict[str, Any], M: int, patch_size: int) -> None:
    """Raise ConfigError if the latents would take more on disk than `latents.gib`."""
    side = patch_size // STRIDE_Y
    gib = latents["crops"] * M * side**2 * np.dtype(latents["dtype"]).itemsize / 2**30
    if gib > latents["gib"]:
        raise ConfigError(
            f"latents.crops={latents['crops']} takes {gib:.1f} GiB on disk, more than latents.gib={latents['gib']:g}: "
            "set fewer latents.crops or a higher latents.gib"
        )


@torch.no_grad()
def keep_latents(module: Any, patches: Patches, seed: int, latents: dict[str, Any]) -> Latents:
    """The latents of the first `latents["crops"]` patches by the g_a of `module`, from disk or computed now.

    A process that is stopped leaves what it has computed, and the next one goes on from there. Others wait meanwhile.
    Raises DataError if the disk is full, or a latent does not fit into float16."""
    dtype, crops = np.dtype(latents["dtype"]), latents["crops"]
    side = patches.patch_size // STRIDE_Y
    shape = (module.model.M, side, side)
    key = {
        "g_a": _hash_of(module.model.g_a),
        "images": fingerprint([path for path in patches.images.paths if isinstance(path, Path)]),
        "names": patches.fingerprint,
        "drawn": patches.drawn,
        "seed": seed,
        "shape": list(shape),
        "dtype": dtype.name,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(latents["folder"]) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _KEY).write_text(json.dumps(key, indent=2))
        with locked(folder.with_suffix(".lock")):
            _compute_missing(module, patches, folder, crops, shape, dtype)
    except OSError as error:
        raise DataError(
            f"latents cannot be kept in {folder}: {error}; free some space, or set latents.folder"
        ) from error
    values = np.memmap(folder / _VALUES, dtype, "r", shape=(crops, *shape))
    lines = (folder / _PATHS).read_text().splitlines()[:crops]
    return Latents(values, [json.loads(line) for line in lines], SampleStream(crops, seed), f"{name}-{crops}")


def _compute_missing(
    module: Any, patches: Patches, folder: Path, crops: int, shape: tuple[int, ...], dtype: np.dtype
) -> None:
    """Append to the files of `folder` until they hold `crops` latents."""
    size = int(np.prod(shape)) * dtype.itemsize
    values, paths = folder / _VALUES, folder / _PATHS
    values.touch()
    paths.touch()
    lines = paths.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    done = min(values.stat().st_size // size, len(whole))
    if done >= crops:
        return
    missing = (crops - done) * size
    if missing > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{crops - done} latents take {missing / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB free: "
            "set fewer latents.crops, or another latents.folder"
        )
    log.info("computing %d latents into %s, %d are there", crops - done, folder, done)
    # A process that was stopped may have left the one file ahead of the other.
    with values.open("r+b") as file:
        file.truncate(done * size)
    paths.write_text("".join(whole[:done]))
    with values.open("ab") as file, paths.open("a") as names:
        for first in range(done, crops, _TOGETHER):
            batch = collate([patches[number] for number in range(first, min(first + _TOGETHER, crops))])
            y = module.latent(batch.image.to(module.device)).cpu().numpy()
            with np.errstate(over="ignore"):
                y = y.astype(dtype)
            if not np.isfinite(y).all():
                raise DataError(
                    f"a latent of {', '.join(batch.path)} is too large for {dtype.name}: "
                    "set latents.dtype=float32, or leave these files out"
                )
            file.write(np.ascontiguousarray(y).tobytes())
            file.flush()
            names.writelines(f"{json.dumps(path)}\n" for path in batch.path)
            names.flush()


def _hash_of(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
