"""Two real processes (gloo) train as one does with their common batch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from revt_hf.config.protocol import Protocol
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.evaluate import as_segmenter, score_images
from revt_hf.evaluation.metric import scores_from
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from tests.helpers.golden import ROOT
from tests.helpers.tiny import in_float64, run
from tests.helpers.two_processes import DETERMINED, USUAL, determined

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "tests.helpers.two_processes"]
    result = subprocess.run(
        [*command, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout, result.stderr


@pytest.fixture
def together(started):
    return started[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for loss in ("valid", "paper_code"):
        with in_float64():
            run(folder / loss, determined(batch_size=4, loss=loss))
    return folder


def test_there_were_two_processes(together):
    for name in (*DETERMINED, "whole", "resumed"):
        record = json.loads((together / name / "run.json").read_text())
        assert record["processes"] == 2, name
        assert record["effective_batch"] == 4, name


@pytest.mark.parametrize("name", DETERMINED)
def test_two_processes_equal_one_with_the_same_global_batch(together, alone, name):
    loss = DETERMINED[name][2]
    theirs = load_file(together / name / "model.safetensors")
    ours = load_file(alone / loss / "model.safetensors")
    assert theirs.keys() == ours.keys()
    apart = {key: (theirs[key] - ours[key]).abs().max().item() for key in ours}
    assert {tensor.dtype for tensor in ours.values()} == {torch.float64, torch.int64}
    assert max(apart.values()) < 1e-12, max(apart, key=apart.get)
    losses = [
        [row["loss"] for row in read_metrics(folder)] for folder in (together / name, alone / loss)
    ]
    assert len(losses[0]) == 20
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_a_resumed_run_ends_with_the_same_bits(together):
    whole, resumed = together / "whole", together / "resumed"
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert weights[0] == weights[1]


def test_validation_scores_what_is_saved(together):
    whole = together / "whole"
    images = load_spec(USUAL.source, USUAL.source.val)
    protocol = Protocol(max_size=USUAL.evaluation.max_size)
    ((sums,),) = score_images([as_segmenter(load_model(whole))], images, protocol)
    assert read_metrics(whole)[-1]["val_mIoU"] == pytest.approx(scores_from(sums.matrix).miou)


def test_only_the_main_process_speaks(started):
    _, output, remarks = started
    assert output.count("trained: ") == 1
    assert remarks.count("effective batch 4 (batch_size 2") == 1
    assert remarks.count("BatchNorm sees the images of one process only") == 1
    assert remarks.count("streets/train: drawn by this package") == 1


def test_bad_input_is_one_sentence_and_ends_all_processes(started):
    folder, output, remarks = started
    assert remarks.count("error: ") == 1
    assert "unknown config 'sunny'" in remarks
    assert output.count("sunny.yaml ended with 2") == 2
    assert not (folder / "sunny").exists()


def test_a_problem_of_one_process_is_told_by_the_main_one(started):
    assert "main process: the second has no data" in started[1]
    assert "second process: 2" in started[1]
