"""A table whose cache cannot be used is built in memory."""

import warnings

import datasets
import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import load_domain


@pytest.fixture
def load(tmp_path):
    for kind, pixels in (("img_dir", np.zeros((4, 6, 3))), ("ann_dir", np.zeros((4, 6)))):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
        for name in "ab":
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "data" / kind / "val" / f"{name}.png")

    def run(cache=tmp_path / "cache", **more):
        return load_domain("folder", "val", tmp_path / "data", cache_dir=cache, **more)

    return run


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(("*.arrow", damage) for damage in (b"", bytes(range(256)) * 3, "half", None)),
        *(("dataset_info.json", damage) for damage in (b'{"a', b'{"splits": 3}')),
    ],
)
def test_a_damaged_table_is_built_anew(load, tmp_path, file, damage):
    load()
    (path,) = (tmp_path / "cache").rglob(file)
    if damage is None:
        path.unlink()
    else:
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes(half if damage == "half" else damage)
    with pytest.warns(DataWarning, match=r"cache.*HF_DATASETS_CACHE"):
        rows = load()
    assert [row["name"] for row in rows] == ["a", "b"]
    assert rows[0]["image"].shape == (4, 6, 3)


def test_a_cache_that_cannot_be_written(load, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.warns(DataWarning, match=r"file/x cannot be used"):
        assert len(load(tmp_path / "file" / "x")) == 2
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"HF_DATASETS_CACHE or TMPDIR"):
        load(tmp_path / "file" / "x")
    with pytest.raises(UserError, match=r"HF_DATASETS_CACHE"):
        load(tmp_path / "file" / "x", streaming=True)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_stay_as_the_caller_has_them(load, shown):
    before = datasets.are_progress_bars_disabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load()
        assert datasets.are_progress_bars_disabled() is not shown
    finally:
        (datasets.disable_progress_bars if before else datasets.enable_progress_bars)()
