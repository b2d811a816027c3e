"""One battery for every family of segmenters: from a recipe to a published merge."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional
from transformers import pipeline

from revt_hf.checkpoints.built import quiet_transformers
from revt_hf.checkpoints.families import family_of, is_counter, is_statistic
from revt_hf.checkpoints.names import names_on_disk
from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object
from revt_hf.data.label_space import CLASSES, TRAIN_ID, LabelSpace
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.predictor import predict, prepare
from revt_hf.evaluation.result import read_results
from revt_hf.merging import statistics
from revt_hf.merging.average import merge
from revt_hf.merging.layer_weights import LayerWeights, depths
from revt_hf.merging.refit import RefitOptions, refit
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.merging.statistics import recalibrate_model
from revt_hf.models.load import build_model, load_model
from revt_hf.models.networks import batch_norms
from revt_hf.training.loop import TrainOptions, train
from tests.helpers import families
from tests.helpers.command_line import refused, revt
from tests.helpers.families import ALL, PREDICTED, SIDE, SQUARES, TRAINED, Family, recipe_of
from tests.helpers.networks import random_image
from tests.helpers.segformers import change_tensors, rewrite, tensors_of
from tests.helpers.tiny import NO_SIZES, run, same_weights, tiny_recipe

NATIVE = Protocol(max_size=None)
_MADE = {}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Families by name; what they hold is made when a test asks for it."""

    def of(name):
        if name not in _MADE:
            _MADE[name] = Family(name, tmp_path_factory.mktemp(name))
        return _MADE[name]

    yield of
    _MADE.clear()


every = pytest.mark.parametrize("name", ALL)
every_trained = pytest.mark.parametrize("name", TRAINED)
every_predicted = pytest.mark.parametrize("name", PREDICTED)


