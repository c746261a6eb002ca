"""Parts from other packages: transforms, contexts, losses, data layouts and codecs, by name or import path.

A name is looked up among the built-in parts, and then among the entry points in the group `agvae_KIND`. An import path,
`package.module:name`, needs no entry point.

Importing a module runs its code. The configuration of a command comes from its user, so its import paths are imported.
A model file or checkpoint may come from anybody. It can never cause an import unless the module was trusted before, by
an entry point, by AGVAE_EXTENSIONS or by `trust`.
"""

import importlib
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""package.module:name"""

TRUSTED = "AGVAE_EXTENSIONS"
"""Environment variable: modules, separated by commas, that model files may name. Child processes inherit it."""


class UntrustedError(ValueError):
    """A part from a package that the user has not trusted."""


def trust(module: str) -> None:
    """Allow model files and checkpoints to name parts of this module."""
    os.environ[TRUSTED] = ",".join(dict.fromkeys([*_trusted(), module]))


def find(kind: str, name: str, built_in: Mapping[str, T]) -> T:
    """The part of a kind (transforms, context, loss, layout, codec) with this `name`.

    Raises ValueError if there is no such part, and if an import path is not trusted or cannot be imported."""
    if name in built_in:
        return built_in[name]
    if ":" not in name:
        for entry in entry_points(group=f"agvae_{kind}", name=name):
            return entry.load()
        raise ValueError(
            f"{kind} must be {', '.join(built_in)}, package.module:name or an entry point of agvae_{kind}, not {name}"
        )
    module = name.partition(":")[0]
    if module not in _trusted():
        raise UntrustedError(
            f"{kind} {name} is not part of agvae: if you trust the code of {module}, set {TRUSTED}={module} or call "
            f"agvae.extensions.trust({module!r})"
        )
    return imported(name)


def trust_all(config: Mapping[str, Any]) -> None:
    """Trust the modules that the user's own configuration names, at any depth."""
    for value in config.values():
        if isinstance(value, Mapping):
            trust_all(value)
        elif isinstance(value, str) and IMPORT_PATH.fullmatch(value):
            trust(value.partition(":")[0])


@cache
def names(kind: str) -> frozenset[str]:
    """The names under which installed packages offer parts of a kind."""
    return frozenset(entry.name for entry in entry_points(group=f"agvae_{kind}"))


def imported(path: str) -> Any:
    """The object at an import path, package.module:name. Raises ValueError if it cannot be imported."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path} must be the import path of a function or class, package.module:name: {error}"
        ) from error


def _trusted() -> list[str]:
    return [name for name in os.environ.get(TRUSTED, "").split(",") if name]
