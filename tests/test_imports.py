"""The parts of the package import only parts of lower floors."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "agvae"

LEAVES = {
    "arguments", "configuration", "errors", "extensions", "facts", "files", "images", "machine_code", "metrics",
    "quality", "shipped", "strides", "threads", "wandb_account",
}  # fmt: skip
BELOW: dict[str, set[str]] = {"data": set(), "entropy": set()}
BELOW["models"] = {"entropy"}
BELOW["codec"] = {"entropy", "models"}
BELOW["evaluation"] = {"codec", "models"}
BELOW["training"] = {"codec", "data", "evaluation", "models"}
BELOW["reporting"] = {"codec", "data", "entropy", "evaluation", "models"}
BELOW["demo"] = {"codec", "data", "evaluation", "reporting"}
BELOW["engine"] = {"codec", "data", "evaluation", "models", "reporting", "training"}
BELOW["cli"] = {*BELOW}
PARTS = LEAVES | {*BELOW}


def imports(part: str) -> dict[str, list[str]]:
    """The other parts that a part imports, each with the files that import it."""
    path = PACKAGE / part
    found: dict[str, list[str]] = {}
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                own = node.module == "agvae"
                names = [f"agvae.{alias.name}" for alias in node.names if alias.name in PARTS] if own else [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("agvae.") and name.split(".")[1] != part:
                    found.setdefault(name.split(".")[1], []).append(str(file.relative_to(PACKAGE)))
    return found


@pytest.mark.parametrize("part", BELOW)
def test_a_part_imports_only_parts_below_it(part):
    assert {name: files for name, files in imports(part).items() if name not in BELOW[part] | LEAVES} == {}


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_a_leaf_imports_only_leaves(leaf):
    assert {name: files for name, files in imports(leaf).items() if name not in LEAVES} == {}


def test_every_part_has_its_floor():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} == BELOW.keys() | LEAVES
