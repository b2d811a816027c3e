"""What a model folder says of its network: ``config.json`` and ``preprocessor_config.json``.

Read without torch or transformers, and only what a SegFormer consists of: code that a file names
(``auto_map``) and fields that nobody knows are neither looked at nor carried along.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.json_fields import JsonFields
from revt_hf.checkpoints.shapes import Architecture
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.data.normalisation import IMAGENET, Normalisation

PROCESSOR_FILE = "preprocessor_config.json"
DTYPES = ("float16", "bfloat16", "float32", "float64")
# Far beyond every SegFormer, small enough that whatever is within can be tried out.
_MOST_STAGES, _MOST_BLOCKS, _WIDEST, _MOST_CLASSES = 9, 1000, 65_536, 65_536
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
_LONGEST_NAME = 200
_RGB = 3
# Defaults of transformers.
_SHARES = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "drop_path_rate": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
}
_IGNORED = "semantic_loss_ignore_index"


@dataclass(frozen=True)
class Description:
    """What a model folder says of itself.

    Attributes:
        label: what messages call the model.
        file: the ``config.json``.
        architecture: the network.
        classes: names by the number of the head's row; ``LABEL_0``, ... where the file names none.
        dtype: ``float32``, ``bfloat16``, ...; None where the file does not say.
        numbers: the config's other numbers (dropout and the like), by their keys.
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
    """Read and check what a SegFormer folder says of its network.

    Args:
        folder: holds ``config.json``, and perhaps ``preprocessor_config.json``.
        label: what messages call the model; the folder by default.

    Raises:
        UserError: a file cannot be read, is no JSON object, or holds a value that no SegFormer of
            this package has; file and key are named.
    """
    fields = JsonFields(folder / CONFIG_FILE)
    if fields.values.get("model_type") != "segformer":
        raise fields.wrong("model_type", "only a 'segformer' is used here")
    fields.equal("num_channels", _RGB)
    # The decode head of transformers cannot read the last stage otherwise.
    fields.equal("reshape_last_stage", True)
    return Description(
        label=label or str(folder),
        file=fields.path,
        architecture=_architecture(fields),
        classes=_classes(fields),
        dtype=_dtype(fields),
        numbers={
            **{key: fields.number(key, value, 0.0, 1.0) for key, value in _SHARES.items()},
            _IGNORED: fields.whole(_IGNORED, 255, -1000, 65_536),
        },
        normalisation=read_normalisation(folder),
    )


def read_normalisation(folder: Path) -> Normalisation:
    """How a model folder's images are normalised; ImageNet's way without the file.

    Size, resampling, cropping and padding are not of interest: the test protocol or the recipe
    decides them. Nor is ``do_reduce_labels``: labels come as train ids.

    Raises:
        UserError: ``preprocessor_config.json`` cannot be read, or is of other images than RGB.
    """
    path = folder / PROCESSOR_FILE
    if not path.exists() and not path.is_symlink():
        return IMAGENET
    fields = JsonFields(path)
    for key in ("image_processor_type", "feature_extractor_type"):
        kind = fields.values.get(key)
        if kind is not None and not (isinstance(kind, str) and kind.startswith("Segformer")):
            raise fields.wrong(key, "only SegFormer's image processor is known here")
    for key in ("do_flip_channel_order", "do_grayscale"):
        fields.equal(key, False)
    rescale, normalize = (fields.flag(key, True) for key in ("do_rescale", "do_normalize"))
    return Normalisation(
        image_mean=fields.channels("image_mean", IMAGENET.image_mean),
        image_std=fields.channels("image_std", IMAGENET.image_std, above_zero=True),
        do_rescale=rescale,
        rescale_factor=fields.number("rescale_factor", IMAGENET.rescale_factor, 1e-9, 1e9),
        do_normalize=normalize,
    )


def _architecture(fields: JsonFields) -> Architecture:
    default = Architecture()
    stages = fields.whole("num_encoder_blocks", 4, 1, _MOST_STAGES)

    def each(key: str, largest: int) -> tuple[int, ...]:
        return fields.wholes(key, getattr(default, key), stages, largest)

    found = Architecture(
        depths=each("depths", _MOST_BLOCKS),
        hidden_sizes=each("hidden_sizes", _WIDEST),
        decoder_hidden_size=fields.whole("decoder_hidden_size", 256, 1, _WIDEST),
        num_attention_heads=each("num_attention_heads", _WIDEST),
        sr_ratios=each("sr_ratios", 64),
        mlp_ratios=each("mlp_ratios", 64),
        patch_sizes=each("patch_sizes", 64),
        strides=each("strides", 64),
        hidden_act=fields.one_of("hidden_act", default.hidden_act, _ACTIVATIONS),
    )
    for width, heads in zip(found.hidden_sizes, found.num_attention_heads, strict=True):
        if width % heads:
            raise fields.wrong("hidden_sizes", f"{width} is not a multiple of {heads} heads")
    return found


def _classes(fields: JsonFields) -> tuple[str, ...]:
    names, count = fields.values.get("id2label"), fields.values.get("num_labels")
    if count is not None:
        count = fields.whole("num_labels", 0, 1, _MOST_CLASSES)
    if names is None:
        # Transformers' own default is 2.
        return tuple(f"LABEL_{number}" for number in range(2 if count is None else count))
    if not isinstance(names, dict) or not 1 <= len(names) <= _MOST_CLASSES:
        raise fields.wrong("id2label", "it needs an object of number to class name")
    numbers = [str(number) for number in range(len(names))]
    if set(names) != set(numbers):
        raise fields.wrong("id2label", f"its keys have to be the numbers 0 to {len(names) - 1}")
    if not all(isinstance(name, str) and _is_name(name) for name in names.values()):
        raise fields.wrong(
            "id2label", f"its values have to be names (of at most {_LONGEST_NAME} characters)"
        )
    if count not in (None, len(names)):
        raise fields.wrong("num_labels", f"id2label has {len(names)} classes")
    return tuple(names[number] for number in numbers)


def _dtype(fields: JsonFields) -> str | None:
    # Older files call it torch_dtype.
    keys = [key for key in ("dtype", "torch_dtype") if fields.values.get(key) is not None]
    found = {
        fields.one_of(key, "", (*DTYPES, *(f"torch.{name}" for name in DTYPES))) for key in keys
    }
    if len(found) > 1:
        raise fields.wrong("dtype", "torch_dtype is another one")
    return found.pop().removeprefix("torch.") if found else None


def _is_name(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name.strip()) and len(name) <= _LONGEST_NAME
