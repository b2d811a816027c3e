"""Loss and mIoU of several heads on one encoder; blends with the bits of ``revt merge``."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from revt_hf.analysis.blending import Blend, Blender, load_data, score_heads
from revt_hf.checkpoints.names import disk_name
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.predictor import prepare
from revt_hf.merging.average import merge
from revt_hf.merging.merge_spec import MergeSpec, Rule
from tests.helpers.tiny_members import data_of, rows, saved, tiny_model

QUIET = EvaluateOptions(quiet=True)
pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    return [str(saved(root / str(seed), seed)) for seed in range(3)]


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(max_size=None),
        Protocol(max_size=(96, 48)),
        Protocol(max_size=None, window=64, stride=48),
        Protocol(max_size=(128, 64), scales=(0.5, 1.0), flip=True),
    ],
)
def test_miou_is_what_revt_evaluate_gives(protocol):
    data = data_of(rows(2), protocol)
    models = [tiny_model(0), tiny_model(1)]
    # Both heads on the first one's encoder.
    heads = {"own": models[0].decode_head, "other": models[1].decode_head}
    scores = score_heads(models[0], heads, data)
    models[1].segformer = models[0].segformer
    named = dict(zip(heads, models, strict=True))
    for result in evaluate(named, [(data.splits[0], data.rows[0])], protocol, QUIET):
        assert scores[result.model].miou == pytest.approx(result.scores[0].miou, rel=1e-6)
    assert scores["own"].miou != scores["other"].miou


def test_the_loss_is_the_mean_over_all_labelled_pixels_of_the_split():
    images = rows(2)
    # Images count by their labelled pixels.
    images[0]["label"][:40] = 255
    model = tiny_model(0)
    logits, labels = [], []
    with torch.inference_mode():
        for row in images:
            small = model(pixel_values=prepare(row["image"], Protocol(max_size=None))).logits
            logits.append(functional.interpolate(small, size=(64, 128), mode="bilinear"))
            labels.append(torch.from_numpy(row["label"]).long()[None])
    expected = functional.cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=255)
    score = score_heads(model, {"own": model.decode_head}, data_of(images))["own"]
    assert score.loss == pytest.approx(float(expected), rel=1e-5)


def test_several_splits_count_alike():
    model = tiny_model(0)
    heads = {"own": model.decode_head}
    both = data_of(rows(3))
    parts = [data_of(both.rows[0][:1]), data_of(both.rows[0][1:])]
    together = type(both)(both.splits * 2, (parts[0].rows[0], parts[1].rows[0]), both.protocol)
    alone = [score_heads(model, heads, part)["own"] for part in parts]
    score = score_heads(model, heads, together)["own"]
    assert score.miou == pytest.approx(sum(one.miou for one in alone) / 2)
    assert score.loss == pytest.approx(sum(one.loss for one in alone) / 2)
    assert math.isfinite(score.loss)


def test_fewer_images_are_spread_and_are_other_data():
    split = data_of([]).splits[0]
    split.spec.options["val_images"] = 5
    few, many = (load_data([split], Protocol(max_size=None), count) for count in (3, None))
    split.spec.options["val_images"] = 2
    names = [row["name"] for row in many.rows[0]]
    assert [row["name"] for row in few.rows[0]] == [names[0], names[2], names[4]]
    assert few.to_json() != many.to_json()


@pytest.mark.parametrize(
    ("blend", "rule"),
    [
        (Blend((0, 1, 2)), Rule()),
        (Blend.weighted([1, 2, 5]), Rule(method="weighted_mean", weights=(1, 2, 5))),
        (Blend.weighted([0.5, 0, 0.5]), Rule(method="weighted_mean", weights=(0.5, 0, 0.5))),
    ],
)
def test_a_blend_has_the_bits_of_the_merge(members, tmp_path, blend, rule):
    merge(MergeSpec(tuple(members), (rule,), head=2), tmp_path / "out")
    expected = load_file(tmp_path / "out" / "model.safetensors")
    with Blender(members) as blender:
        blender.blend_encoder(blend)
        blender.model.decode_head = blender.head(1)
        state = blender.model.state_dict()
    assert {disk_name(name) for name in state} == set(expected)
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[disk_name(name)]), name


def test_a_blend_with_one_weight_is_that_member(members):
    with Blender(members) as blender:
        blender.blend_encoder(Blend.weighted([0, 0, 3]))
        state = blender.model.segformer.state_dict()
        records = blender.records()["members"]
    third = load_file(Path(members[2]) / "model.safetensors")
    assert all(
        torch.equal(tensor, third[disk_name(f"segformer.{name}")]) for name, tensor in state.items()
    )
    assert [record["path"] for record in records] == members
    assert len({record["sha256"] for record in records}) == 3
