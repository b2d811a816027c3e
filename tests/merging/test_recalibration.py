"""BatchNorm statistics of the head, re-estimated."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.errors import UserError
from revt_hf.evaluation.inference import Protocol, prepare
from revt_hf.labels import CLASSES
from revt_hf.merging.recalibration import recalibrate, recalibrate_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 40, 64],
        decoder_hidden_size=16,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: train_id for train_id, name in enumerate(CLASSES)},
    )
    return SegformerForSemanticSegmentation(config).eval()


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [{"image": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)} for _ in range(4)]


def test_statistics_are_those_of_the_layers_input(model, pictures):
    recalibrate_model(model, pictures, Protocol(None))
    layer = model.decode_head.batch_norm
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = torch.cat([prepare(row["image"], Protocol(None)) for row in pictures])
    with torch.inference_mode():
        model(pixel_values=batch)
    torch.testing.assert_close(layer.running_mean, seen[0].mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
    expected = seen[0].var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(layer.running_var, expected, atol=1e-8, rtol=1e-4)


def test_only_the_statistics_change(model, pictures, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "merge.json").write_text("{}")
    recalibrate(tmp_path / "model", tmp_path / "out", pictures, Protocol(None))
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("model", "out"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {
        "decode_head.batch_norm.running_mean",
        "decode_head.batch_norm.running_var",
    }
    assert (tmp_path / "out" / "merge.json").exists()


def test_outputs_are_not_destroyed(model, pictures, tmp_path):
    model.save_pretrained(tmp_path / "model")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is or holds the input"):
            recalibrate(tmp_path / "model", tmp_path / "model", pictures, Protocol(None), overwrite)
