"""What test_processes starts twice, with torchrun: several tiny runs, one after another."""

import shutil
import sys
from pathlib import Path

from accelerate import Accelerator

from revt_hf.cli.main import main
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import mark_output
from revt_hf.core.processes import failing_together
from revt_hf.training.loop import TrainOptions, train
from tests.helpers.tiny import in_float64, tiny_recipe


def determined(**settings):
    """A recipe whose result depends on the global batch only; learns at full speed at once."""
    # Nothing may depend on which images stand in one batch together.
    model = {"drop_path": 0, "dropout": 0, "batch_norm": "frozen"}
    settings = {"steps": 20, "effective_batch": 4, **settings}
    return tiny_recipe(model=model, schedule={"warmup_steps": 0}, train=settings)


RARE = {"min_pixels": 40}
# name -> batch_size and gradient_accumulation of each of two processes, what differs otherwise
DETERMINED = {
    "plain": (2, 1, "usual"),
    "accumulated": (1, 2, "usual"),
    "paper_code": (1, 2, "paper_code"),
    "rare": (2, 1, "rare"),
}
DIFFERENT = {"usual": {}, "paper_code": {"loss": "paper_code"}, "rare": {"rare_classes": RARE}}
_USUAL = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2, "validate_every": 4}
USUAL = tiny_recipe(train={**_USUAL, "rare_classes": RARE})


def _command(*arguments: str | Path) -> None:
    """``revt train`` in this process; prints its exit code."""
    try:
        main(["train", *map(str, arguments)])
    except SystemExit as end:
        print(f"{arguments[0]} ended with {end.code}")


def _fail_on_the_second(state: Accelerator) -> None:
    try:
        with failing_together(state):
            if not state.is_main_process:
                raise UserError("the second has no data")
    except UserError as error:
        print(f"main process: {error}")
    except SystemExit as end:
        print(f"second process: {end.code}")


def _train_all(folder: Path) -> None:
    state = Accelerator()
    usual, sunny = folder / "usual.yaml", folder / "sunny.yaml"
    if state.is_main_process:
        (folder / "plain").mkdir()
        (folder / "plain" / "metrics.jsonl").write_text("of an older run")
        mark_output(folder / "plain")
        usual.write_text(USUAL.to_yaml())
        sunny.write_text(tiny_recipe(source={"config": "sunny"}).to_yaml())
    state.wait_for_everyone()
    for name, (batch_size, accumulation, kind) in DETERMINED.items():
        factors = {"batch_size": batch_size, "gradient_accumulation": accumulation}
        recipe = determined(**factors, **DIFFERENT[kind])
        with in_float64():
            train(recipe, folder / name, TrainOptions(quiet=True, overwrite=True))
    whole, resumed = folder / "whole", folder / "resumed"
    _command(usual, "--output", whole)
    if state.is_main_process:
        shutil.copytree(whole, resumed)
        shutil.rmtree(resumed / "checkpoints" / "step-00000004")
        (resumed / "model.safetensors").unlink()
    state.wait_for_everyone()
    train(USUAL, resumed, TrainOptions(quiet=True, resume=True))
    _command(sunny, "--output", folder / "sunny")
    _fail_on_the_second(state)


if __name__ == "__main__":
    _train_all(Path(sys.argv[1]))
