"""Weights by layer, and the statistics of BatchNorm as moments of the mixture."""

import json
import math
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import yaml

from revt_hf.checkpoints.architecture import SIZES, tensor_shapes
from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.checkpoints.headers import tensors_sha256
from revt_hf.core.errors import UserError
from revt_hf.merging.average import merge
from revt_hf.merging.layer_weights import LayerWeights, depths
from revt_hf.merging.merge_plan import make_plan
from revt_hf.merging.registry import MergeSpec, Rule, find_method
from tests.helpers.command_line import refused, revt
from tests.helpers.segformers import change_tensors, random_state, saved_state, tensors_of

FIRST = "segformer.encoder.patch_embeddings.0.proj.weight"
MIDDLE = "segformer.encoder.layer_norm.2.bias"
LAST = "segformer.encoder.layer_norm.3.bias"
HEAD = "decode_head.classifier.weight"
MEAN, VARIANCE = (f"decode_head.batch_norm.running_{kind}" for kind in ("mean", "var"))


@pytest.fixture
def members(tmp_path):
    return [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(3)]


def _spec(members, *rules, **more):
    return MergeSpec(tuple(map(str, members)), rules, **more)


def test_equal_weights_below_and_an_anchor_above():
    leaning = LayerWeights(2, start=0.5, share=0.6)
    for depth, expected in ((0, 1 / 3), (0.5, 1 / 3), (0.75, (1 / 3 + 0.6) / 2), (1, 0.6)):
        first, anchor, third = leaning.at(depth, 3)
        assert anchor == pytest.approx(expected)
        assert first == third == pytest.approx((1 - expected) / 2)
    assert LayerWeights(1).at(1, 3) == (1, 0, 0)
    assert LayerWeights(1).at(0.5, 2) == (0.75, 0.25)


def test_depth_goes_from_the_first_layer_to_the_last():
    names = list(tensor_shapes(SIZES["b5"], 19))
    found = depths(names, names, SEGFORMER)
    order = [
        FIRST,
        "segformer.encoder.block.0.0.mlp.dense1.weight",
        "segformer.encoder.layer_norm.0.weight",
        "segformer.encoder.patch_embeddings.1.proj.weight",
        "segformer.encoder.block.2.2.mlp.dense1.weight",
        "segformer.encoder.block.2.10.mlp.dense1.weight",
        MIDDLE,
        LAST,
    ]
    ways = [found[name] for name in order]
    assert ways == sorted(set(ways))
    assert (ways[0], ways[-1], found[HEAD]) == (0, 1, 1)
    # What is in no known layer of the encoder is no head.
    strange = "segformer.encoder.adapter.0.weight"
    with pytest.raises(UserError, match=rf"which layer of the encoder {strange} is in is not"):
        depths([*names, strange], [*names, strange], SEGFORMER)
    assert depths([*names, strange], names, SEGFORMER) == found


@pytest.mark.numeric
def test_layers_get_their_weights_in_a_merge(members, tmp_path):
    rule = Rule("all", "weighted_mean", layer_weights=LayerWeights(2))
    merged = tensors_of(merge(_spec(members, rule), tmp_path / "out"))
    states = [tensors_of(member) for member in members]
    torch.testing.assert_close(merged[FIRST], sum(state[FIRST] for state in states) / 3)
    for name in (LAST, HEAD):
        assert torch.equal(merged[name], states[1][name])
    # The ninth of twelve layers: three for each of four stages.
    own = 1 / 3 + 8 / 11 * 2 / 3
    rest = (1 - own) / 2 * (states[0][MIDDLE] + states[2][MIDDLE])
    torch.testing.assert_close(merged[MIDDLE], own * states[1][MIDDLE] + rest)


