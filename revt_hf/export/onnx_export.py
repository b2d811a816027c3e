"""Export a model as an ONNX file that is checked before it is written."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch

from revt_hf import __version__
from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_file, check_output_file, check_suffix
from revt_hf.data.domains import load_spec
from revt_hf.data.normalisation import normalisation_of
from revt_hf.data.reading import fit_size
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.loading import check_sizes, load_labelled, too_small
from revt_hf.evaluation.predictor import Image, model_segmenter, prepare
from revt_hf.evaluation.result import SplitSpec
from revt_hf.export.checking import PixelCheck, compare, fitted, refuse_wrong, view
from revt_hf.export.graph import write_graph
from revt_hf.export.quantising import quantise
from revt_hf.models.load import for_inference_, label_space, load_model, network_sha256
from revt_hf.models.networks import family_of_model, input_limits
from revt_hf.models.onnx_file import GraphRecord, OnnxNetwork, require
from revt_hf.models.recorded import recorded_protocol

_CPU = torch.device("cpu")
# Height and width of the drawn images that are compared without a domain of one's own.
_DRAWN = [512, 1024]
_SUFFIX = ".onnx"


@dataclass(frozen=True)
class ExportOptions:
    """Options of :func:`export_onnx`; the defaults are those of ``revt export``.

    Attributes:
        size: width and height of the network's input; None for the one of the model's protocol.
        dynamic: the graph takes any size, and any number of images.
        image_size: width and height of class maps; None for the input's.
        input: ``uint8``, RGB images (N, H, W, 3), or ``float``, normalised pixels (N, 3, H, W).
        result: ``classes``, maps (N, H, W), uint8, or ``logits`` (N, classes, h, w), float32.
        fp16: 16-bit weights and activations; normalisation and class maps stay in float32.
        images: images that are compared, and that 8-bit ranges are taken from.
    """

    size: tuple[int, int] | None = None
    dynamic: bool = False
    image_size: tuple[int, int] | None = None
    input: Literal["uint8", "float"] = "uint8"
    result: Literal["classes", "logits"] = "classes"
    fp16: bool = False
    images: int = 10
    overwrite: bool = False
    quiet: bool = True


@dataclass(frozen=True)
class Exported:
    """A finished export: what the file records, the check, and mIoU (percent) by precision."""

    output: Path
    record: GraphRecord
    bytes: int
    check: PixelCheck
    checked_on: str
    miou: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "record": self.record.model_dump(mode="json"),
            "bytes": self.bytes,
            "check": asdict(self.check),
            "checked_on": self.checked_on,
            "mIoU": self.miou,
        }


def export_onnx(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    calibrate: Source | None = None,
    check: SplitSpec | None = None,
) -> Exported:
    """Write a model as an ONNX file whose class maps are those of the network.

    onnxruntime predicts images with the file before it gets its name; nothing is written if more
    than one pixel in 10,000 differs in float32, or one in 100 in 16 bits.

    Args:
        model: a model folder, or a Hub ID.
        output: the file, ``NAME.onnx``.
        options: see :class:`ExportOptions`.
        calibrate: the source domain of an 8-bit graph: activations' ranges are those of training
            images, and mIoU of its val images is measured with the network and with the graph.
        check: images to compare on; None for val images of ``calibrate``, or drawn streets.

    Raises:
        UserError: an option, the model or a domain cannot be used, the network cannot be exported,
            or the graph computes something else.
    """
    options, output, label = options or ExportOptions(), Path(output), str(model)
    require("onnx", "onnxscript", "onnxruntime")
    check_suffix(output, _SUFFIX)
    check_output_file(output, options.overwrite, [model])
    if options.fp16 and calibrate is not None:
        raise UserError("fp16 and int8: choose one")
    network = load_model(model)
    record = _record(network, label, options, calibrate is not None)
    val = None
    if calibrate is not None:
        val = SplitSpec(calibrate, calibrate.val, is_source=True)
        check_sizes(
            load_labelled(calibrate, calibrate.val), val.label, record.protocol, record.limits
        )
    split = check or val or _drawn(options.images)
    images = _images(load_spec(split.spec, split.split), record, options.images)
    ours = for_inference_(network)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"graph{_SUFFIX}"
        write_graph(network, record, file, label)
        if calibrate is not None:
            file = _quantised(file, record, calibrate, options.images, label)
        graph = OnnxNetwork(file, _CPU, label)
        pair = model_segmenter(ours), model_segmenter(graph)  # type: ignore[arg-type]  # called like one
        found = compare(*pair, images, view(record), options.quiet)
        refuse_wrong(found, record.precision, label)
        miou = None
        if val is not None:
            named = {"fp32": pair[0], "int8": pair[1]}
            results = evaluate(named, [val], record.protocol, EvaluateOptions(quiet=options.quiet))
            miou = {result.model: result.scores[0].miou for result in results}
        with atomic_file(output) as scratch:
            shutil.copyfile(file, scratch)
    return Exported(output, record, output.stat().st_size, found, split.label, miou)


def _record(network: Any, label: str, options: ExportOptions, int8: bool) -> GraphRecord:
    """What the file will record; refuses what the network does not take."""
    family, recorded = family_of_model(network), recorded_protocol([label])
    limits = input_limits([network])
    size = _size(label, options, recorded)
    if size is None and family is not SEGFORMER:
        raise UserError(
            f"{label}: only a SegFormer's graph takes any size, and this is a {family.title}: give "
            "--size WIDTHxHEIGHT"
        )
    native = Protocol(max_size=None)
    if size is not None and (problem := too_small(size[::-1], native, limits)):
        raise UserError(f"{label}: --size: {problem.partition(' (')[0]}")
    image_size = options.image_size or size
    if options.image_size is not None:
        if size is None or options.result == "logits":
            raise UserError("--image-size is for class maps of a graph of one --size")
        width, height = options.image_size
        fits = fit_size(height, width, size)
        if fits != size[::-1]:
            raise UserError(
                f"--image-size {width}x{height}: fit into --size it is {fits[1]}x{fits[0]}, not "
                f"{size[0]}x{size[1]}"
            )
    space = label_space(network)
    return GraphRecord(
        revt_hf=__version__,
        model=label,
        network_sha256=network_sha256(network),
        family=family.title,
        masks=family.masks,
        minimum=limits.minimum,
        classes={n: f"#{c:06x}" for n, c in zip(space.classes, space.colours, strict=True)},
        normalisation=normalisation_of(network),
        protocol=_protocol(recorded, size, image_size, options.result),
        input=options.input,
        output=options.result,
        size=size,
        image_size=image_size if options.result == "classes" else None,
        precision="int8" if int8 else "fp16" if options.fp16 else "fp32",
    )


def _size(label: str, options: ExportOptions, recorded: Protocol) -> tuple[int, int] | None:
    """Width and height of the network's input; None for any."""
    if options.dynamic and options.size is not None:
        raise UserError("--dynamic and --size: choose one")
    if options.dynamic:
        return None
    if options.size is None and recorded.window is not None:
        return recorded.window, recorded.window
    size = options.size or recorded.max_size
    if size is None:
        raise UserError(
            f"{label}: its test protocol keeps the images' native size: give --size WIDTHxHEIGHT, "
            "or --dynamic"
        )
    return size


