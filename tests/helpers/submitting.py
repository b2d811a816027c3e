"""``revt submit`` as tests call it, and its scripts as bash carries them out."""

import os
import shlex
import subprocess
import sys

import pytest

from revt_hf.cli.main import main
from revt_hf.experiments.slurm_jobs import stages
from tests.helpers.tiny_experiment import folder_of, graph_of


def stages_of(path, output):
    """The stages that are left, by name."""
    return {stage.name: stage for stage in stages(graph_of(path), folder_of(path, output))}


def code_of(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def submit(path, output, *more):
    return code_of("submit", path, "--output", output, *more)


def printed(capsys, path, output, *more):
    """The scripts that --print shows, by stage, and the commands after them."""
    assert submit(path, output, "--print", *more) == 0
    text, _, commands = capsys.readouterr().out.partition("# These submit them:\n")
    scripts = {}
    for part in text.split("#!/usr/bin/env bash\n")[1:]:
        script, _, _ = part.rpartition(f"# {output.absolute()}")
        script = script or part
        name = next(line for line in script.splitlines() if "--job-name=" in line)
        scripts[name.partition("=tiny-")[2]] = f"#!/usr/bin/env bash\n{script}"
    return scripts, commands.splitlines()


def told(script, task, folder):
    """What a task tells ``revt run``: the script runs with a Python that writes it down."""
    (folder / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$OMP_NUM_THREADS" "$@"\n')
    (folder / "python").chmod(0o755)
    script = script.replace(f"exec {shlex.quote(sys.executable)}", f"exec {folder / 'python'}")
    environment = {
        **os.environ,
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_CPUS_ON_NODE": "6",
    }
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        ["bash", "-c", script], env=environment, cwd="/", capture_output=True, text=True
    )
    return done.stdout.splitlines(), done.returncode
