"""Before the first step: BatchNorm statistics, the effective batch, ``run.json``."""

import json
import logging

import pytest
import torch

from revt_hf.config.recipe import Training
from revt_hf.core.errors import UserError
from revt_hf.models.load import build_model
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.setup import apply_statistics, effective_batch, statistics
from tests.helpers.tiny import run, tiny_recipe


@pytest.mark.parametrize(
    ("batch_norm", "device", "processes", "expected"),
    [
        ("live", "cuda", 1, "process"),
        ("live", "cuda", 2, "all processes"),
        ("live", "cpu", 2, "process"),
        ("live", "mps", 1, "process"),
        ("frozen", "cuda", 8, "frozen"),
        ("frozen", "cpu", 1, "frozen"),
    ],
)
def test_whose_statistics(batch_norm, device, processes, expected):
    assert statistics(batch_norm, device, processes) == expected


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("all processes", torch.nn.SyncBatchNorm),
        ("process", torch.nn.BatchNorm2d),
        ("frozen", torch.nn.BatchNorm2d),
    ],
)
def test_synchronised_batch_norm_keeps_names_and_parameters(tmp_path, kind, layer):
    model = build_model(tiny_recipe().model, 0)
    before = model.state_dict(keep_vars=True)
    apply_statistics(model, kind)
    assert type(model.decode_head.batch_norm) is layer
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.numeric
@pytest.mark.parametrize(("batch_norm", "moves"), [("live", True), ("frozen", False)])
def test_frozen_statistics_stay_while_weight_and_bias_learn(tmp_path, batch_norm, moves):
    # Validation in between puts the model into eval mode and back.
    recipe = tiny_recipe(model={"batch_norm": batch_norm}, train={"validate_every": 1})
    weights = run(tmp_path / "run", recipe)
    init = build_model(recipe.model, recipe.train.seed).decode_head.batch_norm
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        stayed = weights[f"decode_head.batch_norm.{name}"].equal(getattr(init, name))
        assert stayed is not moves, name
    assert not weights["decode_head.batch_norm.weight"].equal(init.weight.data)


def test_an_expected_effective_batch_is_checked(tmp_path):
    settings = Training(batch_size=2, gradient_accumulation=2, effective_batch=16)
    assert effective_batch(settings, 4) == 16
    with pytest.raises(UserError, match=r"effective_batch is 16, but this run's is 8: .* 2 proc"):
        effective_batch(settings, 2)
    with pytest.raises(UserError, match=r"1 process$"):
        train(tiny_recipe(train={"effective_batch": 16}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_says_and_records_its_batch(tmp_path, caplog):
    recipe = tiny_recipe(train={"steps": 1, "gradient_accumulation": 3, "precision": "bf16"})
    with caplog.at_level(logging.INFO, logger="revt_hf"):
        train(recipe, tmp_path / "loud")
        train(recipe, tmp_path / "quiet", TrainOptions(quiet=True))
    assert [text for text in caplog.messages if "effective batch" in text] == [
        "effective batch 6 (batch_size 2 x gradient_accumulation 3 x 1 process) on cpu, bf16"
    ]
    assert json.loads((tmp_path / "quiet" / "run.json").read_text()) == {
        "processes": 1,
        "effective_batch": 6,
        "device": "cpu",
        "precision": "bf16",
        "batch_norm": "process",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "does not record how many processes"),
        ('{"processes": "two"}', "does not record how many processes"),
        ("[1]", "is not a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (None, "started with --num_processes 2"),
    ],
)
def test_resume_needs_as_many_processes(tmp_path, content, words):
    recipe = tiny_recipe()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    record = {"processes": 2, "effective_batch": 4, "device": "cpu", "precision": "fp32"}
    whole = json.dumps({**record, "batch_norm": "process"})
    (folder / "run.json").write_text(whole if content is None else content)
    with pytest.raises(UserError, match=words):
        run(folder, recipe, resume=True)
