"""The repository, its golden values, and the texts that tests expect."""

import os
import re
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


def check_text(text: str, path: Path, section: str | None = None) -> None:
    """Compare a text with a file, or with what is under one of its ``# headings``.

    With ``RENEW=1`` (``make renew-texts``) a file that differs is rewritten, and the test fails.
    """
    file = path.read_text(encoding="utf-8") if path.exists() else ""
    if section is None:
        whole = text
    else:
        _, *parts = re.split("^# (.*)\n\n", file, flags=re.MULTILINE)
        sections = {
            name: held.rstrip("\n") for name, held in zip(parts[::2], parts[1::2], strict=True)
        }
        sections[section] = text.rstrip("\n")
        whole = "\n\n".join(f"# {name}\n\n{held}" for name, held in sections.items()) + "\n"
    if os.environ.get("RENEW") and whole != file:
        path.write_text(whole, encoding="utf-8")
        pytest.fail(f"{path.name} was rewritten: read its difference, and test without RENEW")
    assert whole == file
