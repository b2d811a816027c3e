"""Sizes, initial weights and heads."""

import pytest
import torch
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

from revt_hf.checkpoints.architecture import SIZES, size_name
from revt_hf.config.network import Model
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CLASSES
from revt_hf.models.load import build_model

# Parameters in millions: SegFormer's table 1 (encoder); ours counted without the head.
ENCODER_MILLIONS = {"b0": 3.3, "b1": 13.2, "b2": 24.2, "b3": 44.1, "b4": 60.8, "b5": 81.4}
SMALL = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 40, 64], "decoder_hidden_size": 16}
KINDS = {
    "classifier": SegformerForImageClassification,
    "segmenter": SegformerForSemanticSegmentation,
}
NAMES = {"id2label": dict(enumerate(CLASSES)), "label2id": {n: i for i, n in enumerate(CLASSES)}}


@pytest.mark.parametrize("size", sorted(SIZES))
def test_sizes_are_the_papers(size):
    with torch.device("meta"):
        model = build_model(Model(size=size), seed=0)
    count = sum(parameter.numel() for parameter in model.segformer.parameters()) / 1e6
    assert count == pytest.approx(ENCODER_MILLIONS[size], abs=0.5)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert size_name(model.config) == size
    assert size_name(SegformerConfig(depths=[1, 2, 3, 4])) is None


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """An image classifier as ImageNet checkpoints are, and a segmentation model."""
    root = tmp_path_factory.mktemp("starts")
    torch.manual_seed(3)
    for name, kind in KINDS.items():
        kind(SegformerConfig(**SMALL, **NAMES)).save_pretrained(root / name)
    return root


def test_the_seed_decides_the_weights():
    first, same, other = (
        build_model(Model(size="b0", **SMALL), seed).decode_head.classifier.weight
        for seed in (1, 1, 2)
    )
    assert first.equal(same) and not first.equal(other)


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_start_gives_its_encoder_and_a_fresh_head(starts, name, kind):
    theirs = kind.from_pretrained(starts / name).segformer.state_dict()
    models = [build_model(Model(init=str(starts / name)), seed) for seed in (0, 1)]
    for ours in models:
        state = ours.segformer.state_dict()
        assert all(torch.equal(state[key], theirs[key]) for key in theirs)
        assert ours.config.num_labels == 19
    assert not torch.equal(*(model.decode_head.classifier.weight for model in models))


def test_head_start_keeps_the_head_and_its_width_can_be_chosen(starts):
    path = str(starts / "segmenter")
    theirs = SegformerForSemanticSegmentation.from_pretrained(path).decode_head.state_dict()
    model = build_model(Model(init=path, head="init", drop_path=0.3, dropout=0.4), 0)
    ours = model.decode_head.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (model.config.drop_path_rate, model.decode_head.dropout.p) == (0.3, 0.4)
    with pytest.raises(UserError, match="is an encoder: it has no decode head"):
        build_model(Model(init=str(starts / "classifier"), head="init"), 0)
    wide = build_model(Model(init=path, decoder_hidden_size=24), 0)
    assert wide.decode_head.classifier.in_channels == 24
