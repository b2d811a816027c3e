"""The Python code in README.md and docs/extending.md runs as it is written there."""

import re
import subprocess
import sys

import numpy as np
import pytest

import revt_hf as revt
from tests.helpers.golden import ROOT

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _blocks(page: str) -> list[str]:
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_session_of_the_readme(tmp_path):
    (session,) = _blocks("README.md")
    assert len(session.split("\n\n", 1)[1].splitlines()) <= 10
    assert "import" not in session.removeprefix("import revt_hf as revt")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = subprocess.run(
        [sys.executable, "-c", session], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    labels = ("runs/base", "runs/pixmix", "runs/revt")
    for line, label in zip(done.stdout.strip().splitlines()[-3:], labels, strict=True):
        assert re.search(rf"{label} {{'source/val': \d+\.\d+, 'night/val': \d+\.\d+}}", line)
    assert "license: apache-2.0" in (tmp_path / "runs" / "card" / "README.md").read_text()


def test_extensions_are_found_by_name(tmp_path):
    blocks, defined = _blocks("docs/extending.md"), {}
    assert len(blocks) == 3
    for block in blocks:
        assert len(block.splitlines()) < 30
        exec(compile(block, "docs/extending.md", "exec"), defined)
    with pytest.raises(revt.UserError, match="photos"):
        revt.load_domain("town", "val", tmp_path)
    from revt_hf.data.augment import PipelineSpec, augment, build_pipeline
    from revt_hf.merging.registry import find_method

    first, second = np.float32([1, 3]), np.float32([3, 5])
    merged = find_method("towards_first").combine([first, second], parameters={"share": 0.5})
    assert merged.tolist() == [1.5, 3.5]
    image, label = np.full((40, 48, 3), 90, np.uint8), np.zeros((40, 48), np.uint8)
    spec = PipelineSpec(method="jpeg", max_size=None, crop=32)
    assert augment(build_pipeline(spec), image, label, 0)["image"].shape[:2] == (32, 32)
