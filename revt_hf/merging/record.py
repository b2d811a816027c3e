"""What a merge says of itself: written into its weights and beside them, read back, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf import __version__
from revt_hf.checkpoints.headers import tensors_sha256
from revt_hf.checkpoints.tensors import MERGE_FILE, WEIGHTS_FILE
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256, read_json_object
from revt_hf.merging.plan import MergeSpec, Plan, Rule
from revt_hf.merging.sources import Source

# What was done to a model that is no merge, after it was trained.
CHANGES_FILE = "recalibration.json"
# What the record of a merge says of a member that is one itself.
_MADE = ("members", "base", "rules", "head")
Digests = Mapping[str, str] | None


def merge_record(
    plan: Plan, digests: Sequence[Digests], made: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The record of a merge: members with their sha256, rules, versions.

    Args:
        plan: what was done.
        digests: for each member, then the base: sha256 by file name, or None if not taken.
        made: for each of them, how it was made (:func:`how_made`).
    """
    spec = plan.spec
    labels = [*spec.members, *([spec.base] if spec.base else [])]
    entries = [member_entry(label, files) for label, files in zip(labels, digests, strict=True)]
    for entry, how in zip(entries, made, strict=False):
        entry.update(how)
    for entry, source in zip(entries, plan.sources, strict=False):
        entry.update(plan.left(source))
    first = spec.rules[0]
    return {
        "members": entries[: len(spec.members)],
        "base": entries[-1] if spec.base else None,
        # Of the first rule, for those who read only that.
        "method": first.method,
        "selection": first.select,
        **spec.to_json(),
        "revt_hf": __version__,
        "numpy": np.__version__,
    }


def how_made(source: Source) -> dict[str, Any]:
    """What a member's own record says: ``merge``, if it is one, and ``changes`` to its weights.

    Raises:
        UserError: the record is not valid, or the weights are not those that it describes.
    """
    if source.folder is None:
        return {}
    source.stamps.add(source.folder / MERGE_FILE, source.folder / CHANGES_FILE)
    found = read_record(source.folder)
    if found is None:
        return {}
    changes = recorded_changes(source.folder)
    merge = {key: found[1][key] for key in _MADE if key in found[1]}
    return {**({"merge": merge} if merge else {}), **({"changes": changes} if changes else {})}


def member_entry(label: str, files: Digests) -> dict[str, Any]:
    """What a record says of a member: path and sha256 (of shards, of all of them together).

    Args:
        label: the path.
        files: sha256 by file name, or None if not taken.
    """
    if files is None:
        return {"path": label, "sha256": None}
    if len(files) == 1:
        return {"path": label, "sha256": next(iter(files.values()))}
    # Of shards: the digest of their digests, in the order of their names.
    joined = "".join(files[name] for name in sorted(files))
    together = sha256(joined.encode()).hexdigest() if set(joined) != {"0"} else "0" * 64
    return {"path": label, "sha256": together, "files": dict(files)}


def spec_from_record(record: Mapping[str, Any], name: str) -> MergeSpec:
    """What was merged, as a spec that can be carried out again.

    Args:
        record: of ``merge.json``.
        name: how messages call it.

    Raises:
        UserError: the weights were changed after the merge: repeating it would give others.
    """
    if record.get("changes"):
        raise UserError(
            f"{name} is of weights that were {record['changes'][-1]['kind']} after the merge, so "
            "the merge alone would give others: merge its members again, then repeat that"
        )
    return MergeSpec(
        members=tuple(entry["path"] for entry in record["members"]),
        rules=tuple(
            Rule(
                rule["select"],
                rule["method"],
                tuple(rule["weights"]) if rule["weights"] else None,
                dict(rule["parameters"]),
            )
            for rule in record["rules"]
        ),
        head=record["head"],
        base=record["base"]["path"] if record["base"] else None,
    )


def read_merge_record(path: Path) -> dict[str, Any]:
    """The content of a ``merge.json``, every field of which is checked.

    Raises:
        UserError: it cannot be read, or is no merge record; the first wrong field is named.
    """
    from revt_hf.merging.merge_file import MergeFile

    return _checked(path, MergeFile, "merge record")


def recorded_changes(folder: Path) -> list[dict[str, Any]]:
    """What was done to a folder's weights after they were merged or trained, in order.

    Raises:
        UserError: the record is not valid, or the weights are not those that it describes.
    """
    record = read_record(folder)
    if record is None:
        return []
    path, content = record
    if describes(content, folder) is False:
        raise UserError(
            f"{path} does not describe the weights beside it: they were changed since; remove it, "
            "or make the folder again"
        )
    return list(content.get("changes", []))


