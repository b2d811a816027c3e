"""``revt train`` and ``revt recipe``: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.cli.options import Overrides, Overwrite, Quiet, Recipe


def train(
    recipe: Recipe,
    output: Annotated[Path, typer.Option(help="Folder of the trained SegFormer.")],
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the latest checkpoint.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a SegFormer with the settings of a recipe."""
    from revt_hf.config.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if not resume:
        from revt_hf.core.outputs import check_output

        check_output(output, overwrite, [recipe])
    from revt_hf.core.errors import say
    from revt_hf.core.processes import process_state
    from revt_hf.training.loop import TrainOptions
    from revt_hf.training.loop import train as run_training

    done = run_training(loaded, output, TrainOptions(resume, overwrite, quiet))
    if not quiet and process_state().is_main_process:
        say(f"trained: {done}")


def recipe_schema() -> None:
    """Print the JSON schema of training recipes, for editors."""
    import json

    from revt_hf.config.recipe import recipe_schema as schema

    print(json.dumps(schema(), indent=2))


def recipe_show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe with its parents, overrides and defaults resolved."""
    from revt_hf.config.recipe import load_recipe

    print(load_recipe(recipe, overrides or []).to_yaml(), end="")


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to ``revt``."""
    app.command(rich_help_panel=panel)(train)
    recipes = typer.Typer(help="Show recipes and their schema.", no_args_is_help=True)
    recipes.command("schema")(recipe_schema)
    recipes.command("show")(recipe_show)
    app.add_typer(recipes, name="recipe", rich_help_panel=panel)
