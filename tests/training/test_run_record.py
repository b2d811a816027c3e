"""The effective batch: said at the start, recorded, and what the recipe expects."""

import json
import logging

import pytest

from revt_hf.config.recipe import Training
from revt_hf.core.errors import UserError
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.setup import effective_batch
from tests.helpers.tiny import run, tiny_recipe


def test_effective_batch_counts_accumulation_and_processes():
    assert effective_batch(Training(batch_size=2, gradient_accumulation=3), 4) == 24


def test_an_expected_effective_batch_is_checked():
    settings = Training(batch_size=2, gradient_accumulation=2, effective_batch=16)
    assert effective_batch(settings, 4) == 16
    with pytest.raises(UserError, match=r"effective_batch is 16, but this run's is 8: .* 2 proc"):
        effective_batch(settings, 2)


def test_a_run_with_another_effective_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"1 process$"):
        train(tiny_recipe(train={"effective_batch": 16}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_says_and_records_its_batch(tmp_path, caplog):
    recipe = tiny_recipe(train={"steps": 1, "gradient_accumulation": 3, "precision": "bf16"})
    with caplog.at_level(logging.INFO, logger="revt_hf"):
        train(recipe, tmp_path / "loud")
        train(recipe, tmp_path / "quiet", TrainOptions(quiet=True))
    said = [text for text in caplog.messages if "effective batch" in text]
    assert said == [
        "effective batch 6 (batch_size 2 x gradient_accumulation 3 x 1 process) on cpu, bf16"
    ]
    assert json.loads((tmp_path / "quiet" / "run.json").read_text()) == {
        "processes": 1,
        "effective_batch": 6,
        "device": "cpu",
        "precision": "bf16",
        "batch_norm": "process",
    }


def test_resume_needs_as_many_processes(tmp_path):
    run(tmp_path / "run", tiny_recipe())
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"processes": 1', '"processes": 2'))
    with pytest.raises(UserError, match="--num_processes 2"):
        run(tmp_path / "run", tiny_recipe(), resume=True)
