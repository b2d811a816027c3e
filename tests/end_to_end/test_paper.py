"""The toy copy of the paper's main table, from one command to table and page, in a minute."""

import json

import pytest

from revt_hf.cli.main import main
from tests.helpers.golden import ROOT

_SMALL = {"source.options.images": 4, "source.options.size": [64, 128], "augmentation.crop": 64}
_METHODS = {"base": 1, "pixmix": 4, "bilateral": 5, "both": 6}


@pytest.mark.slow
def test_the_papers_main_table_in_small(tmp_path, capsys):
    start = {**_SMALL, "train.steps": 2}
    member = {**start, "source.options.val_images": 2, "train.validate_every": None}
    target = {
        "domain": "streets",
        "config": "fog",
        "options": {"size": [64, 128], "val_images": 2},
    }
    settings = {
        "seeds": [0],
        "members.init.set": start,
        "merges.revt-1-4-6.recalibrate": 2,
        "merges.revt-4-5-6.recalibrate": 2,
        "evaluate": {"targets": [target]},
        **{
            f"members.{name}.set": {**member, "augmentation.method": method}
            for name, method in _METHODS.items()
        },
    }
    overrides = [
        text for key, value in settings.items() for text in ("--set", f"{key}={json.dumps(value)}")
    ]
    recipe = str(ROOT / "recipes/streets/paper.yaml")
    with pytest.raises(SystemExit) as caught:
        main(["run", recipe, "--output", str(tmp_path / "run"), "--quiet", *overrides])
    assert not caught.value.code, capsys.readouterr().err
    table = (tmp_path / "run/tables/paper.md").read_text()
    networks = {
        cells[1].strip(): int(cells[2])
        for line in table.splitlines()
        if len(cells := line.split("|")) > 3 and cells[2].strip().isdecimal()
    }
    assert networks == {
        "init": 1,
        "1 base": 1,
        "4 PixMix": 1,
        "5 bilateral": 1,
        "6 PixMix + bilateral": 1,
        **{f"ReVT {members}": 3 for members in ("{1,4,6}", "{4,5,6}")},
        **{f"ReVT {members}, recalibrated": 3 for members in ("{1,4,6}", "{4,5,6}")},
        **{f"ensemble {members}, logits": 1 for members in ("{1,4,6}", "{4,5,6}")},
        **{f"ensemble {members}, features": 3 for members in ("{1,4,6}", "{4,5,6}")},
    }
    page = (tmp_path / "run/reports/paper.html").read_text()
    assert "ReVT {1,4,6}, head base" in page
    assert "ReVT {4,5,6}, head" not in page
