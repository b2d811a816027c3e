"""All commands of ``revt``: parse, validate, call. Heavy imports stay inside the commands."""

from typing import Any

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
    train,
)

_PANELS = {
    "Data": [data],
    "Train": [train, experiments, demo],
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
