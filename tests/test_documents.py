"""Documents, settings and scripts name only what exists: modules, their members, files, commands, targets of make."""

import ast
import importlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

from agvae.cli.parser import make_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTINGS = [ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / "conf").rglob("*.yaml"))]
SCRIPTS = sorted(path for folder in ("benchmarks", "examples", "sweeps") for path in (ROOT / folder).rglob("*.py"))

MODULE = re.compile(r"(?<![\w/.-])agvae(?:\.(?!py\b)[A-Za-z_]\w*)+")
FOLDER = r"(?:src|tests|benchmarks|conf|docs|notebooks|examples|sweeps|tools)"
FILE = re.compile(rf"(?<![\w/.-])(?:{FOLDER}/[\w/.-]*\w|[\w/]+\.(?:py|ipynb))(?![\w*{{])")
COMMAND = re.compile(r"(?:^|`)agvae ([a-z][a-z-]*)", re.MULTILINE)
TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)


@cache
def files() -> list[str]:
    """Paths of the project's own files, each with a slash before it."""
    folders = [path for path in ROOT.iterdir() if re.fullmatch(FOLDER, path.name)]
    found = [path for folder in folders for path in folder.rglob("*")] + [*ROOT.glob("*")]
    return [f"/{path.relative_to(ROOT)}" for path in found]


def resolve(name: str) -> object:
    """The module with a dotted name, or the member of one. Raises ImportError or AttributeError."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:index]))
    return found


def unresolved(names: list[str]) -> list[str]:
    """Those of the names that nothing in the package has."""
    missing = []
    for name in dict.fromkeys(names):
        try:
            resolve(name)
        except (ImportError, AttributeError):
            missing.append(name)
    return missing


def imported(code: str) -> list[str]:
    """The modules and members of agvae that Python code imports, as dotted names."""
    names: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "agvae"]


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS, *SETTINGS], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_are_named_exist(path):
    assert not unresolved(MODULE.findall(path.read_text()))


@every_document
def test_files_that_are_named_exist(document):
    text = document.read_text()
    written = set(re.findall(r"^```\w+ (\S+)$", text, re.MULTILINE))  # files that the document itself shows
    names = dict.fromkeys(name for name in FILE.findall(text) if name not in written)
    assert not [name for name in names if not any(file.endswith(f"/{name.rstrip('/')}") for file in files())]


def test_the_readme_names_every_part_of_the_package():
    parts = [
        path for path in (ROOT / "src" / "agvae").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names = [path.name if path.suffix else f"{path.name}/" for path in parts if not path.name.startswith("__")]
    text = (ROOT / "README.md").read_text()
    assert not [name for name in names if f"`src/agvae/{name}`" not in text and f"`{name}`" not in text]


@every_document
def test_commands_that_are_named_exist(document):
    (commands,) = [action.choices for action in make_parser()._actions if isinstance(action.choices, dict)]
    assert not set(COMMAND.findall(document.read_text())) - set(commands)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not set(TARGET.findall(document.read_text())) - set(targets)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_what_exists(script):
    assert not unresolved(imported(script.read_text()))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_import_what_exists(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    code = "\n".join("pass" if line.lstrip()[:1] in ("%", "!") else line for line in lines)
    assert not unresolved(imported(code))


def test_help_of_make_names_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert set(re.findall(r'@echo "make ([a-z-]+)', text)) == targets - {"help"}