def test_a_recipe_names_them_in_one_line_and_the_record_repeats_them(capsys, members, tmp_path):
    path, digests = tmp_path / "merge.yaml", []
    for layer_weights in (
        {"anchor": 2},
        {"anchor": 3},
        {"anchor": 2, "start": 0.5},
        {"anchor": 2, "share": 0.75},
    ):
        rule = {"select": "backbone", "method": "weighted_mean", "layer_weights": layer_weights}
        path.write_text(yaml.safe_dump({"members": [*map(str, members)], "rules": [rule]}))
        out = tmp_path / f"out{len(digests)}"
        code, _, error = revt(capsys, "merge", "--recipe", path, "--output", out, "--quiet")
        assert code == 0, error
        (recorded,) = json.loads((out / "merge.json").read_text())["rules"]
        # A start of 0 is the default.
        assert recorded["layer_weights"] == {"share": 1.0, **layer_weights}
        digests.append(tensors_sha256(out / "model.safetensors"))
        again = ("merge", "--from", out / "merge.json", "--output", tmp_path / "again", "--quiet")
        code, _, error = revt(capsys, *again, "--overwrite")
        assert code == 0, error
        assert tensors_sha256(tmp_path / "again" / "model.safetensors") == digests[-1]
    assert len(set(digests)) == len(digests)
    code, out, _ = revt(capsys, "inspect", tmp_path / "out3")
    assert "weighted_mean of 'backbone', leaning to member 2 (weight 0.75) from depth 0" in out


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"layer_weights": {"anchor": 1}}, "mean takes no weights"),
        ({"layer_weights": {}}, "layer_weights.anchor"),
        ({"layer_weights": {"anchor": True}}, "anchor is a number, not true"),
        ({"layer_weights": {"anchor": 1, "strat": 0.5}}, "did you mean 'start'?"),
        ({"layer_weights": {"anchor": 4}}, "anchor is the number of a member, 1 to 3: 4"),
        ({"layer_weights": {"anchor": 1, "start": 1}}, "start is a depth from 0 to below 1: 1"),
        ({"layer_weights": {"anchor": 1, "share": 0.3}}, "last weight, 1/3 to 1: 0.3"),
        ({"layer_weights": {"anchor": 1, "share": math.nan}}, "layer_weights.share"),
        ({"layer_weights": {"anchor": 1}, "weights": [1, 2, 3]}, "exclude each other"),
    ],
)
def test_layer_weights_that_cannot_be_meant(capsys, members, tmp_path, rule, words):
    path = tmp_path / "merge.yaml"
    method = "mean" if "no weights" in words else "weighted_mean"
    rules = [{"method": method, **rule}]
    path.write_text(yaml.safe_dump({"members": [*map(str, members)], "rules": rules}))
    assert words in refused(capsys, "merge", "--recipe", path, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_moments_are_those_of_all_samples_together():
    samples = np.random.default_rng(0).normal(size=(3, 500, 8)) * [[[1]], [[2]], [[3]]]
    samples += np.arange(3.0)[:, None, None]
    means, variances = list(samples.mean(1)), list(samples.var(1))
    moments = find_method("moments")
    found = moments.combine(variances, means=means)
    np.testing.assert_allclose(found, samples.reshape(-1, 8).var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.combine(means), samples.reshape(-1, 8).mean(0), rtol=1e-12)
    twice = np.concatenate([*samples, samples[2]])
    found = moments.combine(variances, [1, 1, 2], means=means)
    np.testing.assert_allclose(found, twice.var(0), rtol=1e-12)
    with pytest.raises(UserError, match="no negative weights"):
        moments.combine(variances, [2, 1, -1])


@pytest.mark.numeric
@pytest.mark.parametrize("size", [8192, 16])
def test_mean_and_variance_of_batchnorm_are_merged_together(members, tmp_path, monkeypatch, size):
    """In pieces of four numbers, too; everything else is the mean, bit for bit."""
    for name in ("_BUFFER_BYTES", "_SMALLEST"):
        monkeypatch.setattr(f"revt_hf.merging.streaming.{name}", size)
    merged = tensors_of(merge(_spec(members, Rule("all", "moments")), tmp_path / "out"))
    plain = tensors_of(merge(_spec(members, Rule("all")), tmp_path / "plain"))
    assert {name for name in plain if not torch.equal(plain[name], merged[name])} == {VARIANCE}
    states = [tensors_of(member) for member in members]
    squares = sum(state[VARIANCE].double() + state[MEAN].double() ** 2 for state in states) / 3
    expected = squares - (sum(state[MEAN].double() for state in states) / 3) ** 2
    torch.testing.assert_close(merged[VARIANCE].double(), expected, rtol=1e-6, atol=0)
    # Anything else can be merged in another way beside them.
    rules = (Rule("all", "median"), Rule(r"re:.*\.running_(mean|var)$", "moments"))
    mixed = tensors_of(merge(_spec(members, *rules), tmp_path / "mixed"))
    assert torch.equal(mixed[VARIANCE], merged[VARIANCE])
    assert not torch.equal(mixed[HEAD], merged[HEAD])


def test_moments_of_one_half_of_a_pair_are_refused(members, tmp_path):
    for name in (MEAN, VARIANCE):
        for rules in ((Rule(name, "moments"),), (Rule("all", "moments"), Rule(name, "median"))):
            with pytest.raises(UserError, match=rf"{VARIANCE} together with {MEAN}: select both"):
                merge(_spec(members, *rules), tmp_path / "out")
    # Other methods never look at the other half.
    with ExitStack() as stack:
        make_plan(_spec(members, Rule(VARIANCE)), stack)


def test_broken_statistics_are_told(members, tmp_path):
    change_tensors(members[1], lambda state: state[MEAN].view(-1)[3:4].fill_(torch.nan))
    with pytest.raises(UserError, match=f"m1: the tensor {MEAN} holds NaN"):
        merge(_spec(members, Rule("all", "moments")), tmp_path / "out")
