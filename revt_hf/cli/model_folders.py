"""``revt merge``, ``inspect``, ``recalibrate`` and ``convert``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from revt_hf.checkpoints.tensors import MERGE_FILE
from revt_hf.cli.merge import merge_command
from revt_hf.cli.options import (
    DataOptions,
    Json,
    OutputOptions,
    Overwrite,
    OverwriteOptions,
    ProtocolOptions,
    Quiet,
    with_options,
)
from revt_hf.core.errors import UserError, say

EXIT_CHANGED = 2


@dataclass(frozen=True)
class SourceData(DataOptions):
    """Training images: of the sources of a recipe, or of one domain."""

    recipe: Annotated[Path | None, "Use the training images of this recipe's sources."] = None
    split: Annotated[str, "Training split of the domain."] = "train"
    val: Annotated[str, "Held-out split of the domain."] = "val"


def merge(context: typer.Context) -> None:
    """Average the encoders of several SegFormers; keep one decode head."""
    merge_command(context.args)


def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of a merged or recalibrated SegFormer.")],
    json_file: Json = None,
) -> None:
    """Print how a merge was made, and whether its members and weights are still the same."""
    from revt_hf.merging import record as records

    report = OutputOptions(json_file)
    report.check([folder])
    record = records.read_record(folder) or records.read_merge_record(folder / MERGE_FILE)
    own = {True: "same", False: "changed", None: "unknown"}[records.describes(record, folder)]
    members, lines = [], []
    if isinstance(record, records.MergeRecord):
        members = list(zip(record.inputs, records.member_states(record), strict=True))
        lines = [*map(str, record.rules)]
        lines.append(f"all else from member {record.head}; revt_hf {record.revt_hf}")
    lines += map(str, record.changes)
    for member, state in members:
        lines += [f"{state:8} {member}", *(f"{'':8} {line}" for line in member.history())]
    lines.append(f"{own:8} {folder} (the weights that {record.file} describes)")
    rows = [{"path": member.path, "state": state} for member, state in members]
    report.finish({**record.to_json(), "states": rows, "weights": own}, lines)
    if {own, *(state for _, state in members)} & {"changed", "gone"}:
        raise typer.Exit(EXIT_CHANGED)


@with_options
def recalibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a SegFormer, such as a merge.")],
    output: Annotated[Path, "Folder of the recalibrated SegFormer."],
    data: SourceData,
    protocol: ProtocolOptions,
    report: OverwriteOptions,
    skip_val: Annotated[bool, "Do not score on source-val."] = False,
    images: Annotated[int, typer.Option(min=1, help="Approximate number of images.")] = 100,
) -> None:
    """Re-estimate the decode head's BatchNorm statistics on source images."""
    from revt_hf.merging.recalibration import RecalibrateOptions
    from revt_hf.merging.recalibration import recalibrate as recalibrate_model

    sources = data.sources(data.split, data.val)
    read = [model, data.recipe, *(path for source in sources for path in source.inputs)]
    report.check(read, [output])
    options = RecalibrateOptions(images, not skip_val, report.overwrite, report.quiet)
    scores = recalibrate_model(model, output, sources, protocol.resolve([model]), options)
    lines = [f"{s.label}: mIoU {s.before:.2f} before, {s.after:.2f} after" for s in scores]
    result = {"output": str(output), "val": [asdict(score) for score in scores]}
    report.finish(result, lines, f"recalibrated: {output}")


@with_options
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint of the original, or a folder.")],
    output: Annotated[Path, "Output folder, or the output file with --to mmseg."],
    to: Annotated[str | None, "Format: transformers (default) or mmseg, the original's."] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Convert checkpoints of the original to SegFormer folders, and back."""
    from revt_hf.models import convert as conversion

    if to == "mmseg":
        done = conversion.convert_to_mmseg(source, output, overwrite, quiet)
    elif to in (None, "transformers"):
        done = conversion.convert(Path(source), output, overwrite)
    else:
        raise UserError(f"--to {to}: choose transformers or mmseg")
    size = f"SegFormer-{done.size.upper()}" if done.size else "a SegFormer"
    classes = f"{len(done.labels)} classes" if done.labels else "encoder alone"
    lines = [f"converted {size}, {classes}: {done.output}"]
    lines += [f"left out: {', '.join(done.dropped)}"] if done.dropped else []
    lines += [f"missing, 0 is used: {', '.join(done.added)}"] if done.added else []
    for line in [] if quiet else lines:
        say(line)
