"""Costs against what can be counted by hand."""

import copy

import pytest
import torch
from torch import nn

from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.cost import cost_of, cuda_peak_mib, flops_of, parameters_of
from revt_hf.evaluation.predictor import ensemble_segmenter, model_segmenter
from revt_hf.models.load import for_inference_
from tests.helpers.networks import tiny_model

NATIVE = Protocol(max_size=None)


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(3)]


def _flops_by_hand(model, height, width):
    """Twice the multiplications of convolutions, linear layers and attention."""
    total = 0

    def convolution(module, inputs, output):
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    def linear(module, inputs, output):
        nonlocal total
        total += 2 * output.numel() * module.in_features

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(convolution))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(linear))
    with torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, height, width))
    for handle in handles:
        handle.remove()
    for stage, channels in enumerate(model.config.hidden_sizes):
        queries = height * width // 4 ** (stage + 2)
        keys = queries // model.config.sr_ratios[stage] ** 2
        # Queries by keys, and weights by values.
        total += model.config.depths[stage] * 2 * (2 * queries * keys * channels)
    return total


def test_flops_are_those_of_every_product(models):
    single = model_segmenter(models[0])
    assert flops_of(single, (64, 128), NATIVE) == _flops_by_hand(models[0], 64, 128)


def test_flops_follow_the_protocol(models):
    single = model_segmenter(models[0])
    one = flops_of(single, (64, 64), NATIVE)
    assert flops_of(single, (128, 128), Protocol(max_size=(64, 64))) == one
    assert flops_of(single, (64, 64), Protocol(max_size=None, flip=True)) == 2 * one
    assert flops_of(single, (64, 96), Protocol(max_size=None, window=64, stride=48)) == 2 * one
    twice = Protocol(max_size=(64, 64), scales=(1.0, 2.0))
    assert flops_of(single, (64, 64), twice) == one + flops_of(single, (128, 128), NATIVE)


def test_an_ensemble_costs_all_that_it_runs(models):
    one, single = models[0], model_segmenter(models[0])
    parameters, head = parameters_of(single), sum(p.numel() for p in one.decode_head.parameters())
    flops = flops_of(single, (64, 128), NATIVE)
    for combine in ("logits", "product", "probabilities"):
        ensemble = ensemble_segmenter(models, combine)
        assert parameters_of(ensemble) == 3 * parameters
        assert flops_of(ensemble, (64, 128), NATIVE) == 3 * flops
    features = ensemble_segmenter(models, "features")
    assert parameters_of(features) == 3 * parameters - 2 * head
    assert 2 * flops < flops_of(features, (64, 128), NATIVE) < 3 * flops


def test_flops_count_folded_compiled_and_half_precision_models(models):
    usual = flops_of(model_segmenter(models[0]), (64, 128), NATIVE)
    folded = for_inference_(copy.deepcopy(models[0]))
    assert flops_of(model_segmenter(folded, bf16=True), (64, 128), NATIVE) < usual
    compiled = copy.deepcopy(models[0])
    compiled.compile()
    assert flops_of(model_segmenter(compiled), (64, 128), NATIVE) == usual
    assert next(models[0].parameters()).device.type == "cpu"


def test_speed_is_measured_and_memory_on_a_gpu_only(models):
    cost = cost_of(model_segmenter(models[0]), (64, 128), NATIVE)
    assert cost.image_size == (64, 128)
    assert cost.device.startswith("cpu")
    assert cost.images_per_second > 0
    assert cost.peak_mib is None


def test_memory_of_a_gpu_is_its_own_weights_and_what_it_adds(models, monkeypatch):
    mib = 2**20
    allocated = iter([10 * mib])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: next(allocated))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 50 * mib)
    done = []
    found = cuda_peak_mib(lambda: done.append(1), torch.device("cuda"), held_bytes=4 * mib)
    # 6 of the 10 MiB belong to others.
    assert (found, done) == (44, [1])
