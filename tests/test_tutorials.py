"""The notebooks of docs/tutorials: what they hold, and (make docs-test) that they run."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from scripts.docs_hook import notebook_page
from tests.helpers.golden import ROOT
from tests.helpers.hub_repository import Hub
from tests.helpers.hub_server import TOKEN, serve_hub

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_it_was_run_from_top_to_bottom_and_is_small(path):
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not {output.output_type for output in outputs} & {"error"}
    assert path.stat().st_size < 500_000
    # Nothing of the machine that it was run on.
    assert not re.search(r"/home/|/tmp/|/root/|127\.0\.0\.1|\bhf_", path.read_text())


@every_notebook
def test_its_images_are_described(path):
    notebook = nbformat.read(path, 4)
    images = [
        cell.metadata.get("alt")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if any(kind.startswith("image/") for kind in output.get("data", ()))
    ]
    assert all(images)
    text, files = notebook_page(path)
    assert len(files) == len(images)
    assert re.findall(r"!\[(.+?)\]\(", text) == images


@every_notebook
@pytest.mark.tutorial
def test_it_runs(path, tmp_path, monkeypatch):
    """With a Hub on this machine to publish to."""
    bin_folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", str(os.cpu_count()))
    # Threads that wait for a busy core would spin.
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    notebook = nbformat.read(path, 4)
    with serve_hub(Hub(TOKEN)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        where = {"metadata": {"path": str(tmp_path)}}
        options = {"record_timing": False, "coalesce_streams": True}
        NotebookClient(notebook, timeout=3600, resources=where, **options).execute()
    if path.stem.startswith("3"):
        assert "model.safetensors" in hub.model("someone/streets-revt").files()
    if os.environ.get("RENEW"):
        nbformat.write(notebook, path)
