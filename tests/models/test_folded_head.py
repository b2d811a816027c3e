"""The folded decode head against the ordinary one."""

import copy

import pytest
import torch
from torch import nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.checkpoints.architecture import SIZES
from revt_hf.core.errors import UserError
from revt_hf.evaluation.cost import flops_of
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.models.folded_head import FoldedDecodeHead, fold_, folded, is_folded, unfold_
from revt_hf.models.load import for_inference_, load_model
from tests.helpers.hub_repository import files_of
from tests.helpers.networks import NATIVE, tiny_model

pytestmark = pytest.mark.numeric


def _heads(size="b0", dtype=torch.float64, **changes):
    """An ordinary head with BatchNorm statistics as after training, and a folded copy."""
    torch.manual_seed(0)
    widths = {"hidden_sizes": list(SIZES[size].hidden_sizes)}
    widths["decoder_hidden_size"] = SIZES[size].decoder_hidden_size
    head = SegformerDecodeHead(SegformerConfig(num_labels=19, **widths, **changes))
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.normal_()
        norm = head.batch_norm
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
        head.classifier.weight.mul_(5)
    head = head.to(dtype).eval()
    ours = copy.deepcopy(head)
    ours.__class__ = FoldedDecodeHead
    return head, ours


def _stages(head, height=37, width=50, batch=2):
    """Encoder features of an image whose sides no stage divides."""
    torch.manual_seed(1)
    shapes = []
    for layer in head.linear_projections:
        shapes.append((batch, layer.proj.in_features, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return [torch.randn(shape, dtype=head.classifier.weight.dtype) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_the_ordinary_heads(size, dtype, tolerance):
    head, folded_head = _heads(size, dtype)
    stages = _stages(head, batch=1)
    with torch.inference_mode():
        ordinary, ours = head(stages), folded_head(stages)
    assert ours.shape == ordinary.shape
    assert ours.is_contiguous()
    assert ordinary.abs().max() > 1
    assert (ordinary - ours).abs().max() <= tolerance


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (128, 128)])
def test_any_size_and_a_last_stage_that_is_not_a_map(size):
    head, ours = _heads(reshape_last_stage=size != (128, 128))
    stages = _stages(head, *size)
    if size == (128, 128):
        stages[-1] = stages[-1].flatten(2).transpose(1, 2)
    with torch.inference_mode():
        assert torch.allclose(head(stages), ours(stages), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_norm", ["live", "frozen"])
def test_training_is_the_ordinary_heads(batch_norm):
    """Logits, all gradients and running statistics, with the same values dropped."""
    results, heads = [], _heads(classifier_dropout_prob=0.3)
    before = heads[0].batch_norm.running_mean.clone()
    for head in heads:
        head.train()
        head.batch_norm.train(batch_norm == "live")
        stages = [stage.requires_grad_() for stage in _stages(head)]
        torch.manual_seed(2)
        logits = head(stages)
        weights = torch.randn(logits.shape, dtype=torch.float64)
        (logits * weights).sum().backward()
        gradients = {name: weight.grad for name, weight in head.named_parameters()}
        gradients |= {f"stage {number}": stage.grad for number, stage in enumerate(stages)}
        results.append((logits, gradients, dict(head.named_buffers())))
    for theirs, own, atol in zip(*results, (1e-10, 1e-10, 1e-12), strict=True):
        torch.testing.assert_close(own, theirs, rtol=atol, atol=atol)
    assert heads[1].batch_norm.running_mean.equal(before) == (batch_norm == "frozen")


def test_class_maps_are_the_same():
    model = tiny_model(0)
    pixels = torch.randn(2, 3, 120, 168, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ordinary = model(pixel_values=pixels).logits
        ours = for_inference_(model)(pixel_values=pixels).logits
    assert (ordinary - ours).abs().max() < 1e-5 * ordinary.abs().max()
    assert len(ordinary.argmax(1).unique()) > 5
    assert ordinary.argmax(1).equal(ours.argmax(1))


def test_changed_weights_count_at_once():
    head, ours = _heads()
    stages = _stages(head)
    with torch.no_grad():
        before = ours(stages)
        for one in (head, ours):
            one.linear_fuse.weight.mul_(1.5)
            one.batch_norm.running_mean.add_(1)
        assert not torch.allclose(ours(stages), before)
        torch.testing.assert_close(ours(stages), head(stages), rtol=0, atol=1e-12)


def test_autocast_is_about_as_exact_as_in_the_ordinary_head():
    head, folded_head = _heads(dtype=torch.float32)
    stages = _stages(head)
    with torch.inference_mode():
        exact = head(stages)
        with torch.autocast("cpu", torch.bfloat16):
            ordinary, ours = head(stages), folded_head(stages)
    assert ours.dtype == ordinary.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 2 * (ordinary - exact).abs().mean()


def test_it_compiles_as_one_graph():
    _, head = _heads(dtype=torch.float32)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(_stages(head)), head(_stages(head)))


def test_operations_are_counted_as_they_run():
    model = tiny_model(0)
    single, size = model_segmenter(model), (64, 128)
    ordinary = flops_of(single, size, NATIVE)
    width, pixels = model.config.decoder_hidden_size, 64 * 128 // 16
    # One fuse of four stages at the first one's size; instead, each stage's fuse of its projection
    # (its bias aside: products with vectors are not counted). Projecting costs the same.
    saved_flops = 2 * 4 * width * width * pixels
    folding = 2 * width * width * sum(model.config.hidden_sizes)
    with folded(model):
        assert ordinary - flops_of(single, size, NATIVE) == saved_flops - folding


@pytest.mark.parametrize("combine", ["logits", "features"])
def test_ensembles_of_folded_heads(combine):
    models = [tiny_model(seed) for seed in range(2)]
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    network = ensemble_segmenter(models, combine).networks[0]
    with torch.inference_mode():
        ordinary = network(pixels)
        for model in models:
            fold_(model)
        torch.testing.assert_close(network(pixels), ordinary, rtol=1e-5, atol=1e-5)


def test_files_are_byte_identical_and_only_evaluation_gets_a_folded_head(tmp_path):
    model = tiny_model(0)
    model.save_pretrained(tmp_path / "ordinary")
    with folded(model):
        model.save_pretrained(tmp_path / "folded")
    files = files_of(tmp_path / "ordinary")
    assert "model.safetensors" in files and files == files_of(tmp_path / "folded")
    assert not is_folded(load_model(tmp_path / "folded"))
    assert is_folded(load_for_evaluation(tmp_path / "folded"))


def test_a_model_comes_back_as_it_was():
    model = tiny_model(0)
    before = {name: id(weight) for name, weight in model.named_parameters()}
    head = model.decode_head
    with pytest.raises(KeyError), folded(model):
        assert is_folded(model)
        raise KeyError
    assert not is_folded(model)
    assert fold_(model) is model
    with folded(model):
        pass
    assert is_folded(model) and model.decode_head is head
    assert {name: id(weight) for name, weight in model.named_parameters()} == before
    assert is_folded(copy.deepcopy(model))
    assert unfold_(model) is model
    assert type(model.decode_head) is SegformerDecodeHead
    model.decode_head = type("Own", (SegformerDecodeHead,), {})(model.config)
    with pytest.raises(UserError, match="not Own"):
        fold_(model)
