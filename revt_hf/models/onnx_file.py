"""Files that ``revt export`` wrote: networks that onnxruntime runs, with what they record."""

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn
from transformers import PretrainedConfig

from revt_hf.checkpoints.architecture import COLOURS
from revt_hf.checkpoints.families import Family
from revt_hf.checkpoints.headers import ONNX
from revt_hf.config.protocol import Protocol
from revt_hf.config.yaml_files import Pixels, Section
from revt_hf.core.errors import UserError, readable
from revt_hf.core.outputs import file_sha256
from revt_hf.data.label_space import parse_classes
from revt_hf.data.normalisation import Normalisation
from revt_hf.models.networks import InputLimits

# The key of a file's metadata whose value is a GraphRecord as JSON.
KEY = "revt_hf"
# Names of a graph's inputs and outputs.
IMAGE, PIXELS, IMAGE_SIZE = "image", "pixel_values", "image_size"
_ONLY_ERRORS = 3
_EITHER = -1
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Of what reaches a graph that takes images as they are.
RAW = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), do_rescale=False, do_normalize=False)


class GraphRecord(Section):
    """What a file records about the network in it.

    Attributes:
        revt_hf: version of this package.
        model, network_sha256: what was exported.
        family: title of its family.
        masks: its logits are scores of masks.
        minimum: pixels that it needs on each side.
        classes: names and colours (``#rrggbb``) in the order of the outputs.
        normalisation: fields of a ``preprocessor_config.json``; with ``input: uint8`` the graph
            applies them.
        protocol: the test protocol that the model records.
        input: ``uint8``, RGB (N, H, W, 3), or ``float``, normalised (N, 3, H, W).
        output: ``logits`` (N, classes, h, w), float32, or ``classes`` (N, H, W), uint8, after
            bilinear resizes of the logits to the input's size and to the image's.
        size: width and height of the input; None for any.
        image_size: width and height of class maps; None for the input ``image_size`` (2,), int64:
            height and width.
        precision: ``fp32``, ``fp16`` or ``int8``.
    """

    revt_hf: str
    model: str
    network_sha256: str
    family: str
    masks: bool
    minimum: Pixels
    classes: dict[str, str]
    normalisation: Normalisation
    protocol: Protocol
    input: Literal["uint8", "float"]
    output: Literal["logits", "classes"]
    size: tuple[Pixels, Pixels] | None
    image_size: tuple[Pixels, Pixels] | None
    precision: Literal["fp32", "fp16", "int8"]

    @property
    def input_name(self) -> str:
        return IMAGE if self.input == "uint8" else PIXELS

    @property
    def asks_for_size(self) -> bool:
        """Whether the size of class maps is an input."""
        return self.output == "classes" and self.image_size is None

    @property
    def outside(self) -> Normalisation:
        """The normalisation of the pixels that reach the graph; it may have its own inside."""
        return self.normalisation if self.input == "float" else RAW

    @property
    def limits(self) -> InputLimits:
        """What the graph takes."""
        size, image = self.size, self.image_size
        exact, whole = size and size[::-1], self.output == "classes"
        return InputLimits(self.minimum, exact=exact, whole=whole, image=image and image[::-1])

    @property
    def signature(self) -> dict[str, dict[str, tuple[str, list[int | None]]]]:
        """Type and shape of the graph's inputs and outputs by name; None: not fixed."""
        count = None if self.size is None else 1
        width, height = self.size or (None, None)
        is_raw = self.input == "uint8"
        shape = [count, height, width, 3] if is_raw else [count, 3, height, width]
        inputs: dict[str, tuple[str, list[int | None]]] = {self.input_name: (self.input, shape)}
        if self.asks_for_size:
            inputs[IMAGE_SIZE] = "int64", [2]
        if self.output == "classes":
            width, height = self.image_size or (_EITHER, _EITHER)
            found = "uint8", [count, height, width]
        else:
            found = "float", [count, len(self.classes), _EITHER, _EITHER]
        return {"inputs": inputs, "outputs": {self.output: found}}

    def feed(self, pixels: torch.Tensor, image_size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        """The graph's inputs by name, of pixels (N, 3, H, W) and of class maps' height, width."""
        given = pixels.cpu()
        if self.input == "uint8":
            given = given.permute(0, 2, 3, 1).to(torch.uint8)
        size = {IMAGE_SIZE: np.array(image_size, np.int64)} if self.asks_for_size else {}
        return {self.input_name: given.contiguous().numpy(), **size}


def is_onnx(source: str | Path) -> bool:
    """Whether a model is an ONNX file, by its name."""
    path = Path(source)
    return path.suffix.lower() == ONNX and not path.is_dir()


def require(*libraries: str) -> None:
    """Refuse work that needs libraries of the extra ``onnx`` where one is missing."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise UserError(f"{library} is not installed: pip install 'revt_hf[onnx]'")


def read_record(path: str | Path) -> GraphRecord:
    """What a file that ``revt export`` wrote records; others are refused."""
    return _record(_session(path, torch.device("cpu"), optimised=False), path)


class OnnxNetwork(nn.Module):
    """A file's network, called like a model of transformers; it has no parameters in Python.

    It runs with torch's number of threads, and on a GPU where onnxruntime was built for one.

    Raises:
        UserError: the file cannot be read, or ``revt export`` did not write it.
    """

    def __init__(self, path: str | Path, device: torch.device, label: str | None = None) -> None:
        super().__init__()
        self._session = _session(path, device)
        self.label, self.device = label or str(path), device
        self.sha256 = file_sha256(Path(path))
        self.record = record = _record(self._session, path)
        self.config = PretrainedConfig(id2label=dict(enumerate(record.classes)))
        setattr(self.config, COLOURS, [*record.classes.values()])
        self.normalisation, self.limits = record.outside, record.limits
        self.family = Family(
            f"{record.family} in an ONNX file", "", "", "", (), masks=record.masks, generic=True
        )
        self.eval()

    @property
    def ends_in_classes(self) -> bool:
        """Whether it gives class maps, and no logits."""
        return self.record.output == "classes"

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Logits (N, classes, h, w), as an attribute, of pixels (N, 3, H, W) normalised for it."""
        # A graph of one size takes one image at a time.
        batches = pixel_values.split(1) if self.record.size else (pixel_values,)
        found = [self._run(batch, (0, 0)) for batch in batches]
        return SimpleNamespace(logits=torch.from_numpy(np.concatenate(found)).to(self.device))

    def class_map(self, pixels: torch.Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The class map (height, width), uint8, of one image's pixels (1, 3, H, W)."""
        found = self._run(pixels, size)[0]
        if (highest := int(found.max())) >= len(self.record.classes):
            raise UserError(
                f"{self.label}: it gives class {highest}, and records {len(self.record.classes)} "
                "classes: export it again"
            )
        return found

    def _run(self, pixels: torch.Tensor, image_size: tuple[int, int]) -> NDArray[Any]:
        (found,) = self._session.run(None, self.record.feed(pixels, image_size))
        return found


def _session(path: str | Path, device: torch.device, optimised: bool = True) -> Any:
    require("onnxruntime")
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ONLY_ERRORS
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
    providers = [one for one in wanted if one in onnxruntime.get_available_providers()]
    if not Path(path).is_file():
        raise UserError(f"cannot load the model '{path}': there is no such file")
    try:
        # Weights in files beside it are not those of its sha256: onnxruntime looks for them in an
        # empty folder, and fails.
        with readable(path), TemporaryDirectory() as folder:
            options.add_session_config_entry(_WEIGHTS_FOLDER, folder)
            content = Path(path).read_bytes()
            return onnxruntime.InferenceSession(content, options, providers=providers)
    except UserError:
        raise
    # The library has a class of its own for each error, and none for all.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: onnxruntime cannot load it: {reason}") from error


def _record(session: Any, path: str | Path) -> GraphRecord:
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(
            f"{path}: its metadata has no key {KEY!r} with classes, normalisation and test "
            "protocol: export it with revt export"
        )
    try:
        record = GraphRecord.model_validate_json(text)
        parse_classes(record.classes, f"{path}: {KEY}.classes")
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, (KEY, *first["loc"])))
        raise UserError(
            f"{path}: {at} in its metadata: {first['msg']}: export it with this version of revt_hf"
        ) from error
    for what, nodes in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        expected = record.signature[what]
        if len(nodes) != len(expected) or not all(_fits(one, expected) for one in nodes):
            raise UserError(f"{path}: its {what} are not those that it records: export it again")
    return record


def _fits(node: Any, expected: dict[str, tuple[str, list[int | None]]]) -> bool:
    """Whether an input or output of a session has a recorded name, type and shape."""
    kind, sides = expected.get(node.name, ("", []))
    # A side that is not fixed has a name or none.
    found = [side if isinstance(side, int) else None for side in node.shape]
    same = len(found) == len(sides) and all(
        side in (one, _EITHER) for one, side in zip(found, sides, strict=True)
    )
    return same and node.type == f"tensor({kind})"
