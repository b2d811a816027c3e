"""The test protocol against the original's images, logits and class map."""

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import memory_names
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.predictor import predict, prepare
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def golden():
    return np.load(golden_file("inference_b0.npz"))


@pytest.fixture(scope="module")
def model():
    """The original's checkpoint in a transformers SegFormer."""
    path = golden_file("mit_b0_mmseg.pth")
    state = {}
    for name, tensor in torch.load(path, weights_only=True)["state_dict"].items():
        names = memory_names(name)
        # Two names are the halves of a fused key-value tensor.
        parts = tensor.chunk(2) if len(names) == 2 else [tensor] * len(names)
        state.update(zip(names, parts, strict=True))
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))
    network.load_state_dict(state)
    return network.eval()


def test_network_input_is_the_originals(golden):
    pixels = prepare(golden["image_rgb"], Protocol()).numpy()
    expected = golden["pixel_values"].reshape(pixels.shape)
    assert pixels.shape[2:] == (512, 683)
    np.testing.assert_allclose(pixels, expected, atol=1e-4)
    image = golden["image_rgb"]
    assert prepare(image, Protocol(max_size=None)).shape[2:] == image.shape[:2]


def test_logits_are_the_originals(model):
    values = np.load(golden_file("model_b0.npz"))
    with torch.inference_mode():
        logits = model(torch.from_numpy(values["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(logits, values["logits"], atol=1e-4)


def test_class_map_is_the_originals(golden, model):
    ours = predict(model, golden["image_rgb"], Protocol())
    assert ours.shape == golden["prediction"].shape
    assert (ours == golden["prediction"]).mean() >= 0.999
