"""Variants of a model: the same classes, complete rows, and what does not run."""

import subprocess
import sys

import pytest
import torch

from revt_hf.evaluation.cost import flops_of, parameters_of
from revt_hf.evaluation.predictor import model_segmenter, prepare
from revt_hf.models.folded_head import is_folded
from revt_hf.speed import inference
from revt_hf.speed.inference import LIMIT, SLOWER, VARIANTS, InferenceOptions, rates_by_batch
from revt_hf.speed.measuring import patch_labels, random_network, smooth_image
from tests.helpers.benchmarking import BAR, CPU, compile_without_code
from tests.helpers.golden import ROOT
from tests.helpers.networks import NATIVE, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(0)


@pytest.fixture
def instant(monkeypatch):
    """Images/s by batch, in place of a clock; a run grows memory by a MiB an image."""
    curve = {}

    def measure(call):
        call()
        batch = len(call.args[-1])
        return batch / curve.get(batch, float(batch)), float(batch)

    monkeypatch.setattr(inference, "_seconds_and_growth", measure)
    return curve


def _measure(model, *variants, **options):
    options = InferenceOptions((64, 128), images=3, **options)
    chosen = {name: VARIANTS[name] for name in variants or VARIANTS}
    rows = inference.measure_model("tiny", model, chosen, options, CPU, BAR)
    return {row.variant: row for row in rows}


def test_variants_predict_the_same_classes_by_their_own_ways(model, monkeypatch):
    compiled = compile_without_code(monkeypatch)
    found = {name: variant.segmenter(model, CPU) for name, variant in VARIANTS.items()}
    networks = {name: segmenter.models[0] for name, segmenter in found.items()}
    attention = {name: network.config._attn_implementation for name, network in networks.items()}
    assert attention == {name: "eager" if name == "eager" else "sdpa" for name in VARIANTS}
    ours = {"folded", "bf16", "compiled"}
    assert {name for name, network in networks.items() if is_folded(network)} == ours
    first = {n: at.segformer.stages[0].patch_embeddings.proj.weight for n, at in networks.items()}
    # Channels last.
    assert {name for name, weight in first.items() if not weight.is_contiguous()} == ours
    image = smooth_image(128, 192)
    with torch.inference_mode():
        kinds = {k: v.networks[0](prepare(image, NATIVE)).dtype for k, v in found.items()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"bf16"}
    assert compiled == [{"dynamic": False}]
    assert not is_folded(model)
    maps = {name: segmenter.class_map(image, NATIVE) for name, segmenter in found.items()}
    assert len(set(maps["sdpa"].flat)) > 3
    for name, classes in maps.items():
        assert (classes != maps["sdpa"]).mean() < (0.1 if name == "bf16" else 1e-3), name


def test_a_row_has_everything(model, instant, monkeypatch):
    compile_without_code(monkeypatch)
    monkeypatch.setattr(inference, "peak_mib", lambda s, size, p, images: 1.0 + 2.0 * images)
    rows = _measure(model, warm_up=0, largest_batch=2)
    assert list(rows) == list(VARIANTS)
    single, reference = model_segmenter(model), rows["sdpa"]
    for name, row in rows.items():
        assert row.parameters == parameters_of(single)
        assert (row.failure, row.peak_mib, row.best_batch_peak_mib) == (None, 3.0, 5.0)
        assert row.differing < 0.1
        assert row.images_per_second > 0 and row.mean_images_per_second > 0
        assert (row.best_batch, row.best_images_per_second) == (2, 2.0)
        assert (row.tried, row.ended_by) == ({1: 1.0, 2: 2.0}, LIMIT)
        ratio = row.images_per_second / reference.images_per_second
        assert (row.ratio_to_sdpa, row.best_ratio_to_sdpa) == (pytest.approx(ratio), 1)
        plain = name in ("eager", "sdpa")
        assert (row.flops == flops_of(single, (64, 128), NATIVE)) is plain
    assert reference.differing == 0


def test_other_errors_are_not_hidden(model, monkeypatch):
    monkeypatch.setattr(inference, "class_map", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _measure(model, "sdpa")


@pytest.mark.parametrize(
    ("curve", "largest", "tried", "ended_by"),
    [
        ({1: 10.0, 2: 19.0, 4: 30.0, 8: 29.0, 16: 99.0}, 1024, 8, SLOWER),
        ({1: 100.0, 2: 101.0, 4: 500.0}, 1024, 2, SLOWER),  # noise is no rise
        ({1: 10.0, 2: 20.0}, 3, 2, LIMIT),
        ({1: 10.0, 2: 20.0, 4: "full"}, 1024, 2, "out of memory"),
        ({1: "full"}, 1024, 0, "out of memory"),
    ],
)
def test_batches_double_until_they_are_no_faster(instant, curve, largest, tried, ended_by):
    instant.update(curve)

    def predict(pixels):
        if curve.get(len(pixels)) == "full":
            raise torch.OutOfMemoryError("CUDA out of memory")

    rates, reason = rates_by_batch(predict, torch.zeros(1, 3, 2, 2), False, largest)
    assert reason == ended_by
    assert rates == {b: r for b, r in curve.items() if b <= tried}


def test_batches_end_before_a_cpu_has_no_memory_left(instant, monkeypatch):
    # Batch 4 would take the 4 MiB that batch 2 suggests, of the 80 % of 4.5.
    monkeypatch.setattr(inference, "available_mib", lambda: 4.5)
    found = rates_by_batch(lambda pixels: None, torch.zeros(1, 3, 2, 2), False, 1024)
    assert found == ({1: 1.0, 2: 2.0}, "out of memory")


def test_runs_are_timed_with_the_threads_of_torch_and_their_memory_is_seen():
    # In a new process: free memory of an older one would be used again.
    code = """
import torch
from revt_hf.speed.inference import _seconds_and_growth
seen = set()
def call():
    seen.add(torch.get_num_threads())
    return torch.ones(2**24).sum()
seconds, grown_mib = _seconds_and_growth(call)
assert seconds > 0
assert 32 < grown_mib < 256, grown_mib
assert seen == {torch.get_num_threads()}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_random_networks_predict_several_classes_and_labels_have_ignored_pixels():
    network = random_network("b0")
    classes = model_segmenter(network).class_map(smooth_image(64, 128), NATIVE)
    assert network.config.depths == [2, 2, 2, 2]
    assert len(set(classes.flat)) > 3
    labels = patch_labels(2, 80, 97)
    assert labels.shape == (2, 80, 97)
    assert (labels[:, :32] == 255).all()
    assert (labels[:, 32:] < 19).all()
