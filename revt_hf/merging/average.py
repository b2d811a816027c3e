"""ReVT: the mean of the members' encoders with the decode head of one; and other merges.

Nothing here imports torch.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.description import (
    Description,
    fitting_tensors,
    infer_description,
    model_config,
)
from revt_hf.checkpoints.headers import (
    ITEM_SIZES,
    METADATA,
    TensorInfo,
    common_dtype,
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
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.merging.members import NOWHERE
from revt_hf.merging.merge_plan import MergePlan, make_plan
from revt_hf.merging.merge_spec import MergeSpec
from revt_hf.merging.provenance import (
    NO_DIGEST,
    Digests,
    check_repeated,
    history_of,
    merge_record,
)
from revt_hf.merging.record import MergeRecord
from revt_hf.merging.streaming import stream

_log = logging.getLogger(__name__)

METADATA_KEY = "revt_hf"


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is carried out; nothing here changes the weights.

    Attributes:
        overwrite: replace the output if it exists.
        hashing: record the members' sha256.
        allow_nonfinite: accept NaN and infinity.
        quiet: no progress bar.
        repeats: the record of a merge that has to give the same weights again.
    """

    overwrite: bool = False
    hashing: bool = True
    allow_nonfinite: bool = False
    quiet: bool = True
    repeats: MergeRecord | None = None


def merge(
    members: Sequence[str | Path] | MergeSpec,
    output: str | Path,
    overwrite: bool = False,
    options: MergeOptions | None = None,
) -> Path:
    """Merge several SegFormers into an ordinary SegFormer folder.

    A list of members gives the ReVT: encoder tensors (``segformer.*``) are averaged; the decode
    head with its BatchNorm statistics and the configuration come from the first member. A
    :class:`MergeSpec` describes any other merge. Memory does not grow with the models: tensors go
    through buffers of half a MiB (methods that need a whole tensor hold one per member).

    Args:
        members: folders, safetensors or torch files, Hub IDs; or the whole merge.
        output: the new folder, which is returned.
        overwrite: replace ``output`` if it exists.
        options: ``overwrite`` counts if either argument sets it.

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
            record = _write_weights(plan, scratch / WEIGHTS_FILE, evaluation, options)
            plan.check_unchanged()
            if options.repeats is not None:
                check_repeated(options.repeats, record)
            dtype = common_dtype(item.dtype for item in plan.items)
            write_json(scratch / CONFIG_FILE, model_config(description, dtype))
            processors = (source.processor for source in plan.by_authority())
            own = next((one for one in processors if one), processor(description.normalisation))
            write_json(scratch / PROCESSOR_FILE, own)
            write_json(scratch / MERGE_FILE, record.to_json())
    return target


def result_description(plan: MergePlan) -> Description:
    """The result's ``config.json``: that of the head's member, or derived from the tensors' shapes.

    Raises:
        UserError: the tensors are not those of a whole SegFormer.
    """
    sources = plan.by_authority()
    known = next((one.description for one in sources if one.description), None)
    label = sources[0].label
    if known is None:
        classes = next((one.classes for one in sources if one.classes), None)
        known = infer_description(label, {item.name: item.shape for item in plan.items}, classes)
    # Other members may spell the classes in another way.
    known = replace(known, classes=sources[0].classes or known.classes)
    places = {
        item.name: TensorInfo(Path(label), item.name, item.dtype, item.shape, NOWHERE, 0)
        for item in plan.items
    }
    fitting_tensors(known, places)
    return known


def _evaluation(plan: MergePlan) -> dict[str, Any]:
    """The test protocol: the averaged features keep the image scale of the members' training."""
    for source in plan.by_authority():
        if source.folder is None:
            continue
        paths = [source.folder / name for name in (RECIPE_FILE, MERGE_FILE)]
        if not any(path.is_file() for path in paths):
            break
        from revt_hf.models.recorded import recorded_protocol

        source.stamps.add(*paths)
        evaluation = recorded_protocol([source.folder])
        return {
            "max_size": evaluation.max_size and list(evaluation.max_size),
            **evaluation.model_dump(mode="json", exclude_defaults=True),
        }
    return {"max_size": [1024, 512]}


def _write_weights(
    plan: MergePlan, path: Path, evaluation: dict[str, Any], options: MergeOptions
) -> MergeRecord:
    """Write the safetensors file; the record that its header holds."""
    blank = [
        dict.fromkeys((path.name for path in source.originals), NO_DIGEST)
        if options.hashing
        else None
        for source in plan.inputs
    ]
    histories = [history_of(source) for source in plan.inputs]

    def recorded(digests: Sequence[Digests], tensors: str) -> MergeRecord:
        return merge_record(
            plan, digests, histories, evaluation, tensors if options.hashing else None
        )

    # Digests are known at the end only; they replace as many zeros.
    header = _header(plan, recorded(blank, NO_DIGEST))
    total = sum(item.count * ITEM_SIZES[item.dtype] for item in plan.items)
    own = tensors_hash((item.name, item.dtype, item.shape) for item in plan.items)
    own_hash = own if options.hashing else None
    with path.open("wb") as file, _progress(total, options.quiet) as on_bytes:
        file.write(header)
        digests = stream(plan, file, options.hashing, options.allow_nonfinite, on_bytes, own_hash)
        record = recorded(digests, own.hexdigest())
        final = _header(plan, record)
        if len(final) != len(header):
            raise RuntimeError("the record changed its length")
        file.flush()
        os.pwrite(file.fileno(), final, 0)
    return record


def _header(plan: MergePlan, record: MergeRecord) -> bytes:
    """The file's first bytes, with the record in the metadata."""
    text = json.dumps(record.to_json(), sort_keys=True)
    # transformers requires the format.
    entries: dict[str, Any] = {METADATA: {"format": "pt", METADATA_KEY: text}}
    offset = 0
    for item in plan.items:
        end = offset + item.count * ITEM_SIZES[item.dtype]
        entries[item.name] = {
            "dtype": item.dtype,
            "shape": list(item.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    return header_bytes(entries)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar in bytes; tqdm is imported only where there is one."""
    if quiet:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="merge") as bar:
        yield bar.update
