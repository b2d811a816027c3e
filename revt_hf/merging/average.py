"""ReVT: the mean of the members' encoder tensors, the decode head of one of them.

And everything else that ``MergeSpec`` can say. Nothing here imports torch.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from revt_hf.checkpoints.architecture import has_head
from revt_hf.checkpoints.description import (
    Description,
    common_dtype,
    fitting_places,
    infer_description,
    model_config,
)
from revt_hf.checkpoints.headers import (
    ITEM_SIZES,
    METADATA,
    TensorPlace,
    header_bytes,
    tensors_hash,
)
from revt_hf.checkpoints.image_processor import PROCESSOR_FILE, processor
from revt_hf.checkpoints.tensors import (
    CONFIG_FILE,
    MERGE_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
)
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.merging.plan import MergeSpec, Plan, make_plan
from revt_hf.merging.record import check_repeated, how_made, merge_record
from revt_hf.merging.sources import NOWHERE
from revt_hf.merging.streaming import stream

_log = logging.getLogger(__name__)

METADATA_KEY = "revt_hf"
_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is carried out; none of it changes the weights.

    Attributes:
        overwrite: replace the output if it exists.
        hashing: put the members' sha256 into the record.
        allow_nonfinite: take NaN and infinity as they come.
        quiet: no progress bar.
        repeats: the record of a merge whose weights have to come out again.
    """

    overwrite: bool = False
    hashing: bool = True
    allow_nonfinite: bool = False
    quiet: bool = True
    repeats: Mapping[str, Any] | None = None


def merge(
    members: Sequence[str | Path] | MergeSpec,
    output: str | Path,
    overwrite: bool = False,
    options: MergeOptions | None = None,
) -> Path:
    """Write the merge of several SegFormers: an ordinary SegFormer folder.

    With a list of members: ReVT. Encoder tensors (``segformer.*``) are averaged; the decode head,
    its BatchNorm statistics included, and the configuration come from the first member. A
    :class:`MergeSpec` says anything else. Memory does not grow with the models: tensors go
    through buffers of half a MiB (methods that need a whole tensor hold one).

    Args:
        members: folders, safetensors or torch files, Hub ids; or what to do with them.
        output: the new folder.
        overwrite: replace ``output`` if it exists.
        options: how; ``overwrite`` counts if either says so.

    Raises:
        UserError: fewer than two members, a missing or broken file, configurations, classes,
            image processors, keys or shapes that differ (they are named), NaN or infinity in a
            member, a file that changes meanwhile, or an output that exists. Nothing is written
            then.
    """
    spec = members if isinstance(members, MergeSpec) else MergeSpec(tuple(map(str, members)))
    options = options or MergeOptions()
    overwrite = overwrite or options.overwrite
    target = Path(output)
    inputs = (*spec.members, spec.base)
    check_output(target, overwrite, inputs)
    with ExitStack() as stack:
        plan = make_plan(spec, stack, options.quiet)
        description = result_description(plan)
        evaluation = _evaluation(plan)
        for line in plan.remarks():
            _log.info(line)
        with atomic_folder(target, overwrite, inputs) as scratch:
            record, tensors = _write_weights(plan, scratch / WEIGHTS_FILE, options)
            record |= {"evaluation": evaluation, "tensors_sha256": tensors}
            plan.check_unchanged()
            if options.repeats is not None:
                check_repeated(options.repeats, record)
            dtype = common_dtype(item.dtype for item in plan.items)
            write_json(scratch / CONFIG_FILE, model_config(description, dtype))
            write_json(scratch / PROCESSOR_FILE, _processor(plan, description))
            write_json(scratch / MERGE_FILE, record)
    return target


