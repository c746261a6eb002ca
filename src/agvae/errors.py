"""Errors that a user can put right, and how they end a command: one line on standard error, no traceback."""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class ConfigError(ValueError):
    """A setting that cannot work; the message says what is wrong and what to do. Ends a command with status 2."""


class DataError(ValueError):
    """Input that cannot be used; the message names it. Ends a command with status 1."""


class JobError(Exception):
    """A run of several has failed, and has said why itself. Ends a command with status 1, after the other runs."""


class Forgiving:
    """A context in which an exception is a warning, the first time, and afterwards nothing.

    For what tells of a run and must not end it. `what` is the warning's sentence, which the reason follows."""

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
    """Whether memory ran out; for that of the CPU torch has no error of its own, and raises RuntimeError."""
    words = r"(out of|not enough|allocate) memory"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


def exit_on_error(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; its `ConfigError` ends the process with status 2, its `DataError` and an OSError that names a
    file with 1, in one line."""
    try:
        return function(*args)
    except ConfigError as error:
        _end(error, 2)
    except DataError as error:
        _end(error, 1)
    except OSError as error:
        _end_if_named(error)
        raise


def _end(reason: object, status: int) -> None:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)


def _end_if_named(error: OSError) -> None:
    """One without a file's name is a fault of the program rather than of a path that the user can change."""
    if error.filename:
        _end(f"{error.filename}: {error.strerror}", 1)


def run_hydra(main: Callable[[], Any]) -> None:
    """Run a Hydra entry point; an override that does not fit the configuration ends it with status 2, in one line, and
    a failed run of several with status 1.

    A ~ at the start of a value is the home directory (`with_home`)."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    sys.argv[1:] = map(with_home, sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would print over several lines
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
        _end(" ".join(line for line in lines if line), 2)
    except JobError as error:
        _end(error, 1)
    except OSError as error:
        _end_if_named(error)
        raise


def with_home(override: str) -> str:
    """An override with the home directory in the place of a ~ at the start of its value, as in data.root=~/photos.

    Shells leave it there after a key with a dot, and Hydra's grammar does not take it."""
    return re.sub(r"(?<==)~(?=/|$)", lambda _: str(Path.home()), override, count=1)


def numbers(key: str, value: Any) -> list[float]:
    """The numbers of a configuration's `key`; one on its own, as in qualities=0.5, is a list of one.

    Raises ConfigError for anything else."""
    try:
        return [float(number) for number in ([value] if isinstance(value, str | int | float) else value)]
    except (TypeError, ValueError):
        raise ConfigError(f"{key}={value} is not a list of numbers such as [0.5,1]") from None
