"""The configurations for `accelerate launch` are ones that Accelerate knows."""

import json
import os
import subprocess
import sys

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.helpers.golden import ROOT
from tests.helpers.tiny import tiny_recipe

FOLDER = ROOT / "recipes" / "accelerate"
# name -> distributed type, machines
KINDS = {
    "one_gpu": ("NO", 1),
    "many_gpus": ("MULTI_GPU", 1),
    "many_nodes": ("MULTI_GPU", 2),
    "cpu": ("NO", 1),
}


def test_all_are_described():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.yaml`" in readme for name in KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    # Unknown keys are errors of Accelerate's.
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_machines) == KINDS[name]
    assert (config.num_processes > 1) is (config.distributed_type.value == "MULTI_GPU")
    assert config.use_cpu is (name == "cpu")


def test_a_run_on_the_cpu(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(train={"steps": 2}).to_yaml())
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(FOLDER / "cpu.yaml"), str(ROOT / "scripts" / "train.py")]
    command += [str(recipe), "--output", str(tmp_path / "run"), "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"] == "cpu"
