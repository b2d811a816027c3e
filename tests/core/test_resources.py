"""Cores, OpenCV's threads in our processes and threads, and the memory that is left."""

import os
import threading
import warnings

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from revt_hf.config.protocol import Protocol
from revt_hf.core import resources
from revt_hf.core.resources import available_mib, core_count, worker_count
from revt_hf.data import parallel
from revt_hf.data.parallel import in_threads
from revt_hf.evaluation.loading import image_batches
from revt_hf.training.data import training_loader

MIB = 2**20


@pytest.mark.parametrize(
    ("affinity", "slurm", "expected"),
    [
        ({0, 1, 5}, None, 3),
        ({0, 1, 5}, "2", 2),
        ({0}, "8", 1),  # the allocation does not widen the affinity
        ({0, 1}, "", 2),
        ({0, 1}, "0", 2),
        ({0, 1}, "2(x3)", 2),
        (None, None, 1),
    ],
)
def test_affinity_and_slurm_limit_the_cores(monkeypatch, affinity, slurm, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)
    monkeypatch.setattr(os, "cpu_count", lambda: 64 if affinity else None)
    if affinity is None:
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert core_count() == expected


def test_no_more_workers_than_cores_or_images_whatever_is_asked_for(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert [worker_count(*asked) for asked in ((0, 9), (2, 9), (2, 1), (9, 9))] == [0, 2, 1, 3]
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
    assert max(alive) <= threading.active_count() + 2


class _Threads:
    """Rows that contain the number of threads OpenCV uses where they are read."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), cv2.getNumThreads(), np.uint8)}


@pytest.fixture
def four_threads():
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    yield
    assert cv2.getNumThreads() == 4
    cv2.setNumThreads(before)


def test_workers_and_threads_use_one_opencv_thread_each(four_threads):
    batches = image_batches(_Threads(), range(2), Protocol(max_size=None), 1, workers=1)
    assert {int(row["image"].max()) for batch in batches for row in batch} == {1}
    loaded = training_loader(_Threads(), 1, workers=1, first_position=0)
    assert {int(batch["image"].max()) for batch in loaded} == {1}
    assert set(in_threads(lambda _: cv2.getNumThreads(), range(3), workers=2)) == {1}
    # A single one may use them all.
    assert set(in_threads(lambda _: cv2.getNumThreads(), range(3), workers=1)) == {4}


def _group(folder, limit, used, cached=0):
    """The files of a control group of version 2."""
    return {
        f"{folder}/memory.max": limit if limit == "max" else limit * MIB,
        f"{folder}/memory.current": used * MIB,
        f"{folder}/memory.stat": f"file 7\ninactive_file {cached * MIB}\nactive_file {MIB}",
    }


_OLD = "cgroup/memory/task"
MACHINES = {
    "the machine alone": ({}, "0::/", 1000),
    "page cache of a container is free": (_group("cgroup", 500, 450, 299), "0::/", 350),
    # As Slurm does: the job is limited, its steps are not.
    "outer groups limit as well": (
        _group("cgroup/slurm/job", 300, 101) | _group("cgroup/slurm/job/step", "max", 50),
        "0::/slurm/job/step",
        200,
    ),
    "a path outside the container": (_group("cgroup", 300, 101), "0::/docker/0123", 200),
    "never negative": (_group("cgroup", 100, 102), "0::/", 0),
    "version 1": (
        {
            f"{_OLD}/memory.limit_in_bytes": 400 * MIB,
            f"{_OLD}/memory.usage_in_bytes": 350 * MIB,
            f"{_OLD}/memory.stat": f"inactive_file 7\ntotal_inactive_file {100 * MIB}\n"
            f"total_active_file {50 * MIB}",
        },
        "5:cpu,cpuacct:/task\n4:memory:/task\n0::/",
        200,
    ),
}


@pytest.mark.parametrize("case", MACHINES)
def test_available_memory(tmp_path, monkeypatch, case):
    files, own, expected = MACHINES[case]
    files = {**files, "own": own, "meminfo": "MemTotal: 4096000 kB\nMemAvailable: 1024000 kB"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    places = {"_MEMORY": "meminfo", "_CONTROL_GROUPS": "cgroup", "_OWN_GROUPS": "own"}
    for constant, name in places.items():
        monkeypatch.setattr(resources, constant, tmp_path / name)
    assert available_mib() == expected
