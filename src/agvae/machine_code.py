"""Functions compiled by numba, whose machine code is kept on disk if any folder for it can be written."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numba
from numba import njit


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """`numba.njit` with these options, and with a cache in the first of these folders that can be written:

    NUMBA_CACHE_DIR, the package's own folder, the user's cache, and a private one in the folder for temporary files. If
    none can be written, each process compiles again."""

    def compile_lazily(function: Callable) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba finds no folder for its cache
            pass
        folder, settings = _private_folder(), cast(Any, numba.config)
        if folder is None:
            return njit(**options)(function)
        before = settings.CACHE_DIR
        try:
            settings.CACHE_DIR = str(folder)
            return njit(cache=True, **options)(function)
        finally:
            settings.CACHE_DIR = before

    return compile_lazily


def _private_folder() -> Path | None:
    """A temporary folder that no other user can write to, because its machine code is executed. None without one."""
    try:
        folder = Path(tempfile.gettempdir()) / f"agvae-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
        owned = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return folder if private and owned else None
