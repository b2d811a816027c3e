"""What a model folder's JSON files describe, read without torch."""

import json

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from revt_hf.checkpoints.architecture import tensor_shapes
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.names import standard_name
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import IMAGENET, MEAN, STD, Normalisation

ODD = {
    "num_encoder_blocks": 3,
    "depths": [1, 3, 2],
    "hidden_sizes": [8, 12, 40],
    "num_attention_heads": [1, 3, 5],
    "sr_ratios": [4, 1, 2],
    "mlp_ratios": [2, 3, 4],
    "patch_sizes": [5, 3, 4],
    "strides": [2, 2, 3],
    "decoder_hidden_size": 24,
    "num_labels": 7,
    "hidden_act": "relu",
}
WRONG = {
    "model_type": [3, None],
    "depths": [[2, 2, 10**9, 2], [2, 2, 2], [2, 2, True, 2], "2222", {"0": 2}],
    "hidden_sizes": [[32, 64, 161, 256], [32, 64, 160, 2**40], [32, 64, 160, -1]],
    "num_attention_heads": [[0, 2, 5, 8]],
    "num_encoder_blocks": [10**9],
    "decoder_hidden_size": [256.5, 0],
    "num_channels": [4],
    "hidden_act": ["os.system"],
    "reshape_last_stage": [False],
    "drop_path_rate": [float("nan"), "0.1"],
    "classifier_dropout_prob": [2],
    "dtype": ["int8"],
    "id2label": [["road"], {}, {"1": "road", "2": "car"}, {"0": 5}, {"0": "\ud800"}],
    "num_labels": [3, 10**12],
}
WRONG_PROCESSOR = {
    "image_mean": [[0.5, 0.5], ["a", "b", "c"], [float("nan")] * 3],
    "image_std": [[0.2, 0.0, 0.2], 10**400],
    "do_rescale": ["yes"],
    "do_normalize": [1],
    "rescale_factor": [0],
    "image_processor_type": ["CLIPImageProcessor"],
    "do_flip_channel_order": [True],
}


def _described(folder, processor=None, **changes):
    config = SegformerConfig().to_dict() | {"num_labels": None} | changes
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return read_description(folder)


@pytest.mark.parametrize("fields", [{}, ODD], ids=["b0", "odd"])
@pytest.mark.parametrize("kind", [SegformerForSemanticSegmentation, SegformerModel])
def test_the_tensors_are_those_of_transformers(tmp_path, fields, kind):
    config = SegformerConfig(**fields)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = kind(config)
    described = read_description(tmp_path)
    head = len(described.classes) if kind is SegformerForSemanticSegmentation else None
    assert tensor_shapes(described.architecture, head) == {
        standard_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    again = SegformerConfig(**described.config())
    assert again.to_diff_dict() == SegformerConfig.from_pretrained(tmp_path).to_diff_dict()


@pytest.mark.parametrize("key", [*WRONG, *WRONG_PROCESSOR])
def test_a_wrong_value_is_one_sentence_with_file_and_key(tmp_path, key):
    file = "config" if key in WRONG else "preprocessor_config"
    for value in (WRONG | WRONG_PROCESSOR)[key]:
        changes = {key: value} if key in WRONG else {"processor": {key: value}}
        with pytest.raises(UserError, match=rf"/{file}\.json: {key} is ") as refused:
            _described(tmp_path, **changes)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 10_000, b'{"a": ' + b"9" * 10_000 + b"}"]
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_what_is_no_json_object_is_named(tmp_path, name, content):
    _described(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not") as refused:
        read_description(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_missing_or_very_large_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_description(tmp_path)
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match=r"config\.json is larger than"):
        read_description(tmp_path)


def test_code_and_unknown_fields_are_not_carried_along(tmp_path):
    code = {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True, "x": 1}
    assert not code.keys() & _described(tmp_path, **code).config().keys()


def test_dtypes_and_classes(tmp_path):
    assert _described(tmp_path, dtype="bfloat16").dtype == "bfloat16"
    assert _described(tmp_path, dtype=None, torch_dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(UserError, match="torch_dtype is another one"):
        _described(tmp_path, dtype="float32", torch_dtype="float16")
    numbered = _described(tmp_path, id2label=None, num_labels=3)
    assert numbered.classes == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_processors_constants_are_read_and_imagenets_are_the_default(tmp_path):
    default = _described(tmp_path).normalisation
    assert (default, default.mean, default.std) == (IMAGENET, MEAN, STD)
    own = {"image_mean": [0.5] * 3, "image_std": 0.25, "rescale_factor": 1 / 255}
    halves = _described(tmp_path, own).normalisation
    assert halves.mean == pytest.approx((127.5,) * 3)
    assert halves.std == pytest.approx((63.75,) * 3)
    nothing = {"do_rescale": False, "do_normalize": False, "auto_map": {"a": "b.C"}}
    plain = _described(tmp_path, nothing).normalisation
    assert (plain.mean, plain.std) == ((0,) * 3, (1,) * 3)
    assert plain == Normalisation(do_rescale=False, do_normalize=False)
