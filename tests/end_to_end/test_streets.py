"""From nothing to a page on built-in streets: the demo, a real domain gap, the paper in small."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.data.domains.streets.paint import UNSEEN_STYLES
from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import revt
from tests.helpers.golden import ROOT

pytestmark = pytest.mark.slow
MODELS = ["init", "member 1", "member 4", "member 6", *(f"ReVT, head {n}" for n in (1, 4, 6))]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "revt_hf.cli.main", "demo", "--quick", "--quiet"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return output


def test_the_page_shows_every_model_on_every_style_and_stands_alone(demo):
    results = read_results([demo / "results.json"])
    assert [result.model for result in results] == MODELS
    page = (demo / "report.html").read_text()
    assert all(name in page for name in MODELS)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    for result in results:
        styles = {score.config: score.is_source for score in result.scores}
        assert styles == {"source": True, **dict.fromkeys(UNSEEN_STYLES, False)}
        for score in result.scores:
            assert 0 < score.aacc <= 100
            assert f"{score.miou:.1f}" in page
    assert Image.open(demo / "scenes.png").width > 1000


def test_members_share_initial_weights_and_merges_are_their_mean_with_each_head(demo):
    name = "segformer.encoder.block.1.0.mlp.dense1.weight"
    init = load_file(demo / "init" / "model.safetensors")[name]
    members, merges = (
        [load_file(file) for file in sorted((demo / kind).glob("*/model.safetensors"))]
        for kind in ("members", "revt")
    )
    moved = [(state[name] - init).abs().max().item() for state in members]
    assert len(moved) == 3
    assert all(0 < distance < 0.5 for distance in moved)
    assert not members[0][name].equal(members[1][name])
    for member, merged in zip(members, merges, strict=True):
        for key, tensor in merged.items():
            if key.startswith("decode_head."):
                assert tensor.equal(member[key])
            else:
                mean = sum(state[key].double() for state in members) / 3
                assert (tensor.double() - mean).abs().max() < 1e-6
    assert SegformerForSemanticSegmentation.from_pretrained(demo / "revt" / "head-1")


def _set(values):
    pairs = [("--set", f"{key}={json.dumps(value)}") for key, value in values.items()]
    return [text for pair in pairs for text in pair]


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
    fog = {"domain": "streets", "config": "fog", "options": {"size": [64, 128], "val_images": 2}}
    settings = {"seeds": [0], "members.init.set": init, "evaluate": {"targets": [fog]}}
    settings |= {f"merges.revt-{members}.recalibrate": 2 for members in ("1-4-6", "4-5-6")}
    for name, number in {"base": 1, "pixmix": 4, "bilateral": 5, "both": 6}.items():
        settings[f"members.{name}.set"] = {**member, "augmentation.method": number}
    run = tmp_path / "run"
    _done(capsys, "run", ROOT / "recipes/streets/paper.yaml", "--output", run, *_set(settings))
    rows = [line.split("|") for line in (run / "tables/paper.md").read_text().splitlines()]
    networks = {
        cells[1].strip(): int(cells[2])
        for cells in rows
        if len(cells) > 3 and cells[2].strip().isdecimal()
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
