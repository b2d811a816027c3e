"""``revt demo --quick``: everything from nothing to a page, within a minute or two."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.data.domains.streets import UNSEEN_STYLES
from revt_hf.evaluation.result import read_results

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


def test_every_model_is_scored_on_every_look(demo):
    results = read_results([demo / "results.json"])
    scored = {(one.model, score.config) for one in results for score in one.scores}
    assert scored == {(m, look) for m in MODELS for look in ("source", *UNSEEN_STYLES)}
    scores = [score for one in results for score in one.scores]
    assert [score.is_source for score in scores if score.config == "source"] == [True] * 7
    assert all(0 < score.aacc <= 100 for score in scores)


def test_the_page_stands_alone_and_shows_the_results(demo):
    page = (demo / "report.html").read_text()
    assert all(name in page for name in MODELS)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    for one in read_results([demo / "results.json"]):
        assert all(f"{score.miou:.1f}" in page for score in one.scores)


def test_members_start_from_one_encoder_and_differ(demo):
    folders = sorted((demo / "members").glob("[146]-*/model.safetensors"))
    states = [load_file(folder) for folder in folders]
    assert len(states) == 3
    name = "segformer.encoder.block.1.0.mlp.dense1.weight"
    start = load_file(demo / "init" / "model.safetensors")[name]
    moved = [(state[name] - start).abs().max().item() for state in states]
    assert all(0 < distance < 0.5 for distance in moved)
    assert not states[0][name].equal(states[1][name])


def test_merges_are_the_mean_with_each_head(demo):
    members = [load_file(f) for f in sorted((demo / "members").glob("*/model.safetensors"))]
    merges = [load_file(f) for f in sorted((demo / "revt").glob("*/model.safetensors"))]
    for member, merged in zip(members, merges, strict=True):
        for name, tensor in merged.items():
            if name.startswith("decode_head."):
                assert tensor.equal(member[name])
            else:
                mean = sum(state[name].double() for state in members) / 3
                assert (tensor.double() - mean).abs().max() < 1e-6
    assert SegformerForSemanticSegmentation.from_pretrained(demo / "revt" / "head-1")


def test_the_sheet_is_a_image(demo):
    assert Image.open(demo / "scenes.png").width > 1000
