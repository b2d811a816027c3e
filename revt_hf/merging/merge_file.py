"""The schema of ``merge.json`` and ``recalibration.json``, which strangers may have written."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Files = Annotated[dict[str, Sha256], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class ImageSize(_Strict):
    """Fields of a member's image processor that were not taken, and those of ``member`` that were.

    ``member`` is a number, from 1.
    """

    own: dict[str, Any]
    taken: dict[str, Any]
    member: Annotated[int, Field(ge=1)]


class RuleEntry(_Strict):
    """See ``revt_hf.merging.plan.Rule``."""

    select: str
    method: str
    weights: tuple[FiniteFloat, ...] | None
    parameters: dict[str, FiniteFloat]


class ChangeSource(_Strict):
    """A domain and the split whose images were used; the rest as in a recipe's sources."""

    domain: Annotated[str, Field(pattern=r"^[\w.-]{1,80}$")]
    train: str


class Change(_Strict):
    """What was done to weights after they were merged or trained.

    Attributes:
        kind: ``recalibrated``: mean and variance of the decode head's BatchNorm are new.
        sources: the domains and splits whose images were used.
        images: how many.
        protocol: how they reached the network.
        before: sha256 of the tensors that went in (``headers.tensors_sha256``).
        after: of those that came out.
        revt_hf: the version that did it.
    """

    kind: Literal["recalibrated"]
    sources: tuple[ChangeSource, ...]
    images: Annotated[int, Field(ge=1)]
    protocol: dict[str, Any]
    before: Sha256
    after: Sha256
    revt_hf: str


class MemberEntry(_Strict):
    """A member or the base.

    Attributes:
        path: as the user called it.
        sha256: of its file, of shards of their digests; None if it was not taken.
        files: its shards, sha256 by name.
        dropped: names of its tensors that no SegFormer has.
        added: names of counters that it lacks.
        image_size: how large it takes images, if the result's differs.
        merge: how it was merged, if it was.
        changes: what was done to its weights after they were merged or trained.
    """

    path: str
    sha256: Sha256 | None
    files: _Files | None = None
    dropped: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    image_size: ImageSize | None = None
    merge: "MergedEntry | None" = None
    changes: tuple[Change, ...] = ()


class MergedEntry(_Strict):
    """Of a merge, also of a member that is one itself.

    Attributes:
        members: in order.
        base: the model that the members started from.
        rules: of several that select a tensor the last one counts.
        head: number (from 1) of the member that all else comes from.
    """

    members: Annotated[tuple[MemberEntry, ...], Field(min_length=2)]
    base: MemberEntry | None
    rules: Annotated[tuple[RuleEntry, ...], Field(min_length=1)]
    head: Annotated[int, Field(ge=1)]


class Changes(_Strict):
    """``recalibration.json`` of a model that is no merge."""

    changes: tuple[Change, ...]
    tensors_sha256: Sha256 | None


class MergeFile(MergedEntry):
    """``merge.json``.

    Attributes:
        method: of the first rule.
        selection: of the first rule.
        revt_hf: the version that merged.
        numpy: the version that it used.
        evaluation: the test protocol that the merge is made for.
        tensors_sha256: of the tensors beside the file, None if it was not taken.
        changes: what was done to them since.
    """

    method: str
    selection: str
    revt_hf: str
    numpy: str
    evaluation: dict[str, Any]
    tensors_sha256: Sha256 | None
    changes: tuple[Change, ...] = ()
