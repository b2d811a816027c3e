"""``merge.json`` and ``changes.json``: how weights were made.

The records are dataclasses that pydantic validates when a file is read. Writing one needs no
pydantic, which would add 125 ms and 21 MiB to every ``revt merge`` (measured).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from revt_hf.checkpoints.headers import tensors_sha256
from revt_hf.checkpoints.tensors import (
    ADAPTER_WEIGHTS_FILE,
    CHANGES_FILE,
    MERGE_FILE,
    WEIGHTS_FILE,
    is_adapter,
)
from revt_hf.core.errors import UserError, counted
from revt_hf.core.json_record import JsonRecord
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE, file_sha256, read_json_object
from revt_hf.merging.registry import MergeSpec, Rule

NO_DIGEST = "0" * 64
Digests = Mapping[str, str] | None


class _Limits:
    """Limits of an annotated type; pydantic's own ``Field`` would import pydantic."""

    def __init__(self, **limits: Any) -> None:
        self.limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), **self.limits}


Sha256 = Annotated[str, _Limits(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, _Limits(ge=1)]
_STRICT = {"strict": True, "allow_inf_nan": False}


@dataclass(frozen=True)
class ChangeSource(JsonRecord):
    """A domain and the split whose images were used; fields as in a recipe's sources."""

    domain: Annotated[str, _Limits(pattern=r"^[\w.-]{1,80}$")]
    train: str
    data_dir: str | None = None
    config: str | None = None
    options: dict[str, Any] | None = None
    weight: float | None = None
    prepared: str | None = None


@dataclass(frozen=True)
class Change(JsonRecord):
    """A change of weights after they were merged or trained, and their digests before and after.

    ``images`` were seen in all, with ``protocol`` or as a refit's ``recipe`` says. A refit trained
    the decode head for ``steps``, from random weights if it was ``fresh``; the statistics of its
    BatchNorm were ``measured`` on so many images.
    """

    kind: Literal["recalibrated", "refit"]
    sources: tuple[ChangeSource, ...]
    images: Number
    before: Sha256
    after: Sha256
    revt_hf: str
    protocol: dict[str, Any] | None = None
    steps: Number | None = None
    fresh: bool = False
    measured: Annotated[int, _Limits(ge=0)] = 0
    recipe: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        recalibrated = self.kind == "recalibrated"
        needed = ("protocol",) if recalibrated else ("steps", "recipe")
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a change that is '{self.kind}' has its {name}")

    def __str__(self) -> str:
        domains = ", ".join(source.domain for source in self.sources) or "an unknown source"
        seen, steps = counted(self.images, "image"), counted(self.steps or 0, "step")
        if self.kind == "recalibrated":
            return (
                f"then {self.kind} on {seen} of {domains}: mean and variance of BatchNorm are new"
            )
        start = "random weights" if self.fresh else "its own weights"
        return (
            f"then refit in {steps} on {seen} of {domains}: the decode "
            f"head was trained from {start}, the encoder is the same"
        )


@dataclass(frozen=True)
class ImageSize(JsonRecord):
    """A member's image size where the result has another one: that of ``member`` (from 1)."""

    own: dict[str, Any]
    taken: dict[str, Any]
    member: Number


@dataclass(frozen=True)
class HubRecord(JsonRecord):
    """The commit of a Hub model; its sha256 was computed (``verified``) or is the Hub's word."""

    commit: Annotated[str, _Limits(pattern=r"^[0-9a-f]{40}$")]
    verified: bool


@dataclass(frozen=True)
class MemberRecord(JsonRecord):
    """A member or the base; ``sha256`` is of its file, or of the digests of its shards (``files``).

    ``dropped`` are tensors that no SegFormer has, ``added`` missing counters. With ``hub`` the
    path is the id of a Hub model.
    """

    path: str
    sha256: Sha256 | None
    name: str | None = None
    files: Annotated[dict[str, Sha256], _Limits(min_length=1)] | None = None
    dropped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    image_size: ImageSize | None = None
    hub: HubRecord | None = None
    merge: "MergeHistory | None" = None
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.path})" if self.name else self.path

    def history(self) -> list[str]:
        """How it was made, as far as that is recorded, one sentence each."""
        lines = []
        if self.hub is not None and not self.hub.verified:
            lines.append(f"read in parts at commit {self.hub.commit}; its sha256 is the Hub's word")
        if self.merge is not None:
            paths = ", ".join(member.path for member in self.merge.members)
            rules = " and ".join(f"{rule.method} of {rule.select!a}" for rule in self.merge.rules)
            lines.append(f"itself a merge of {paths} ({rules})")
            for member in self.merge.members:
                lines += [f"{member.path}: {line}" for line in member.history()]
        return lines + [str(change) for change in self.changes]


