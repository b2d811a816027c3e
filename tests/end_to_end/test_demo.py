"""``revt demo --quick``: everything from nothing to a page, within a minute or two."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.data.domains.streets.paint import UNSEEN_STYLES
from revt_hf.evaluation.result import read_results

MODELS = ["init", "member 1", "member 4", "member 6", *(f"ReVT, head {n}" for n in (1, 4, 6))]


pytestmark = pytest.mark.slow


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
    members = [load_file(f) for f in sorted((demo / "members").glob("*/model.safetensors"))]
    merges = [load_file(f) for f in sorted((demo / "revt").glob("*/model.safetensors"))]
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