def change_lines(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was done to weights after they were merged or trained, in words."""
    return [
        f"then {change['kind']} on {change['images']} images of "
        + (", ".join(source["domain"] for source in change["sources"]) or "an unknown source")
        + ": mean and variance of the decode head's BatchNorm are new"
        for change in changes
    ]


def history_lines(entry: Mapping[str, Any]) -> list[str]:
    """How a member was made, as far as its entry in a record says so, in words."""
    lines = []
    merge = entry.get("merge")
    if merge is not None:
        names = [inner["path"] for inner in merge["members"]]
        rules = " and ".join(f"{rule['method']} of {rule['select']!a}" for rule in merge["rules"])
        lines.append(f"itself a merge of {', '.join(names)} ({rules})")
        for inner in merge["members"]:
            lines += [f"{inner['path']}: {line}" for line in history_lines(inner)]
    return lines + change_lines(entry.get("changes", []))


def describes(record: Mapping[str, Any], folder: Path) -> bool | None:
    """Whether a folder's weights are those of the record; None if that was not taken.

    Raises:
        UserError: the weights cannot be read.
    """
    known = record["tensors_sha256"]
    if known is None:
        return None
    weights = folder / WEIGHTS_FILE
    return weights.is_file() and tensors_sha256(weights) == known


def with_change(folder: Path, change: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The record of a folder's weights after one more change: its file's name, and its content.

    Args:
        folder: of the weights before it.
        change: see ``revt_hf.merging.merge_file.Change``.
    """
    record = read_record(folder)
    path, content = record or (folder / CHANGES_FILE, {})
    changes = [*content.get("changes", []), dict(change)]
    return path.name, {**content, "tensors_sha256": change["after"], "changes": changes}


def check_repeated(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a repeated merge whose members or weights are not those of the record.

    Raises:
        UserError: a sha256 differs.
    """
    for before, now in zip(_entries(expected), _entries(found), strict=True):
        if before["sha256"] not in (None, now["sha256"]):
            raise UserError(
                f"{before['path']} is not what was merged: its sha256 is {now['sha256']}, in the "
                f"record {before['sha256']}"
            )
    if expected["tensors_sha256"] not in (None, found["tensors_sha256"]):
        raise UserError(
            "the merge gives other weights than those of the record, which revt_hf "
            f"{expected['revt_hf']} made with numpy {expected['numpy']}: use these"
        )


def _entries(record: Mapping[str, Any]) -> list[Any]:
    return [*record["members"], *([record["base"]] if record["base"] else [])]


def read_record(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record of how a folder's weights were made, and its file: of a merge, or of changes.

    Raises:
        UserError: it is not valid.
    """
    if (folder / MERGE_FILE).is_file():
        return folder / MERGE_FILE, read_merge_record(folder / MERGE_FILE)
    path = folder / CHANGES_FILE
    if not path.is_file():
        return None
    from revt_hf.merging.merge_file import Changes

    return path, _checked(path, Changes, "record of changes")


def _checked(path: Path, schema: Any, what: str) -> dict[str, Any]:
    from pydantic import ValidationError

    values = read_json_object(path)
    try:
        # As JSON: lists are tuples there, and nothing else is taken for something else.
        schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ascii(".".join(map(str, first["loc"])))[1:-1]
        raise UserError(f"{path} is not a {what} of revt_hf: {where}: {first['msg']}") from error
    return values


@dataclass(frozen=True)
class MemberState:
    """Whether a member is still what was merged: ``same``, ``changed``, ``gone``, ``unknown``."""

    path: str
    state: str


def member_states(record: Mapping[str, Any]) -> list[MemberState]:
    """Hash the members of a record again (and the base) and compare.

    Raises:
        UserError: a file cannot be read.
    """
    from revt_hf.checkpoints.tensors import open_checkpoint

    states = []
    for entry in _entries(record):
        state = "unknown"
        if entry["sha256"] is not None:
            try:
                with open_checkpoint(entry["path"], quiet=True) as found:
                    now = {path.name: file_sha256(path) for path in found.originals}
                state = "same" if member_entry("", now)["sha256"] == entry["sha256"] else "changed"
            except UserError:
                state = "gone"
        states.append(MemberState(entry["path"], state))
    return states