@dataclass(frozen=True)
class MergeHistory(JsonRecord):
    """What was merged, also by a member; fields as in :class:`MergeSpec`."""

    members: Annotated[tuple[MemberRecord, ...], _Limits(min_length=2)]
    base: MemberRecord | None
    rules: Annotated[tuple[Rule, ...], _Limits(min_length=1)]
    head: Number

    def __post_init__(self) -> None:
        if self.head > len(self.members):
            raise ValueError(f"head is the number of a member, not {self.head}")

    @property
    def inputs(self) -> list[MemberRecord]:
        """The members, then the base if there is one."""
        return [*self.members, *([self.base] if self.base else [])]


@dataclass(frozen=True)
class ChangesRecord(JsonRecord):
    """``changes.json``, of a model that is no merge and was recalibrated or refit."""

    __pydantic_config__: ClassVar = _STRICT
    file: ClassVar = CHANGES_FILE
    title: ClassVar = "record of changes"

    format: Literal["revt_hf.changes/1"]
    changes: tuple[Change, ...]
    tensors_sha256: Sha256 | None


@dataclass(frozen=True, kw_only=True)
class MergeRecord(MergeHistory):
    """``merge.json``; the weights' metadata hold the same. ``changes`` came after the merge."""

    __pydantic_config__: ClassVar = _STRICT
    file: ClassVar = MERGE_FILE
    title: ClassVar = "merge record"

    format: Literal["revt_hf.merge/1"]
    revt_hf: str
    numpy: str
    evaluation: dict[str, Any]
    tensors_sha256: Sha256 | None
    changes: tuple[Change, ...] = ()

    def spec(self, name: str) -> MergeSpec:
        """The merge, to be carried out again; ``name`` is the record's in messages."""
        if self.changes:
            raise UserError(
                f"{name} describes weights that were {self.changes[-1].kind} after the merge, so "
                "the merge alone would give others: merge its members again, then repeat that"
            )
        paths, names = zip(*((one.path, one.name) for one in self.members), strict=True)
        return MergeSpec(paths, self.rules, self.head, self.base.path if self.base else None, names)


Record = MergeRecord | ChangesRecord
_T = TypeVar("_T", MergeRecord, ChangesRecord)


_VALIDATORS: dict[Any, Any] = {}


def parse_record(values: Mapping[str, Any], path: Path, kind: type[_T]) -> _T:
    """Check the JSON values of a record; messages name ``path`` and the first wrong field."""
    from pydantic import TypeAdapter, ValidationError

    if kind not in _VALIDATORS:
        _VALIDATORS[kind] = TypeAdapter(kind)
    try:
        # As JSON: in Python, strict tuples are not lists.
        found: _T = _VALIDATORS[kind].validate_json(json.dumps(values))
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ascii(".".join(map(str, first["loc"])))[1:-1]
        problem = ": ".join(filter(None, (where, first["msg"].removeprefix("Value error, "))))
        raise UserError(f"{path} is not a {kind.title} of revt_hf: {problem}") from error


def read_merge_record(path: Path) -> MergeRecord:
    """Read and check a ``merge.json``."""
    return parse_record(read_json_object(path), path, MergeRecord)


def read_record(folder: Path) -> Record | None:
    """The record of how a folder's weights were made, if there is one."""
    if (folder / MERGE_FILE).is_file():
        return read_merge_record(folder / MERGE_FILE)
    path, kind = folder / CHANGES_FILE, ChangesRecord
    return parse_record(read_json_object(path), path, kind) if path.is_file() else None


def checked_record(folder: Path) -> Record | None:
    """As :func:`read_record`, of weights that are those that it describes."""
    record = read_record(folder)
    if record is not None and describes(record, folder) is False:
        raise UserError(
            f"{folder / record.file} does not describe the weights beside it: they were changed "
            "since; remove it, or make the folder again"
        )
    return record


def describes(record: Record, folder: Path) -> bool | None:
    """Whether a folder's weights are those of the record; None if their digest was not taken."""
    if record.tensors_sha256 is None:
        return None
    if is_adapter(folder):
        return adapter_sha256(folder) == record.tensors_sha256
    weights = folder / WEIGHTS_FILE
    return weights.is_file() and tensors_sha256(weights) == record.tensors_sha256


def adapter_sha256(folder: Path) -> str:
    """sha256 of an adapter's tensors and of the configuration that scales them."""
    files = tensors_sha256(folder / ADAPTER_WEIGHTS_FILE), file_sha256(folder / ADAPTER_CONFIG_FILE)
    return sha256("".join(files).encode()).hexdigest()


def member_record(path: str, digests: Digests, **known: Any) -> MemberRecord:
    """The record of a member: its path, its sha256 by file name if taken, and other fields."""
    if digests is None or len(digests) == 1:
        return MemberRecord(path, "".join(digests.values()) if digests else None, **known)
    # Of shards: the digest of their digests, in the order of their names.
    joined = "".join(digests[name] for name in sorted(digests))
    together = NO_DIGEST if set(joined) == {"0"} else sha256(joined.encode()).hexdigest()
    return MemberRecord(path, together, files=dict(digests), **known)
