"""ReVT: the mean of the members' encoders with the decode head of one; and other merges."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from revt_hf import __version__
from revt_hf.checkpoints import architecture, headers, inferred, tensors
from revt_hf.checkpoints.image_processor import processor
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.merging import record as records
from revt_hf.merging.member_states import hub_record
from revt_hf.merging.members import MergeInput
from revt_hf.merging.merge_plan import MergePlan, make_plan
from revt_hf.merging.record import NO_DIGEST, Digests, MemberRecord, MergeRecord, member_record
from revt_hf.merging.registry import MergeSpec
from revt_hf.merging.streaming import stream

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is carried out; nothing here changes the weights.

    Attributes:
        overwrite: replace the output if it exists.
        hashing: record the members' sha256.
        allow_nonfinite: accept NaN and infinity.
        quiet: no progress bar.
        repeats: the record of a merge that has to give the same weights again.
        as_adapter: write the mean of PEFT adapters as an adapter of summed rank, not as a model.
    """

    overwrite: bool = False
    hashing: bool = True
    allow_nonfinite: bool = False
    quiet: bool = True
    repeats: MergeRecord | None = None
    as_adapter: bool = False


def merge(
    members: Sequence[str | Path] | MergeSpec,
    output: str | Path,
    options: MergeOptions | None = None,
) -> Path:
    """Merge several models into an ordinary model folder.

    A list of members gives the ReVT: encoder tensors are averaged; the decode
    head with its BatchNorm statistics and the configuration come from the first member. A
    :class:`MergeSpec` describes any other merge. Memory does not grow with the models: tensors go
    through buffers of half a MiB (methods that need a whole tensor hold one per member).

    Args:
        members: folders, safetensors or torch files, Hub IDs; or the whole merge.
        output: the new folder, which is returned.
        options: see :class:`MergeOptions`.

    Raises:
        UserError: fewer than two members, a missing or broken file, configurations, classes,
            image processors, keys or shapes that differ (they are named), NaN or infinity in a
            member, a file that changes meanwhile, or an output that exists. Nothing is written
            then.
    """
    if isinstance(members, str | Path):
        raise UserError(f"pass a list of members, not {members}")
    spec = members if isinstance(members, MergeSpec) else MergeSpec(tuple(map(str, members)))
    options = options or MergeOptions()
    target, inputs = Path(output), (*spec.members, spec.base)
    check_output(target, options.overwrite, inputs)
    with ExitStack() as stack:
        plan = make_plan(spec, stack, options.quiet, parts=not options.as_adapter)
        if options.repeats is not None:
            _check_hub_members(options.repeats, plan)
        description = result_description(plan)
        evaluation = _evaluation(plan)
        adapters = None
        if options.as_adapter:
            from revt_hf.merging import summed_adapter

            adapters = summed_adapter.adapters_of(plan)
        for line in plan.remarks():
            _log.info(line)
        with atomic_folder(target, options.overwrite, inputs) as scratch:
            written = scratch / tensors.WEIGHTS_FILE
            record = _write_weights(plan, written, evaluation, options)
            if adapters:
                summed_adapter.write_summed(plan, adapters, written, scratch)
                written.unlink()
                digest = records.adapter_sha256(scratch)
                record = replace(record, tensors_sha256=digest if options.hashing else None)
            plan.check_unchanged()
            for line in plan.moved():
                _log.info(line)
            if options.repeats is not None:
                _check_repeated(options.repeats, record)
            dtype = headers.common_dtype(item.dtype for item in plan.items)
            write_json(scratch / tensors.CONFIG_FILE, architecture.model_config(description, dtype))
            processors = (source.processor for source in plan.by_authority())
            own = next((one for one in processors if one), processor(description.normalisation))
            write_json(scratch / tensors.PROCESSOR_FILE, own)
            write_json(scratch / tensors.MERGE_FILE, record.to_json())
    return target


def result_description(plan: MergePlan) -> architecture.Description:
    """The result's configuration: the head's member's, or derived from shapes; else refused."""
    sources = plan.by_authority()
    label = sources[0].label
    known = next((one.description for one in sources if one.description), None)
    if known is None:
        classes = next((one.classes for one in sources if one.classes), None)
        shapes = {item.name: item.shape for item in plan.items}
        known = inferred.infer_description(label, shapes, classes)
    # Other members may spell the classes in another way.
    known = replace(known, classes=sources[0].classes or known.classes)
    architecture.fitting_tensors(known, {item.name: item for item in plan.items})
    if known.architecture is None:
        # Only transformers knows the tensors of other networks; it takes seconds to import.
        from revt_hf.models.networks import check_shapes

        check_shapes(known, {item.name: item.shape for item in plan.items})
    return known


def _evaluation(plan: MergePlan) -> dict[str, Any]:
    """The test protocol: the averaged features keep the image scale of the members' training."""
    for source in plan.by_authority():
        if source.folder is None:
            continue
        folders = [source.folder, *filter(None, [tensors.adapter_base(source.folder)])]
        names = (tensors.RECIPE_FILE, tensors.MERGE_FILE)
        paths = [folder / name for folder in folders for name in names]
        if not any(path.is_file() for path in paths):
            break
        from revt_hf.models.recorded import recorded_protocol

        source.stamps.add(*paths)
        protocol = recorded_protocol([source.folder])
        changed = protocol.model_dump(mode="json", exclude_defaults=True)
        return {"max_size": protocol.max_size and list(protocol.max_size), **changed}
    return {"max_size": [1024, 512]}


