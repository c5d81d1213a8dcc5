"""The notebooks run from top to bottom in a fresh kernel, and are saved with what they showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


def outputs(notebook):
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def shown(notebook):
    """The notebook's output as text, without what differs from run to run."""
    return [o for o in outputs(notebook) if o.output_type == "display_data"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # tests run side by side, and the model is small
    saved = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert len(shown(fresh)) == len(shown(saved)), "save the notebook anew, with its outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_saved_notebook_reads_well_without_running_it(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    figures = [o for o in outputs(notebook) if PLOTLY in o.get("data", {})]
    assert figures
    assert all("image/png" in figure.data for figure in figures)


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "00_quickstart",
        "01_tour",
        "02_patching",
        "03_reading_results",
        "04_other_models",
        "05_can_you_trust_it",
        "06_gradients",
        "07_reading_thoughts",
    ]
