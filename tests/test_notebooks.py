"""The notebooks are stored without outputs, and run from the first cell to the last."""

import ast
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def cells(name: str) -> list[dict]:
    return json.loads((FOLDER / name).read_text())["cells"]


def test_there_are_three_in_the_order_of_their_use():
    assert [name.partition("_")[0] for name in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_without_outputs_and_every_cell_is_python(name):
    notebook = json.loads((FOLDER / name).read_text())
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            ast.parse("".join(cell["source"]))
    assert sum(cell["metadata"] == {"tags": ["parameters"]} for cell in notebook["cells"]) == 1


@pytest.mark.slow
def test_notebooks_run_one_after_the_other(tmp_path):
    moved = "before = view.value; slider.value = 1.0; assert view.value[:4] == b'\\x89PNG' and view.value != before"
    for name, changes, check in zip(NOTEBOOKS, ({"STEPS": 20}, {}, {}), ("", moved, ""), strict=True):
        assert run(name, changes, tmp_path, check) >= 3
    made = {path.name for path in (tmp_path / "paper").iterdir()}
    assert {"figure1.png", "figure2.png", "equations.md"} <= made
    assert any(name.startswith("figure3-6_coffee") for name in made)


def run(name: str, changes: dict[str, object], output: Path, check: str = "") -> int:
    """Execute a notebook with some parameters changed, and `check` after it. Returns the number of pictures shown."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / name, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    source = notebook.cells[place].source.replace("../outputs/notebooks", str(output))
    lines = [source, *(f"{key} = {value!r}" for key, value in changes.items())]
    notebook.cells[place].source = "\n".join(lines)
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)
