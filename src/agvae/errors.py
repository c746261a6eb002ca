"""Errors that a user can correct, and how they end a command: one line on standard error, without a traceback."""

import logging
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

log = logging.getLogger(__name__)


class ConfigError(ValueError):
    """A setting that cannot work. The message says what is wrong and what to do. Ends a command with status 2."""


class DataError(ValueError):
    """Input that cannot be used. The message names it. Ends a command with status 1."""


class JobError(Exception):
    """One of several runs has failed, and has printed why. Ends a command with status 1, after the other runs."""


class Forgiving:
    """A context in which the first exception becomes a warning, and later ones are ignored.

    It is for code that reports on a run and must not end it. `what` is the sentence of the warning, which the reason
    follows."""

    def __init__(self, what: str):
        self.what, self.warned = what, False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self.warned:
            log.warning("%s: %s: %s", self.what, type(error).__name__, error)
        self.warned = True
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. For memory of the CPU, torch has no error of its own and raises RuntimeError."""
    words = r"(out of|not enough|allocate) memory"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


def leave_quietly_on_ctrl_c() -> None:
    """Make Ctrl-C end this process without a traceback, even while it still imports packages."""

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def exit_on_error(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`. Its `ConfigError` ends the process with status 2, and its `DataError`, or an OSError that names
    a file, with status 1, in one line."""
    try:
        return function(*args)
    except ConfigError as error:
        end(error, 2)
    except DataError as error:
        end(error, 1)
    except OSError as error:
        end_if_named(error)
        raise


def end(reason: object, status: int) -> NoReturn:
    """Print an error on standard error, in one line, and exit with this status."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)


def end_if_named(error: OSError) -> None:
    """End the process if the error names a file. An error without one is a fault of the program, not of a path."""
    if error.filename:
        end(f"{error.filename}: {error.strerror}", 1)


def numbers(key: str, value: Any) -> list[float]:
    """The numbers of a configuration's `key`. A single number, as in qualities=0.5, is a list of one.

    Raises ConfigError for anything else."""
    try:
        return [float(number) for number in ([value] if isinstance(value, str | int | float) else value)]
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be a list of numbers such as [0.5,1], not {value}") from None
