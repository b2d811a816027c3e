"""``revt merge``, with a parser of its own: typer takes longer to import than many merges."""

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from revt_hf.core.errors import UserError, say
from revt_hf.core.output_folders import check_once
from revt_hf.merging.registry import MergeSpec, Rule

_RENAME = "give one of them another NAME=PATH"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def _parser() -> argparse.ArgumentParser:
    description = "Average the encoders of several models; keep one decode head."
    parser = _Parser("revt merge", description=description, allow_abbrev=False)
    add = parser.add_argument
    kinds = "Model folders, safetensors or torch files, or Hub IDs"
    add("models", nargs="*", metavar="MODEL", help=f"{kinds}; NAME=PATH gives one a name.")
    add("--output", type=Path, metavar="DIR", help="Folder of the merged model.")
    presets = "backbone (default), head, all, norm, stage1, ... or a regex"
    add("--select", default="backbone", help=f"Merge these tensors: {presets}.")
    add("--method", default="mean", help="Merge method: mean (default), weighted_mean, ties, ...")
    first = "write --weights=-1,2 if the first is negative"
    add("--weights", help=f"One weight per model, such as 1,2,5; {first}.")
    parameter = "Set a parameter of the method."
    add("--param", action="append", default=[], metavar="KEY=VALUE", help=parameter)
    add("--head", type=int, default=1, help="Number of the model that gives all other tensors.")
    add("--base", help="Initial model of the members, for methods that need it.")
    add("--recipe", type=Path, metavar="FILE", help="Read the merge from this recipe (YAML).")
    again = "Repeat the merge of this merge.json."
    add("--from", dest="repeat", type=Path, metavar="FILE", help=again)
    summed = "Write PEFT adapters' mean as one adapter of summed rank."
    add("--as-adapter", action="store_true", help=summed)
    add("--dry-run", action="store_true", help="Print the plan and write nothing.")
    add("--no-hash", action="store_true", help="Do not record the models' sha256.")
    add("--allow-nonfinite", action="store_true", help="Accept NaN and infinity.")
    add("--overwrite", action="store_true", help="Replace an existing output.")
    add("--json", type=Path, metavar="FILE", help="Write results to this file.")
    add("--quiet", action="store_true", help="Hide progress bars and remarks.")
    return parser


def merge_command(arguments: Sequence[str]) -> None:
    parser = _parser()
    given = parser.parse_intermixed_args(list(arguments))
    if given.quiet:
        logging.getLogger("revt_hf").setLevel(logging.WARNING)
    from revt_hf.checkpoints.tensors import ADAPTER_WEIGHTS_FILE
    from revt_hf.core.outputs import check_output_file, write_json
    from revt_hf.merging.average import MergeOptions, merge, result_description
    from revt_hf.merging.merge_plan import make_plan
    from revt_hf.merging.record import read_merge_record

    if sum(map(bool, (given.models, given.recipe, given.repeat))) != 1:
        raise UserError("say what to merge: models, --recipe FILE, or --from merge.json")
    for option in ("select", "method", "weights", "param", "head", "base"):
        if not given.models and getattr(given, option) != parser.get_default(option):
            file = given.recipe or given.repeat
            raise UserError(f"--{option}: {file} says what is merged and how: leave it out")
    repeats = read_merge_record(given.repeat) if given.repeat else None
    spec = repeats.spec(str(given.repeat)) if repeats else _spec(given)
    read = [*spec.members, spec.base, given.recipe, given.repeat]
    check_output_file(given.json, inputs=read, outputs=[given.output])
    if given.dry_run:
        with ExitStack() as stack:
            plan = make_plan(spec, stack, given.quiet, parts=not given.as_adapter)
            result_description(plan)
            if given.as_adapter:
                from revt_hf.merging.summed_adapter import adapters_of

                adapters_of(plan)
        for line in plan.lines():
            say(line)
        result = plan.to_json()
    elif given.output is None:
        raise UserError("say where the merge goes: --output FOLDER")
    elif repeats and given.no_hash:
        raise UserError("--from compares sha256 with the record's: leave out --no-hash")
    else:
        options = MergeOptions(
            overwrite=given.overwrite,
            hashing=not given.no_hash,
            allow_nonfinite=given.allow_nonfinite,
            quiet=given.quiet,
            repeats=repeats,
            as_adapter=given.as_adapter
            or (repeats is not None and (given.repeat.parent / ADAPTER_WEIGHTS_FILE).is_file()),
        )
        done = merge(spec, given.output, options=options)
        result = read_merge_record(done / "merge.json").to_json() if given.json else {}
        if not given.quiet:
            say(f"merged {len(spec.members)} models, head of {spec.members[spec.head - 1]}: {done}")
    if given.json is not None:
        write_json(given.json, result)


def _spec(given: argparse.Namespace) -> MergeSpec:
    if given.recipe is not None:
        from revt_hf.merging.merge_recipe import load_merge_recipe

        return load_merge_recipe(given.recipe)
    weights, parameters = None, {}
    try:
        if given.weights is not None:
            weights = tuple(map(float, given.weights.split(",")))
    except ValueError as error:
        raise UserError(f"--weights {given.weights}: write numbers such as 1,2,5") from error
    for text in given.param:
        key, _, value = text.partition("=")
        if key in parameters:
            raise UserError(f"--param {text}: {key} is given twice")
        try:
            parameters[key] = float(value)
        except ValueError as error:
            raise UserError(f"--param {text}: write it as key=number") from error
    names, members = zip(*split_names(given.models), strict=True)
    rule = Rule(given.select, given.method, weights, parameters)
    return MergeSpec(members, (rule,), given.head, given.base, names)


def split_names(models: Sequence[str]) -> list[tuple[str | None, str]]:
    """Names and paths of models; a model may be there twice only with a name of its own."""
    pairs = [split_name(text) for text in models]
    names = [name or path for name, path in pairs]
    check_once([path for name, path in pairs if name is None], f"list it once, or {_RENAME}")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the model {name} is listed twice: {_RENAME}")
    return pairs


def split_name(text: str) -> tuple[str | None, str]:
    """Name and path of ``NAME=PATH``; no name for a path alone."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, text
    if not name or not path:
        raise UserError(f"{text}: write a model as PATH or NAME=PATH")
    return name, path
