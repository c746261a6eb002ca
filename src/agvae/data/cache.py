"""Decoded images on disk, for data sets larger than memory and for many runs and processes."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from agvae.images import ImageError, load_rgb

log = logging.getLogger(__name__)

_PIXELS, _INDEX, _BUILDING = "pixels.u8", "index.json", "building-"


class DiskImages:
    """Images decoded once into a file that is mapped into memory, uint8 (H, W, 3) each, one after another.

    Each set of files has a folder of its own in `cache_dir`. It is named by a hash of their paths, sizes and
    modification times, so a changed file gives another folder. The first process that needs a folder builds it under
    another name and renames it, while others wait. If a file cannot be decoded, the reason is stored there. Raises
    OSError, which says why, if the folder can be neither read nor built, for example because the disk is full."""

    def __init__(self, paths: Sequence[Path], cache_dir: str | Path | None):
        self.paths = list(paths)
        parent = Path(cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agvae")
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = parent / fingerprint(self.paths)
        if not self.folder.exists():
            with locked(parent / f"{self.folder.name}.lock"):
                if not self.folder.exists():
                    _build(self.paths, self.folder)
        self._index: list[dict[str, Any]] = json.loads((self.folder / _INDEX).read_text())
        self._pixels = np.memmap(self.folder / _PIXELS, np.uint8, "r")

    def __getitem__(self, index: int) -> np.ndarray:
        entry = self._index[index]
        if "error" in entry:
            raise ImageError(entry["error"])
        start, shape = entry["start"], entry["shape"]
        return self._pixels[start : start + int(np.prod(shape))].reshape(shape)


def fingerprint(paths: Sequence[Path]) -> str:
    """A hash of the files' paths, sizes and times of change."""
    digest = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            digest.update(f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this is open, other processes that open it with the same file wait."""
    with path.open("w") as file:
        with contextlib.suppress(ImportError):  # without such locks, the second builder finds a folder there
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also if the process is killed
        yield


def _build(paths: Sequence[Path], folder: Path) -> None:
    for left in folder.parent.glob(
        f"{_BUILDING}{folder.name}-*"
    ):  # left by a killed process, since this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{folder.name}-", dir=folder.parent))
    try:
        log.info("decoding %d images into %s", len(paths), folder)
        index: list[dict[str, Any]] = []
        end = 0
        with (aside / _PIXELS).open("wb") as file, ThreadPoolExecutor() as pool:
            for group in range(0, len(paths), 64):  # not all at once, because they need not fit into memory
                for image in pool.map(_load_or_reason, paths[group : group + 64]):
                    if isinstance(image, str):
                        index.append({"error": image})
                        continue
                    file.write(image.tobytes())
                    index.append({"start": end, "shape": image.shape})
                    end += image.size
            file.write(b"\0")  # an empty file cannot be mapped
            file.flush()
            os.fsync(file.fileno())
        (aside / _INDEX).write_text(json.dumps(index))
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _load_or_reason(path: Path) -> np.ndarray | str:
    try:
        return load_rgb(path)
    except ImageError as error:
        return str(error)