def _by_transformers(folder):
    """The model as transformers loads it."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    with quiet_transformers():
        return getattr(transformers, kind).from_pretrained(folder).eval()


def _outputs(model, seed=0):
    # Kernels round by where in memory a tensor lies: in a file that is mapped anywhere.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        found = model(pixel_values=pixels)
    names = ("logits", "class_queries_logits", "masks_queries_logits")
    return [found[name] for name in names if name in found]


def _done(capsys, *arguments):
    code, out, error = revt(capsys, *arguments, "--quiet")
    assert code == 0, error
    return out


def _streets(name, *more):
    """Images of 128x64 pixels; windows of them for networks that take squares only."""
    windows = ("--window", SIDE) if name in SQUARES else ()
    size = ("--option", f"size=[{SIDE},128]", "--max-size", "native")
    return ("--domain", "streets", *size, *windows, *more)


@pytest.mark.numeric
@every_predicted
def test_the_outputs_are_those_of_transformers(made, name):
    folder = made(name).members[1]
    ours, theirs = load_model(folder), _by_transformers(folder)
    assert type(ours) is type(theirs)
    outputs = list(zip(_outputs(ours), _outputs(theirs), strict=True))
    assert outputs
    assert all(first.equal(second) for first, second in outputs)


@pytest.mark.numeric
@every
def test_a_merge_is_the_exact_mean_of_the_encoders_with_one_head(made, name):
    members = [tensors_of(folder) for folder in made(name).members]
    merged = tensors_of(made(name).merged)
    assert list(merged) == list(members[0])
    family, averaged = made(name).family, 0
    for tensor, found in merged.items():
        values = [member[tensor] for member in members]
        if not family.in_encoder(tensor) or is_counter(tensor):
            assert found.equal(values[0]), tensor
            continue
        # In the tensors' dtype and the members' order, as the original computes it.
        assert found.equal((values[0] + values[1] + values[2]) / 3), tensor
        mean = (values[0].double() + values[1].double() + values[2].double()) / 3
        torch.testing.assert_close(found.double(), mean, rtol=3e-7, atol=1e-9)
        averaged += not values[0].equal(found)
    head = [tensor for tensor in merged if not family.in_encoder(tensor)]
    assert any(not members[0][tensor].equal(members[1][tensor]) for tensor in head)
    assert averaged > 10
    # What transformers calls the encoder, where it has a name for it.
    whole = made(name).networks[0]
    encoder = None if family.masks else whole.get_submodule(family.prefix.rstrip("."))
    if encoder is not None:
        on_disk = names_on_disk(whole)
        inner = {on_disk[f"{family.prefix}{key}"] for key in encoder.state_dict()}
        assert inner == set(merged) - set(head)


@every
def test_a_merge_loads_in_transformers(made, name):
    theirs = _by_transformers(made(name).merged)
    on_disk, saved = names_on_disk(theirs), tensors_of(made(name).merged)
    assert sorted(on_disk.values()) == sorted(saved)
    for memory, tensor in theirs.state_dict().items():
        assert tensor.equal(saved[on_disk[memory]]), memory
    assert theirs.config.id2label == dict(enumerate(CLASSES))


@every_predicted
def test_the_pipeline_gives_the_same_class_map(made, name):
    folder, picture = made(name).merged, families.image(seed=3)
    found = predict(load_model(folder), picture, NATIVE)
    assert len(np.unique(found)) > 1
    task, more = pipeline("image-segmentation", model=str(folder)), {}
    if made(name).family.masks:
        # Without a subtask it looks for things.
        more["subtask"] = "semantic"
    by_pipeline = np.full(picture.shape[:2], 255, np.uint8)
    for segment in task(Image.fromarray(picture), **more):
        by_pipeline[np.asarray(segment["mask"]) > 0] = TRAIN_ID[segment["label"]]
    assert (found != by_pipeline).mean() <= 5e-4


@every_trained
def test_training_changes_encoder_and_head(made, name):
    family, recipe = made(name).family, made(name).recipe
    before = build_model(recipe.model, recipe.train.seed)
    on_disk, after = names_on_disk(before), tensors_of(made(name).trained)
    changed = {True: [], False: []}
    for memory, tensor in before.state_dict().items():
        changed[family.in_encoder(memory)].append(not tensor.equal(after[on_disk[memory]]))
    assert all(np.mean(parts) > 0.7 for parts in changed.values()), changed
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    # It is a folder of its family, with what it was trained by beside it.
    assert load_recipe(made(name).trained / "recipe.yaml").model == recipe.model
    assert len(_outputs(load_model(made(name).trained))) == 1


@every_trained
def test_a_resumed_run_ends_with_the_same_bits(made, name, tmp_path):
    made(name).stopped(tmp_path / "run")
    resumed = run(tmp_path / "run", made(name).recipe, resume=True)
    assert same_weights(resumed, tensors_of(made(name).trained))


@every_predicted
def test_evaluate_and_predict(made, name, tmp_path, capsys):
    folder = made(name).merged
    _done(capsys, "evaluate", folder, *_streets(name, "--json", tmp_path / "r.json"))
    (result,) = read_results([tmp_path / "r.json"])
    assert 0 <= result.scores[0].miou < 30
    picture = families.image(seed=5)
    Image.fromarray(picture).save(tmp_path / "a.png")
    output = ("--output", tmp_path / "out", "--save", "maps", "--max-size", "native")
    _done(capsys, "predict", folder, "--input", tmp_path / "a.png", *output)
    found = np.asarray(Image.open(tmp_path / "out" / "maps" / "a.png"))
    assert (found == predict(load_model(folder), picture, NATIVE)).all()


@every_predicted
def test_recalibration_changes_all_statistics_and_nothing_else(made, name, tmp_path, capsys):
    folder, out = made(name).merged, tmp_path / "out"
    command = (
        "recalibrate",
        folder,
        "--output",
        out,
        *_streets(name, "--images", "2", "--skip-val"),
    )
    if not made(name).norms:
        assert "has no BatchNorm" in refused(capsys, *command, "--quiet")
        assert not out.exists()
        return
    _done(capsys, *command)
    before, after = tensors_of(folder), tensors_of(out)
    changed = {tensor for tensor in before if not before[tensor].equal(after[tensor])}
    assert changed == set(filter(is_statistic, before))
    assert len(changed) == 2 * len(made(name).norms)
    assert load_model(out).training is False


@every_trained
@pytest.mark.parametrize("fresh", [False, True])
def test_a_refit_trains_the_head_and_nothing_else(made, name, fresh, tmp_path):
    folder, out, family = made(name).merged, tmp_path / "out", made(name).family
    refit(folder, out, made(name).recipe, RefitOptions(2, fresh, score_val=False))
    before, after = tensors_of(folder), tensors_of(out)
    assert before.keys() == after.keys()
    changed = [tensor for tensor in before if not before[tensor].equal(after[tensor])]
    assert not any(map(family.in_encoder, changed))
    head = [tensor for tensor in before if not family.in_encoder(tensor)]
    assert len(changed) > 0.7 * len(head)
    assert len(_outputs(load_model(out))) == 1


@every_predicted
def test_diagnoses(made, name, tmp_path, capsys):
    members, merged = made(name).members, made(name).merged
    out = [tmp_path / "norm", tmp_path / "similarity", tmp_path / "path"]
    some = _streets(name, "--images", "1")
    norm = ("diagnose", "norm", merged, members[0], "--output", out[0], *some)
    norm += ("--recalibrate-on", "1")
    if made(name).norms:
        _done(capsys, *norm)
        assert read_json_object(out[0] / "norm.json")
    else:
        assert "has no BatchNorm" in refused(capsys, *norm, "--quiet")
        assert not out[0].exists()
    _done(capsys, "diagnose", "similarity", *members[:2], "--output", out[1], "--no-plot")
    assert read_json_object(out[1] / "similarity.json")["wholes"]
    points = ("--points", "2")
    path = ("diagnose", "path", *members[:2], "--output", out[2], *some, *points)
    if made(name).family.masks:
        return
    _done(capsys, *path)
    lines = read_json_object(out[2] / "path.json")["lines"]
    assert [(line["from"], line["to"], line["head"]) for line in lines] == [(1, 2, 1), (1, 2, 2)]


@every
def test_a_push_sends_a_folder_that_loads(made, name, tmp_path, capsys):
    folder, dry = made(name).merged, tmp_path / "dry"
    terms = ("--license", "apache-2.0", "--dry-run", dry)
    _done(capsys, "push", folder, "me/merged", *terms)
    assert same_weights(tensors_of(dry), tensors_of(folder))
    for file in ("config.json", "preprocessor_config.json"):
        assert (dry / file).read_bytes() == (folder / file).read_bytes()
    card = (dry / "README.md").read_text()
    assert name == "data2vec" or made(name).family.title in card
    assert name == "segformer" or "SegFormer" not in card
    _by_transformers(dry)


@every
def test_files_in_several_parts_are_one_model(made, name, tmp_path):
    model = made(name).networks[1]
    parts = families.save(model, tmp_path / "parts", None, max_shard_size="20KB")
    shutil.copy(made(name).members[1] / "preprocessor_config.json", parts)
    assert len(list(parts.glob("*.safetensors"))) > 1
    if name != "oneformer":
        assert same_weights(load_model(parts).state_dict(), _loaded(made, name, 1))
    other = merge([made(name).members[0], parts, made(name).members[2]], tmp_path / "merged")
    found, expected = tensors_of(other), tensors_of(made(name).merged)
    assert same_weights(found, expected)


def _loaded(made, name, number):
    return load_model(made(name).members[number]).state_dict()


@every_predicted
def test_rows_of_the_head_are_sorted_by_class_name(made, name, tmp_path):
    folder = made(name).copied(tmp_path / "model")
    order = np.roll(np.arange(len(CLASSES)), 3).tolist()

    def permute(tensors):
        names = list(filter(made(name).family.has_class_rows, tensors))
        assert names or name == "data2vec"
        for tensor in names:
            last = range(len(CLASSES), len(tensors[tensor]))
            tensors[tensor] = tensors[tensor][[*order, *last]].contiguous()

    change_tensors(folder, permute)
    names = {str(row): CLASSES[number] for row, number in enumerate(order)}
    rewrite(folder / "config.json", id2label=names, label2id={v: int(k) for k, v in names.items()})
    if name == "data2vec":
        # Which rows are classes is not known.
        with pytest.raises(UserError, match="have a row for each class is not known"):
            load_model(folder)
    else:
        assert same_weights(load_model(folder).state_dict(), _loaded(made, name, 0))
    with pytest.raises(UserError, match="its classes are in another order"):
        merge([made(name).members[0], folder], tmp_path / "merged")


def _lacks(tensors, name):
    del tensors[name]


def _has_more(tensors, name):
    tensors["decoder.extra.weight"] = torch.zeros(3)


def _is_longer(tensors, name):
    tensors[name] = torch.cat([tensors[name]] * 2)


def _is_nan(tensors, name):
    tensors[name].view(-1)[0] = float("nan")


def _is_negative(tensors, name):
    tensors[next(at for at in tensors if at.endswith("running_var"))][0] = -1


FAULTS = {
    "lacks": (_lacks, "missing"),
    "has more": (_has_more, r"without a place|has no place"),
    "shape": (_is_longer, r"is \[\d+.*\], not \[\d+"),
    "nan": (_is_nan, "holds NaN or infinity"),
    "negative": (_is_negative, "is a variance and holds a negative number"),
}


@pytest.mark.parametrize("fault", FAULTS)
@every_predicted
def test_tensors_that_are_not_the_networks_are_refused(made, name, fault, tmp_path):
    if fault == "negative" and not made(name).norms:
        pytest.skip("it has no variance")
    folder = made(name).copied(tmp_path / "model")
    change, sentence = FAULTS[fault]
    for in_encoder in (True, False):
        tensors = tensors_of(folder)
        part = [at for at in tensors if made(name).family.in_encoder(at) == in_encoder]
        victim = next(at for at in part if at.endswith("weight"))
        change_tensors(folder, lambda held, at=victim: change(held, at))
        with pytest.raises(UserError, match=sentence) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)
        if fault != "negative":
            # First: heads of the others are not in the result.
            with pytest.raises(UserError):
                merge([folder, made(name).members[0]], tmp_path / "merged")
            assert not (tmp_path / "merged").exists()
        shutil.copy(made(name).members[0] / "model.safetensors", folder)


@every_trained
def test_a_frozen_encoder_keeps_its_bits(made, name, tmp_path):
    section = {"init": str(made(name).members[0]), "freeze": "encoder", "head": "init"}
    section |= {"config": {}, "size": None, **NO_SIZES}
    after = run(tmp_path / "run", recipe_of(name, model=section, train={"steps": 2}))
    before = tensors_of(made(name).members[0])
    assert before.keys() == after.keys()
    changed = {tensor for tensor in before if not before[tensor].equal(after[tensor])}
    assert changed
    assert not any(map(made(name).family.in_encoder, changed))
    # Statistics of the head's own layers follow the images.
    own = [at for at in before if is_statistic(at) and not made(name).family.in_encoder(at)]
    assert set(own) <= changed


@pytest.mark.parametrize("name", ["upernet-dinov3", "mobilenet", "beit"])
def test_an_encoder_of_initial_weights_gets_a_new_head(made, name):
    """Also of a network with other classes."""
    model = {**TRAINED[name], "init": str(made(name).members[0]), "config": {}}
    spec = recipe_of(name, model=model).model
    built = build_model(spec, 3, LabelSpace("two", ("road", "boat"), (0, 1)))
    family, before = made(name).family, load_model(made(name).members[0]).state_dict()
    assert built.config.num_labels == 2
    for tensor, value in built.state_dict().items():
        if family.in_encoder(tensor):
            assert value.equal(before[tensor]), tensor
    rows = [at for at in built.state_dict() if family.has_class_rows(at)]
    assert all(len(built.state_dict()[at]) == 2 for at in rows)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"family": "upernet", "size": "b0"}, "size to decoder_hidden_size are for segformer"),
        ({"family": "upernet"}, "backbone_config has to name the encoder's model_type"),
        ({"family": "upernet", "config": {"backbone_config": "dinov2"}}, "has to name"),
        ({"family": "upernet", "config": {"widht": 1}}, "model.config.widht: .* no such field"),
        (
            {"family": "beit", "config": {"return_dict": False}},
            r"model\.config\.return_dict is no part of a network",
        ),
        (
            {
                "family": "upernet",
                "config": {"backbone_config": {"model_type": "dinov2", "return_dict": False}},
            },
            r"backbone_config\.return_dict is no part of a network",
        ),
        ({"family": "beit", "config": {"hidden_size": "wide"}}, "transformers refuses it"),
        ({"family": "beit", "config": {"hidden_size": 10}}, "transformers refuses it"),
        (
            {"family": "upernet", "config": {"backbone_config": {"model_type": "bert"}}},
            "bert",
        ),
        ({"family": "beit", "freeze": "encoder"}, "random weights cannot be frozen: give init"),
        ({"family": "beit", "head": "init"}, "head: init needs model.init"),
        ({"size": "b0", "config": {"depths": [1]}}, "config is for other families"),
        ({"family": "maskformer"}, "family"),
        (
            {**TRAINED["upernet-resnet"], "drop_path": 0.3},
            "model.drop_path is 0.3, and a upernet has none",
        ),
    ],
)
def test_wrong_networks_are_refused_before_the_work(section, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        build_model(tiny_recipe(model={**NO_SIZES, "size": None, **section}).model, 0)
    assert "\n" not in str(error.value).removesuffix("\n")


@pytest.mark.parametrize(
    ("name", "sections", "sentence"),
    [
        ("beit", {"train": {"folded_head": True}}, "folded_head is for SegFormer's decode head"),
        ("mobilenet", {"train": {"batch_size": 1}}, "train.batch_size is 1, and segmentation_head"),
        ("dpt", {"augmentation": {"crop": [32, 64]}}, "takes squares only"),
        ("beit", {"augmentation": {"crop": [32, 31]}}, "crop"),
        ("upernet-convnext", {"augmentation": {"crop": None, "max_size": [40, 20]}}, "at least 32"),
        (
            "dpt",
            {"evaluation": {"window": None, "stride": None}, "train": {"validate_every": 2}},
            "takes squares only",
        ),
    ],
)
def test_runs_that_a_network_cannot_do_are_refused(name, sections, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        train(recipe_of(name, **sections), tmp_path / "run", TrainOptions(quiet=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["eomt", "mask2former", "oneformer"])
def test_masks_are_not_trained(made, name, tmp_path):
    """Masks need a loss of their own."""
    init = {"init": str(made(name).members[0]), "head": "init", "config": {}}
    with pytest.raises(UserError, match=r"docs/models|model\.family"):
        train(recipe_of("beit", model=init), tmp_path / "run", TrainOptions(quiet=True))
    with pytest.raises(UserError, match=r"predicts masks, .* it cannot be refit"):
        refit(made(name).members[0], tmp_path / "run", tiny_recipe())
    assert not (tmp_path / "run").exists()


def test_predictions_that_need_a_text_are_refused(made, tmp_path, capsys):
    folder = made("oneformer").members[0]
    Image.fromarray(families.image()).save(tmp_path / "a.png")
    predicted = ("predict", folder, "--input", tmp_path / "a.png", "--output", tmp_path / "out")
    for command in (
        predicted,
        ("evaluate", folder, *_streets("oneformer")),
        ("recalibrate", folder, "--output", tmp_path / "out", *_streets("oneformer")),
        ("diagnose", "path", *made("oneformer").members[:2], "--output", tmp_path / "out"),
    ):
        more = _streets("oneformer") if command[0] == "diagnose" else ()
        assert "needs a text" in refused(capsys, *command, *more, "--quiet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["dpt", "data2vec", "eomt"])
def test_images_that_are_no_squares_need_windows(made, name, tmp_path, capsys):
    members, out = made(name).members, tmp_path / "out"
    wide = ("--domain", "streets", "--option", f"size=[{SIDE},128]", "--max-size", "native")
    Image.fromarray(families.image(SIDE, 128)).save(tmp_path / "a.png")
    pictures = ("--input", tmp_path / "a.png", "--max-size", "native", "--output", out)
    commands = [
        ("evaluate", members[0], *wide),
        ("diagnose", "path", *members[:2], "--output", out, *wide),
        (
            "diagnose",
            "disagreement",
            *members[:2],
            "--merge",
            made(name).merged,
            "--output",
            out,
            *wide,
        ),
    ]
    if made(name).norms:
        commands.append(("recalibrate", members[0], "--output", out, "--skip-val", *wide))
    for command in commands:
        error = refused(capsys, *command, "--quiet")
        assert "squares" in error and "--window" in error
        assert not out.exists()
    # Images that cannot be predicted are left out with a warning.
    code, _, error = revt(capsys, "predict", members[0], *pictures, "--quiet")
    assert code != 0 and "squares" in error and "--window" in error
    windows = ("--save", "maps", "--window", SIDE, "--overwrite")
    _done(capsys, "predict", members[0], *pictures, *windows)
    found = np.asarray(Image.open(out / "maps" / "a.png"))
    windows = Protocol(max_size=None, window=SIDE, stride=SIDE * 3 // 4)
    assert (found == predict(load_model(members[0]), families.image(SIDE, 128), windows)).all()


def test_different_families_are_not_merged(made, tmp_path):
    first = made("upernet-convnext").members[0]
    for other, sentence in (
        ("segformer", "it is a SegFormer, not a UperNet"),
        ("upernet-resnet", "does not match"),
        ("eomt", "it is a EoMT|it is an EoMT"),
    ):
        with pytest.raises(UserError, match=sentence):
            merge([first, made(other).members[0]], tmp_path / "merged")
    changed = made("upernet-convnext").copied(tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    config["backbone_config"]["layer_norm_eps"] = 0.1
    rewrite(changed / "config.json", **config)
    sentence = r"backbone_config\.layer_norm_eps of its config\.json is 0\.1"
    with pytest.raises(UserError, match=sentence):
        merge([first, changed], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["segformer", "upernet-dinov2", "beit", "mobilenet"])
def test_what_every_configuration_has_is_no_part_of_a_network(made, name, tmp_path):
    changed = made(name).copied(tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    for part in filter(None, (config, config.get("backbone_config"))):
        for key in ("chunk_size_feed_forward", "problem_type"):
            part.pop(key, None)
        if part.get("model_type") != "upernet":
            assert part.pop("num_channels") == 3
        part.update(return_dict=False, tie_word_embeddings=False, torchscript=True, top_k=50)
    (changed / "config.json").write_text(json.dumps(config))
    merged = merge([changed, made(name).members[1]], tmp_path / "merged")
    assert "return_dict" not in (merged / "config.json").read_text()
    for found, wanted in zip(
        _outputs(load_model(changed)), _outputs(load_model(made(name).members[0])), strict=True
    ):
        assert found.equal(wanted)
    assert predict(load_model(merged), families.image(), NATIVE).shape == (SIDE, SIDE)


_LONE_ENCODERS = {
    "upernet-convnext": transformers.ConvNextForImageClassification,
    "upernet-swin": transformers.SwinForImageClassification,
    "upernet-resnet": transformers.ResNetForImageClassification,
    "upernet-dinov2": transformers.Dinov2ForImageClassification,
    "upernet-dinov3": transformers.DINOv3ViTModel,
    "beit": transformers.BeitForImageClassification,
    "mobilenet": transformers.MobileNetV2ForImageClassification,
    "mobilevit": transformers.MobileViTForImageClassification,
    "dpt": transformers.DPTModel,
}
_OTHER_HEADS = {
    "beit": {"out_indices": [4], "pool_scales": [1]},
    "mobilenet": {"output_stride": 32, "image_size": 96},
    "mobilevit": {"output_stride": 16, "aspp_out_channels": 8},
}


@pytest.mark.parametrize("name", _LONE_ENCODERS)
def test_a_base_may_be_an_encoder_by_itself(made, name, tmp_path):
    members = made(name).members[:2]
    config = made(name).networks[0].config
    config = copy.deepcopy(getattr(config, "backbone_config", None) or config)
    for key, value in _OTHER_HEADS.get(name, {}).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    with quiet_transformers():
        _LONE_ENCODERS[name](config).save_pretrained(tmp_path / "base")
    select, labels = "backbone", tuple(map(str, members))

    def merged(name):
        rule = Rule(select, "wise_ft", parameters={"alpha": 0.5})
        spec = MergeSpec(labels, (rule,), base=str(tmp_path / "base"))
        return tensors_of(merge(spec, tmp_path / name))

    if any("hidden_states_norms" in at for at in tensors_of(members[0])):
        with pytest.raises(UserError, match=r"lacks hidden_states_norms.*--select 're:") as error:
            merged("refused")
        select = str(error.value).partition("--select '")[2].partition("'")[0]
    first, second = map(tensors_of, members)
    base, family, found = tensors_of(tmp_path / "base"), made(name).family, merged("out")
    at = next(at for at in found if family.in_encoder(at) and at.endswith("weight"))
    (own,) = (one for one in base if at.endswith(one) or one.endswith(at.partition(".")[2]))
    wanted = (base[own] + (first[at] + second[at]) / 2) / 2
    torch.testing.assert_close(found[at], wanted)


@every_predicted
def test_layers_get_deeper_in_the_order_in_which_an_image_reaches_them(made, name):
    model, family, called = made(name).networks[0], made(name).family, []
    on_disk = names_on_disk(model)
    inside = [at for at in on_disk.values() if family.in_encoder(at)]
    found = depths(list(on_disk.values()), inside, family)
    hooks = [
        module.register_forward_hook(lambda *_, at=at: called.append(at))
        for at, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    _outputs(model)
    for hook in hooks:
        hook.remove()
    # EoMT's last norm is called after each of the last layers.
    order = [*dict.fromkeys(called[::-1])][::-1]
    reached = [
        found[on_disk[f"{at}.{own}"]]
        for at in order
        for own, _ in model.get_submodule(at).named_parameters(recurse=False)
        # Backbones compute the norms of all their stages at the end.
        if on_disk[f"{at}.{own}"] in found and "hidden_states_norms" not in at
    ]
    assert len(reached) > 10
    assert reached == sorted(reached)
    assert (min(found.values()), max(found.values())) == (0, 1)
    assert len(set(found.values())) >= 5
    for at, depth in found.items():
        # They belong to a stage: behind its blocks, before what leads to the next stage.
        if norm := re.search(r"hidden_states_norms\.stage(\d)", at):
            stage = rf".*encoder\.(stages|layers)\.{int(norm[1]) - 1}\.(?!downsample\.)"
            blocks = [found[one] for one in found if re.match(stage, one)]
            assert max(blocks) < depth
            assert not [other for other in set(found.values()) if max(blocks) < other < depth]


@pytest.mark.numeric
def test_weights_by_layer_of_a_network_that_is_no_segformer(made, tmp_path):
    members = [tensors_of(folder) for folder in made("mobilenet").members]
    labels = tuple(map(str, made("mobilenet").members))
    rule = Rule("all", "weighted_mean", layer_weights=LayerWeights(2))
    merged = tensors_of(merge(MergeSpec(labels, (rule,)), tmp_path / "out"))
    stem, layer, last, head = (
        "mobilenet_v2.conv_stem.first_conv.convolution.weight",
        "mobilenet_v2.layer.10.expand_1x1.convolution.weight",
        "mobilenet_v2.conv_1x1.convolution.weight",
        "segmentation_head.classifier.convolution.weight",
    )
    # The stem, 16 layers and the last convolution; layer 10 comes after layer 9.
    for at, own in ((stem, 1 / 3), (layer, 1 / 3 + 11 / 17 * 2 / 3), (last, 1), (head, 1)):
        others = (members[0][at] + members[2][at]) / 2
        torch.testing.assert_close(merged[at], own * members[1][at] + (1 - own) * others)


@pytest.mark.numeric
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 5.0)])
@pytest.mark.parametrize(("name", "select"), [("mobilenet", "backbone"), ("upernet-resnet", "all")])
def test_moments_are_merged_in_every_layer(made, tmp_path, name, select, weights):
    """Of the encoder, and of averaged heads."""
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in made(name).members]
    for number, folder in enumerate(folders):
        # The means of members lie as far apart as a standard deviation.
        change_tensors(
            folder,
            lambda state, number=number: [
                state[at].add_(number * state[at.replace("mean", "var")].sqrt())
                for at in state
                if at.endswith(".running_mean")
            ],
        )
    members = [tensors_of(folder) for folder in folders]
    rule = Rule(select, "moments", weights)
    spec = MergeSpec(tuple(map(str, folders)), (rule,), head=2)
    merged = tensors_of(merge(spec, tmp_path / "out"))
    shares = torch.tensor(weights or (1.0, 1.0, 1.0), dtype=torch.float64)
    shares /= shares.sum()
    variances = [at for at in merged if at.endswith(".running_var")]
    chosen = [at for at in variances if select == "all" or made(name).family.in_encoder(at)]
    assert 10 < len(chosen) <= len(variances)
    for at in variances:
        mean_at, count_at = (
            at.replace("running_var", kind) for kind in ("running_mean", "num_batches_tracked")
        )
        # The count of one network: no sum of batches that several have seen.
        assert merged[count_at].equal(members[1][count_at])
        if at not in chosen:
            assert merged[at].equal(members[1][at])
            continue
        means = torch.stack([member[mean_at].double() for member in members])
        seen = torch.stack([member[at].double() for member in members])
        mean = shares @ means
        squares = shares @ (seen + means**2)
        torch.testing.assert_close(merged[mean_at].double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(merged[at].double(), squares - mean**2, rtol=1e-5, atol=1e-6)
        assert (merged[at] > 1.3 * (shares @ seen)).all()


def test_a_base_of_another_family_is_told_by_its_name(made, tmp_path):
    rule, members = Rule("backbone", "iso_c"), tuple(map(str, made("mobilenet").members))
    for name, title in (("segformer", "SegFormer"), ("mobilevit", "MobileViT with DeepLabV3")):
        spec = MergeSpec(members, (rule,), base=str(made(name).members[0]))
        with pytest.raises(UserError, match=rf"it is a {title}, not a MobileNetV2"):
            merge(spec, tmp_path / "out")


def test_an_auxiliary_head_is_named_where_members_differ_in_it(made, tmp_path):
    first, other = made("data2vec").members[0], made("data2vec").copied(tmp_path / "other")
    extra = {"auxiliary_head.classifier.weight": torch.zeros(19, 1)}
    save_file({**extra, **tensors_of(other)}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"auxiliary_head\.classifier\.weight' has no place"):
        merge([first, other], tmp_path / "merged")
    config = {"model_type": "other", "architectures": ["Other"]}
    names = ["other.a", "decode_head.b", "auxiliary_head.c"]
    assert family_of(config, names) == family_of(config, reversed(names))


def test_an_ensemble_of_features_needs_segformers(made, capsys):
    members = made("mobilenet").members[:2]
    command = ("evaluate", *members, *_streets("mobilenet"))
    assert "needs SegFormers" in refused(capsys, *command, "--ensemble", "features", "--quiet")
    _done(capsys, *command, "--ensemble", "logits", "--ensemble", "probabilities")


def test_members_of_an_ensemble_may_have_logits_of_different_sizes(made, tmp_path, capsys):
    folders = [made(name).members[0] for name in ("mobilenet", "segformer")]
    command = ("evaluate", *folders, *_streets("segformer"))
    combined = ("logits", "product", "probabilities")
    _done(capsys, *command, *(word for one in combined for word in ("--ensemble", one)))
    models, picture = [load_model(folder) for folder in folders], families.image(seed=3)
    logits = [
        model(pixel_values=prepare(picture, NATIVE, normalisation=normalisation_of(model))).logits
        for model in models
    ]
    sides = [one.shape[-1] for one in logits]
    assert len(set(sides)) == 2
    mean = sum(
        functional.interpolate(one, size=(max(sides),) * 2, mode="bilinear") for one in logits
    )
    wanted = functional.interpolate(mean, size=picture.shape[:2], mode="bilinear").argmax(1)[0]
    for order in (models, models[::-1]):
        for combine in combined[:2]:
            found = ensemble_segmenter(order, combine).class_map(picture, NATIVE)
            assert (found != wanted.numpy()).mean() <= 5e-4


def test_scores_of_masks_and_logits_are_not_averaged(made, capsys):
    folders = [made(name).members[0] for name in ("mobilenet", "mask2former")]
    command = ("evaluate", *folders, *_streets("mask2former"), "--quiet")
    error = refused(capsys, *command, "--ensemble", "logits")
    assert "member 2 (Mask2Former) has scores of masks and member 1 has logits" in error


def test_what_is_taken_for_an_encoder_is_said(made, tmp_path, capsys):
    code, _, error = revt(
        capsys, "merge", *made("data2vec").members, "--output", tmp_path / "merged"
    )
    assert code == 0, error
    assert "'data2vec_vision.*' is taken for its encoder" in error


def test_a_generic_network_is_trained_from_its_own_weights(made, tmp_path):
    init = {"init": str(made("data2vec").members[0]), "head": "init", "config": {}}
    run(tmp_path / "run", recipe_of("beit", model=init))
    before, after = made("data2vec").members[0], tmp_path / "run"
    changed = [
        at for at, value in tensors_of(before).items() if not value.equal(tensors_of(after)[at])
    ]
    family = made("data2vec").family
    assert {family.in_encoder(at) for at in changed} == {True, False}
    _by_transformers(after)


def _means_off(model, exact):
    """How far running means are from exact ones, in standard deviations, over all layers."""
    wanted = batch_norms(exact)
    return float(
        torch.cat(
            [
                (layer.running_mean - wanted[name].running_mean).abs()
                / (wanted[name].running_var + layer.eps).sqrt()
                for name, layer in batch_norms(model).items()
            ]
        ).mean()
    )


@pytest.mark.numeric
def test_recalibration_is_that_of_all_images_at_once(made, monkeypatch):
    """As one forward pass of plain torch in train mode over all images."""
    untouched = load_model(made("mobilenet").members[0])
    plain, at_once, in_two = (copy.deepcopy(untouched) for _ in range(3))
    rows = [{"image": random_image(SIDE, SIDE, seed)} for seed in range(24)]
    for layer in batch_norms(plain).values():
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        plain(pixel_values=torch.cat([prepare(row["image"], NATIVE) for row in rows]))
    recalibrate_model(at_once, rows, NATIVE)
    for name, layer in batch_norms(plain).items():
        ours = batch_norms(at_once)[name]
        torch.testing.assert_close(ours.running_mean, layer.running_mean, rtol=1e-3, atol=1e-3)
        # Torch's variance is the unbiased one; an image may be pooled to a single value.
        torch.testing.assert_close(ours.running_var, layer.running_var, rtol=0.05, atol=1e-3)
    # Of two passes the first normalises with half of the images.
    monkeypatch.setattr(statistics, "_PIXELS", len(rows) * SIDE * SIDE // 2)
    recalibrate_model(in_two, rows, NATIVE)
    assert 0 < _means_off(in_two, at_once) < 0.8 * _means_off(untouched, at_once)


def test_a_layer_that_nothing_reaches_keeps_its_statistics(made):
    model = load_model(made("mobilenet").members[0])
    model.unused = torch.nn.BatchNorm2d(3)
    model.unused.running_mean.fill_(7)
    recalibrate_model(model, [{"image": random_image(SIDE, SIDE)}], NATIVE)
    assert model.unused.running_mean.tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", ["upernet-convnext", "upernet-dinov2"])
def test_a_merge_that_nothing_could_load_is_refused(made, tmp_path, name):
    """Members that agree, with tensors that their config.json does not describe."""
    members = [shutil.copytree(folder, tmp_path / folder.name) for folder in made(name).members[:2]]
    weight = next(name for name in tensors_of(members[0]) if name.startswith("backbone."))
    for folder in members:
        change_tensors(folder, lambda state: state.pop(weight))
    with pytest.raises(UserError, match=r"not those of its config\.json: missing"):
        merge(members, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_norms_of_a_backbone_may_not_be_missing_in_a_whole_model(made, tmp_path):
    folder = shutil.copytree(made("upernet-convnext").members[0], tmp_path / "cut")
    norms = [name for name in tensors_of(folder) if "hidden_states_norms" in name]
    change_tensors(folder, lambda state: [state.pop(name) for name in norms])
    with pytest.raises(UserError, match="missing"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"out_indicies": [1, 2, 3, 4]}, r"backbone_config\.out_indicies: .* no such field"),
        ({"out_indices": [1, 1, 2, 4]}, "duplicates"),
        ({"model_type": "nonsense"}, "a model_type of transformers"),
    ],
)
def test_fields_of_a_backbone_are_checked(fields, sentence):
    backbone = {"model_type": "convnext", "depths": [1, 1, 1, 1], **fields}
    with pytest.raises(UserError, match=sentence):
        build_model(Model(family="upernet", config={"backbone_config": backbone}), 0)
