"""Files that appear whole or not at all."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
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


def _replace(path: str, data: bytes, permissions: int) -> None:
    descriptor, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".agvae-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, permissions)  # mkstemp's files are for their owner alone
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it may have been renamed already
            os.unlink(aside)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
