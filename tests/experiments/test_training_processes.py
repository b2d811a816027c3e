"""GPUs of trainings side by side."""

from unittest.mock import Mock

import pytest
import torch

from revt_hf.experiments import training_processes
from revt_hf.experiments.training_processes import (
    TrainingJob,
    TrainingProcesses,
    gpu_variable,
    progress_bars,
    training_slots,
    visible_gpus,
)
from tests.helpers.tiny import tiny_recipe


@pytest.fixture
def gpus(monkeypatch):
    """Let torch find that many GPUs."""

    def found(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)

    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(training_processes, "core_count", lambda: 7)
    return found


def test_slots(gpus, monkeypatch):
    gpus(0)
    assert training_slots(None, None) == 7
    gpus(4)
    assert training_slots(None, None) == 4
    # The launcher takes all of them for one training.
    assert training_slots(None, "accelerate launch") == 1
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert visible_gpus() == []
    assert training_slots(None, None) == 7
    # Another kind of accelerator.
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    gpus(0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert training_slots(None, None) == 1


def test_more_jobs_than_gpus_share_them_and_it_is_said(gpus, caplog):
    gpus(2)
    with caplog.at_level("INFO", "revt_hf"):
        assert training_slots(2, None) == 2
        assert training_slots(5, "accelerate launch") == 5
        assert not caplog.messages
        assert training_slots(5, None) == 5
        assert caplog.messages == ["--jobs 5: trainings share 2 GPUs"]
    gpus(0)
    caplog.clear()
    assert training_slots(5, None) == 5
    assert not caplog.messages


def test_parts_of_a_gpu_are_given_on(gpus, monkeypatch):
    # With several of them torch finds one, as a process can use only one.
    gpus(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1a,MIG-2b, MIG-3c")
    assert visible_gpus() == ["MIG-1a", "MIG-2b", "MIG-3c"]
    assert training_slots(None, None) == 3


def test_what_is_visible_is_given_on(gpus, monkeypatch):
    gpus(2)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7a, 3")
    assert visible_gpus() == ["GPU-7a", "3"]
    assert gpu_variable() == "CUDA_VISIBLE_DEVICES"


def test_rocm(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setattr(torch.version, "hip", "6.0", raising=False)
    assert gpu_variable() == "HIP_VISIBLE_DEVICES"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpu_variable() == "CUDA_VISIBLE_DEVICES"
    assert visible_gpus() == ["2", "3"]


@pytest.mark.parametrize(
    ("gpu_count", "count", "launcher", "ended", "given"),
    [
        (4, 5, [], {4: 2}, ["0", "1", "2", "3", "2"]),
        (2, 4, [], {}, ["0", "1", "0", "1"]),
        (4, 1, [["accelerate", "launch"]], {}, [None]),
        (0, 1, [], {}, [None]),
    ],
    ids=["the-free-one", "shared", "launcher", "cpu"],
)
def test_each_training_gets_a_gpu(
    gpus, monkeypatch, tmp_path, gpu_count, count, launcher, ended, given
):
    gpus(gpu_count)
    children = []

    def child(command, log, environment):
        children.append(Mock(gpu=environment.get("CUDA_VISIBLE_DEVICES")))
        children[-1].poll.return_value = None
        return children[-1]

    monkeypatch.setattr(training_processes, "Child", child)
    with progress_bars(True) as progress, TrainingProcesses(progress, *launcher) as trainings:
        for number in range(count):
            if number in ended:
                children[ended[number]].poll.return_value = 0
                trainings.wait()
            job = TrainingJob(f"run{number}", tiny_recipe(), tmp_path / f"run{number}")
            trainings.start(job, 1)
    assert [one.gpu for one in children] == given
