"""The recipes on built-in streets: a real domain gap, and the paper's main table in small."""

import json

import numpy as np
import pytest

from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import revt
from tests.helpers.golden import ROOT

pytestmark = pytest.mark.slow


def _set(values):
    return [
        text for key, value in values.items() for text in ("--set", f"{key}={json.dumps(value)}")
    ]


def _done(capsys, *arguments):
    code, _, error = revt(capsys, *arguments, "--quiet")
    assert not code, error


def test_no_augmentation_loses_twenty_points(tmp_path, capsys):
    recipe = ROOT / "recipes/streets/no-augmentation.yaml"
    short = {"train.steps": 450, "train.validate_every": None, "source.options.images": 200}
    _done(capsys, "train", recipe, "--output", tmp_path / "model", *_set(short))
    results = tmp_path / "results.json"
    _done(capsys, "evaluate", tmp_path / "model", "--recipe", recipe, "--json", results)
    (result,) = read_results([results])
    (source,) = (score.miou for score in result.scores if score.is_source)
    unseen = [score.miou for score in result.scores if not score.is_source]
    assert len(unseen) == 4
    assert source - np.mean(unseen) >= 20


def test_the_papers_main_table_in_small(tmp_path, capsys):
    small = {"source.options.images": 4, "source.options.size": [64, 128], "augmentation.crop": 64}
    init = {**small, "train.steps": 2}
    member = {**init, "source.options.val_images": 2, "train.validate_every": None}
    size = {"size": [64, 128], "val_images": 2}
    methods = {"base": 1, "pixmix": 4, "bilateral": 5, "both": 6}
    settings = {
        "seeds": [0],
        "members.init.set": init,
        "merges.revt-1-4-6.recalibrate": 2,
        "merges.revt-4-5-6.recalibrate": 2,
        "evaluate": {"targets": [{"domain": "streets", "config": "fog", "options": size}]},
        **{
            f"members.{name}.set": {**member, "augmentation.method": number}
            for name, number in methods.items()
        },
    }
    run = tmp_path / "run"
    _done(capsys, "run", ROOT / "recipes/streets/paper.yaml", "--output", run, *_set(settings))
    table = (run / "tables/paper.md").read_text()
    networks = {
        cells[1].strip(): int(cells[2])
        for line in table.splitlines()
        if len(cells := line.split("|")) > 3 and cells[2].strip().isdecimal()
    }
    sets = ("{1,4,6}", "{4,5,6}")
    assert networks == {
        **dict.fromkeys(("init", "1 base", "4 PixMix", "5 bilateral", "6 PixMix + bilateral"), 1),
        **{f"ReVT {members}": 3 for members in sets},
        **{f"ReVT {members}, recalibrated": 3 for members in sets},
        **{f"ensemble {members}, logits": 1 for members in sets},
        **{f"ensemble {members}, features": 3 for members in sets},
    }
    page = (run / "reports/paper.html").read_text()
    assert "ReVT {1,4,6}, head base" in page
    assert "ReVT {4,5,6}, head" not in page
