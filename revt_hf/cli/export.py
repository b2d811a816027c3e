"""``revt export``."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revt_hf.cli import options as common
from revt_hf.cli.options import Bounds
from revt_hf.core.errors import UserError

if TYPE_CHECKING:
    from revt_hf.config.recipe import Source
    from revt_hf.evaluation.result import SplitSpec
    from revt_hf.export.onnx_export import Exported

GraphInput = StrEnum("GraphInput", ["uint8", "float"])
GraphResult = StrEnum("GraphResult", ["classes", "logits"])
_MIB = 2**20


@dataclass(frozen=True)
class ExportImages(common.DomainOptions):
    """The images that a graph is checked on, and calibrated on."""

    check: Annotated[
        str | None, "DOMAIN", "Compare on val images of this domain. Default: drawn streets."
    ] = None
    calibrate: Annotated[
        str | None,
        "DOMAIN",
        "With --int8: the source domain; ranges are taken from its training images, and mIoU is "
        "measured on its val images.",
    ] = None
    split: Annotated[str, "Training split of --calibrate."] = "train"
    val: Annotated[str, "Split that is compared, and whose mIoU is measured."] = "val"
    images: Annotated[int, Bounds(1), "Images to compare on, and to calibrate on."] = 10

    def source(self) -> "Source | None":
        """The domain of --calibrate."""
        from revt_hf.config.recipe import Source

        if self.calibrate is None:
            return None
        spec = self.spec(self.calibrate)
        return Source(**spec.model_dump(), train=self.split, val=self.val)

    def compared(self) -> "SplitSpec | None":
        """The split of --check."""
        from revt_hf.evaluation.result import SplitSpec

        if self.check is not None and self.calibrate is not None:
            raise UserError("--check: leave it out, --calibrate names the images to compare on")
        if self.check is not None:
            return SplitSpec(self.spec(self.check), self.val, is_source=False)
        if self.calibrate is None and (self.data_dir or self.config or self.options):
            raise UserError("--data-dir, --config and --option go with --check or --calibrate")
        return None


def export(
    model: Annotated[str, typer.Argument(help="Model folder or Hub ID.")],
    output: Annotated[Path, "FILE", "The file to write, NAME.onnx."],
    images: ExportImages,
    report: common.OverwriteOptions,
    to: Annotated[str, "Format: onnx."] = "onnx",
    size: Annotated[
        str | None,
        "WIDTHxHEIGHT",
        "Size of the network's input. Default: that of the model's test protocol.",
    ] = None,
    dynamic: Annotated[bool, "Take images of any size, and several at once; SegFormer only."] = (
        False
    ),
    image_size: Annotated[
        str | None, "WIDTHxHEIGHT", "Size of class maps. Default: that of the input."
    ] = None,
    input_kind: Annotated[
        GraphInput, "--input", "Take RGB images (uint8) or normalised pixels (float)."
    ] = GraphInput.uint8,
    result: Annotated[
        GraphResult, "Give class maps, or the network's logits."
    ] = GraphResult.classes,
    fp16: Annotated[bool, "Compute in 16 bits."] = False,
    int8: Annotated[bool, "Compute in 8 bits, calibrated on --calibrate."] = False,
) -> None:
    """Write a model as an ONNX file, checked against the network."""
    if to != "onnx":
        raise UserError(f"--to {to}: choose onnx")
    if int8 != (images.calibrate is not None):
        raise UserError("--int8 and --calibrate DOMAIN go together: name the source domain")
    source, compared = images.source(), images.compared()
    report.check([model, images.data_dir], [output])
    from revt_hf.export.onnx_export import ExportOptions, export_onnx

    options = ExportOptions(
        size=_size(size, "--size"),
        dynamic=dynamic,
        image_size=_size(image_size, "--image-size"),
        input="float" if input_kind is GraphInput.float else "uint8",
        result="logits" if result is GraphResult.logits else "classes",
        fp16=fp16,
        images=images.images,
        overwrite=report.overwrite,
        quiet=report.quiet,
    )
    done = export_onnx(model, output, options, source, compared)
    report.finish(done.to_json(), _lines(done), f"exported: {output}")


def _size(text: str | None, flag: str) -> tuple[int, int] | None:
    if text == "native":
        raise UserError(f"{flag} native: write WIDTHxHEIGHT, such as 1024x512, or use --dynamic")
    return None if text is None else common.parse_max_size(text, flag)


def _lines(done: "Exported") -> list[str]:
    record = done.record
    size = "any size" if record.size is None else f"{record.size[0]}x{record.size[1]}"
    lines = [
        f"{record.family}, {record.precision}: {record.input} images of {size} to {record.output}, "
        f"{done.bytes / _MIB:.1f} MiB",
        f"{done.checked_on}: {done.check.text}",
    ]
    if done.miou is not None:
        before, after = done.miou["fp32"], done.miou["int8"]
        lines.append(f"{done.checked_on}: mIoU {before:.2f} in fp32, {after:.2f} in int8")
    return lines
