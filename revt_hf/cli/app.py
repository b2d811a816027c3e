"""All commands of ``revt``. Heavy imports stay inside the commands."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from revt_hf.cli import (
    analysis,
    changes,
    evaluate,
    export,
    model_folders,
    results,
    show,
    submit,
    training,
)
from revt_hf.cli.options import with_options


def _group(text: str, **commands: Callable[..., None]) -> typer.Typer:
    group = typer.Typer(help=text, no_args_is_help=True)
    for name, command in commands.items():
        group.command(name)(with_options(command))
    return group


_DATA = _group(
    "Inspect, verify and prepare datasets.",
    list=training.list_domains,
    verify=training.verify_command,
    show=training.show_command,
    prepare=training.prepare_command,
)
_RECIPE = _group(
    "Show recipes and their schema.", schema=training.recipe_schema, show=training.recipe_show
)
_DIAGNOSE = _group(
    "See when and why averaging works.",
    similarity=analysis.similarity_command,
    path=analysis.path_command,
    plane=analysis.plane_command,
    norm=analysis.norm_command,
    disagreement=analysis.disagreement_command,
)
_PANELS: dict[str, list[Callable[..., None] | tuple[str, typer.Typer]]] = {
    "Data": [("data", _DATA)],
    "Train": [training.train, training.run, submit.submit, training.demo, ("recipe", _RECIPE)],
    "Merge": [
        *(model_folders.inspect, changes.recalibrate, changes.refit),
        model_folders.convert,
    ],
    "Evaluate": [
        *(evaluate.evaluate, evaluate.predict, results.table, results.report, results.curves),
        *(evaluate.benchmark, show.app),
    ],
    "Understand": [analysis.choose, ("diagnose", _DIAGNOSE)],
    "Publish": [export.export, model_folders.push, model_folders.merge_and_push],
}


class _InPanels(TyperGroup):
    """Lists commands in the order of their panels; typer lists groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = [command.rich_help_panel for command in self.commands.values()]  # type: ignore[attr-defined]
        order = dict(zip(self.commands, map(list(_PANELS).index, panels), strict=True))
        return sorted(super().list_commands(ctx), key=order.__getitem__)


app = typer.Typer(
    help="ReVT: fine-tune segmenters, average their encoders, evaluate on unseen domains.",
    cls=_InPanels,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# The parser of merge reads all of it, --help included.
_RAW = {"ignore_unknown_options": True, "allow_extra_args": True}
app.command(rich_help_panel="Merge", context_settings=_RAW, add_help_option=False)(
    model_folders.merge
)
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        if isinstance(_command, tuple):
            app.add_typer(_command[1], name=_command[0], rich_help_panel=_panel)
        else:
            app.command(rich_help_panel=_panel)(with_options(_command))
