"""The notebook runs from a folder to a report, with sizes for a test, and is stored with what it gave at its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from_folder_to_report.ipynb"
SMALL = {
    "IMAGES_PER_CLASS": 8,
    "IMAGE_SIZE": 32,
    "STAGE1_CHANNELS": "16 32",
    "STAGE1_EPOCHS": 2,
    "STAGE2_CHANNELS": "32 32",
    "STAGE2_EPOCHS": 2,
    "SAMPLES_PER_CLASS": 4,
    "CLASSIFIER_STEPS": 2,
    "CLASSIFIER_SEEDS": 1,
}


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook) -> list[str]:
    """The kinds of pictures among the outputs, in their order."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)


def test_the_notebook_is_stored_with_its_output_and_small(notebook):
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 1e6
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run once, from top to bottom"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert len(pictures(notebook)) == 7
    for script in ("simulate", "train_vqvae", "train_ldm", "sample", "evaluate"):
        assert f"$ python {script}.py" in printed(notebook)


def test_the_notebook_names_no_repository_and_no_folder_of_its_author(notebook):
    assert 'REPOSITORY = ""' in code_cells(notebook)[0].source
    assert not [path for path in ("/home/", "/root/", "/tmp/", "/Users/", "C:\\") if path in printed(notebook)]


@pytest.mark.slow
def test_the_notebook_runs_from_folder_to_report(notebook, tmp_path):
    """Without the pictures and figures it is stored with, from the folder it lies in, as an editor starts it."""
    nbclient = pytest.importorskip("nbclient")
    (sizes,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", ())]
    assert not [name for name in SMALL if name not in sizes.source]
    sizes.source += "".join(f"\n{name} = {value!r}" for name, value in SMALL.items())
    sizes.source += f"\nWORK = {str(tmp_path / 'run')!r}"
    for cell in code_cells(notebook):
        cell.outputs = []
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert len(pictures(notebook)) == 7
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["headline"] in printed(notebook)
    assert len(list((tmp_path / "run" / "augmented").rglob("*_0*.png"))) == 4 * SMALL["SAMPLES_PER_CLASS"]
