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
from revt_hf.merging.statistics import _Moments
from revt_hf.models.load import load_model
from revt_hf.speed import measuring
from revt_hf.speed.training import STEPS
from revt_hf.training.loop import TrainOptions, train
from tests.helpers.fake_accelerator import DEVICE, FakeTensor, fake_accelerator
from tests.helpers.networks import STREETS, random_image, saved
from tests.helpers.tiny import TINY, in_float64, tiny_recipe

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
def given(tmp_path_factory):
    """A folder of members, a merge, a recipe and images: what commands name by relative paths."""
    root = tmp_path_factory.mktemp("given")
    members = [saved(root / str(seed), seed) for seed in range(3)]
    merge(members[:2], root / "merge")
    recipe = {**TINY, "source": SOURCE, "targets": [{**SOURCE, "config": "fog"}]}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (root / "images").mkdir()
    for seed in range(2):
        Image.fromarray(random_image(64, 128, seed)).save(root / "images" / f"{seed}.png")
    return root


def same_weights(one, other):
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-4, msg=name)


def same_scores(one, other):
    cpu, fake = ([each.scores[0] for each in read_results([path])] for path in (one, other))
    assert [each.miou for each in cpu] == pytest.approx([each.miou for each in fake], abs=0.1)
    for ours, theirs in zip(cpu, fake, strict=True):
        if ours.calibration is not None:
            found, wanted = (one.calibration.model_dump(exclude={"bins"}) for one in (ours, theirs))
            assert found == pytest.approx(wanted, rel=1e-2, abs=1e-2)


def same_pixels(one, other):
    ours, theirs = np.asarray(Image.open(one)), np.asarray(Image.open(other))
    assert (ours != theirs).mean() < 0.01, one


def revt(command, output):
    output.mkdir()
    try:
        main([*command.format(out=output).split(), "--quiet"])
    except SystemExit as end:
        assert not end.code, command
    assert any(output.iterdir())


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


DATA = "--domain streets --option images=2 --option val_images=2 --option size=[64,128]"
ENSEMBLES = "--ensemble probabilities --ensemble logits --ensemble features --calibration"
NATIVE = "--max-size native"
ONE = f"--recipe recipe.yaml --images 1 {NATIVE}"


@pytest.mark.parametrize(
    ("command", "pattern", "same"),
    [
        (f"evaluate 0 1 {DATA} {NATIVE} {ENSEMBLES} --json {{out}}/r.json", "*.json", same_scores),
        (
            f"evaluate 0 1 {DATA} {NATIVE} --batch-size 2 --json {{out}}/r.json",
            "*.json",
            same_scores,
        ),
        ("recalibrate 0 --recipe recipe.yaml --output {out}/0", "*.safetensors", same_weights),
        (f"predict 0 1 --input images --output {{out}}/maps {NATIVE}", "*.png", same_pixels),
    ],
    ids=["evaluate ensembles", "evaluate batches", "recalibrate", "predict"],
)
def test_a_command_finds_what_it_finds_on_the_cpu(
    given, tmp_path, monkeypatch, command, pattern, same
):
    monkeypatch.chdir(given)
    revt(command, tmp_path / "cpu")
    with fake_accelerator():
        revt(command, tmp_path / "fake")
    found = [path.relative_to(tmp_path / "cpu") for path in (tmp_path / "cpu").rglob(pattern)]
    assert found
    for path in found:
        same(tmp_path / "cpu" / path, tmp_path / "fake" / path)


@pytest.mark.parametrize(
    "command",
    [
        f"diagnose path 0 1 --points 2 {ONE} --output {{out}}/x",
        f"diagnose plane 0 1 2 --steps 1 {ONE} --output {{out}}/x",
        f"diagnose disagreement 0 1 --merge 0 {ONE} --output {{out}}/x",
        f"diagnose norm 0 1 --recalibrate-on 1 {ONE} --output {{out}}/x",
        f"choose soup 0 1 {ONE} --output {{out}}/x",
        f"report 0 1 merge --init 2 --recipe recipe.yaml {NATIVE} --output {{out}}/page.html",
        "benchmark 0 --variant eager --image 96x64 --images 1 --no-best-batch",
        "benchmark 0 --train --crop 64 --steps 1",
    ],
    ids=lambda command: " ".join(command.split()[:4]),
)
def test_a_command_runs_there(given, tmp_path, monkeypatch, command):
    monkeypatch.chdir(given)
    monkeypatch.setattr(measuring, "chosen_device", lambda _: DEVICE)
    uncompiled = {name: kind for name, kind in STEPS.items() if not kind.settings.compile}
    monkeypatch.setattr("revt_hf.speed.training.measure_steps.__defaults__", (uncompiled,))
    if command.startswith("benchmark"):
        command += " --warm-up 0 --json {out}/b.json"
    with fake_accelerator():
        revt(command, tmp_path / "out")
    for path in (tmp_path / "out").glob("b.json"):
        assert '"failure": "' not in path.read_text()


def test_cost_and_sliding_windows(given):
    image = random_image(64, 128)
    protocol = Protocol(max_size=None, window=48, stride=32, flip=True)
    expected = model_segmenter(load_model(given / "0")).class_map(image, protocol)
    with fake_accelerator():
        segmenter = model_segmenter(load_model(given / "0").to(DEVICE))
        assert (segmenter.class_map(image, protocol) == expected).mean() > 0.999
        assert DEVICE.type in cost.cost_of(segmenter, (64, 128), Protocol(max_size=None)).device


def test_statistics_where_there_is_no_float64():
    values = torch.rand(2, 3, 4, 4) * 100

    class Apple:
        device = torch.device("mps")

        def detach(self):
            return self

        def cpu(self):
            return values

    expected, found = _Moments(3, False), _Moments(3, False)
    expected(None, (values,))
    found(None, (Apple(),))
    for one, other in zip(expected.mean_and_variance(), found.mean_and_variance(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    "settings",
    [{}, {"folded_head": True, "loss_rows": 16, "loss": "paper_code"}],
    ids=["plain", "strips"],
)
def test_train_validate_and_average(tmp_path, settings):
    # Devices draw their own random numbers.
    quiet = {"batch_norm": "frozen", "dropout": 0, "drop_path": 0}
    recipe = tiny_recipe(source=SOURCE, train={**TRAINING, **settings}, model=quiet)
    cpu, fake = tmp_path / "cpu", tmp_path / "fake"
    with in_float64():
        train(recipe, cpu, TrainOptions(quiet=True))
        with fake_accelerator():
            train(recipe, fake, TrainOptions(quiet=True))
    for part in ("", "ema", "swad"):
        same_weights(cpu / part / "model.safetensors", fake / part / "model.safetensors")
    assert json.loads((fake / "run.json").read_text())["device"] == DEVICE.type


def test_resume_and_live_batch_norm(tmp_path):
    recipe, run = tiny_recipe(source=SOURCE, train=TRAINING), tmp_path / "run"
    with fake_accelerator():
        train(recipe, run, TrainOptions(quiet=True))
        shutil.rmtree(run / "checkpoints" / "step-00000004")
        (run / "model.safetensors").unlink()
        train(recipe, run, TrainOptions(quiet=True, resume=True))
    assert (run / "model.safetensors").is_file()
