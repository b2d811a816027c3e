"""The one door for models: everything a folder holds is used, and nothing else is taken."""

import logging
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.config.network import Model
from revt_hf.core.errors import UserError
from revt_hf.data.augment import augment, build_pipeline
from revt_hf.data.label_space import CITYSCAPES, CLASSES
from revt_hf.data.normalisation import IMAGENET, MEAN, STD, normalisation_of
from revt_hf.evaluation.ensembles import COMBINATIONS, ensemble_segmenter
from revt_hf.evaluation.predictor import predict, prepare
from revt_hf.merging.statistics import measured_statistics
from revt_hf.models import load as modeling
from revt_hf.models.load import build_model, for_inference_, label_space, load_model, network_sha256
from revt_hf.training.data import pipeline_spec
from revt_hf.training.saving import image_processor
from tests.helpers.networks import NATIVE, random_image, saved, tiny_model
from tests.helpers.segformers import change_tensors, rewrite
from tests.helpers.tiny import tiny_recipe

CLASSIFIER = "decode_head.classifier"
HEAD_NORM = "decode_head.batch_norm"
HALVES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.3]}


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "model")


def _rename(folder, names):
    rewrite(folder / "config.json", id2label=dict(enumerate(names)), label2id=None)


def _build(folder, head="init"):
    return build_model(Model(init=str(folder), head=head), 0)


def _same(model, state):
    """Whether the tensors are these, in float32 or int64."""
    ours = model.state_dict()
    assert ours.keys() == state.keys()
    return all(torch.equal(tensor, state[name].to(tensor)) for name, tensor in ours.items())


def test_weights_and_logits_are_those_of_transformers(folder):
    theirs = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    ours = load_model(folder)
    assert not ours.training
    assert _same(ours, theirs.state_dict())
    assert all(parameter.requires_grad for parameter in ours.parameters())
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(pixels).logits, theirs(pixels).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_become_float32(folder, dtype, caplog):
    model = tiny_model(0).to(dtype)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", dtype="float32")
    with caplog.at_level(logging.WARNING, "revt_hf"):
        loaded = load_model(folder)
    assert f"config.json says float32, but the tensors are {str(dtype)[6:]}" in caplog.text
    assert loaded.dtype == torch.float32
    assert _same(loaded, model.state_dict())


def _permuted(folder, names):
    """The folder with the rows of its head in the order of ``names``."""
    rows = [CLASSES.index(name) for name in names]

    def permute(tensors):
        for part in ("weight", "bias"):
            tensors[f"{CLASSIFIER}.{part}"] = tensors[f"{CLASSIFIER}.{part}"][rows].contiguous()

    change_tensors(folder, permute)
    _rename(folder, names)


def test_classes_in_another_order_are_brought_into_the_train_ids(folder):
    pixels, wanted = prepare(random_image(64, 96), NATIVE), load_model(folder).state_dict()
    names = list(np.random.default_rng(0).permutation(CLASSES))
    _permuted(folder, names)
    for model in (load_model(folder), _build(folder)):
        assert _same(model, wanted)
        assert tuple(model.config.id2label.values()) == CLASSES
        assert model.config.label2id["road"] == 0
    # transformers names the same classes.
    theirs = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        chosen, ours = (one(pixels).logits.argmax(1).flatten() for one in (theirs, model.eval()))
    assert len(ours.unique()) > 3
    assert [theirs.config.id2label[int(row)] for row in chosen] == [CLASSES[row] for row in ours]
    _rename(folder, [name.title().replace(" ", "_") for name in names])
    weight = load_model(folder).decode_head.classifier.weight
    assert torch.equal(weight, wanted[f"{CLASSIFIER}.weight"])


@pytest.mark.parametrize(
    ("names", "words", "loads"),
    [
        ([f"LABEL_{n}" for n in range(19)], r"does not name its classes \(LABEL_0", False),
        (["sidewalk", *CLASSES[1:]], "names 'sidewalk' twice", False),
        (["background", *CLASSES[1:]], "'background', which .* does not .*, and no 'road'", True),
        ([f"c{n}" for n in range(20)], "names 20 classes, cityscapes19 has 19", True),
        ([f"c{n}" for n in range(150)], "names 150 classes, cityscapes19 has 19", True),
    ],
)
def test_other_classes_are_refused_before_the_first_step(folder, names, words, loads):
    config = tiny_model(0).config
    config.id2label = dict(enumerate(names))
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    for load in (_build, lambda folder: load_model(folder, CITYSCAPES)):
        with pytest.raises(UserError, match=words):
            load(folder)
    if loads:
        assert label_space(load_model(folder)).classes == tuple(names)
    else:
        with pytest.raises(UserError, match=words):
            load_model(folder)
    # A fresh head does not care.
    fresh = _build(folder, "fresh").config
    assert (fresh.num_labels, fresh.id2label[0]) == (19, "road")


