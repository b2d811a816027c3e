"""The commands beside ``revt merge`` that read and write checkpoints: parse, validate, call."""

from pathlib import Path
from typing import Annotated

import typer

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.cli.data import Config, DataDir, Json, Options, Overwrite, Quiet
from revt_hf.cli.merge import merge_command
from revt_hf.core.errors import UserError, say

EXIT_CHANGED = 2


def merge(context: typer.Context) -> None:
    """Average the encoders of several SegFormers; keep one decode head."""
    merge_command(context.args)


def inspect(
    folder: Annotated[Path, typer.Argument(help="A merged SegFormer.")],
    json_file: Json = None,
) -> None:
    """Print how a merge was made, and whether its members and weights are still the same."""
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.merging.record import (
        change_lines,
        describes,
        history_lines,
        member_states,
        read_merge_record,
        read_record,
    )

    check_output_file(json_file, inputs=[folder])
    path, record = read_record(folder) or (folder, read_merge_record(folder / MERGE_FILE))
    states = member_states(record) if path.name == MERGE_FILE else []
    own = {True: "same", False: "changed", None: "unknown"}[describes(record, folder)]
    if json_file is not None:
        rows = [{"path": state.path, "state": state.state} for state in states]
        write_json(json_file, {**record, "states": rows, "weights": own})
    for rule in record.get("rules", []):
        weights = f", weights {rule['weights']}" if rule["weights"] else ""
        say(f"{rule['method']} of '{rule['select']}'{weights} {rule['parameters'] or ''}".rstrip())
    if "head" in record:
        say(f"all else from member {record['head']}; revt_hf {record['revt_hf']}")
    for line in change_lines(record.get("changes", [])):
        say(line)
    for state, entry in zip(states, [*record.get("members", []), record.get("base")], strict=False):
        say(f"{state.state:8} {state.path}")
        for line in history_lines(entry):
            say(f"{'':8} {line}")
    say(f"{own:8} {folder} (the weights that {path.name} describes)")
    if own == "changed" or any(state.state in ("changed", "gone") for state in states):
        raise typer.Exit(EXIT_CHANGED)


def recalibrate(
    model: Annotated[Path, typer.Argument(help="A SegFormer folder, such as a merge.")],
    output: Annotated[Path, typer.Option(help="The folder of the recalibrated SegFormer.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Its sources' training images are used.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Instead of a recipe: the source domain.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    options: Options = None,
    split: Annotated[str, typer.Option(help="The domain's training split.")] = "train",
    val: Annotated[str, typer.Option(help="The domain's held-out split.")] = "val",
    skip_val: Annotated[
        bool, typer.Option("--skip-val", help="Do not score on source-val.")
    ] = False,
    images: Annotated[int, typer.Option(min=1, help="About so many images.")] = 100,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Re-estimate the decode head's BatchNorm statistics on source images."""
    from revt_hf.cli.options import key_values
    from revt_hf.config.domain_spec import Source
    from revt_hf.config.recipe import load_recipe
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.merging.command import recalibrate_command

    if (recipe is None) == (domain is None):
        raise UserError("say where the source images are: either --recipe FILE or --domain NAME")
    sources = (
        load_recipe(recipe).sources
        if recipe is not None
        else (
            Source(
                domain=str(domain),
                data_dir=str(data_dir) if data_dir else None,
                config=config,
                options=key_values(options),
                train=split,
                val=val,
            ),
        )
    )
    read = [path for source in sources for path in source.inputs]
    check_output_file(json_file, inputs=[model, recipe, *read], outputs=[output])
    done = recalibrate_command(model, sources, output, images, overwrite, quiet, not skip_val)
    if json_file is not None:
        write_json(json_file, done.to_json())
    for score in done.val:
        say(f"{score.label}: mIoU {score.before:.2f} before, {score.after:.2f} after")
    if not quiet:
        say(f"recalibrated: {done.output}")


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint of the original, or a folder.")],
    output: Annotated[Path, typer.Option(help="The folder, or with --to mmseg the file.")],
    to: Annotated[
        str | None, typer.Option(help="transformers (default) or mmseg, the original's.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Turn the original's checkpoints into SegFormer folders, and back."""
    from revt_hf.models import convert as conversion

    if to == "mmseg":
        done = conversion.convert_to_mmseg(source, output, overwrite, quiet)
    elif to in (None, "transformers"):
        done = conversion.convert(Path(source), output, overwrite)
    else:
        raise UserError(f"--to {to}: choose transformers or mmseg")
    if quiet:
        return
    size = f"SegFormer-{done.size.upper()}" if done.size else "a SegFormer"
    classes = f", {len(done.labels)} classes" if done.labels else ", encoder alone"
    say(f"converted {size}{classes}: {done.output}")
    if done.dropped:
        say(f"left out: {', '.join(done.dropped)}")
    if done.added:
        say(f"missing, 0 is taken: {', '.join(done.added)}")


def register(app: typer.Typer) -> None:
    """Add the commands to ``revt``."""
    # Its own parser reads all of it, the request for help included.
    raw = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(context_settings=raw, add_help_option=False)(merge)
    app.command()(recalibrate)
    app.command()(convert)
    app.command()(inspect)
