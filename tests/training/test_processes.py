"""Two real processes (gloo) train as one does with their common batch."""

import json

import pytest
import torch
from safetensors.torch import load_file

from revt_hf.config.protocol import Protocol
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.evaluate import as_segmenter, score_images
from revt_hf.evaluation.metric import mean_iou
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from tests.helpers.command_line import in_two_processes
from tests.helpers.tiny import in_float64, run
from tests.helpers.two_processes import DETERMINED, DIFFERENT, USUAL, determined


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = in_two_processes("tests.helpers.two_processes", folder)
    return folder, done.stdout, done.stderr


@pytest.fixture
def together(started):
    return started[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for kind, different in DIFFERENT.items():
        with in_float64():
            run(folder / kind, determined(batch_size=4, **different))
    return folder


@pytest.mark.parametrize("name", DETERMINED)
def test_two_processes_equal_one_with_the_same_global_batch(together, alone, name):
    kind = DETERMINED[name][2]
    theirs = load_file(together / name / "model.safetensors")
    ours = load_file(alone / kind / "model.safetensors")
    assert theirs.keys() == ours.keys()
    apart = {key: (theirs[key] - ours[key]).abs().max().item() for key in ours}
    assert {tensor.dtype for tensor in ours.values()} == {torch.float64, torch.int64}
    assert max(apart.values()) < 1e-12, max(apart, key=apart.get)
    first, second = (
        [row["loss"] for row in read_metrics(folder)] for folder in (together / name, alone / kind)
    )
    assert len(first) == 20
    assert first == pytest.approx(second, abs=1e-12)


def test_validation_scores_what_is_saved_and_a_resumed_run_ends_with_the_same_bits(together):
    whole = together / "whole"
    resumed = (together / "resumed" / "model.safetensors").read_bytes()
    assert (whole / "model.safetensors").read_bytes() == resumed
    images = load_spec(USUAL.source, USUAL.source.val)
    protocol = Protocol(max_size=USUAL.evaluation.max_size)
    ((sums,),) = score_images([as_segmenter(load_model(whole))], images, protocol)
    assert read_metrics(whole)[-1]["val_mIoU"] == pytest.approx(mean_iou(sums.matrix))


def test_only_the_main_process_speaks(started):
    _, output, remarks = started
    assert output.count("trained: ") == 1
    assert remarks.count("effective batch 4 (batch_size 2") == 1
    assert remarks.count("BatchNorm sees the images of one process only") == 1
    assert remarks.count("streets/train: drawn by this package") == 1
    assert remarks.count("source/train: images are drawn by class: ") == 1


def test_bad_input_is_one_sentence_and_ends_all_processes(started):
    folder, output, remarks = started
    assert remarks.count("error: ") == 1
    assert "unknown config 'sunny'" in remarks
    assert output.count("sunny.yaml ended with 2") == 2
    assert not (folder / "sunny").exists()
    for name in (*DETERMINED, "whole", "resumed"):
        record = json.loads((folder / name / "run.json").read_text())
        assert (record["processes"], record["effective_batch"]) == (2, 4), name
    # A problem of one process is told by the main one.
    assert "main process: the second has no data" in output
    assert "second process: 2" in output