def _protocol(
    recorded: Protocol,
    size: tuple[int, int] | None,
    image_size: tuple[int, int] | None,
    result: str,
) -> Protocol:
    """The model's own test protocol if the graph can follow it, else whole images, once."""
    if size is None:
        return recorded if result == "logits" else Protocol(max_size=recorded.max_size)
    whole = recorded.window is None and (recorded.max_size or image_size or size) == size
    windows = result == "logits" and size == (recorded.window, recorded.window)
    if recorded.scales == (1.0,) and not recorded.flip and (whole or windows):
        return recorded
    return Protocol(max_size=size)


def _drawn(count: int) -> SplitSpec:
    """Images that need no data."""
    spec = DomainSpec(domain="streets", options={"val_images": count, "size": _DRAWN})
    return SplitSpec(spec, "val", is_source=False)


def _images(rows: Any, record: GraphRecord, count: int) -> list[Image]:
    """Images spread over a split, each in a size that the graph takes."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int).tolist()
    return [
        fitted(rows[at]["image"], record, number, record.minimum)
        for number, at in enumerate(chosen)
    ]


def _quantised(file: Path, record: GraphRecord, calibrate: Source, count: int, label: str) -> Path:
    """The 8-bit graph beside a float32 one."""
    output = file.with_name(f"int8{_SUFFIX}")
    images = _images(load_spec(calibrate, calibrate.train), record, count)
    feeds = [
        record.feed(prepare(image, view(record), 1.0, record.outside), image.shape[:2])
        for image in images
    ]
    quantise(file, output, feeds, label)
    return output
