"""What a merge says of itself: written into its weights and beside them, read back, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf import __version__
from revt_hf.errors import UserError
from revt_hf.files import file_sha256
from revt_hf.merging.plan import MergeSpec, Plan, Rule

Digests = Mapping[str, str] | None


def merge_record(plan: Plan, digests: Sequence[Digests]) -> dict[str, Any]:
    """The record of a merge: members with their sha256, rules, versions.

    Args:
        plan: what was done.
        digests: for each member, then the base: sha256 by file name, or None if not taken.
    """
    spec = plan.spec
    labels = [*spec.members, *([spec.base] if spec.base else [])]
    entries = [member_entry(label, files) for label, files in zip(labels, digests, strict=True)]
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
        UserError: it is not such a record.
    """
    try:
        return MergeSpec(
            members=tuple(str(entry["path"]) for entry in record["members"]),
            rules=tuple(
                Rule(
                    rule["select"],
                    rule["method"],
                    tuple(rule["weights"]) if rule["weights"] else None,
                    dict(rule["parameters"]),
                )
                for rule in record["rules"]
            ),
            head=int(record["head"]),
            base=str(record["base"]["path"]) if record["base"] else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} is not a merge record of revt_hf that can be repeated") from error


def read_merge_record(path: Path) -> dict[str, Any]:
    """The JSON object of a ``merge.json``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the merge record {path}") from error
    return record


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
    for entry in [*record["members"], *([record["base"]] if record.get("base") else [])]:
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
