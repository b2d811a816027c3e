"""Conversions between the original's files and SegFormer folders, bit for bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from revt_hf.checkpoints.architecture import SIZES, size_name, tensor_shapes
from revt_hf.checkpoints.inferred import infer_architecture
from revt_hf.checkpoints.names import disk_name, memory_names, original_name
from revt_hf.config.network import Model
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CLASSES
from revt_hf.models.convert import convert, convert_to_mmseg
from revt_hf.models.load import build_model
from tests.helpers.original_files import WIDTHS, check_same_state, original_shapes, original_state
from tests.helpers.segformers import rewrite

NARROW, ONE = WIDTHS["narrow"], (1, 1, 1, 1)
# Depths cut down, so that all stay small.
SHALLOW = {"b0": (2, 2, 2, 2), "b1": ONE, "b2": (1, 2, 1, 1), "b3": (1, 1, 2, 1)}
SHALLOW |= {"b4": (1, 2, 2, 1), "b5": (2, 1, 3, 1)}


def read(path):
    return torch.load(path, weights_only=True)


def converted(folder, state, name="out", **meta):
    """What ``convert`` returns for a file of these tensors."""
    torch.save({**meta, "state_dict": state}, folder / f"{name}.pth")
    return convert(folder / f"{name}.pth", folder / name)


def back(folder, path):
    """The original's tensors in the file that a folder is converted to."""
    return read(convert_to_mmseg(folder, path).output)["state_dict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole SegFormer, converted."""
    return converted(tmp_path_factory.mktemp("x"), original_state(5, NARROW, ONE, 16)).output


@pytest.mark.parametrize("size", sorted(SHALLOW))
def test_every_size_there_and_back_and_there(tmp_path, size):
    depths, decoder = SHALLOW[size], SIZES[size].decoder_hidden_size
    state = original_state(3, SIZES[size].hidden_sizes, depths, decoder, labels=7)
    first = converted(tmp_path, state, "first").output
    check_same_state(back(first, tmp_path / "b.pth"), state)
    second = convert(tmp_path / "b.pth", tmp_path / "second").output
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    model, report = SegformerForSemanticSegmentation.from_pretrained(
        first, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert tuple(model.config.depths) == depths
    assert (model.config.num_labels, model.config.decoder_hidden_size) == (7, decoder)
    fused = state["backbone.block2.0.attn.kv.weight"]
    attention = model.segformer.stages[1].blocks[0].attention
    assert torch.equal(torch.cat([attention.k_proj.weight, attention.v_proj.weight]), fused)


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("with_head", [True, False])
def test_every_size_is_recognised_at_full_depth(size, with_head):
    spec = SIZES[size]
    decoder = spec.decoder_hidden_size if with_head else None
    shapes = {}
    for name, shape in original_shapes(spec.hidden_sizes, spec.depths, decoder).items():
        full = name if with_head else f"backbone.{name}"
        for target in () if name.startswith("head.") else memory_names(full):
            rows = (shape[0] // len(memory_names(full)), *shape[1:]) if shape else ()
            shapes[disk_name(target)] = rows
            assert original_name(disk_name(target)) == full
    architecture, classes = infer_architecture("x", shapes)
    assert size_name(architecture, with_head) == size
    assert tensor_shapes(architecture, classes) == shapes


def test_an_imagenet_encoder_is_a_start(tmp_path):
    state = original_state(1, NARROW, ONE, None)
    torch.save(state, tmp_path / "mit_b0.pth")
    done = convert(tmp_path / "mit_b0.pth", tmp_path / "mit")
    assert done.dropped == ("head.weight", "head.bias")
    assert (done.size, done.labels) == (None, ())
    encoder = SegformerModel.from_pretrained(tmp_path / "mit")
    assert encoder.config.architectures == ["SegformerModel"]
    model = build_model(Model(init=str(tmp_path / "mit")), 0)
    assert torch.equal(model.segformer.stages[3].layer_norm.weight, state["norm4.weight"])
    assert (model.config.num_labels, model.config.decoder_hidden_size) == (19, 256)
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    check_same_state(back(tmp_path / "mit", tmp_path / "back.pth"), encoder)


def test_an_image_classifiers_encoder_goes_to_the_original(tmp_path):
    config = SegformerConfig(depths=list(ONE), num_labels=3)
    SegformerForImageClassification(config).save_pretrained(tmp_path / "classifier")
    done = convert_to_mmseg(tmp_path / "classifier", tmp_path / "x.pth")
    assert done.dropped == ("classifier.bias", "classifier.weight")
    expected = original_shapes(NARROW, ONE, None).keys() - {"head.weight", "head.bias"}
    assert read(tmp_path / "x.pth")["state_dict"].keys() == expected


@pytest.mark.parametrize(
    ("meta", "labels", "names"),
    [
        ({"CLASSES": ("a", "b")}, 2, ("a", "b")),
        ({"CLASSES": ["a", "b"]}, 2, ("a", "b")),
        ({"CLASSES": tuple(reversed(CLASSES))}, 19, tuple(reversed(CLASSES))),
        ({}, 19, CLASSES),
        ({"CLASSES": None}, 19, CLASSES),
        ({"CLASSES": ("a", "b")}, 3, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"CLASSES": (1, 2)}, 2, ("LABEL_0", "LABEL_1")),
        ({"CLASSES": "ab"}, 2, ("LABEL_0", "LABEL_1")),
        ({}, 1, ("LABEL_0",)),
    ],
)
def test_class_names(tmp_path, meta, labels, names):
    state = original_state(0, NARROW, ONE, 16, labels=labels)
    assert converted(tmp_path, state, meta=meta).labels == names
    config = SegformerConfig.from_pretrained(tmp_path / "out")
    assert tuple(config.id2label.values()) == names
    assert config.num_labels == labels
    convert_to_mmseg(tmp_path / "out", tmp_path / "back.pth")
    meta = read(tmp_path / "back.pth")["meta"]
    assert meta["CLASSES"] == names
    assert (meta["PALETTE"] is None) == (names != CLASSES)


def test_the_folder_is_an_ordinary_one(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    assert dict(processor.size) == {"height": 512, "width": 1024}
    assert not processor.do_reduce_labels
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["SegformerForSemanticSegmentation"]
    assert config["id2label"]["18"] == "bicycle"
    files = {path.name for path in folder.glob("[!.]*")}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(tmp_path, dtype):
    state = original_state(0, NARROW, ONE, 16)
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    out = converted(tmp_path, state).output
    assert load_file(out / "model.safetensors")["decode_head.classifier.weight"].dtype == dtype
    check_same_state(back(out, tmp_path / "back.pth"), state)


def _changed(name, change=None, new=None):
    """The original's tensors without ``name``, or with it changed, renamed or added."""
    state = original_state(0, NARROW, ONE, 16)
    tensor = state.pop(name, torch.ones(2))
    return {**state, **({new or name: change(tensor)} if change else {})}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (_changed("second_head.conv_seg.weight", torch.clone), "second_head.conv_seg"),
        (_changed("backbone.block1.0.attn.q.weight"), r"block1\.0\.attn\.q\.weight is missing"),
        (_changed("backbone.block2.0.attn.kv.bias"), r"block2\.0\.attn\.kv\.bias is missing"),
        (_changed("backbone.patch_embed3.proj.weight"), r"patch_embed3\.proj\.weight .*missing"),
        (_changed("backbone.norm1.weight", lambda t: t[1:]), r"norm1\.weight' is \[31\], not \[32"),
        (_changed("backbone.norm1.weight", torch.Tensor.long), r"norm1\.weight' is of dtype I64"),
        (_changed("backbone.norm1.bias", torch.clone, "backbone.block1.4.norm1.bias"), "is miss"),
        (_changed("classifier.bias", torch.clone), r"classifier\.bias' has no place"),
        (original_state(0, (8, 16, 40, 64), ONE, 16), r"widths \[8, 16, 40, 64\]"),
        (original_state(0, NARROW, (1, 0, 1, 1), 16), "block2"),
        ({"backbone.layers.0.0.projection.weight": torch.ones(2)}, "mmsegmentation's own SegForm"),
        ({"conv1.weight": torch.ones(2)}, r"no named tensors of a SegFormer.*conv1\.weight"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, state, words):
    with pytest.raises(UserError, match=words) as caught:
        converted(tmp_path, state)
    assert "out.pth" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": [1, 2, 4, 8]}, "num_attention_heads is"),
        ({"strides": [4, 2, 2, 1]}, "strides is"),
        ({"id2label": {"0": "road"}}, "names 1 classes, its head has 19"),
        ({"hidden_sizes": "wide"}, r"config\.json: hidden_sizes is .wide."),
    ],
)
def test_a_config_the_original_cannot_build(tmp_path, folder, change, words):
    changed = shutil.copytree(folder, tmp_path / "changed")
    rewrite(changed / "config.json", **change)
    with pytest.raises(UserError, match=words):
        convert_to_mmseg(changed, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_outputs_are_not_overwritten_unasked(tmp_path, folder):
    source, out, file = tmp_path / "x.pth", tmp_path / "out", tmp_path / "back.pth"
    convert_to_mmseg(folder, source)
    for do, taken, given in ((convert, out, source), (convert_to_mmseg, file, folder)):
        do(given, taken)
        with pytest.raises(UserError, match="--overwrite"):
            do(given, taken)
        assert do(given, taken, overwrite=True).output == taken
    for do, given, taken, words in (
        (convert, source, tmp_path, "choose another output"),
        (convert_to_mmseg, out, folder, "name a file"),
        (convert_to_mmseg, out, out / "model.safetensors", "lies in the input"),
    ):
        with pytest.raises(UserError, match=words):
            do(given, taken, overwrite=True)


@pytest.mark.parametrize("original", [True, False])
def test_a_lone_file_may_have_any_name(tmp_path, folder, original):
    state = held = load_file(folder / "model.safetensors")
    if original:
        held = {f"module.{n}": tensor for n, tensor in back(folder, tmp_path / "plain").items()}
    save_file(held, tmp_path / "x.safetensors")
    out = convert(tmp_path / "x.safetensors", tmp_path / "out").output
    check_same_state(load_file(out / "model.safetensors"), state)
    assert (out / "config.json").read_text() == (folder / "config.json").read_text()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folders_own_weights_keep_their_classes(tmp_path, folder, name):
    odd = shutil.copytree(folder, tmp_path / "odd")
    if name.endswith(".bin"):
        torch.save(load_file(odd / "model.safetensors"), odd / name)
        (odd / "model.safetensors").unlink()
    names = CLASSES[::-1]
    rewrite(odd / "config.json", id2label=dict(enumerate(names)), label2id=None)
    assert convert(odd / name, tmp_path / "out").labels == names
    assert "class_colours" not in json.loads((tmp_path / "out" / "config.json").read_text())
    colours = [f"#{number:02x}0aFF" for number in range(19)]
    rewrite(odd / "config.json", class_colours=colours)
    convert(odd / name, tmp_path / "coloured")
    assert (
        json.loads((tmp_path / "coloured" / "config.json").read_text())["class_colours"] == colours
    )
    convert_to_mmseg(odd, tmp_path / "back.pth")
    assert read(tmp_path / "back.pth")["meta"]["PALETTE"] == [[n, 10, 255] for n in range(19)]
    rewrite(odd / "config.json", layer_norm_eps=1e-3)
    with pytest.raises(UserError, match=r"layer_norm_eps is 0\.001 in its config"):
        convert(odd / name, tmp_path / "no")
    rewrite(odd / "preprocessor_config.json", image_mean=[0.5] * 3)
    with pytest.raises(UserError, match="normalises images in another way"):
        convert(odd / name, tmp_path / "no")


def test_wrong_uses_are_explained(tmp_path, folder):
    lone = shutil.copy(folder / "model.safetensors", tmp_path)
    for source, do, words in (
        (folder, convert, "try --to mmseg"),
        (lone, convert_to_mmseg, "give a folder with config.json"),
        (tmp_path / "absent.pth", convert, "absent.pth"),
        (tmp_path / "absent.pth", convert_to_mmseg, "absent.pth"),
    ):
        with pytest.raises(UserError, match=words):
            do(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
