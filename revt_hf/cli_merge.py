"""``revt merge`` and its relatives: parse, validate, call. No torch on the way to a merge."""

from pathlib import Path
from typing import Annotated, Any

import typer

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.cli_data import Config, DataDir, Json, Options, Overwrite, Quiet
from revt_hf.errors import UserError

EXIT_CHANGED = 2

Members = Annotated[
    list[str] | None,
    typer.Argument(help="SegFormer folders, safetensors or torch files, or Hub ids."),
]


def merge(
    members: Members = None,
    output: Annotated[Path | None, typer.Option(help="The folder of the merged SegFormer.")] = None,
    select: Annotated[
        str,
        typer.Option(help="What is merged: backbone, head, all, norm, stage1, ... or a regex."),
    ] = "backbone",
    method: Annotated[str, typer.Option(help="How: mean, weighted_mean, ties, ...")] = "mean",
    weights: Annotated[str | None, typer.Option(help="One weight a member, such as 1,2,5.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="KEY=VALUE", help="A parameter of the method."),
    ] = None,
    head: Annotated[
        int, typer.Option(min=1, help="Number of the member that all else comes from.")
    ] = 1,
    base: Annotated[
        str | None, typer.Option(help="The model that the members started from.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A merge recipe (YAML) instead of all this.")
    ] = None,
    repeat: Annotated[
        Path | None, typer.Option("--from", help="Repeat the merge of a merge.json.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, write nothing.")
    ] = False,
    no_hash: Annotated[
        bool, typer.Option("--no-hash", help="Do not take the members' sha256.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Take NaN and infinity as they come.")
    ] = False,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Average the encoders of several SegFormers; keep one decode head."""
    from revt_hf.merging.average import MergeOptions
    from revt_hf.merging.average import merge as run_merge
    from revt_hf.merging.plan import MergeSpec, Rule

    if sum(source is not None for source in (members, recipe, repeat)) != 1:
        raise UserError("say what to merge: members, --recipe FILE, or --from merge.json")
    if recipe is not None:
        from revt_hf.merging.merge_recipe import load_merge_recipe

        spec = load_merge_recipe(recipe)
    elif repeat is not None:
        from revt_hf.merging.record import read_merge_record, spec_from_record

        spec = spec_from_record(read_merge_record(repeat), str(repeat))
    else:
        rule = Rule(select, method, _numbers(weights), _parameters(parameters))
        spec = MergeSpec(tuple(members or ()), (rule,), head, base)
    if dry_run:
        _show_plan(spec, json_file, quiet)
        return
    if output is None:
        raise UserError("say where the merge goes: --output FOLDER")
    options = MergeOptions(overwrite, not no_hash, allow_nonfinite, quiet)
    done = run_merge(spec, output, options=options)
    if json_file is not None:
        from revt_hf.files import write_json
        from revt_hf.merging.record import read_merge_record

        write_json(json_file, read_merge_record(done / MERGE_FILE))
    if not quiet:
        print(f"merged {len(spec.members)} models, head of {spec.members[spec.head - 1]}: {done}")


def inspect(
    folder: Annotated[Path, typer.Argument(help="A merged SegFormer.")],
    json_file: Json = None,
) -> None:
    """Print how a merge was made, and whether its members are still the same."""
    from revt_hf.files import write_json
    from revt_hf.merging.record import member_states, read_merge_record

    record = read_merge_record(folder / MERGE_FILE)
    states = member_states(record)
    for rule in record["rules"]:
        weights = f", weights {rule['weights']}" if rule["weights"] else ""
        print(
            f"{rule['method']} of '{rule['select']}'{weights} {rule['parameters'] or ''}".rstrip()
        )
    print(f"all else from member {record['head']}; revt_hf {record['revt_hf']}")
    for state in states:
        print(f"{state.state:8} {state.path}")
    if json_file is not None:
        rows = [{"path": state.path, "state": state.state} for state in states]
        write_json(json_file, {**record, "states": rows})
    if any(state.state in ("changed", "gone") for state in states):
        raise typer.Exit(EXIT_CHANGED)


def _show_plan(spec: Any, json_file: Path | None, quiet: bool) -> None:
    from contextlib import ExitStack

    from revt_hf.files import write_json
    from revt_hf.merging.plan import make_plan

    with ExitStack() as stack:
        plan = make_plan(spec, stack, quiet)
    print("\n".join(plan.lines()))
    if json_file is not None:
        write_json(json_file, plan.to_json())


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--weights {text}: write numbers such as 1,2,5") from error


def _parameters(texts: list[str] | None) -> dict[str, float]:
    values = {}
    for text in texts or []:
        key, _, value = text.partition("=")
        try:
            values[key] = float(value)
        except ValueError as error:
            raise UserError(f"--param {text}: write it as key=number") from error
    return values


def recalibrate(
    model: Annotated[Path, typer.Argument(help="A SegFormer folder, such as a merge.")],
    output: Annotated[Path, typer.Option(help="The folder of the recalibrated SegFormer.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Its sources' training pictures are used.")
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
    pictures: Annotated[int, typer.Option(min=1, help="About so many pictures.")] = 100,
    overwrite: Overwrite = False,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Re-estimate the decode head's BatchNorm statistics on source pictures."""
    from revt_hf.files import write_json
    from revt_hf.merging.command import recalibrate_command
    from revt_hf.options import key_values
    from revt_hf.recipe import Source, load_recipe

    if (recipe is None) == (domain is None):
        raise UserError("say where the source pictures are: either --recipe FILE or --domain NAME")
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
    done = recalibrate_command(model, sources, output, pictures, overwrite, quiet, not skip_val)
    if json_file is not None:
        write_json(json_file, done.to_json())
    for score in done.val:
        print(f"{score.label}: mIoU {score.before:.2f} before, {score.after:.2f} after")
    if not quiet:
        print(f"recalibrated: {done.output}")


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
    from revt_hf.converting.convert import convert_command

    done = convert_command(source, output, to, overwrite, quiet)
    if quiet:
        return
    size = f"SegFormer-{done.size.upper()}" if done.size else "a SegFormer"
    classes = f", {len(done.labels)} classes" if done.labels else ", encoder alone"
    print(f"converted {size}{classes}: {done.output}")
    if done.dropped:
        print(f"left out: {', '.join(done.dropped)}")


def register(app: typer.Typer) -> None:
    """Add the commands to ``revt``."""
    app.command()(merge)
    app.command()(recalibrate)
    app.command()(convert)
    app.command()(inspect)
