"""Spaces: a repository of the Hub that runs ``revt app`` on models of the Hub."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from revt_hf import __version__
from revt_hf.checkpoints.download import is_hub_id
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_text
from revt_hf.data.domains import DOMAINS
from revt_hf.hub.cards import render_card
from revt_hf.hub.commit import CARD_FILE, MARKER
from revt_hf.results.markdown import yaml_text

_LICENSE = "apache-2.0"  # of the app, which is this package's
# Options of a push that say where it goes: a Space shows what is on main.
_ELSEWHERE = {"dry_run": "--dry-run", "create_pr": "--create-pr", "revision": "--revision"}
SPACE_ADVICE = "the model is published: run the same command again for its Space"


def gradio_version() -> str:
    """The version of gradio that is installed; refuses where none is."""
    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise UserError("gradio is not installed: pip install 'revt_hf[app]'") from error


def write_space(folder: Path, models: Mapping[str, str], options: Sequence[str] = ()) -> None:
    """Write a Space into an empty folder: ``app.py``, ``requirements.txt`` and ``README.md``.

    Args:
        folder: exists already.
        models: Hub IDs by the names that the page gives them.
        options: further words of the command ``revt app``.

    Raises:
        UserError: a model is no Hub ID, or gradio is not installed.
    """
    for model in models.values():
        if Path(model).exists() or not is_hub_id(model):
            raise UserError(
                f"{model} is not on the Hub, where a Space finds its models: publish it with revt "
                "push, and name it OWNER/NAME"
            )
    ids = list(dict.fromkeys(model.partition("@")[0] for model in models.values()))
    title = ids[-1].partition("/")[2]
    front = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": gradio_version(),
        # The Hub's own default is older than revt_hf takes.
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "models": ids,
        "license": _LICENSE,
        "short_description": "Semantic segmentation: models side by side",
        "tags": ["revt_hf", "semantic-segmentation", "domain-generalization"],
    }
    words = [name if name == model else f"{name}={model}" for name, model in models.items()]
    command = ["app", *words, *options]
    values = {"title": title, "models": ids, "version": __version__, "license": _LICENSE}
    card = render_card("space_card.md.jinja", front=yaml_text(front), marker=MARKER, **values)
    write_text(folder / CARD_FILE, card)
    write_text(folder / "app.py", _APP.format(version=__version__, command=command))
    write_text(folder / "requirements.txt", f"revt_hf[app]=={__version__}\n")


def check_examples(examples: str | None) -> None:
    """Refuse examples that a Space could not show: only what this package draws is passed on."""
    if examples is not None and (examples not in DOMAINS or DOMAINS[examples].needs_data_dir):
        raise UserError(
            f"--examples {examples}: a Space shows drawn scenes only, since images of others may "
            "not be passed on: leave it out"
        )


def check_with_space(options: Any) -> None:
    """Refuse ``--with-space`` with options of a push that goes elsewhere than to main."""
    for name, flag in _ELSEWHERE.items():
        if options.with_space and getattr(options, name):
            raise UserError(
                f"{flag} goes without --with-space: a Space shows the model that is on main; revt "
                "app OWNER/NAME --space DIR writes one to a folder"
            )
    if options.with_space:
        gradio_version()


_APP = '''\
"""Shows models in the browser; written by revt_hf {version}."""

import os

from revt_hf.cli.main import main

COMMAND = {command!r}

if __name__ == "__main__":
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    main([*COMMAND, "--host", "0.0.0.0", "--port", port])
'''
