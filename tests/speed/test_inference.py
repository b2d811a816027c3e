"""Ways of running a network: the same classes, complete rows, and what does not run."""

import pytest
import torch

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation import peak_memory
from revt_hf.evaluation.blueprint import blueprint_of
from revt_hf.evaluation.cost import flops_of, parameters_of, peak_mib
from revt_hf.evaluation.predictor import model_segmenter, prepare
from revt_hf.models.folded_head import is_folded
from revt_hf.models.load import is_channels_last
from revt_hf.speed import prediction as inference
from revt_hf.speed.networks import patch_labels, random_network, smooth_image
from revt_hf.speed.prediction import InferenceOptions, measure_model
from revt_hf.speed.timing import in_a_row, interleaved
from revt_hf.speed.variants import VARIANTS, chosen_variants
from tests.helpers.benchmarking import CPU, bar, compile_without_code, no_compiler
from tests.helpers.networks import tiny_model

NATIVE = Protocol(max_size=None)
QUICK = InferenceOptions((64, 128), images=3, warm_up=1, best_batch=False)


@pytest.fixture(scope="module")
def model():
    return tiny_model(0)


@pytest.fixture
def memory(monkeypatch):
    """Memory by a formula, in place of processes that measure it."""
    asked = []

    def peak(segmenter, size, protocol, images=1):
        asked.append(images)
        return 1.0 + 2.0 * images

    monkeypatch.setattr(inference, "peak_mib", peak)
    return asked


def _measure(model, options=QUICK, variants=()):
    chosen = chosen_variants(variants)
    rows = measure_model("tiny", model, chosen, options, CPU, bar())
    return {row.variant: row for row in rows}


def _different(first, second):
    return float((first != second).mean())


def test_all_variants_give_the_classes_of_transformers_default(model, monkeypatch):
    compile_without_code(monkeypatch)
    image = smooth_image(128, 192)
    maps = {
        name: variant.segmenter(model, CPU).class_map(image, NATIVE)
        for name, variant in VARIANTS.items()
    }
    assert len(set(maps["sdpa"].flat)) > 3
    for exact in ("eager", "folded", "compiled"):
        assert _different(maps[exact], maps["sdpa"]) < 1e-3
    assert _different(maps["bf16"], maps["sdpa"]) < 0.1


def test_variants_are_what_they_say(model, monkeypatch):
    compiled = compile_without_code(monkeypatch)
    pixels = prepare(smooth_image(64, 64), NATIVE)
    found = {name: variant.segmenter(model, CPU) for name, variant in VARIANTS.items()}
    networks = {name: segmenter.models[0] for name, segmenter in found.items()}
    attention = {name: network.config._attn_implementation for name, network in networks.items()}
    assert attention == {name: "eager" if name == "eager" else "sdpa" for name in VARIANTS}
    ours = {"folded", "bf16", "compiled"}
    assert {name for name, network in networks.items() if is_folded(network)} == ours
    assert {name for name, network in networks.items() if is_channels_last(network)} == ours
    with torch.inference_mode():
        kinds = {name: segmenter.networks[0](pixels).dtype for name, segmenter in found.items()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"bf16"}
    assert compiled == [{"dynamic": False}]
    assert not is_folded(model)


def test_a_row_has_everything(model, memory, monkeypatch):
    compile_without_code(monkeypatch)
    options = InferenceOptions((64, 128), images=3, warm_up=0, largest_batch=2)
    rows = _measure(model, options)
    assert list(rows) == list(VARIANTS)
    single = model_segmenter(model)
    for name, row in rows.items():
        assert row.parameters == parameters_of(single)
        assert row.failure is None
        assert row.peak_mib == 3.0
        assert row.differing < 0.1
        assert row.frame_rate.images == 3
        assert row.frame_rate.images_per_second > 0
        assert row.best_batch.batch in (1, 2)
        assert row.best_rate == row.best_batch.tried[row.best_batch.batch]
        assert row.best_batch_peak_mib == 1.0 + 2.0 * row.best_batch.batch
        values = row.to_json(list(rows.values()))
        reference = rows["sdpa"]
        assert values["ratio_to_sdpa"] == pytest.approx(row.rate / reference.rate)
        assert values["best_batch_ratio_to_sdpa"] == pytest.approx(
            row.best_rate / reference.best_rate
        )
        plain = name in ("eager", "sdpa")
        assert (row.flops == flops_of(single, (64, 128), NATIVE)) is plain
    assert rows["sdpa"].differing == 0


def test_without_transformers_default_there_is_nothing_to_compare_with(model, memory):
    (row,) = _measure(model, variants=["folded"]).values()
    assert row.differing is None
    values = row.to_json([row])
    assert values["ratio_to_sdpa"] is None
    assert values["frame_rate"]["images_per_second"] > 0


