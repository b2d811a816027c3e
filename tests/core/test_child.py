"""Children end with their parent: terminated, interrupted or killed, with launchers in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from revt_hf.core.resources import Child
from tests.helpers.command_line import SECONDS, alive, until

# Says its number, then does nothing; a launcher starts it and waits, as `accelerate launch` does.
WORKER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"
PARENT = """
import os, sys, time
from pathlib import Path
from revt_hf.core.resources import Child
child = Child(sys.argv[2:], Path(sys.argv[1]), os.environ)
time.sleep(600)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize(
    "launcher", [[], [sys.executable, "-c", LAUNCHER]], ids=["bare", "launched"]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_a_parent_ends_its_children(tmp_path, number, launcher):
    log = tmp_path / "log"
    command = [*launcher, WORKER] if launcher else [sys.executable, "-c", WORKER]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log), *command])
    worker = int(until(lambda: log.exists() and log.read_text().strip()))
    assert alive(worker)
    parent.send_signal(number)
    assert parent.wait(SECONDS) == -number
    until(lambda: not alive(worker))


@needs_proc
def test_stop_ends_what_a_launcher_has_started(tmp_path):
    child = Child([sys.executable, "-c", LAUNCHER, WORKER], tmp_path / "log", os.environ)
    worker = int(until(child.said)[0])
    child.stop()
    child.wait()
    assert not alive(worker)
    assert child.poll() == 128 + signal.SIGTERM


def test_a_child_says_how_it_ended_even_where_its_log_cannot_be_written(tmp_path):
    code = "print('first'); print('error: the disk is full'); raise SystemExit(2)"
    for command, said in (
        ([sys.executable, "-c", code], ["first", "error: the disk is full"]),
        (["/nowhere/x"], ["error: cannot start /nowhere/x: No such file or directory"]),
    ):
        child = Child(command, tmp_path / "nowhere" / "log", os.environ)
        child.wait()
        assert (child.poll(), child.said()) == (2, said)
