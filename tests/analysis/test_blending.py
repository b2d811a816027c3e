"""Blends of members whose files say more than the weights: order of classes, normalisation."""

import json

import numpy as np
import pytest
import torch
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.analysis.blending import Blend, Blender
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES
from revt_hf.evaluation.predictor import prepare
from tests.helpers.tiny_members import changed, random_image, saved

ROWS = np.random.default_rng(0).permutation(len(CLASSES))


def _permuted(source, folder):
    def permute(name, tensor):
        return tensor[ROWS] if name.startswith("decode_head.classifier") else tensor

    changed(source, folder, permute)
    config = json.loads((folder / "config.json").read_text())
    names = [CLASSES[row] for row in ROWS]
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _logits(members):
    pixels = prepare(random_image(0), Protocol(max_size=None))
    with Blender([str(member) for member in members]) as blender, torch.no_grad():
        head, blend = blender.head(1), Blend((0, 1))
        blender.blend_encoder(blend)
        own = blender.model(pixels).logits
        blender.model.decode_head = head
        other = blender.model(pixels).logits
        blender.blend_head(head, blend)
        return [own, other, blender.model(pixels).logits]


def test_blends_have_the_train_ids_whatever_the_files_order_is(tmp_path):
    members = [saved(tmp_path / f"m{seed}", seed) for seed in range(2)]
    others = [_permuted(member, tmp_path / f"p-{member.name}") for member in members]
    for ours, theirs in zip(_logits(members), _logits(others), strict=True):
        assert torch.equal(ours, theirs)


def test_members_of_another_order_or_normalisation_are_refused(tmp_path):
    first, second = (saved(tmp_path / f"m{seed}", seed) for seed in range(2))
    with pytest.raises(UserError, match="order"):
        _logits([first, _permuted(second, tmp_path / "permuted")])
    SegformerImageProcessorPil(image_mean=[0.5] * 3).save_pretrained(second)
    with pytest.raises(UserError, match=r"image_mean|normalises images otherwise"):
        _logits([first, second])