def test_nothing_needs_to_be_timed(model, memory, monkeypatch):
    monkeypatch.setattr(inference, "interleaved", None)
    options = InferenceOptions((64, 128), frame_rate=False, best_batch=False)
    (row,) = _measure(model, options, ["sdpa"]).values()
    assert (row.frame_rate, row.best_batch, row.peak_mib) == (None, None, 3.0)


def test_a_missing_compiler_is_a_row(model, memory, monkeypatch):
    no_compiler(monkeypatch)
    rows = _measure(model, variants=["sdpa", "compiled"])
    assert rows["compiled"].failure == ("torch.compile failed: InvalidCxxCompiler: No working C++")
    assert rows["compiled"].frame_rate is None
    assert rows["compiled"].peak_mib is None
    assert rows["compiled"].flops < rows["sdpa"].flops
    assert rows["sdpa"].rate > 0


def test_other_errors_are_not_hidden(model, memory, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(inference, "class_map", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        _measure(model, variants=["sdpa"])


def test_batches_end_where_the_gpu_is_full(model, memory, monkeypatch):
    really = inference._Measuring._class_maps

    def small_gpu(self, segmenter, pixels):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return really(self, segmenter, pixels)

    monkeypatch.setattr(inference._Measuring, "_class_maps", small_gpu)
    monkeypatch.setattr(inference, "seconds_of", lambda call, device: call() and 1.0)
    monkeypatch.setattr(
        inference,
        "interleaved",
        lambda calls, device, runs, *rest: {name: [call() and 1.0] for name, call in calls.items()},
    )
    row = _measure(model, InferenceOptions((64, 128)), ["sdpa"])["sdpa"]
    assert row.best_batch.tried == {1: 1.0, 2: 2.0}
    assert (row.best_batch.batch, row.best_batch.ended_by) == (2, "out of memory")
    assert row.best_batch_peak_mib == 5.0
    assert row.failure is None


def test_batches_end_before_the_cpu_has_no_memory_left(model, memory, monkeypatch):
    # Beside 0.5 MiB of weights an image takes about 2.5.
    monkeypatch.setattr(inference, "available_mib", lambda: 15.0)
    monkeypatch.setattr(
        inference,
        "interleaved",
        lambda calls, device, runs, *rest: {name: [1.0] for name in calls},
    )
    row = _measure(model, InferenceOptions((64, 128)), ["sdpa"])["sdpa"]
    assert row.best_batch.tried == {1: 1.0, 2: 2.0, 4: 4.0}
    assert row.best_batch.ended_by == "out of memory"


def test_runs_take_turns():
    order, ticks = [], []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleaved(calls, CPU, runs=17, after_each=lambda: ticks.append(1))
    assert "".join(order) == "aabb" * 8 + "ab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 17, "b": 17}
    assert len(ticks) == 34
    assert [in_a_row(runs) for runs in (1, 15, 16, 200)] == [1, 1, 2, 5]


def test_memory_grows_with_the_batch_and_is_less_in_bf16(model):
    segmenters = {name: VARIANTS[name].segmenter(model, CPU) for name in ("folded", "bf16")}
    one, four = (peak_mib(segmenters["folded"], (512, 512), NATIVE, count) for count in (1, 4))
    assert 2 * one < four < 6 * one
    assert peak_mib(segmenters["bf16"], (512, 512), NATIVE, 4) < four


def test_memory_of_a_compiled_network_is_without_its_compiler(model, monkeypatch):
    compile_without_code(monkeypatch)
    segmenter = VARIANTS["compiled"].segmenter(model, CPU)
    order = {
        "blueprint": blueprint_of(segmenter),
        "size": (256, 512),
        "protocol": {"max_size": None},
        "images": 2,
        "threads": 1,
    }
    assert order["blueprint"]["models"][0]["compiled"]
    # Two images alone are 3 MiB.
    assert 3 < peak_memory.measure(order) < 60


def test_random_networks_say_different_things():
    image = smooth_image(64, 128)
    network = random_network("b0")
    classes = model_segmenter(network).class_map(image, NATIVE)
    assert network.config.depths == [2, 2, 2, 2]
    assert len(set(classes.flat)) > 3


@pytest.mark.parametrize("size", [(64, 64), (80, 97)])
def test_labels_have_classes_and_ignored_pixels(size):
    labels = patch_labels(2, *size)
    assert labels.shape == (2, *size)
    assert (labels[:, :32] == 255).all()
    assert (labels[:, 32:] < 19).all()


def test_unknown_variants_are_refused():
    with pytest.raises(UserError, match="--variant fast: use eager, sdpa"):
        chosen_variants(["sdpa", "fast"])
    assert list(chosen_variants(["folded", "eager"])) == ["eager", "folded"]
