"""Writes files that appear completely or not at all."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

ASIDE = ".agvae-"
"""The start of a file's name while it is being written."""


def remove_asides(folder: str | Path) -> None:
    """Remove the files in `folder` whose writer was killed. Call it only if nothing else can be writing."""
    for path in Path(folder).glob(f"{ASIDE}*"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to a file beside `path` and rename it into place. After any failure, `path` is as it was before.

    A link is followed, and an existing file keeps its permissions. Devices and pipes cannot be replaced, so they are
    written to directly. Raises OSError, which names `path`."""
    try:
        target = os.path.realpath(path)
        mode = _mode(target)
        if stat.S_ISREG(mode):
            _replace(target, data, stat.S_IMODE(mode))
        else:
            with open(target, "wb") as file:
                file.write(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return stat.S_IFREG | 0o666 & ~_umask()


def _replace(path: str, data: bytes | memoryview, permissions: int) -> None:
    descriptor, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=ASIDE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, permissions)  # mkstemp creates files that only their owner can read
        os.replace(aside, path)
        _sync_folder(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it may have been renamed already
            os.unlink(aside)
        raise


def _sync_folder(folder: str) -> None:
    """Make the renaming itself survive a power cut, if the file system supports that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
