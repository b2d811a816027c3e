"""Every path that moves tensors, on an accelerator that is not there; test_accelerator runs this.

Each command has to work there, and to find what it finds on the CPU.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from revt_hf.cli.main import main
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation import cost
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.evaluation.result import read_results
from revt_hf.merging.average import merge
from revt_hf.merging.recalibration import _Moments
from revt_hf.models.load import load_model
from revt_hf.speed import measuring
from revt_hf.speed.training import STEPS
from revt_hf.training.loop import TrainOptions, train
from tests.helpers.fake_accelerator import DEVICE, FakeTensor, fake_accelerator
from tests.helpers.tiny import TINY, in_float64, tiny_recipe
from tests.helpers.tiny_members import STREETS, random_image, saved

NATIVE = ["--max-size", "native", "--quiet"]
SOURCE = {"domain": "streets", "options": STREETS}
TRAINING = {
    "steps": 4,
    "validate_every": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 2,
    "ema": 0.5,
    "swad": {"patience": 1},
}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    return [saved(root / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({**TINY, "source": SOURCE, "targets": [{**SOURCE, "config": "fog"}]})
    )
    return path


def revt(*arguments):
    """Run a command, on the accelerator if that is there."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert not end.code, arguments


def options(values):
    """A domain's options on the command line."""
    return [word for key, value in values.items() for word in ("--option", f"{key}={value}")]


def both(folder, command):
    """Results of ``command(output folder)`` on the CPU and on the accelerator."""
    command(folder / "cpu")
    with fake_accelerator():
        command(folder / "fake")
    return folder / "cpu", folder / "fake"


def same_weights(one, other):
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-4, msg=name)


def test_the_accelerator_is_strict():
    with fake_accelerator():
        there = torch.ones(3).to(DEVICE)
        assert isinstance(there * 2 + 1, FakeTensor)
        assert (there * 2).cpu().tolist() == [2, 2, 2]
        assert float(there.sum() * torch.tensor(2.0)) == 6
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="runs on the CPU"):
            torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(
    "more",
    [
        ["--ensemble", "probabilities", "--ensemble", "logits", "--ensemble", "features"],
        ["--batch-size", "2"],
    ],
    ids=["ensembles", "batches"],
)
def test_evaluate(members, tmp_path, more):
    def command(output):
        data = ["--domain", "streets", *options(STREETS)]
        arguments = [*data, *NATIVE, *more, "--json", output.with_suffix(".json")]
        revt("evaluate", *members[:2], *arguments)

    cpu, fake = (read_results([path.with_suffix(".json")]) for path in both(tmp_path, command))
    assert [one.scores[0].miou for one in cpu] == pytest.approx(
        [one.scores[0].miou for one in fake], abs=0.1
    )


def test_cost(members):
    with fake_accelerator():
        segmenter = model_segmenter(load_model(members[0]).to(DEVICE))
        assert DEVICE.type in cost.cost_of(segmenter, (64, 128), Protocol(max_size=None)).device


def test_sliding_windows(members):
    image, protocol = random_image(0), Protocol(max_size=None, window=48, stride=32, flip=True)
    expected = model_segmenter(load_model(members[0])).class_map(image, protocol)
    with fake_accelerator():
        found = model_segmenter(load_model(members[0]).to(DEVICE)).class_map(image, protocol)
    assert (found == expected).mean() > 0.999


def test_recalibrate(members, recipe, tmp_path):
    def command(output):
        revt("recalibrate", members[0], "--recipe", recipe, "--output", output, "--quiet")

    same_weights(*both(tmp_path, command))


def test_statistics_where_there_is_no_float64():
    values = torch.rand(2, 3, 4, 4) * 100

    class Apple:
        device = torch.device("mps")

        def detach(self):
            return self

        def cpu(self):
            return values

    expected, found = _Moments(3), _Moments(3)
    expected(None, (values,))
    found(None, (Apple(),))
    for one, other in zip(expected.mean_and_variance(), found.mean_and_variance(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    "words",
    [
        ["diagnose", "path", 0, 1, "--points", "2", "--images", "1"],
        ["diagnose", "plane", 0, 1, 2, "--steps", "1", "--images", "1"],
        ["diagnose", "disagreement", 0, 1, "--merge", 0, "--images", "1"],
        ["diagnose", "norm", 0, 1, "--recalibrate-on", "1", "--images", "1"],
        ["choose", "soup", 0, 1, "--images", "1"],
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_diagnose_and_choose(members, recipe, tmp_path, words):
    arguments = [members[word] if isinstance(word, int) else word for word in words]
    with fake_accelerator():
        revt(*arguments, "--recipe", recipe, "--output", tmp_path / "out", *NATIVE)
    assert (tmp_path / "out").exists()


def test_predict(members, tmp_path):
    (tmp_path / "in").mkdir()
    for seed in range(2):
        Image.fromarray(random_image(seed)).save(tmp_path / "in" / f"{seed}.png")

    def command(output):
        revt("predict", *members[:2], "--input", tmp_path / "in", "--output", output, *NATIVE)

    cpu, fake = both(tmp_path, command)
    images = [path.relative_to(cpu) for path in cpu.rglob("*.png")]
    assert len(images) >= 2
    for name in images:
        ours, theirs = np.asarray(Image.open(cpu / name)), np.asarray(Image.open(fake / name))
        assert (ours != theirs).mean() < 0.01, name


@pytest.mark.parametrize(
    "settings",
    [{}, {"folded_head": True, "loss_rows": 16, "loss": "paper_code"}],
    ids=["plain", "strips"],
)
def test_train_validate_and_average(tmp_path, settings):
    # Devices draw their own random numbers.
    quiet = {"batch_norm": "frozen", "dropout": 0, "drop_path": 0}
    recipe = tiny_recipe(source=SOURCE, train={**TRAINING, **settings}, model=quiet)
    with in_float64():
        cpu, fake = both(tmp_path, lambda output: train(recipe, output, TrainOptions(quiet=True)))
    for part in ("", "ema", "swad"):
        same_weights(cpu / part, fake / part)
    assert json.loads((fake / "run.json").read_text())["device"] == DEVICE.type


def test_resume_and_live_batch_norm(tmp_path):
    recipe = tiny_recipe(source=SOURCE, train=TRAINING)
    with fake_accelerator():
        train(recipe, tmp_path / "run", TrainOptions(quiet=True))
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
        (tmp_path / "run" / "model.safetensors").unlink()
        train(recipe, tmp_path / "run", TrainOptions(quiet=True, resume=True))
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_report(members, recipe, tmp_path):
    merge(members[:2], tmp_path / "merge")
    with fake_accelerator():
        revt(
            *("report", *members[:2], tmp_path / "merge", "--init", members[2]),
            *("--recipe", recipe, "--output", tmp_path / "page.html", *NATIVE),
        )
    assert (tmp_path / "page.html").exists()


BENCHMARKS = {
    "inference": ["--variant", "eager", "--image", "96x64", "--images", "1", "--no-best-batch"],
    "training": ["--train", "--crop", "64", "--steps", "1"],
}


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_benchmark(members, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(measuring, "chosen_device", lambda _: DEVICE)
    ways = {name: way for name, way in STEPS.items() if not way.settings.compile}
    monkeypatch.setattr("revt_hf.speed.training.measure_steps.__defaults__", (ways,))
    with fake_accelerator():
        words = [*BENCHMARKS[kind], "--warm-up", "0", "--quiet", "--json", tmp_path / "b.json"]
        revt("benchmark", members[0], *words)
    assert '"failure": "' not in (tmp_path / "b.json").read_text()
