"""Notebooks: short, over the public API, without outputs, and they run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import vocalnet

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_LINES = 30
QUICK = {  # what the cell tagged "parameters" of a notebook becomes here
    "entropy": 'names, decoders = ["capital"], None',
    "train_a_head": 'head, steps, n_questions, folder = "group_linear_3", 2, 12, "../work"',
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    """One notebook as it is committed."""
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def quick(notebook, request):
    """The same, with a few steps and questions only where it takes parameters."""
    source = QUICK.get(request.node.callspec.params["notebook"].stem)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(cells) == (source is not None)
    for cell in cells:
        cell.source = source
    return notebook


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"first_talk", "entropy", "speedup", "train_a_head"}


def test_a_notebook_is_short_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines()) <= MAX_LINES
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_a_notebook_imports_public_names_only(notebook):
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines() if "vocalnet" in line]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports
    for line in imports:
        assert line.startswith("from vocalnet import ")
        assert set(line.removeprefix("from vocalnet import ").split(", ")) <= set(vocalnet.__all__)


def test_a_notebook_runs(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # as after `pip install -e .`
    (tmp_path / "demo").symlink_to(FOLDER.parent / "demo")
    (tmp_path / "notebooks").mkdir()
    client = NotebookClient(quick, timeout=300, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()
    assert any("image/png" in output.get("data", {}) for cell in code_cells(quick) for output in cell.outputs)
