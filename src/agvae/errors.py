"""Errors that a user can put right, and how they end a command: one line on standard error, no traceback."""

import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot work; the message says what is wrong and what to do. Ends a command with status 2."""


class DataError(ValueError):
    """Input that cannot be used; the message names it. Ends a command with status 1."""


class JobError(Exception):
    """A run of several has failed, and has said why itself. Ends a command with status 1, after the other runs."""


def exit_on_error(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`; its `ConfigError` ends the process with status 2, its `DataError` with 1, in one line."""
    try:
        return function(*args)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


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
        print(f"error: {' '.join(line for line in lines if line)}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


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


def parsed(text: str, parse: Callable[[str], Any], good: Callable[[Any], bool], words: str) -> Any:
    """A command-line argument as a value. Raises ArgumentTypeError, "… is not `words`", unless it is good."""
    try:
        value = parse(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise ArgumentTypeError(f"{text!r} is not {words}")
    return value
