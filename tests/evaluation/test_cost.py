"""Costs against what can be counted by hand."""

import copy
import platform
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn

from revt_hf import __version__
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation import cost
from revt_hf.evaluation.cost import (
    cost_of,
    cuda_peak_mib,
    flops_of,
    library_versions,
    parameters_of,
)
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.models.load import for_inference_
from tests.helpers.networks import NATIVE, tiny_model


@pytest.fixture(scope="module")
def models():
    return [tiny_model(seed) for seed in range(3)]


def _flops_by_hand(model, height, width):
    """Twice the multiplications of convolutions, linear layers and attention."""
    counts = []

    def count(module, inputs, output):
        counts.append(2 * output.numel() * module.weight[0].numel())

    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, height, width))
    for handle in handles:
        handle.remove()
    for stage, channels in enumerate(model.config.hidden_sizes):
        queries = height * width // 4 ** (stage + 2)
        keys = queries // model.config.sr_ratios[stage] ** 2
        # Queries by keys, and weights by values.
        counts.append(model.config.depths[stage] * 2 * (2 * queries * keys * channels))
    return sum(counts)


@pytest.fixture
def single(models):
    return model_segmenter(models[0])


def test_flops_are_those_of_every_product(models, single):
    assert flops_of(single, (64, 128), NATIVE) == _flops_by_hand(models[0], 64, 128)


def test_flops_follow_the_protocol(single):
    one = flops_of(single, (64, 64), NATIVE)
    for size, fields, times in (
        ((128, 128), {"max_size": (64, 64)}, 1),
        ((64, 64), {"flip": True}, 2),
        ((64, 96), {"window": 64, "stride": 48}, 2),
    ):
        assert flops_of(single, size, Protocol(**{"max_size": None, **fields})) == times * one
    twice = Protocol(max_size=(64, 64), scales=(1.0, 2.0))
    assert flops_of(single, (64, 64), twice) == one + flops_of(single, (128, 128), NATIVE)


def test_an_ensemble_costs_all_that_it_runs(models, single):
    parameters = parameters_of(single)
    head = sum(p.numel() for p in models[0].decode_head.parameters())
    flops = flops_of(single, (64, 128), NATIVE)
    for combine in ("logits", "product", "probabilities"):
        ensemble = ensemble_segmenter(models, combine)
        assert parameters_of(ensemble) == 3 * parameters
        assert flops_of(ensemble, (64, 128), NATIVE) == 3 * flops
    features = ensemble_segmenter(models, "features")
    assert parameters_of(features) == 3 * parameters - 2 * head
    assert 2 * flops < flops_of(features, (64, 128), NATIVE) < 3 * flops


def test_flops_count_folded_compiled_and_half_precision_models(models, single):
    usual = flops_of(single, (64, 128), NATIVE)
    folded = for_inference_(copy.deepcopy(models[0]))
    assert flops_of(model_segmenter(folded, bf16=True), (64, 128), NATIVE) < usual
    compiled = copy.deepcopy(models[0])
    compiled.compile()
    assert flops_of(model_segmenter(compiled), (64, 128), NATIVE) == usual
    assert next(models[0].parameters()).device.type == "cpu"


def test_speed_is_measured_and_memory_on_a_gpu_only(single):
    cost = cost_of(single, (64, 128), NATIVE)
    assert (cost.image_size, cost.peak_mib) == ((64, 128), None)
    assert cost.device.startswith("cpu")
    assert cost.images_per_second > 0


def test_memory_of_a_gpu_is_its_own_weights_and_what_it_adds(monkeypatch):
    done, mib = [], 2**20
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: (50 if done else 10) * mib)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 50 * mib)
    found = cuda_peak_mib(lambda: done.append(1), torch.device("cuda"), held_bytes=4 * mib)
    # 6 of the 10 MiB belong to others.
    assert (found, done) == (44, [1])


def test_versions_need_no_installed_package(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cost, "version", missing)
    assert library_versions() == {
        "python": platform.python_version(),
        "revt_hf": __version__,
    }
