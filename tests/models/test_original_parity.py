"""The golden checkpoint, converted: the original's outputs, and its twelve training steps."""

import json

import numpy as np
import pytest
import torch

from revt_hf.checkpoints.names import memory_names
from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Optimizer, Schedule
from revt_hf.data.label_space import CITYSCAPES, CLASSES
from revt_hf.evaluation.predictor import predict
from revt_hf.models.convert import convert, convert_to_mmseg
from revt_hf.models.folded_head import fold_
from revt_hf.models.load import build_model, load_model
from revt_hf.training.loss import segmentation_loss
from revt_hf.training.optim import build_optimizer, set_learning_rate
from tests.helpers.golden import golden_file
from tests.helpers.original_files import WIDTHS, check_same_state, original_shapes

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    return convert(golden_file("mit_b0_mmseg.pth"), tmp_path_factory.mktemp("golden") / "b0").output


def read(path):
    return torch.load(path, weights_only=True)


def test_the_test_files_are_like_the_originals():
    state = read(golden_file("mit_b0_mmseg.pth"))["state_dict"]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == original_shapes(WIDTHS["narrow"], (2, 2, 2, 2), 256)


def test_logits_are_the_originals(golden):
    values = np.load(golden_file("model_b0.npz"))
    with torch.inference_mode():
        logits = load_model(golden)(torch.from_numpy(values["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(logits, values["logits"], rtol=0, atol=1e-4)


def test_the_class_map_is_the_originals(golden):
    values = np.load(golden_file("inference_b0.npz"))
    ours = predict(load_model(golden), values["image_rgb"], Protocol())
    assert (ours == values["prediction"]).mean() >= 0.999


def test_the_golden_file_comes_back(golden, tmp_path):
    before = read(golden_file("mit_b0_mmseg.pth"))
    back = read(convert_to_mmseg(golden, tmp_path / "back.pth").output)
    check_same_state(back["state_dict"], before["state_dict"])
    assert back["meta"] == {"CLASSES": CLASSES, "PALETTE": CITYSCAPES.palette.tolist()}


@pytest.fixture(scope="module", params=["usual", "folded head, loss in strips"])
def trained(golden, request):
    """Losses, and the network afterwards: dropout and drop path off, batches as recorded."""
    spec = json.loads(golden_file("train_trace.json").read_text())
    start = Model(init=str(golden), head="init", drop_path=0.0, dropout=0.0)
    model = build_model(start, seed=0).train()
    rows = None
    if request.param != "usual":
        fold_(model)
        rows = 20
    optimizer = build_optimizer(model, Optimizer())
    schedule = Schedule(warmup_steps=spec["warmup"])
    random = np.random.default_rng(spec["data_seed"])
    height, width = spec["crop"]
    losses = []
    for step in range(spec["steps"]):
        pixels = random.standard_normal((spec["batch"], 3, height, width)).astype(np.float32)
        labels = random.integers(0, 19, (spec["batch"], 1, height // 16, width // 16))
        labels = labels.repeat(16, axis=2).repeat(16, axis=3)
        labels[random.random(labels.shape) < 0.1] = 255
        set_learning_rate(optimizer, step, spec["steps"], schedule)
        logits = model(pixel_values=torch.from_numpy(pixels)).logits
        loss = segmentation_loss(logits, torch.from_numpy(labels[:, 0]), "paper_code", rows=rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def test_losses_and_tensors_are_the_originals(trained):
    trace = np.load(golden_file("train_trace_b0.npz"))
    np.testing.assert_allclose(trained[0], trace["losses"], rtol=1e-4)
    names = [name for name in trace.files if name != "losses"]
    assert len(names) == 9
    for name in names:
        ours = torch.cat([trained[1][part] for part in memory_names(name)]).flatten()[:64]
        # A bias in front of the BatchNorm has no gradient but rounding, which AdamW blows up to
        # whole steps; the running mean alone sees it. It differs by 0.3e-3 to 1.1e-3 between
        # instruction sets, and by 1.0e-3 with gradients of random signs.
        tolerance = 2e-3 if name.endswith("running_mean") else 1e-5
        np.testing.assert_allclose(ours.numpy(), trace[name], rtol=0, atol=tolerance, err_msg=name)
