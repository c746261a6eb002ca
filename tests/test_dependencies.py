"""The package imports only what pyproject.toml declares, and works without its extras."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path
    for path in sorted((ROOT / "src").rglob("*.py"))
} | {name: ROOT / f"{name}.py" for name in ("train", "evaluate")}

OWNERS = metadata.packages_distributions()
"""The distributions that provide each importable name."""

NEEDS = {
    "agvae.demo": "demo",
    "agvae.evaluation.classical": "codecs",
    "agvae.evaluation.peers": "compressai",
    "agvae.models.peers": "compressai",
    "agvae.reporting.charts": "report",
    "agvae.reporting.dashboard": "dashboard",
    "agvae.reporting.html": "report",
}
"""The modules and packages that may import packages of an extra, and the extra."""

ALL_AT_ONCE = ("agvae.demo.", "agvae.reporting.charts")
"""Modules that import their extra when they are loaded. Other modules import these only when they need them."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    """The names in requirements, as torch in `torch>=2.6`."""
    return {normalised(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def extra_of(module: str) -> str | None:
    return next((extra for prefix, extra in NEEDS.items() if f"{module}.".startswith(f"{prefix}.")), None)


def imported(module: str) -> Iterator[str]:
    """The top-level names of other packages that a module imports, anywhere in its code."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("agvae", "__future__"):
                yield top


@pytest.mark.parametrize("module", SOURCES)
def test_each_module_imports_what_is_declared_for_it(module):
    extra = extra_of(module)
    declared = distributions(PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, []))
    for name in imported(module):
        assert {normalised(owner) for owner in OWNERS[name]} & declared, (
            f"{module} imports {name}, which is not declared"
        )


def test_every_module_loads_without_the_extras():
    base = distributions(PROJECT["dependencies"])
    extras = distributions([r for group in PROJECT["optional-dependencies"].values() for r in group]) - base - {"agvae"}
    absent = [name for name, found in OWNERS.items() if {normalised(owner) for owner in found} <= extras]
    modules = [name.removesuffix(".__init__") for name in SOURCES if name.startswith("agvae.")]
    modules = [name for name in modules if not name.startswith(ALL_AT_ONCE) and not name.endswith("__main__")]
    code = (
        "import importlib, sys, warnings\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


GPU = ("nvidia-", "cuda-", "triton")
"""Prefixes of packages that only torch requires. torch pins their versions."""


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def needed(name: str, extras: set[str], found: dict[str, str]) -> None:
    """Add to `found` the installed version of everything that a distribution requires here, directly or indirectly."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        other = normalised(requirement.name)
        if other not in found or requirement.extras:
            found[other] = metadata.version(other)
            needed(other, requirement.extras, found)


def test_everything_that_make_installs_is_pinned_and_installed_as_pinned():
    found: dict[str, str] = {}
    needed("agvae", {"dev"}, found)
    found = {name: version for name, version in found.items() if name != "agvae" and not name.startswith(GPU)}
    assert {name: version.partition("+")[0] for name, version in found.items()}.items() <= pins().items()
