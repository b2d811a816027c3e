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
    # Another kind of accelerator.
    monkeypatch.delenv("ACCELERATE_USE_CPU")
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


@pytest.fixture
def start(gpus, started, tmp_path):
    """Start trainings; the GPUs given to all that were started."""

    def run(count, *launcher, ended=()):
        with progress_bars(True) as progress, TrainingProcesses(progress, *launcher) as trainings:
            for number in range(count):
                if number in ended:
                    started[ended[number]].code = 0
                    trainings.wait()
                job = TrainingJob(f"run{number}", tiny_recipe(), tmp_path / f"run{number}")
                trainings.start(job, 1)
        return [process.environment.get("CUDA_VISIBLE_DEVICES") for process in started]

    return run


def test_each_training_gets_a_gpu_and_the_next_the_one_that_is_free(gpus, start):
    gpus(4)
    assert start(5, ended={4: 2}) == ["0", "1", "2", "3", "2"]


def test_more_trainings_than_gpus_share_them(gpus, start):
    gpus(2)
    assert start(4) == ["0", "1", "0", "1"]


def test_a_launcher_and_a_cpu_are_left_alone(gpus, start):
    gpus(4)
    assert start(1, ["accelerate", "launch"]) == [None]
    gpus(0)
    assert start(1) == [None, None]
