"""Shared fixtures: where golden values lie, and tiny datasets made on the spot."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Tests run side by side; threads that wait for a busy core would slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
_GOLDEN_FOLDERS = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")


def golden_file(name: str) -> Path:
    """The path of a golden value; the test is skipped where the file is not at hand."""
    for folder in _GOLDEN_FOLDERS:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"golden values of the original are not here: {name}")
