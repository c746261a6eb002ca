"""Between the command line and Hydra: arguments that Hydra would misunderstand, or report badly."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from agvae.configuration import Evaluation, Training
from agvae.configuration.checking import unknown
from agvae.errors import JobError, end, end_if_named, exit_on_error

OPTIONS = frozenset({
    "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion", "config-path",
    "config-name", "config-dir", "experimental-rerun", "info",
})  # fmt: skip
"""Hydra's own options. Hydra would treat --experiment as an abbreviation of the last but one."""


def run_hydra(main: Callable[[], Any]) -> None:
    """Run a Hydra entry point. If an argument does not fit the configuration, it ends with status 2 and one line. It
    ends with status 1 if one of several runs fails, and with 130 after Ctrl-C.

    A ~ at the start of a value is the home directory (`with_home`)."""
    sys.argv[1:] = map(with_home, sys.argv[1:])
    if wrong := wrong_option(sys.argv):
        end(wrong, 2)
    os.environ.setdefault(
        "HYDRA_FULL_ERROR", "1"
    )  # makes Hydra raise an error that it would otherwise print over several lines
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        end(_in_one_line(error), 2)
    except JobError as error:
        end(error, 1)
    except OSError as error:
        end_if_named(error)
        raise
    except KeyboardInterrupt:
        sys.exit(130)


def with_home(override: str) -> str:
    """An override in which a ~ at the start of the value is replaced by the home directory, as in data.root=~/photos.

    Shells do not expand it after a key with a dot, and Hydra's grammar refuses it."""
    return re.sub(r"(?<==)~(?=/|$)", lambda _: str(Path.home()), override, count=1)


def wrong_option(arguments: Sequence[str]) -> str | None:
    """The error for an option such as --experiment NAME in a command line, with the right form. None if there
    is none."""
    for argument, following in zip(arguments[1:], [*arguments[2:], ""], strict=True):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name not in OPTIONS:
            if not equals:
                value = following if following and "=" not in following and following[0] != "-" else "VALUE"
            key = name.replace("-", "_")
            return (
                f"arguments of {Path(arguments[0]).name} must be key=value or group=option, not {argument}: "
                f"write {key}={value}"
            )
    return None


def _in_one_line(error: Exception) -> str:
    message = str(error).partition("Config search path")[0]
    if missing := re.search(r"Could not override '([^']+)'", message):
        return _unknown(missing[1])
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def _unknown(key: str) -> str:
    return unknown(Evaluation if Path(sys.argv[0]).stem == "evaluate" else Training, key)


def run_task(function: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run the job of a command. If it fails, its error is one line, and a run folder that is still empty is removed."""
    try:
        return exit_on_error(function, cfg)
    except BaseException:
        _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
        raise


def _remove_if_empty(directory: Path) -> None:
    """Remove a run folder that holds only Hydra's record of the command."""
    files = [path for path in directory.rglob("*") if not path.is_dir()]
    if all(path.parent.name == ".hydra" for path in files):
        shutil.rmtree(directory, ignore_errors=True)
