"""``config.json``: which network a model folder describes, and how one is described.

Read without torch or transformers, and only what a SegFormer consists of: code that a file names
(``auto_map``) and unknown fields are neither looked at nor carried along.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from revt_hf.checkpoints.architecture import (
    Architecture,
    has_head,
    infer_architecture,
    tensor_problems,
    tensor_shapes,
)
from revt_hf.checkpoints.headers import FLOATS, TensorPlace
from revt_hf.checkpoints.image_processor import read_normalisation
from revt_hf.checkpoints.names import HEAD_PREFIX, IMAGENET_CLASSIFIER
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.config.sections import ExternalFile, validated
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.normalisation import IMAGENET, Normalisation

_NUMBERED = re.compile(r"label\d+")
_LISTED = 3
# Limits far beyond every SegFormer, small enough that all within them can be tried.
_MOST_STAGES, _MOST_CLASSES = 9, 65_536
_Width = Annotated[int, Field(ge=1, le=65_536)]
_Small = Annotated[int, Field(ge=1, le=64)]
_Blocks = Annotated[int, Field(ge=1, le=1000)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Name = Annotated[str, StringConstraints(max_length=200, pattern=r"\S")]
_Stages = Field(max_length=_MOST_STAGES, strict=False)
_Dtype = Literal[
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "torch.float16",
    "torch.bfloat16",
    "torch.float32",
    "torch.float64",
]
_DEFAULT = Architecture()


class _Config(ExternalFile):
    """The fields of a SegFormer's ``config.json``, with transformers' defaults."""

    model_type: Literal["segformer"]
    num_channels: Literal[3] = 3
    # The decode head of transformers cannot read the last stage otherwise.
    reshape_last_stage: Literal[True] = True
    num_encoder_blocks: Annotated[int, Field(ge=1, le=_MOST_STAGES)] = 4
    depths: Annotated[tuple[_Blocks, ...], _Stages] = _DEFAULT.depths
    num_attention_heads: Annotated[tuple[_Width, ...], _Stages] = _DEFAULT.num_attention_heads
    hidden_sizes: Annotated[tuple[_Width, ...], _Stages] = _DEFAULT.hidden_sizes
    sr_ratios: Annotated[tuple[_Small, ...], _Stages] = _DEFAULT.sr_ratios
    mlp_ratios: Annotated[tuple[_Small, ...], _Stages] = _DEFAULT.mlp_ratios
    patch_sizes: Annotated[tuple[_Small, ...], _Stages] = _DEFAULT.patch_sizes
    strides: Annotated[tuple[_Small, ...], _Stages] = _DEFAULT.strides
    decoder_hidden_size: _Width = _DEFAULT.decoder_hidden_size
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"] = "gelu"
    hidden_dropout_prob: _Share = 0.0
    attention_probs_dropout_prob: _Share = 0.0
    classifier_dropout_prob: _Share = 0.1
    drop_path_rate: _Share = 0.1
    initializer_range: _Share = 0.02
    layer_norm_eps: _Share = 1e-6
    semantic_loss_ignore_index: Annotated[int, Field(ge=-1000, le=65_536)] = 255
    id2label: Annotated[dict[str, _Name], Field(min_length=1, max_length=_MOST_CLASSES)] | None = (
        None
    )
    num_labels: Annotated[int, Field(ge=1, le=_MOST_CLASSES)] | None = None
    dtype: _Dtype | None = None
    # The name in older files.
    torch_dtype: _Dtype | None = None

    @field_validator(
        *("depths", "num_attention_heads", "hidden_sizes", "sr_ratios"),
        *("mlp_ratios", "patch_sizes", "strides"),
    )
    @classmethod
    def _one_per_stage(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        stages = info.data.get("num_encoder_blocks", len(value))
        if len(value) != stages:
            raise ValueError(f"{list(value)} needs one number for each of the {stages} stages")
        heads = info.data.get("num_attention_heads", ())
        for width, number in zip(value, heads, strict=False):
            if info.field_name == "hidden_sizes" and width % number:
                raise ValueError(f"{width} is not a multiple of {number} heads")
        return value

    @field_validator("id2label")
    @classmethod
    def _numbered(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and set(value) != {str(number) for number in range(len(value))}:
            raise ValueError(f"its keys have to be the numbers 0 to {len(value) - 1}")
        return value

    @field_validator("num_labels")
    @classmethod
    def _as_many(cls, value: int | None, info: ValidationInfo) -> int | None:
        names = info.data.get("id2label")
        if names is not None and value not in (None, len(names)):
            raise ValueError(f"{value}, but id2label has {len(names)} classes")
        return value

    @field_validator("torch_dtype")
    @classmethod
    def _same(cls, value: str | None, info: ValidationInfo) -> str | None:
        names = {name.removeprefix("torch.") for name in (value, info.data.get("dtype")) if name}
        if len(names) > 1:
            raise ValueError(f"it differs from dtype: {' and '.join(sorted(names))}")
        return value

    @property
    def classes(self) -> tuple[str, ...]:
        if self.id2label is not None:
            return tuple(self.id2label[str(number)] for number in range(len(self.id2label)))
        # Two classes are transformers' default.
        return tuple(f"LABEL_{number}" for number in range(self.num_labels or 2))

    @property
    def numbers(self) -> dict[str, float]:
        numeric = {key for key, f in type(self).model_fields.items() if f.annotation is float}
        return self.model_dump(include={*numeric, "semantic_loss_ignore_index"})


@dataclass(frozen=True)
class Description:
    """The network that a model folder describes.

    Attributes:
        label: the model's name in messages.
        file: the ``config.json``.
        architecture: the network.
        classes: names by row of the decode head; ``LABEL_0``, ... where the file has none.
        dtype: ``float32``, ``bfloat16``, ...; None where the file has none.
        numbers: the config's other numbers (dropout and the like), by key.
        normalisation: of the folder's ``preprocessor_config.json``, ImageNet's without one.
    """

    label: str
    file: Path
    architecture: Architecture
    classes: tuple[str, ...]
    dtype: str | None
    numbers: Mapping[str, float]
    normalisation: Normalisation

    def config(self) -> dict[str, Any]:
        """Arguments of a ``SegformerConfig`` of this network; nothing else of the file."""
        return {
            **{
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(self.architecture).items()
            },
            **self.numbers,
            "num_encoder_blocks": len(self.architecture.depths),
            "id2label": dict(enumerate(self.classes)),
            "label2id": {name: number for number, name in enumerate(self.classes)},
        }


def read_description(folder: Path, label: str | None = None) -> Description:
    """Read and check which network a SegFormer folder describes.

    Args:
        folder: contains ``config.json``, and perhaps ``preprocessor_config.json``.
        label: the model's name in messages; the folder by default.

    Raises:
        UserError: a file cannot be read, is not a JSON object, or contains a value that no
            SegFormer of this package has; file and key are named.
    """
    path = folder / CONFIG_FILE
    config = validated(_Config, read_json_object(path), str(path))
    dtype = config.dtype or config.torch_dtype
    return Description(
        label=label or str(folder),
        file=path,
        architecture=Architecture(**{key: getattr(config, key) for key in asdict(_DEFAULT)}),
        classes=config.classes,
        dtype=dtype and dtype.removeprefix("torch."),
        numbers=config.numbers,
        normalisation=read_normalisation(folder),
    )


def infer_description(
    label: str, shapes: Mapping[str, tuple[int, ...]], classes: Sequence[str] | None = None
) -> Description:
    """Describe one of the original's networks by its tensors' shapes.

    Args:
        label: the source's name in messages.
        shapes: on-disk name -> shape.
        classes: their names; used if there is one for each row of the head. By default 19 classes
            are Cityscapes', and others are numbered.

    Raises:
        UserError: see :func:`revt_hf.checkpoints.architecture.infer_architecture`.
    """
    from revt_hf.data.labels import CLASSES

    architecture, count = infer_architecture(label, shapes)
    if classes is None and count == len(CLASSES):
        classes = CLASSES
    if classes is None or len(classes) != count:
        classes = _Config(model_type="segformer", num_labels=count).classes
    numbers = _Config(model_type="segformer").numbers
    return Description(label, Path(label), architecture, tuple(classes), None, numbers, IMAGENET)


def model_config(description: Description, dtype: str, with_head: bool = True) -> dict[str, Any]:
    """The content of a ``config.json``: the described network, and nothing else.

    Args:
        description: the network.
        dtype: of its tensors: ``float32``, ...
        with_head: whether the tensors are a whole SegFormer, or its encoder alone.
    """
    config = description.config()
    return {
        "architectures": ["SegformerForSemanticSegmentation" if with_head else "SegformerModel"],
        "model_type": "segformer",
        "dtype": dtype,
        "num_channels": 3,
        "reshape_last_stage": True,
        **config,
        "id2label": {str(number): name for number, name in config["id2label"].items()},
    }


def common_dtype(dtypes: Iterable[str]) -> str:
    """The dtype for ``config.json``: it represents every tensor exactly.

    Args:
        dtypes: of a model's tensors, safetensors' names; integers are ignored.
    """
    found = {FLOATS[dtype] for dtype in dtypes if dtype in FLOATS}
    if len(found) == 1:
        return found.pop()
    return "float64" if "float64" in found else "float32"


def fitting_places(
    description: Description, places: Mapping[str, TensorPlace], with_head: bool = True
) -> dict[str, TensorPlace]:
    """The places of the described network's tensors: all of them, and nothing is left over.

    Args:
        description: the network.
        places: of its checkpoint, by on-disk name.
        with_head: False for the encoder alone: a decode head or ImageNet's classifier may be
            there and may be any.

    Returns:
        On-disk name -> place; BatchNorm's count of batches, which nothing reads, may be missing.

    Raises:
        UserError: tensors are missing, left over, of another shape, or no floats; the first few
            are named.
    """
    held = dict(places)
    if not with_head:
        ignored = (HEAD_PREFIX, IMAGENET_CLASSIFIER)
        held = {name: place for name, place in held.items() if not name.startswith(ignored)}
    elif not has_head(held):
        raise UserError(f"{description.label} is an encoder: it has no decode head")
    classes = len(description.classes) if with_head else None
    shapes = tensor_shapes(description.architecture, classes)
    problems = tensor_problems(held, shapes)
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise UserError(
            f"{description.label}: its tensors are not those of {description.file}: "
            f"{'; '.join(problems[:_LISTED])}{more}"
        )
    return {name: held[name] for name in shapes if name in held}


def rows_by_train_id(description: Description) -> tuple[int, ...]:
    """The row of the decode head's classifier for each train id, found by class name.

    Names are compared ignoring case, spaces, hyphens and underscores.

    Raises:
        UserError: the classes are not Cityscapes' 19, or have no names.
    """
    # Here, since the tables of classes take longer to import than most merges' comparisons.
    from revt_hf.data.labels import CLASSES

    found = [plain(name) for name in description.classes]
    wanted = [plain(name) for name in CLASSES]
    where = f"{description.label}: its {CONFIG_FILE}"
    if len(found) != len(wanted):
        raise UserError(f"{where} names {len(found)} classes, the domains have {len(wanted)}")
    if all(_NUMBERED.fullmatch(name) for name in found):
        raise UserError(
            f"{where} does not name its classes ({description.classes[0]}, ...): write the "
            "names of its rows into id2label"
        )
    unknown = [name for name in description.classes if plain(name) not in wanted]
    missing = [name for name in CLASSES if plain(name) not in found]
    if unknown or missing:
        also = f" {unknown[0]!a}, which the domains do not have, and" if unknown else ""
        raise UserError(f"{where} names{also} no {missing[0]!a}: other classes than the domains'")
    return tuple(found.index(name) for name in wanted)


def plain(name: str) -> str:
    """A class name for comparison: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def is_train_id_order(names: Sequence[str]) -> bool:
    """Whether names of a head's rows are Cityscapes' 19 in the order of the train ids."""
    from revt_hf.data.labels import CLASSES

    return [plain(name) for name in names] == [plain(name) for name in CLASSES]
