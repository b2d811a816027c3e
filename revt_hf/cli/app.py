"""All commands of ``revt``: parse, validate, call. Heavy imports stay inside the commands."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from revt_hf.cli import (
    analysis,
    benchmark,
    data,
    demo,
    evaluate,
    experiments,
    model_folders,
    predict,
    push,
    results,
)
from revt_hf.cli.options import Overwrite, Quiet
from revt_hf.core.errors import say

_PANELS = {
    "Data": [data],
    "Train": [experiments, demo],
    "Merge": [model_folders],
    "Evaluate": [evaluate, predict, results, benchmark],
    "Understand": [analysis],
    "Publish": [push],
}


class _InPanels(TyperGroup):
    """Lists commands in the order of their panels; typer lists groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = list(_PANELS)

        def place(name: str) -> int:
            return panels.index(getattr(self.commands[name], "rich_help_panel"))  # noqa: B009

        return sorted(super().list_commands(ctx), key=place)


app = typer.Typer(
    help="ReVT: fine-tune SegFormers, average their encoders, evaluate on unseen domains.",
    cls=_InPanels,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _panel, _modules in _PANELS.items():
    for _module in _modules:
        _module.register(app, _panel)
recipe_app = typer.Typer(help="Show recipes and their schema.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe", rich_help_panel="Train")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value.")
]


@app.command(rich_help_panel="Train")
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    output: Annotated[Path, typer.Option(help="The folder of the trained SegFormer.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a checkpoint.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a SegFormer as a recipe says."""
    from revt_hf.config.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if not resume:
        from revt_hf.core.outputs import check_output

        check_output(output, overwrite, [recipe])
    from revt_hf.training.loop import TrainOptions
    from revt_hf.training.loop import train as run_training

    done = run_training(loaded, output, TrainOptions(resume, overwrite, quiet))
    from accelerate import PartialState

    if not quiet and PartialState().is_main_process:
        say(f"trained: {done}")


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    import json

    from revt_hf.config.recipe import recipe_schema as schema

    print(json.dumps(schema(), indent=2))


@recipe_app.command("show")
def recipe_show(recipe: Path, overrides: Overrides = None) -> None:
    """Print a recipe with its parents, overrides and defaults resolved."""
    from revt_hf.config.recipe import load_recipe

    print(load_recipe(recipe, overrides or []).to_yaml(), end="")
