"""All commands of ``revt``. Heavy imports stay inside the commands."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from revt_hf.cli import analysis, evaluate, model_folders, results, training

_PANELS: dict[str, list[typer.Typer | Callable[..., None]]] = {
    "Data": [training.data_app],
    "Train": [
        training.train,
        training.run,
        training.submit,
        training.demo,
        training.recipe_app,
    ],
    "Merge": [model_folders.inspect, model_folders.recalibrate, model_folders.convert],
    "Evaluate": [
        evaluate.evaluate,
        evaluate.predict,
        results.table,
        results.report,
        results.curves,
        evaluate.benchmark,
    ],
    "Understand": [analysis.choose, analysis.diagnose_app],
    "Publish": [model_folders.push, model_folders.merge_and_push],
}


class _InPanels(TyperGroup):
    """Lists commands in the order of their panels; typer lists groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = [command.rich_help_panel for command in self.commands.values()]  # type: ignore[attr-defined]
        order = dict(zip(self.commands, map(list(_PANELS).index, panels), strict=True))
        return sorted(super().list_commands(ctx), key=order.__getitem__)


app = typer.Typer(
    help="ReVT: fine-tune SegFormers, average their encoders, evaluate on unseen domains.",
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
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, rich_help_panel=_panel)
        else:
            app.command(rich_help_panel=_panel)(_command)