def result_description(plan: Plan) -> Description:
    """What the result's ``config.json`` says: as the head's member, or from the tensors' shapes.

    Raises:
        UserError: the tensors are not those of a whole SegFormer.
    """
    says = [source.says for source in plan.by_authority()]
    known = next((one.description for one in says if one.description), None)
    label = plan.sources[plan.spec.head - 1].label
    places = {
        item.name: TensorPlace(Path(label), item.name, item.dtype, item.shape, NOWHERE, 0)
        for item in plan.items
    }
    if known is None:
        classes = next((one.classes for one in says if one.classes), None)
        shapes = {name: place.shape for name, place in places.items()}
        if not has_head(shapes):
            raise UserError(
                f"{label} has no decode head: give a member that has one, with its folder"
            )
        known = infer_description(label, shapes, classes)
    # Other members may spell them in another way.
    known = replace(known, classes=says[0].classes or known.classes)
    fitting_places(known, places)
    return known


def _processor(plan: Plan, description: Description) -> Mapping[str, Any]:
    """The image processor of the head's member, else of any that has one."""
    own = (source.says.processor for source in plan.by_authority())
    return next((one for one in own if one), processor(description.normalisation))


def _evaluation(plan: Plan) -> dict[str, Any]:
    """The averaged features keep the scale of images that the members were trained on."""
    for source in plan.by_authority():
        if source.folder is None:
            continue
        names = [source.folder / name for name in (RECIPE_FILE, MERGE_FILE)]
        if not any(name.is_file() for name in names):
            break
        from revt_hf.models.recorded import recorded_protocol

        source.stamps.add(*names)
        evaluation = recorded_protocol([source.folder])
        # Defaults are left out: records of before there were other fields stay as they are.
        return {
            "max_size": evaluation.max_size and list(evaluation.max_size),
            **evaluation.model_dump(mode="json", exclude_defaults=True),
        }
    return {"max_size": [1024, 512]}


def _write_weights(
    plan: Plan, path: Path, options: MergeOptions
) -> tuple[dict[str, Any], str | None]:
    """Write the safetensors file; the record that its header holds, and sha256 of the tensors."""
    sources = [*plan.sources, *([plan.base] if plan.base else [])]
    blank = [
        {original.name: _NO_DIGEST for original in source.originals} if options.hashing else None
        for source in sources
    ]
    # The digests are known at the end only; they take the place of as many zeros.
    made = [how_made(source) for source in sources]
    header = _header(plan, merge_record(plan, blank, made))
    total = sum(item.count * ITEM_SIZES[item.dtype] for item in plan.items)
    own = tensors_hash((item.name, item.dtype, item.shape) for item in plan.items)
    with path.open("wb") as file, _progress(total, options.quiet) as on_bytes:
        file.write(header)
        digests = stream(
            plan,
            file,
            options.hashing,
            options.allow_nonfinite,
            on_bytes,
            own if options.hashing else None,
        )
        record = merge_record(plan, digests, made)
        _write_header(file, _header(plan, record), len(header))
    return record, own.hexdigest() if options.hashing else None


def _header(plan: Plan, record: Mapping[str, Any]) -> bytes:
    """The file's first bytes, the record among them."""
    # transformers wants to know the format.
    entries: dict[str, Any] = {
        METADATA: {"format": "pt", METADATA_KEY: json.dumps(record, sort_keys=True)}
    }
    offset = 0
    for item in plan.items:
        size = item.count * ITEM_SIZES[item.dtype]
        entries[item.name] = {
            "dtype": item.dtype,
            "shape": list(item.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    return header_bytes(entries)


def _write_header(file: BinaryIO, header: bytes, expected: int) -> None:
    if len(header) != expected:
        raise RuntimeError("the record changed its length")
    file.flush()
    os.pwrite(file.fileno(), header, 0)


class _progress:  # noqa: N801
    """A progress bar in bytes; tqdm is imported only where there is one."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._quiet = total, quiet

    def __enter__(self) -> Any:
        if self._quiet:
            return lambda _: None
        from tqdm import tqdm

        self._bar = tqdm(total=self._total, unit="B", unit_scale=True, desc="merge")
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        if not self._quiet:
            self._bar.close()
