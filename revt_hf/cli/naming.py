"""``NAME=PATH`` arguments. Imports nothing slow: ``revt merge`` starts without typer."""

from pathlib import Path

from revt_hf.core.errors import UserError


def split_name(text: str) -> tuple[str | None, str]:
    """Name and path of ``NAME=PATH``; no name for a path alone."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, text
    if not name or not path:
        raise UserError(f"{text}: write a model as PATH or NAME=PATH")
    return name, path
