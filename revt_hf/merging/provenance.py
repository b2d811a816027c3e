"""Where merged weights come from: the record of a merge, built and compared."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from revt_hf import __version__
from revt_hf.checkpoints.tensors import MERGE_FILE, open_checkpoint
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.merging.members import Source
from revt_hf.merging.merge_plan import MergePlan
from revt_hf.merging.record import (
    CHANGES_FILE,
    MemberRecord,
    MergeHistory,
    MergeRecord,
    checked_record,
)

NO_DIGEST = "0" * 64
Digests = Mapping[str, str] | None
State = Literal["same", "changed", "gone", "unknown"]


def merge_record(
    plan: MergePlan,
    digests: Sequence[Digests],
    histories: Sequence[Mapping[str, Any]],
    evaluation: dict[str, Any],
    tensors: str | None,
) -> MergeRecord:
    """The record of a merge, with digests and :func:`history_of` each of ``plan.inputs``."""
    count = len(plan.sources)
    names = [*(name for name, _ in plan.spec.named_members), None]
    entries = [
        member_record(
            source.label,
            files,
            name=names[at],
            dropped=source.dropped,
            added=source.added,
            image_size=plan.image_size(source) if at < count else None,
            **history,
        )
        for at, (source, files, history) in enumerate(
            zip(plan.inputs, digests, histories, strict=True)
        )
    ]
    return MergeRecord(
        members=tuple(entries[:count]),
        base=entries[count] if plan.base else None,
        rules=plan.spec.rules,
        head=plan.spec.head,
        format="revt_hf.merge/1",
        revt_hf=__version__,
        numpy=np.__version__,
        evaluation=evaluation,
        tensors_sha256=tensors,
    )


def history_of(source: Source) -> dict[str, Any]:
    """``merge`` and ``changes`` of a source, from the record in its folder."""
    if source.folder is None:
        return {}
    source.stamps.add(source.folder / MERGE_FILE, source.folder / CHANGES_FILE)
    record = checked_record(source.folder)
    if record is None:
        return {}
    if not isinstance(record, MergeRecord):
        return {"changes": record.changes}
    merge = MergeHistory(record.members, record.base, record.rules, record.head)
    return {"merge": merge, "changes": record.changes}


def member_record(path: str, digests: Digests, **known: Any) -> MemberRecord:
    """The record of a member: its path, its sha256 by file name if taken, and other fields."""
    if digests is None:
        return MemberRecord(path, None, **known)
    if len(digests) == 1:
        return MemberRecord(path, next(iter(digests.values())), **known)
    # Of shards: the digest of their digests, in the order of their names.
    joined = "".join(digests[name] for name in sorted(digests))
    together = NO_DIGEST if set(joined) == {"0"} else sha256(joined.encode()).hexdigest()
    return MemberRecord(path, together, files=dict(digests), **known)


def member_states(record: MergeRecord) -> list[State]:
    """Hash the members (and the base) of a record again and compare.

    Raises:
        UserError: a file cannot be read.
    """
    return [_state(member) for member in record.inputs]


def _state(member: MemberRecord) -> State:
    if member.sha256 is None:
        return "unknown"
    try:
        now = current_record(member.path)
    except UserError:
        return "gone"
    return "same" if now.sha256 == member.sha256 else "changed"


def current_record(path: str) -> MemberRecord:
    """Path and sha256 of a model as it is now."""
    with open_checkpoint(path, quiet=True) as found:
        return member_record(path, {file.name: file_sha256(file) for file in found.originals})


def check_repeated(expected: MergeRecord, found: MergeRecord) -> None:
    """Refuse a repeated merge whose members or weights are not those of the record."""
    for before, now in zip(expected.inputs, found.inputs, strict=True):
        if before.sha256 not in (None, now.sha256):
            raise UserError(
                f"{before.path} is not what was merged: its sha256 is {now.sha256}, in the "
                f"record {before.sha256}"
            )
    if expected.tensors_sha256 not in (None, found.tensors_sha256):
        raise UserError(
            "the merge gives other weights than those of the record, which revt_hf "
            f"{expected.revt_hf} made with numpy {expected.numpy}: use these"
        )
