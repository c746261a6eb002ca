"""The environment of a run: the revision of the code and the versions of the packages that it uses."""

import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def environment() -> dict[str, str | dict[str, str] | None]:
    """`git`: the commit of this package's code (with "-dirty" if it has changes), or None outside a repository;
    `python`: its version; `packages`: the versions of agvae and of the packages that it requires."""
    return {"git": git_revision(PACKAGE), "python": platform.python_version(), "packages": package_versions()}


def git_revision(folder: Path) -> str | None:
    """The commit of a tracked folder, 40 digits and possibly "-dirty". None if git tracks nothing in it."""
    if not _git(folder, "ls-files", "--", "."):  # installed inside another repository
        return None
    return _git(folder, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def package_versions() -> dict[str, str]:
    """Versions of agvae and of the installed packages that it requires."""
    versions = {}
    with suppress(PackageNotFoundError):  # of agvae itself, if it runs from its folder without installation
        needed = [requirement for requirement in requires("agvae") or () if "extra ==" not in requirement]
        for name in ["agvae", *(re.findall(r"^[\w.-]+", requirement)[0] for requirement in needed)]:
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
