"""Run commands of the command line inside the test process; wait for other processes."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from revt_hf.cli.main import main
from tests.helpers.golden import ROOT

SECONDS = 240


def words_of(text, paths):
    """The words of a command line in which names in capitals stand for paths."""
    return re.sub(r"\b[A-Z]+2?\b", lambda name: str(paths.get(name[0], name[0])), text).split()


def revt(capsys, *arguments):
    """Run in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


def refused(capsys, *arguments):
    """Run what must be refused: exit code 2 and one sentence."""
    code, _, error = revt(capsys, *arguments)
    assert code == 2, error
    # Remarks on what was found may come before it.
    assert error.splitlines()[-1].startswith("error: "), error
    assert error.count("error: ") == 1, error
    assert "Traceback" not in error
    return error


def in_two_processes(module, *arguments):
    """Run a module with torchrun, on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    done = subprocess.run(
        [*command, "2", "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def until(condition):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {SECONDS} s")


def alive(number):
    """Whether a process runs; one that has ended and waits to be looked at does not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


_MEASURED = """
import json, sys
from revt_hf.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert not end.code
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
heavy = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print(json.dumps([int(line.split()[1]) / 1024, heavy]))
"""


def measured_command(arguments, modules):
    """A command in a process of its own: its peak memory in MiB, and which of these it imports."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    command = [sys.executable, "-c", _MEASURED, json.dumps(modules), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])
