"""What ``config.json`` describes: read without torch.

Code that a file names (``auto_map``) is neither used nor carried along, nor are unknown fields of a
SegFormer; those of other families are checked by transformers.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.architecture import COLOURS, IGNORED, NUMBERS, Architecture, Description
from revt_hf.checkpoints.families import SEGFORMER, Family, family_of
from revt_hf.checkpoints.fields import CODE_KEYS, Fields, is_whole, without
from revt_hf.checkpoints.headers import is_storable
from revt_hf.checkpoints.image_processor import read_normalisation
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.core.errors import plain

# Limits far beyond every SegFormer, small enough that everything within them can be tried.
_MOST_STAGES, _MOST_CLASSES, _WIDEST = 9, 65_536, 65_536
_LARGEST = {"depths": 1000, "hidden_sizes": _WIDEST, "num_attention_heads": _WIDEST}
_LONGEST_NAME = 200
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
# What every configuration of transformers, old or new, may have: the form in which a call returns
# its outputs, kernels, and the generation of text.
_BOILERPLATE = {
    *("return_dict", "use_return_dict", "return_dict_in_generate", "output_hidden_states"),
    *("output_attentions", "output_scores", "torchscript", "use_bfloat16", "attn_implementation"),
    *("_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset"),
    *("_experts_implementation_internal", "gradient_checkpointing", "chunk_size_feed_forward"),
    *("pruned_heads", "tie_word_embeddings", "tie_encoder_decoder", "is_decoder"),
    *("is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "tf_legacy_loss"),
    *("problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix"),
    *("bos_token_id", "pad_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "max_length", "min_length", "do_sample"),
    *("early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
    *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("exponential_decay_length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "remove_invalid_values", "suppress_tokens"),
    *("begin_suppress_tokens",),
}
NOT_THE_NETWORK = CODE_KEYS | {
    *("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", COLOURS),
    *("id2label", "label2id", "num_labels"),
    *_BOILERPLATE,
}


def read_description(
    folder: Path, label: str | None = None, family: Family | None = None
) -> Description:
    """Read and check ``config.json`` and, if there is one, ``preprocessor_config.json``.

    ``family`` is that of the folder's checkpoint; None is what ``config.json`` says by itself.
    """
    fields = Fields(folder / CONFIG_FILE)
    family = family or family_of(fields.values)
    if not isinstance(fields.values.get("model_type"), str):
        raise fields.wrong("model_type", "it has to name a kind of model")
    if family is SEGFORMER:
        fields.equal("num_channels", 3)
        # The decode head of transformers cannot read the last stage otherwise.
        fields.equal("reshape_last_stage", True)
        rest = {key: fields.number(key, value, 0.0, 1.0) for key, value in NUMBERS.items()}
        rest[IGNORED] = fields.whole(IGNORED, 255, -1000, 65_536)
    else:
        rest = without(fields.values, NOT_THE_NETWORK)
        rest["model_type"] = fields.values["model_type"]
    return Description(
        label=label or str(folder),
        file=fields.path,
        architecture=_architecture(fields) if family is SEGFORMER else None,
        classes=_classes(fields),
        dtype=_dtype(fields),
        fields=rest,
        normalisation=read_normalisation(folder),
        colours=_colours(fields),
        family=family,
    )


def _architecture(fields: Fields) -> Architecture:
    default = Architecture()
    stages = fields.whole("num_encoder_blocks", 4, 1, _MOST_STAGES)
    found: dict[str, Any] = {}
    for key, value in asdict(default).items():
        if not isinstance(value, tuple):
            continue
        most = _LARGEST.get(key, 64)
        given = fields.values.get(key)
        given = list(value) if given is None else given
        if not isinstance(given, list) or not all(is_whole(one, 1, most) for one in given):
            raise fields.wrong(key, f"it has to be a list of whole numbers from 1 to {most}")
        found[key] = tuple(given)
        if len(given) != stages:
            raise fields.wrong(key, f"it has to have one number for each of the {stages} stages")
    for width, heads in zip(found["hidden_sizes"], found["num_attention_heads"], strict=True):
        if width % heads:
            raise fields.wrong("hidden_sizes", f"{width} is not a multiple of {heads} heads")
    return Architecture(
        decoder_hidden_size=fields.whole("decoder_hidden_size", 256, 1, _WIDEST),
        hidden_act=fields.one_of("hidden_act", default.hidden_act, _ACTIVATIONS),
        **found,
    )


def _classes(fields: Fields) -> tuple[str, ...]:
    # Two classes are transformers' default.
    count = fields.whole("num_labels", 2, 1, _MOST_CLASSES)
    names = fields.values.get("id2label")
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(names, dict) or not 1 <= len(names) <= _MOST_CLASSES:
        raise fields.wrong("id2label", "it needs an object of number to class name")
    numbers = [str(number) for number in range(len(names))]
    if set(names) != set(numbers):
        raise fields.wrong("id2label", f"its keys have to be the numbers 0 to {len(names) - 1}")
    if not all(
        isinstance(name, str) and name.strip() and len(name) <= _LONGEST_NAME and is_storable(name)
        for name in names.values()
    ):
        raise fields.wrong("id2label", f"names have 1 to {_LONGEST_NAME} characters")
    if fields.values.get("num_labels") not in (None, len(names)):
        raise fields.wrong("num_labels", f"id2label has {len(names)} classes")
    return tuple(names[number] for number in numbers)


def _colours(fields: Fields) -> tuple[str, ...] | None:
    given, count = fields.values.get(COLOURS), len(_classes(fields))
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or len(given) != count
        or not all(isinstance(one, str) and re.fullmatch("#[0-9a-fA-F]{6}", one) for one in given)
    ):
        raise fields.wrong(COLOURS, f"it has to be a list of {count} colours such as '#804080'")
    return tuple(given)


def _dtype(fields: Fields) -> str | None:
    # Older files call it torch_dtype.
    keys = [key for key in ("dtype", "torch_dtype") if fields.values.get(key) is not None]
    known = (*_DTYPES, *(f"torch.{name}" for name in _DTYPES))
    found = {fields.one_of(key, "", known).removeprefix("torch.") for key in keys}
    if len(found) > 1:
        raise fields.wrong("dtype", "torch_dtype is another one")
    return found.pop() if found else None


def is_train_id_order(names: Sequence[str]) -> bool:
    """Whether names of a head's rows are Cityscapes' 19 in the order of the train ids."""
    from revt_hf.data.label_space import CLASSES

    return [plain(name) for name in names] == [plain(name) for name in CLASSES]
