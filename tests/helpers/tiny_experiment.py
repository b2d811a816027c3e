"""An experiment of seconds (two members, a merge, an ensemble, a selection), run and submitted."""

import copy
import os
import shlex
import subprocess
import sys

import pytest
import yaml

from revt_hf.cli.main import main
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.graph import build_graph
from revt_hf.experiments.stages import stages
from tests.helpers.tiny import TINY

EXPERIMENT = {
    "title": "tiny",
    "seeds": [0, 1],
    "members": {
        "base": {"recipe": "member.yaml", "title": "1 base"},
        "other": {"recipe": "member.yaml", "set": {"augmentation.method": 1}},
    },
    "merges": {"revt": {"title": "ReVT", "members": ["base", "other"]}},
    "ensembles": {"both": {"members": ["base", "other"]}},
    "selections": {"best": {"among": ["base", "other", "revt"]}},
    "report": False,
}
# Sections that leave members and their scores only.
MEMBERS_ONLY = {"merges": None, "ensembles": None, "selections": None}


def write_experiment(folder, **sections):
    """Write an experiment and its members' recipe; sections are replaced, None removes one."""
    values = {key: value for key, value in {**EXPERIMENT, **sections}.items() if value is not None}
    member, size = copy.deepcopy(TINY), {"val_images": 2, "size": [64, 128]}
    member["source"]["options"]["val_images"] = member["train"]["steps"] = 2
    member["targets"] = [{"domain": "streets", "config": "fog", "options": size}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.yaml").write_text(yaml.safe_dump(member))
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def graph_of(path, *overrides):
    return build_graph(load_experiment(path, overrides))


def folder_of(path, output):
    return ExperimentFolder(output, graph_of(path).steps)


def stages_of(path, output):
    return {stage.name: stage for stage in stages(graph_of(path), folder_of(path, output).done)}


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
        script = part.rpartition(f"# {output.absolute()}")[0] or part
        name = next(line for line in script.splitlines() if "--job-name=" in line)
        scripts[name.partition("=tiny-")[2]] = f"#!/usr/bin/env bash\n{script}"
    return scripts, commands.splitlines()


def told(script, task, folder):
    """What a task tells ``revt run``: the script runs with a Python that writes it down."""
    (folder / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$OMP_NUM_THREADS" "$@"\n')
    (folder / "python").chmod(0o755)
    script = script.replace(f"exec {shlex.quote(sys.executable)}", f"exec {folder / 'python'}")
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_ON_NODE": "6"}
    environment.pop("OMP_NUM_THREADS", None)
    command = ["bash", "-c", script]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    return done.stdout.splitlines(), done.returncode
