"""``revt merge``: parse, validate, call. Neither torch nor typer on the way to a merge."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from revt_hf.core.errors import UserError, say
from revt_hf.merging.plan import MergeSpec, Rule

_DESCRIPTION = "Average the encoders of several SegFormers; keep one decode head."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("revt merge", description=_DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add(
        "members",
        nargs="*",
        metavar="MEMBER",
        help="SegFormer folders, safetensors or torch files, or Hub ids.",
    )
    add("--output", type=Path, metavar="DIR", help="The folder of the merged SegFormer.")
    add(
        "--select",
        default="backbone",
        help="What is merged: backbone (default), head, all, norm, stage1, ... or a regex.",
    )
    add("--method", default="mean", help="How: mean (default), weighted_mean, ties, ...")
    add("--weights", help="One weight a member: 1,2,5; --weights=-1,2 if the first is negative.")
    add(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="A parameter of the method.",
    )
    add("--head", type=int, default=1, help="Number of the member that all else comes from.")
    add("--base", help="The model that the members started from.")
    add("--recipe", type=Path, metavar="FILE", help="A merge recipe (YAML) instead of all this.")
    add(
        "--from",
        dest="repeat",
        type=Path,
        metavar="FILE",
        help="Repeat the merge of a merge.json.",
    )
    add("--dry-run", action="store_true", help="Print what would be done, write nothing.")
    add("--no-hash", action="store_true", help="Do not take the members' sha256.")
    add("--allow-nonfinite", action="store_true", help="Take NaN and infinity as they come.")
    add("--overwrite", action="store_true", help="Replace an output that exists.")
    add("--json", type=Path, metavar="FILE", help="Write results here.")
    add("--quiet", action="store_true", help="No progress bars or remarks.")
    return parser


def merge_command(arguments: Sequence[str]) -> None:
    """Run ``revt merge``.

    Args:
        arguments: what follows ``merge`` on the command line.

    Raises:
        UserError: bad options, or a merge that cannot be done.
        SystemExit: after ``--help``.
    """
    given = _parser().parse_intermixed_args(list(arguments))
    if given.quiet:
        logging.getLogger("revt_hf").setLevel(logging.WARNING)
    from revt_hf.core.outputs import check_output_file

    read = [*given.members, given.recipe, given.repeat, given.base]
    check_output_file(given.json, inputs=read, outputs=[given.output])
    spec = _spec(given)
    if given.dry_run:
        _show_plan(spec, given.json, given.quiet)
        return
    if given.output is None:
        raise UserError("say where the merge goes: --output FOLDER")
    from revt_hf.merging.average import MergeOptions, merge

    repeats = None
    if given.repeat is not None:
        from revt_hf.merging.record import read_merge_record

        repeats = read_merge_record(given.repeat)
        if given.no_hash:
            raise UserError("--from compares sha256 with the record's: leave out --no-hash")
    options = MergeOptions(
        given.overwrite, not given.no_hash, given.allow_nonfinite, given.quiet, repeats
    )
    done = merge(spec, given.output, options=options)
    if given.json is not None:
        from revt_hf.checkpoints.tensors import MERGE_FILE
        from revt_hf.core.outputs import read_json_object, write_json

        write_json(given.json, read_json_object(done / MERGE_FILE))
    if not given.quiet:
        say(f"merged {len(spec.members)} models, head of {spec.members[spec.head - 1]}: {done}")


def _spec(given: argparse.Namespace) -> MergeSpec:
    if sum(map(bool, (given.members, given.recipe, given.repeat))) != 1:
        raise UserError("say what to merge: members, --recipe FILE, or --from merge.json")
    if given.recipe is not None:
        from revt_hf.merging.merge_recipe import load_merge_recipe

        return load_merge_recipe(given.recipe)
    if given.repeat is not None:
        from revt_hf.merging.record import read_merge_record, spec_from_record

        return spec_from_record(read_merge_record(given.repeat), str(given.repeat))
    rule = Rule(given.select, given.method, _numbers(given.weights), _parameters(given.param))
    return MergeSpec(tuple(given.members), (rule,), given.head, given.base)


def _show_plan(spec: MergeSpec, json_file: Path | None, quiet: bool) -> None:
    from contextlib import ExitStack

    from revt_hf.core.outputs import write_json
    from revt_hf.merging.average import result_description
    from revt_hf.merging.plan import make_plan

    with ExitStack() as stack:
        plan = make_plan(spec, stack, quiet)
        result_description(plan)
    for line in plan.lines():
        say(line)
    if json_file is not None:
        write_json(json_file, plan.to_json())


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--weights {text}: write numbers such as 1,2,5") from error


def _parameters(texts: Sequence[str]) -> dict[str, float]:
    values = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            values[key] = float(value)
        except ValueError as error:
            raise UserError(f"--param {text}: write it as key=number") from error
    return values