def _fill(name, value):
    return lambda tensors: tensors[name].view(-1)[-1:].fill_(value)


def _put(name, tensor):
    """Set a tensor, or take it away."""
    return lambda tensors: (
        tensors.update({name: tensor}) if tensor is not None else tensors.pop(name)
    )


NORM = "segformer.encoder.layer_norm.2.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_put(NORM, None), r"layer_norm\.2\.bias is missing"),
        (_put("segformer.extra", torch.zeros(2)), r"'segformer\.extra' has no place"),
        (_put("optimizer", torch.zeros(2)), "'optimizer' has no place in the network"),
        (_put(NORM, torch.zeros(3)), r"is \[3\], not \[40\]"),
        (_put(NORM, torch.zeros(40, dtype=torch.int64)), "is of dtype I64"),
        (_fill(NORM, float("nan")), "bias holds NaN or infinity"),
        (_fill(NORM, float("-inf")), "holds NaN or infinity"),
        # Deeper than the configuration.
        (_put("segformer.encoder.block.0.1.mlp.dense1.bias", torch.zeros(32)), r"0\.1.* no place"),
    ],
)
def test_every_tensor_is_used_filled_and_finite(folder, change, words):
    change_tensors(folder, change)
    for load in (load_model, _build, lambda path: _build(path, "fresh")):
        with pytest.raises(UserError, match=words):
            load(folder)


def test_a_head_is_whole_and_finite_where_it_is_used(folder):
    for change, words in (
        (_fill(f"{CLASSIFIER}.bias", float("nan")), "NaN"),
        (_fill("decode_head.batch_norm.running_var", -1.0), "is a variance"),
        (_put(f"{CLASSIFIER}.bias", None), "bias is missing"),
        (_put("classifier.weight", torch.zeros(2)), "'classifier.weight' has no place"),
    ):
        broken = shutil.copytree(folder, folder.with_name("broken"), dirs_exist_ok=True)
        change_tensors(broken, change)
        with pytest.raises(UserError, match=words):
            load_model(broken)
        assert _build(broken, "fresh")
    with pytest.raises(UserError, match="is a single file: give a folder"):
        load_model(folder / "model.safetensors")
    wanted = load_model(folder).state_dict()
    change_tensors(folder, _put("decode_head.batch_norm.num_batches_tracked", None))
    assert _same(load_model(folder), wanted)


def test_remote_code_is_neither_run_nor_carried_along(folder, tmp_path):
    code = {"AutoModelForSemanticSegmentation": "evil.Model", "AutoConfig": "evil.Config"}
    config = folder / "config.json"
    rewrite(config, auto_map=code, custom_pipelines={"x": {}}, trust_remote_code=True)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    load_model(folder).save_pretrained(tmp_path / "out")
    assert "evil" not in (tmp_path / "out" / "config.json").read_text()


