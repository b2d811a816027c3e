"""No accelerator is needed to see that every path moves its tensors to it."""

import subprocess
import sys

import pytest

from tests.helpers.golden import ROOT


@pytest.mark.slow
def test_every_path_runs_on_an_accelerator_as_on_the_cpu():
    # The device stays with the process that it was made in.
    paths = str(ROOT / "tests" / "helpers" / "accelerator_paths.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", paths]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
