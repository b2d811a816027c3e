"""Blends have the same bits as ``revt merge``; their scores are those of ``revt evaluate``."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from revt_hf.analysis.blending import Blend, Blender, load_data, score_heads
from revt_hf.checkpoints.names import disk_name
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.data.label_space import CLASSES
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.predictor import prepare
from revt_hf.merging.average import merge
from revt_hf.merging.registry import MergeSpec, Rule
from tests.helpers.networks import NATIVE, changed, data_of, random_image, rows, tiny_model

pytestmark = pytest.mark.numeric
ORDER = np.random.default_rng(0).permutation(len(CLASSES))


@pytest.mark.parametrize(
    ("blend", "rule"),
    [
        (Blend((0, 1, 2)), Rule()),
        (Blend.weighted([1, 2, 5]), Rule(method="weighted_mean", weights=(1, 2, 5))),
        (Blend.weighted([0.5, 0, 0.5]), Rule(method="weighted_mean", weights=(0.5, 0, 0.5))),
        (Blend.weighted([0, 0, 3]), None),
    ],
)
def test_a_blend_has_the_bits_of_the_merge(members, tmp_path, blend, rule):
    with Blender(members) as blender:
        blender.blend_encoder(blend)
        blender.model.decode_head = blender.head(1)
        state = blender.model.state_dict()
        records = blender.records()["members"]
    if rule is None:
        # One weight alone is that member.
        expected = load_file(members[2] / "model.safetensors")
        state = {name: t for name, t in state.items() if name.startswith("segformer")}
    else:
        spec = MergeSpec(tuple(map(str, members)), (rule,), head=2)
        expected = load_file(merge(spec, tmp_path / "out") / "model.safetensors")
        assert {disk_name(name) for name in state} == set(expected)
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[disk_name(name)]), name
    assert [record["path"] for record in records] == [str(member) for member in members]
    assert len({record["sha256"] for record in records}) == 3


def _reordered(source, folder):
    """A copy of a model whose files have another order of classes."""

    def reorder(name, tensor):
        return tensor[ORDER] if name.startswith("decode_head.classifier") else tensor

    changed(source, folder, reorder)
    names = dict(enumerate(CLASSES[row] for row in ORDER))
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = read_json_object(folder / "config.json")
    write_json(folder / "config.json", {**config, **labels})
    return folder


def _logits(members):
    pixels = prepare(random_image(64, 128), NATIVE)
    with Blender(members) as blender, torch.no_grad():
        head, blend = blender.head(1), Blend((0, 1))
        blender.blend_encoder(blend)
        own = blender.model(pixels).logits
        blender.model.decode_head = head
        other = blender.model(pixels).logits
        blender.blend_head(head, blend)
        return [own, other, blender.model(pixels).logits]


def test_blends_have_the_train_ids_whatever_the_order_of_the_files(members, tmp_path):
    reordered = [_reordered(member, tmp_path / member.name) for member in members[:2]]
    for ours, theirs in zip(_logits(members[:2]), _logits(reordered), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match="order"):
        _logits([members[0], reordered[1]])


@pytest.mark.parametrize(
    "protocol",
    [
        NATIVE,
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
    options = EvaluateOptions(quiet=True)
    for result in evaluate(named, [(data.splits[0], data.rows[0])], protocol, options):
        assert scores[result.model].miou == pytest.approx(result.scores[0].miou, rel=1e-6)
    assert scores["own"].miou != scores["other"].miou


def test_the_loss_is_the_mean_over_all_labelled_pixels_of_a_split_and_over_splits():
    images = rows(3)
    # Images count by their labelled pixels.
    images[0]["label"][:40] = 255
    model = tiny_model(0)
    heads = {"own": model.decode_head}
    logits, labels = [], []
    with torch.inference_mode():
        for row in images:
            small = model(pixel_values=prepare(row["image"], NATIVE)).logits
            logits.append(functional.interpolate(small, size=(64, 128), mode="bilinear"))
            labels.append(torch.from_numpy(row["label"]).long()[None])
    expected = functional.cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=255)
    whole = data_of(images)
    assert score_heads(model, heads, whole)["own"].loss == pytest.approx(float(expected), rel=1e-5)
    parts = [data_of(images[:1]), data_of(images[1:])]
    both = type(whole)(whole.splits * 2, (parts[0].rows[0], parts[1].rows[0]), whole.protocol)
    score = score_heads(model, heads, both)["own"]
    alone = [score_heads(model, heads, part)["own"] for part in parts]
    assert score.miou == pytest.approx(sum(one.miou for one in alone) / 2)
    assert score.loss == pytest.approx(sum(one.loss for one in alone) / 2)


def test_fewer_images_are_spread_and_are_other_data():
    split = data_of([]).splits[0]
    split.spec.options["val_images"] = 5
    few, many = (load_data([split], NATIVE, count) for count in (3, None))
    split.spec.options["val_images"] = 2
    names = [row["name"] for row in many.rows[0]]
    assert [row["name"] for row in few.rows[0]] == [names[0], names[2], names[4]]
    assert few.to_json() != many.to_json()
