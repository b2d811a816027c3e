"""The repository and its golden values."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_GOLDEN_FOLDERS = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")


def golden_file(name: str) -> Path:
    """The path of a golden value; the test is skipped where the file is not at hand."""
    for folder in _GOLDEN_FOLDERS:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"golden values of the original are not here: {name}")
