"""Files that appear whole or not at all."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

ASIDE = ".agvae-"
"""What the names of files begin with while they are written."""


def remove_asides(folder: str | Path) -> None:
    """Remove the files of `folder` whose writer was killed; call it where nothing else can be writing."""
    for path in Path(folder).glob(f"{ASIDE}*"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` beside `path` and rename it into place; on any failure `path` is as it was before.

    A link is followed and a file that is there keeps its permissions. Devices and pipes, which cannot be replaced,
    are written to. Raises OSError, which names `path`.
    """
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
        os.chmod(aside, permissions)  # mkstemp's files are for their owner alone
        os.replace(aside, path)
        _sync_folder(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it may have been renamed already
            os.unlink(aside)
        raise


def _sync_folder(folder: str) -> None:
    """Make the renaming itself last through a power cut, where the file system knows how."""
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
