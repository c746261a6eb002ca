"""Every name in documents, settings and scripts exists: modules, files, commands, arguments, links, make targets."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agvae.cli.parser import make_parser
from agvae.configuration import Evaluation, Training, checked
from agvae.configuration.command import with_home

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
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)


@cache
def files() -> list[str]:
    """Paths of the project's own files, each with a leading slash."""
    folders = [path for path in ROOT.iterdir() if re.fullmatch(FOLDER, path.name)]
    found = [path for folder in folders for path in folder.rglob("*")] + [*ROOT.glob("*")]
    return [f"/{path.relative_to(ROOT)}" for path in found]


def resolve(name: str) -> object:
    """The module or member of a module with this dotted name. Raises ImportError or AttributeError."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:index]))
    return found


def unresolved(names: list[str]) -> list[str]:
    """The names that do not exist in the package."""
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


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_exist(document):
    broken = []
    for link in LINK.findall(BLOCK.sub("", document.read_text())):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target.read_text()))):
            broken.append(link)
    assert not broken


def test_the_index_lists_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert not pages - set(LINK.findall((ROOT / "docs" / "README.md").read_text()))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@every_document
def test_lines_wrap_at_100_characters(document):
    lines = BLOCK.sub("", document.read_text()).splitlines()
    assert not [line for line in lines if len(line) > 100 and line[0] not in "|!"]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in the command blocks of a document, except calls with … or $."""
    for kind, block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines() if kind in ("", "console") else []
        for line in lines:
            if line.startswith(f"{program} ") and "…" not in line and "$" not in line:
                yield shlex.split(line.removeprefix(program), comments=True)


@every_document
def test_calls_of_agvae_have_arguments_that_it_takes(document):
    for arguments in commands(document.read_text(), "agvae"):
        make_parser().parse_args(arguments)


def settings(arguments: list[str]) -> list[str]:
    """The overrides of a call of train.py or evaluate.py. A sweep over several values gives the first."""
    overrides = [with_home(argument) for argument in arguments if not argument.startswith("-")]
    return [override if "[" in override else override.partition(",")[0] for override in overrides]


@every_document
@pytest.mark.parametrize(("name", "schema"), [("train", Training), ("evaluate", Evaluation)])
def test_calls_of_the_scripts_set_keys_that_exist(document, name, schema):
    for arguments in commands(document.read_text(), f"python {name}.py"):
        if not any("my_parts" in argument for argument in arguments):  # test_extending.py runs those
            with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
                cfg = compose(name, [*settings(arguments), "run_dir=RUN"])
            checked(schema, OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path, photo):
    """Commands that need other programs, a download or minutes are left out. Training has two steps, evaluation two
    qualities."""
    for name in ("train.py", "evaluate.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "photos").mkdir()
    for left, path in enumerate(("photo.png", "photo.jpg", "photos/one.png", "photos/two.png"), 100):
        photo.crop((left, 50, left + 256, 306)).save(tmp_path / path)
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    fast = (
        " trainer=cpu trainer.precision=32-true trainer.max_steps=2 trainer.limit_val_batches=1 logger=csv"
        " trainer.num_sanity_val_steps=0 data.batch_size=2 data.val_crop=64 hydra.run.dir=outputs/train/1"
    )
    quick = " 'qualities=[0,5]' 'codecs=[]'"
    lines = [line.partition(" #")[0] for kind, block in blocks if not kind for line in block.splitlines()]
    script = ["set -e"]
    for line in lines:
        line = line.replace("~/photos", "photos").replace("DIR", "photos").replace("DATE", "1")
        if line.startswith("python train.py") and " -m " not in line:
            script.append(line + fast)
        elif line.startswith("python evaluate.py") and "kodak" not in line:
            script.append(line + quick)
        elif line.startswith("agvae ") or line.startswith("python -m agvae"):
            script.append(line.replace(" multirun ", " "))
    script.sort(key=lambda line: line.startswith("agvae report"))  # it needs the runs of the other commands
    python = shlex.quote(sys.executable)
    text = re.sub(r"^agvae ", f"{python} -m agvae ", "\n".join(script), flags=re.MULTILINE)
    text = re.sub(r"^python ", f"{python} ", text, flags=re.MULTILINE)
    subprocess.run(["bash", "-c", text], cwd=tmp_path, check=True, env={**os.environ, "WANDB_MODE": "offline"})
    made = ("photo.agv", "decoded.png", "both.png", "report.html", "outputs/paper/figure1.png")
    assert not [name for name in made if not (tmp_path / name).exists()]
    (code,) = [block for kind, block in blocks if kind == "python"]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_page_on_the_architecture_names_every_part_of_the_package():
    parts = [
        path for path in (ROOT / "src" / "agvae").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    names = [path.name if path.suffix else f"{path.name}/" for path in parts if not path.name.startswith("__")]
    text = (ROOT / "docs" / "architecture.md").read_text()
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
