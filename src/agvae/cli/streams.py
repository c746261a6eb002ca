"""Bytes in and out, for files and standard streams, and lines of text for the user."""

import contextlib
import os
import sys
from pathlib import Path

STANDARD = "-"
"""The argument that stands for standard input or output."""


def read(path: str) -> bytes:
    """The bytes of a file or of standard input. Raises OSError, and ValueError if standard input is closed."""
    if path != STANDARD:
        return Path(path).read_bytes()
    if sys.stdin is None:
        raise ValueError("it is closed")
    return sys.stdin.buffer.read()


def write(path: str, data: bytes) -> None:
    """Write a file, which appears completely or not at all, or standard output. Raises OSError or ValueError."""
    from agvae.files import write_atomically

    if path == STANDARD:
        _to_standard_output(data)
    else:
        write_atomically(path, data)


def say(text: str) -> None:
    """Print a line on standard output. If its reader has closed it, as `head` does, nothing more is printed."""
    with contextlib.suppress(BrokenPipeError):
        _to_standard_output(f"{text}\n".encode(errors="backslashreplace"))


def note(text: object) -> None:
    """Print a note on standard error, as one line."""
    print(f"agvae: note: {one_line(text)}", file=sys.stderr)


def fail(error: object, status: int) -> int:
    """Print an error on standard error, as one line, and return `status`."""
    print(f"agvae: {one_line(error)}", file=sys.stderr)
    return status


def one_line(error: object) -> str:
    """The text of an error or a note without line breaks; an OSError names its file first."""
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _to_standard_output(data: bytes) -> None:
    if sys.stdout is None:
        raise ValueError("standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes the buffer again at its end, which would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error
