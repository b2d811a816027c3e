"""``revt app``."""

import sys
import threading
from pathlib import Path
from typing import Annotated

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError, say


def app(
    models: common.Models,
    choice: common.ProtocolOptions,
    ensemble: Annotated[bool, "--ensemble", "Also show the members' ensemble."] = False,
    examples: Annotated[
        str | None, "FOLDER|DOMAIN", "Images to pick from. Default: drawn street scenes."
    ] = None,
    host: Annotated[str | None, "Listen on this address. Default: this computer only."] = None,
    port: Annotated[int | None, Bounds(1, 65535), "Port. Default: the first free one."] = None,
    space: Annotated[
        Path | None, "DIR", "Write a Space of these Hub models to this folder; show nothing."
    ] = None,
    overwrite: common.Overwrite = False,
    quiet: common.Quiet = False,
) -> None:
    """Show models at work on a page in the browser, or write a Space that does."""
    named = common.named_models(models)
    if space is not None:
        if host or port:
            raise UserError("--host and --port are for a page served here: the Hub serves a Space")
        more = ["--ensemble"] if ensemble else []
        for name, value in {**vars(choice), "examples": examples}.items():
            more += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        _write_space(space, named, more, overwrite, examples)
        if not quiet:
            say(f"written: {space}")
        return
    from revt_hf.app.page import check_gradio, serving
    from revt_hf.app.scenes import load_shown, read_examples

    check_gradio()
    shown = load_shown(named, choice.resolve(named.values()), ensemble)
    with serving(shown, read_examples(examples, shown.space), host or "127.0.0.1", port) as address:
        say(f"open {address} (Ctrl-C ends it)")
        sys.stdout.flush()
        threading.Event().wait()


def _write_space(
    folder: Path, models: dict[str, str], options: list[str], overwrite: bool, examples: str | None
) -> None:
    from revt_hf.core.outputs import atomic_folder
    from revt_hf.hub.space import check_examples, write_space

    check_examples(examples)
    with atomic_folder(folder, overwrite) as scratch:
        write_space(scratch, models, options)
