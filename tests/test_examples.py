"""The notebooks in `examples/` run as they stand there, in a kernel of their own; and no outputs are kept in them."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, tmp_path):
    notebook = nbformat.read(file, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    kernel = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    kernel.execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", ())
    ]
    assert len(pictures) == 4
    coco = json.loads((tmp_path / "annotations.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == {"coins.png", "face.png"}
    named = {category["id"]: category["name"] for category in coco["categories"]}
    assert [named[annotation["category_id"]] for annotation in coco["annotations"]] == ["coin", "face"]