def _normalised(folder, **fields):
    SegformerImageProcessorPil(**fields).save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        HALVES,
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, **HALVES},
    ],
    ids=["imagenet", "halves", "no-rescale", "no-normalize", "neither", "factor"],
)
def test_pixels_are_those_of_the_models_own_image_processor(folder, fields):
    image = random_image(48, 64)
    theirs = _normalised(folder, **fields)(image, return_tensors="pt", do_resize=False)
    # Where nothing is done to them they stay integers, which no network takes.
    pixels = theirs["pixel_values"].float()
    model = load_model(folder)
    own = normalisation_of(model)
    ours = prepare(image, NATIVE, normalisation=own)
    torch.testing.assert_close(ours, pixels, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        logits = SegformerForSemanticSegmentation.from_pretrained(folder).eval()(pixels).logits
    full = torch.nn.functional.interpolate(logits, size=(48, 64), mode="bilinear")
    differing = predict(model, image, NATIVE) != full.argmax(1)[0].numpy()
    assert differing.mean() < 0.01
    # Training and what it saves do as the start did.
    start = _build(folder, "fresh")
    recipe = tiny_recipe(augmentation={"method": 3, "max_size": None, "crop": None})
    spec = pipeline_spec(recipe.augmentation, normalisation_of(start))
    trained = augment(build_pipeline(spec), image, np.zeros((48, 64), np.uint8), 0)["image"]
    trained = torch.from_numpy(trained.transpose(2, 0, 1))[None]
    torch.testing.assert_close(trained, ours, rtol=1e-5, atol=1e-5)
    image_processor(recipe.evaluation.max_size, (48, 64), own).save_pretrained(folder)
    assert normalisation_of(load_model(folder)) == own


def test_the_default_is_imagenets_to_the_last_bit(folder):
    assert normalisation_of(load_model(folder)) == IMAGENET
    _normalised(folder)
    assert normalisation_of(load_model(folder)) == IMAGENET
    image = random_image(48, 64)
    plain = (image.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    ours = prepare(image, NATIVE, normalisation=IMAGENET)
    assert np.array_equal(ours[0].numpy(), plain.transpose(2, 0, 1))


def test_recalibration_measures_pixels_as_the_model_sees_them(folder):
    rows = [{"image": random_image(64, 64)}]
    plain = measured_statistics(load_model(folder), rows, NATIVE)[HEAD_NORM][0]
    _normalised(folder, **HALVES)
    own = measured_statistics(load_model(folder), rows, NATIVE)[HEAD_NORM][0]
    assert not torch.allclose(plain, own)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_members_of_an_ensemble_each_see_their_own_pixels(folder, tmp_path, combine):
    """The same network behind two scales of pixels is one network twice."""
    _normalised(folder, do_normalize=False)
    # Pixels of twice the size, and a first layer of half the weights.
    other = shutil.copytree(folder, tmp_path / "other")
    _normalised(other, do_normalize=False, rescale_factor=2 / 255)
    name = "segformer.encoder.patch_embeddings.0.proj.weight"
    change_tensors(other, lambda tensors: tensors[name].div_(2))
    models = [load_model(folder), load_model(other)]
    assert normalisation_of(models[0]) != normalisation_of(models[1])
    image = random_image(64, 96)
    alone = predict(models[0], image, NATIVE)
    together = ensemble_segmenter(models, combine).class_map(image, NATIVE)
    assert len(np.unique(alone)) > 3
    assert (alone != together).mean() < 0.01


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("head", [None, "init", "fresh"])
def test_a_model_that_changes_while_it_is_loaded(folder, monkeypatch, name, head):
    read, path = modeling.read_tensor, folder / name
    (folder / "preprocessor_config.json").write_text("{}")
    other = path.read_bytes()

    def changed(place):
        # The same bytes again: only the time tells, as with a copy of the same size.
        path.write_bytes(other)
        return read(place)

    monkeypatch.setattr(modeling, "read_tensor", changed)
    with pytest.raises(UserError, match=rf"model/{name} changed while it was read"):
        _build(folder, head) if head else load_model(folder)


def test_a_digest_is_of_the_network_and_not_of_its_files(folder, tmp_path):
    model, shards, pickled = load_model(folder), tmp_path / "shards", tmp_path / "torch"
    digest = network_sha256(model)
    assert network_sha256(for_inference_(load_model(folder))) == digest
    model.save_pretrained(shards, max_shard_size="50KB")
    assert (shards / "model.safetensors.index.json").exists()
    shutil.copytree(folder, pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    rewrite(folder / "config.json", drop_path_rate=0.3, _name_or_path="elsewhere")
    _permuted(folder, CLASSES[::-1])
    for place in (folder, shards, pickled):
        assert network_sha256(load_model(place)) == digest
    _normalised(shards, **HALVES)
    _rename(folder, CLASSES)
    for place in (folder, shards):
        assert network_sha256(load_model(place)) != digest


@pytest.mark.parametrize("field", [{"layer_norm_eps": 1e-5}, {"hidden_act": "relu"}, None])
def test_a_digest_counts_every_weight_and_what_the_configuration_decides(folder, field):
    before = network_sha256(load_model(folder))
    if field is None:
        change_tensors(folder, lambda tensors: tensors[f"{CLASSIFIER}.bias"][-1:].add_(1e-3))
    else:
        rewrite(folder / "config.json", **field)
    assert network_sha256(load_model(folder)) != before
