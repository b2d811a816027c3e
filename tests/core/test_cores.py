"""Cores that may be used, and OpenCV's threads in processes and threads of ours."""

import os
import threading
import warnings

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from revt_hf.config.protocol import Protocol
from revt_hf.core import resources
from revt_hf.core.resources import core_count, worker_count
from revt_hf.data_tools import parallel
from revt_hf.data_tools.parallel import in_threads
from revt_hf.evaluation.loading import image_batches
from revt_hf.training.data import training_loader


@pytest.mark.parametrize(
    ("affinity", "slurm", "expected"),
    [
        ({0, 1, 5}, None, 3),
        ({0, 1, 5}, "2", 2),
        ({0}, "8", 1),  # Slurm's says nothing of a process that was max_size to less
        ({0, 1}, "", 2),
        ({0, 1}, "0", 2),
        ({0, 1}, "2(x3)", 2),
    ],
)
def test_affinity_and_slurm_limit_the_cores(monkeypatch, affinity, slurm, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert core_count() == expected


@pytest.mark.parametrize(("asked", "items", "expected"), [(0, 9, 0), (2, 9, 2), (2, 1, 1)])
def test_no_more_workers_than_images(monkeypatch, asked, items, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert worker_count(asked, items) == expected


def test_no_more_workers_than_cores_whatever_is_asked_for(monkeypatch):
    monkeypatch.setattr(resources, "core_count", lambda: 1)
    started = []
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: iter(started.append(self) or ()))
    list(image_batches(_Threads(), range(2), Protocol(max_size=None), 1, workers=100_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = training_loader(_Threads(), 1, workers=100_000, first_position=0)
    assert [one.num_workers for one in (*started, loader)] == [1, 1]
    monkeypatch.setattr(parallel, "core_count", lambda: 1)
    alive = in_threads(lambda _: threading.active_count(), range(1000), workers=100_000)
    before = threading.active_count()
    assert max(alive) <= before + 2


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert core_count() == 1


class _Threads:
    """Rows that tell how many threads OpenCV uses where they are read."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), cv2.getNumThreads(), np.uint8)}


@pytest.fixture
def four_threads():
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    yield
    cv2.setNumThreads(before)


def test_workers_use_one_opencv_thread(four_threads):
    batches = image_batches(_Threads(), range(2), Protocol(max_size=None), 1, workers=1)
    assert {int(row["image"].max()) for batch in batches for row in batch} == {1}
    loaded = training_loader(_Threads(), 1, workers=1, first_position=0)
    assert {int(batch["image"].max()) for batch in loaded} == {1}
    assert cv2.getNumThreads() == 4


def test_threads_of_ours_use_one_opencv_thread_each(four_threads):
    assert set(in_threads(lambda _: cv2.getNumThreads(), range(3), workers=2)) == {1}
    assert cv2.getNumThreads() == 4
    # A single one may use them all.
    assert set(in_threads(lambda _: cv2.getNumThreads(), range(3), workers=1)) == {4}