def _write_weights(
    plan: MergePlan, path: Path, evaluation: dict[str, Any], options: MergeOptions
) -> MergeRecord:
    """Write the safetensors file; the record that its header holds."""
    listed = ((item.name, item.dtype, item.shape) for item in plan.items)
    own = headers.tensors_hash(listed) if options.hashing else None
    recorded = partial(_record, plan, [_history(source) for source in plan.inputs], evaluation)
    # Digests are known at the end only; they replace as many zeros.
    blank = [
        dict.fromkeys((path.name for path in source.originals), NO_DIGEST) if own else None
        for source in plan.inputs
    ]
    header = _header(plan, recorded(blank, NO_DIGEST if own else None))
    total = sum(item.nbytes for item in plan.items)
    with path.open("wb") as file, _progress(total, options.quiet) as on_bytes:
        file.write(header)
        digests = stream(plan, file, own, options.allow_nonfinite, on_bytes)
        record = recorded(digests, own.hexdigest() if own else None)
        final = _header(plan, record)
        if len(final) != len(header):
            raise RuntimeError("the record changed its length")
        file.flush()
        os.pwrite(file.fileno(), final, 0)
    return record


def _history(source: MergeInput) -> dict[str, Any]:
    """``merge`` and ``changes`` of a source, from the record in its folder."""
    if source.folder is None:
        return {}
    source.stamps.add(source.folder / tensors.MERGE_FILE, source.folder / tensors.CHANGES_FILE)
    # The weights' own header holds the record of one that is read in parts.
    apart = source.hub is not None and bool(source.hub.files)
    record = (records.read_record if apart else records.checked_record)(source.folder)
    if not isinstance(record, MergeRecord):
        return {"changes": record.changes} if record else {}
    merge = records.MergeHistory(record.members, record.base, record.rules, record.head)
    return {"merge": merge, "changes": record.changes}


def _record(
    plan: MergePlan,
    histories: Sequence[dict[str, Any]],
    evaluation: dict[str, Any],
    digests: Sequence[Digests],
    own: str | None,
) -> MergeRecord:
    """The record of a merge, with history and digests of each of ``plan.inputs``."""
    entries = [
        member_record(
            source.label,
            files,
            name=source.name,
            dropped=source.dropped,
            added=source.added,
            hub=hub_record(source, files is not None),
            image_size=None if source is plan.base else plan.image_size(source),
            **history,
        )
        for source, files, history in zip(plan.inputs, digests, histories, strict=True)
    ]
    return MergeRecord(
        base=entries.pop() if plan.base else None,
        members=tuple(entries),
        rules=plan.spec.rules,
        head=plan.spec.head,
        format="revt_hf.merge/1",
        revt_hf=__version__,
        numpy=np.__version__,
        evaluation=evaluation,
        tensors_sha256=own,
    )


def _check_hub_members(expected: MergeRecord, plan: MergePlan) -> None:
    """Refuse other Hub models than the record's before their tensors are read."""
    for before, source in zip(expected.inputs, plan.inputs, strict=True):
        commit = source.hub and source.hub.commit
        if before.hub is not None and commit != before.hub.commit:
            raise UserError(
                f"{before.path} is at commit {commit}, and commit {before.hub.commit} was merged: "
                f"merge {before.path.partition('@')[0]}@{before.hub.commit} with the record's "
                "method and head"
            )
        if source.hub is not None and source.hub.files:
            _check_member(before, member_record(source.label, source.digests()))


def _check_member(before: MemberRecord, now: MemberRecord) -> None:
    if before.sha256 not in (None, now.sha256):
        raise UserError(
            f"{before.path} is not what was merged: its sha256 is {now.sha256}, in the "
            f"record {before.sha256}"
        )


def _check_repeated(expected: MergeRecord, found: MergeRecord) -> None:
    """Refuse a repeated merge whose members or weights are not those of the record."""
    for before, now in zip(expected.inputs, found.inputs, strict=True):
        _check_member(before, now)
    if expected.tensors_sha256 not in (None, found.tensors_sha256):
        raise UserError(
            "the merge gives other weights than those of the record, which revt_hf "
            f"{expected.revt_hf} made with numpy {expected.numpy}: use these"
        )


def _header(plan: MergePlan, record: MergeRecord) -> bytes:
    """The file's first bytes, with the record in the metadata."""
    text = json.dumps(record.to_json(), sort_keys=True)
    # transformers requires the format.
    entries: dict[str, Any] = {headers.METADATA: {"format": "pt", tensors.METADATA_KEY: text}}
    for item in plan.items:
        offsets = [item.offset, item.offset + item.nbytes]
        entries[item.name] = {"dtype": item.dtype, "shape": item.shape, "data_offsets": offsets}
    return headers.header_bytes(entries)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar in bytes; tqdm is imported only where there is one."""
    if quiet:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="merge") as bar:
        yield bar.update
