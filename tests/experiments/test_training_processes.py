"""GPUs of trainings side by side."""

import pytest
import torch

from revt_hf.experiments import training_processes
from revt_hf.experiments.training_processes import (
    TrainingJob,
    TrainingProcesses,
    default_slots,
    gpu_variable,
    progress_bars,
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
    assert default_slots(None) == 7
    gpus(4)
    assert default_slots(None) == 4
    # The launcher takes all of them for one training.
    assert default_slots("accelerate launch") == 1
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert visible_gpus() == []
    assert default_slots(None) == 7


def test_another_kind_of_accelerator_has_one_slot(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert default_slots(None) == 1


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


class _Child:
    """A training that goes on until it is told to end."""

    def __init__(self, command, log, environment):
        self.environment = environment
        self.code = None

    def poll(self):
        return self.code

    def stop(self):
        self.code = -15

    def wait(self):
        return self.code


@pytest.fixture
def started(monkeypatch):
    children = []
    monkeypatch.setattr(
        training_processes, "Child", lambda *given: children.append(_Child(*given)) or children[-1]
    )
    return children


def _start(trainings, tmp_path, number):
    trainings.start(TrainingJob(f"run{number}", tiny_recipe(), tmp_path / f"run{number}"), 1)


def test_each_training_gets_a_gpu_and_the_next_the_one_that_is_free(gpus, started, tmp_path):
    gpus(4)
    with progress_bars(True) as progress, TrainingProcesses(progress, 4) as trainings:
        for number in range(4):
            _start(trainings, tmp_path, number)
        given = [process.environment["CUDA_VISIBLE_DEVICES"] for process in started]
        assert given == ["0", "1", "2", "3"]
        started[2].code = 0
        trainings.wait()
        _start(trainings, tmp_path, 4)
        assert started[-1].environment["CUDA_VISIBLE_DEVICES"] == "2"


def test_more_trainings_than_gpus_share_them(gpus, started, tmp_path):
    gpus(2)
    with progress_bars(True) as progress, TrainingProcesses(progress, 4) as trainings:
        for number in range(4):
            _start(trainings, tmp_path, number)
    given = [process.environment["CUDA_VISIBLE_DEVICES"] for process in started]
    assert given == ["0", "1", "0", "1"]


def test_a_launcher_and_a_cpu_are_left_alone(gpus, started, tmp_path):
    gpus(4)
    with (
        progress_bars(True) as progress,
        TrainingProcesses(progress, 1, ["accelerate", "launch"]) as trainings,
    ):
        _start(trainings, tmp_path, 0)
    gpus(0)
    with progress_bars(True) as progress, TrainingProcesses(progress, 1) as trainings:
        _start(trainings, tmp_path, 1)
    assert all("CUDA_VISIBLE_DEVICES" not in process.environment for process in started)
