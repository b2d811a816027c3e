"""A training leaves the caller's Accelerator as it was; configurations for `accelerate launch`."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils.launch import prepare_multi_gpu_env

from revt_hf.core.errors import UserError
from tests.helpers.golden import ROOT
from tests.helpers.tiny import run, tiny_recipe

BF16 = tiny_recipe(train={"precision": "bf16", "steps": 1})
FOLDER = ROOT / "recipes" / "accelerate"


@pytest.fixture(autouse=True)
def fresh():
    """No Accelerator before, and none for the tests after."""
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState):
        state._reset_state()


def test_the_callers_accelerator_stays_as_it_is(tmp_path):
    mine = Accelerator(mixed_precision="no", gradient_accumulation_steps=3)
    run(tmp_path / "run", BF16)
    with pytest.raises(UserError):
        run(tmp_path / "bad", tiny_recipe(source={"config": "sunny"}, train={"precision": "bf16"}))
    assert mine.mixed_precision == "no"
    assert mine.gradient_accumulation_steps == 3
    assert mine.is_main_process
    assert Accelerator().gradient_state is not None
    # One that comes later shares it.
    assert Accelerator().mixed_precision == "no"


def test_trainings_do_not_share_their_precision(tmp_path):
    run(tmp_path / "bf16", BF16)
    # Without a caller's, nothing of ours stays behind.
    assert Accelerator(mixed_precision="no").mixed_precision == "no"
    run(tmp_path / "fp32", tiny_recipe(train={"steps": 1}))
    run(tmp_path / "again", BF16)
    for name, expected in (("bf16", "bf16"), ("fp32", "fp32"), ("again", "bf16")):
        assert json.loads((tmp_path / name / "run.json").read_text())["precision"] == expected


@pytest.mark.parametrize(("end", "said"), [("", "left\n"), ("raise ValueError", "")])
def test_a_process_group_is_left_at_the_end_but_not_by_one_that_fails(end, said):
    code = (
        "import torch.distributed as d\n"
        "import revt_hf.core.processes\n"
        "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1)\n"
        "really = d.destroy_process_group\n"
        "d.destroy_process_group = lambda: (print('left'), really())\n"
    )
    command = [sys.executable, "-c", code + end]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout == said


# name -> distributed type, machines
KINDS = {
    "one_gpu": ("NO", 1),
    "many_gpus": ("MULTI_GPU", 1),
    "many_nodes": ("MULTI_GPU", 2),
    "cpu": ("NO", 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    # Unknown keys are errors of Accelerate's.
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_machines) == KINDS[name]
    assert (config.num_processes > 1) is (config.distributed_type.value == "MULTI_GPU")
    assert config.use_cpu is (name == "cpu")
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)
    assert f"`{name}.yaml`" in (FOLDER / "README.md").read_text()


def documented():
    """The commands of the README, with machine 1 of 2 at an address."""
    text = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    for name, value in (("MACHINE_RANK", "1"), ("MAIN_IP", "10.0.0.1")):
        text = text.replace(f'"${name}"', value)
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [shlex.split(line)[2:] for line in lines if line.startswith("accelerate launch")]


def test_the_documented_commands_start_what_they_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    for words in documented():
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
        assert args.training_script == "scripts/train.py"
        if not args.use_cpu and args.multi_gpu:
            # Sets what torchrun is told.
            prepare_multi_gpu_env(args)
            # Of each machine; a command of one machine has no rank.
            told = (
                int(args.nproc_per_node),
                int(getattr(args, "nnodes", 1)),
                getattr(args, "node_rank", None),
            )
            found[f"{words[1].split('/')[-1]} {args.num_processes}"] = told
        else:
            found[words[1].split("/")[-1]] = args.num_processes
    assert found == {
        "cpu.yaml": 1,
        "one_gpu.yaml": 1,
        "many_gpus.yaml 8": (8, 1, None),
        "many_gpus.yaml 2": (2, 1, None),
        "many_nodes.yaml 16": (8, 2, 1),
    }


def test_a_run_on_the_cpu(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(train={"steps": 2}).to_yaml())
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(FOLDER / "cpu.yaml"), str(ROOT / "scripts" / "train.py")]
    command += [str(recipe), "--output", str(tmp_path / "run"), "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"] == "cpu"
