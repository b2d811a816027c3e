"""How much memory is left: of the machine, and of both versions of control groups."""

import pytest

from revt_hf.core import resources

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write the system's files; 1000 MiB are available of the machine."""
    (tmp_path / "meminfo").write_text("MemTotal: 4096000 kB\nMemAvailable: 1024000 kB\n")
    monkeypatch.setattr(resources, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "own")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def _second_version(write, folder, limit, used, inactive, active):
    write(f"{folder}/memory.max", f"{limit}\n")
    write(f"{folder}/memory.current", f"{used}\n")
    write(
        f"{folder}/memory.stat",
        f"anon 1\nfile {inactive + active}\ninactive_file {inactive}\nactive_file {active}\n",
    )


def test_without_control_groups_it_is_the_machines(machine):
    assert resources.available_mib() == 1000


def test_page_cache_of_a_container_is_free(machine):
    _second_version(machine, "cgroup", 500 * MIB, 450 * MIB, 200 * MIB, 100 * MIB)
    machine("own", "0::/\n")
    assert resources.available_mib() == 500 - 450 + 300


def test_the_older_version(machine):
    folder = "cgroup/memory/task"
    machine(f"{folder}/memory.limit_in_bytes", f"{400 * MIB}")
    machine(f"{folder}/memory.usage_in_bytes", f"{350 * MIB}")
    machine(
        f"{folder}/memory.stat",
        f"inactive_file 7\ntotal_inactive_file {100 * MIB}\ntotal_active_file {50 * MIB}\n",
    )
    machine("own", "5:cpu,cpuacct:/task\n4:memory:/task\n0::/\n")
    assert resources.available_mib() == 400 - 350 + 150


def test_an_outer_group_limits_as_well(machine):
    # As Slurm does: the job is limited, its steps are not.
    _second_version(machine, "cgroup/slurm/job", 300 * MIB, 100 * MIB, 0, 0)
    _second_version(machine, "cgroup/slurm/job/step", "max", 50 * MIB, 0, 0)
    machine("own", "0::/slurm/job/step\n")
    assert resources.available_mib() == 200


def test_a_path_outside_the_container_does_no_harm(machine):
    _second_version(machine, "cgroup", 300 * MIB, 100 * MIB, 0, 0)
    machine("own", "0::/docker/0123\n")
    assert resources.available_mib() == 200


def test_no_less_than_nothing(machine):
    _second_version(machine, "cgroup", 100 * MIB, 101 * MIB, 0, 0)
    assert resources.available_mib() == 0
