"""A training leaves the caller's own Accelerator, and other trainings', as they were."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from revt_hf.core.errors import UserError
from tests.helpers.tiny import run, tiny_recipe

BF16 = tiny_recipe(train={"precision": "bf16", "steps": 1})


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
    assert mine.mixed_precision == "no"
    assert mine.gradient_accumulation_steps == 3
    assert mine.is_main_process
    assert Accelerator().gradient_state is not None
    # One that comes later shares it.
    assert Accelerator().mixed_precision == "no"


def test_it_survives_a_training_that_fails(tmp_path):
    mine = Accelerator(mixed_precision="bf16")
    with pytest.raises(UserError):
        run(tmp_path / "run", tiny_recipe(source={"config": "sunny"}))
    assert mine.mixed_precision == "bf16"


def test_trainings_do_not_share_their_precision(tmp_path):
    run(tmp_path / "bf16", BF16)
    # Without a caller's, nothing of ours stays behind.
    assert Accelerator(mixed_precision="no").mixed_precision == "no"
    run(tmp_path / "fp32", tiny_recipe(train={"steps": 1}))
    run(tmp_path / "again", BF16)
    records = [
        json.loads((tmp_path / name / "run.json").read_text())["precision"]
        for name in ("bf16", "fp32", "again")
    ]
    assert records == ["bf16", "fp32", "bf16"]


def test_a_process_group_is_left_at_the_end_but_not_by_one_that_fails():
    code = (
        "import torch.distributed as d, sys\n"
        "import revt_hf.core.processes\n"
        "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1)\n"
        "really = d.destroy_process_group\n"
        "d.destroy_process_group = lambda: (print('left'), really())\n"
        "if sys.argv[1] == 'fail': raise ValueError\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, how],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for how in ("end", "fail")
    ]
    assert said == ["left\n", ""]
