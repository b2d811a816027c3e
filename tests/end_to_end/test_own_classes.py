"""From a folder of images with classes and colours of its own to a scored and published merge."""

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml
from transformers import SegformerForSemanticSegmentation

from revt_hf import evaluate, merge, train
from revt_hf.config.recipe import parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.domains import checked_options, get_domain, load_domain, space_of_spec
from revt_hf.data.label_space import CITYSCAPES
from revt_hf.models.load import label_space, load_model
from revt_hf.models.recorded import read_metrics
from tests.helpers.command_line import refused, revt
from tests.helpers.tiny import TINY, TrainOptions

CLASSES = {"water": "#1e90ff", "Grass Land": "#32cd32", "boat": "#ff4500"}
COLOURS = np.array([[30, 144, 255], [50, 205, 50], [255, 69, 0], [0, 0, 0]], np.uint8)
TABLE = {**{colour: name for name, colour in CLASSES.items()}, "#000000": "ignored"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images whose colours are their classes', and RGB labels."""
    root = tmp_path_factory.mktemp("harbour")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("img_dir", "ann_dir"):
            (root / kind / split).mkdir(parents=True)
        for number in range(3):
            ids = rng.integers(0, 4, (4, 6)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
            noise = rng.integers(0, 30, (*ids.shape, 3))
            image = np.clip(COLOURS[ids].astype(int) + noise, 0, 255).astype(np.uint8)
            for kind, pixels in (("img_dir", image), ("ann_dir", COLOURS[ids])):
                cv2.imwrite(str(root / kind / split / f"{number}.png"), pixels[..., ::-1])
    return root


def source(data, **changes):
    options = {"classes": CLASSES, "encoding": TABLE, **changes}
    return {"domain": "folder", "data_dir": str(data), "options": options}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two members and their merge."""
    root = tmp_path_factory.mktemp("runs")
    changes = {"source": source(data), "evaluation": {"max_size": None}}
    changes["train"] = {**TINY["train"], "validate_every": 3}
    for seed, name in enumerate("ab"):
        recipe = parse_recipe(
            {**TINY, **changes, "train": {**changes["train"], "seed": seed}}, "own"
        )
        train(recipe, root / name, TrainOptions(quiet=True))
    merge([root / "a", root / "b"], root / "m")
    return root


def test_models_have_the_classes_of_their_data(runs):
    for name in "abm":
        config = json.loads((runs / name / "config.json").read_text())
        assert list(config["id2label"].values()) == list(CLASSES)
        space = label_space(load_model(runs / name))
        assert space.classes == tuple(CLASSES)
        assert space.palette.tolist() == COLOURS[:3].tolist()
        plain = SegformerForSemanticSegmentation.from_pretrained(runs / name)
        assert plain.config.id2label[1] == "Grass Land"


def test_scores_are_by_these_classes_in_any_order(runs, data, tmp_path, capsys):
    """The same counts, however the domain lists its classes."""
    turned = dict(reversed(CLASSES.items()))
    found = []
    for classes in (CLASSES, turned):
        options = [f"classes={json.dumps(classes)}", f"encoding={json.dumps(TABLE)}"]
        where = [argument for option in options for argument in ("--option", option)]
        path = tmp_path / f"{len(found)}.json"
        command = ["evaluate", runs / "a", runs / "m", "--domain", "folder", "--data-dir", data]
        code, _, error = revt(capsys, *command, *where, "--json", path, "--quiet")
        assert code == 0, error
        found.append([each["scores"][0] for each in json.loads(path.read_text())["results"]])
        assert list(found[-1][0]["IoU"]) == list(CLASSES)
        assert found[-1][0]["subsets"] == {}
    assert found[0] == found[1]


def test_other_classes_are_refused_with_their_names(runs, data, capsys):
    error = refused(capsys, "evaluate", runs / "a", "--domain", "streets")
    assert "names 19 classes" in error
    options = [f"classes={json.dumps(['water', 'Grass Land', 'ship'])}", "encoding={}"]
    where = [argument for option in options for argument in ("--option", option)]
    error = refused(
        capsys, "evaluate", runs / "a", "--domain", "folder", "--data-dir", data, *where
    )
    assert "'ship'" in error
    assert "'boat'" in error


def test_sources_of_one_training_share_their_classes(data, tmp_path):
    other = source(data, classes=["water", "Grass Land", "ship"], encoding={0: 0})
    recipe = parse_recipe({**TINY, "source": source(data), "more_sources": [other]}, "own")
    with pytest.raises(UserError, match="'ship'"):
        train(recipe, tmp_path / "run", TrainOptions(quiet=True))


def test_pictures_have_the_classes_colours(runs, data, tmp_path, capsys):
    image = data / "img_dir" / "val" / "0.png"
    assert revt(capsys, "predict", runs / "m", "--input", image, "--output", tmp_path / "p")[0] == 0
    ids = cv2.imread(str(tmp_path / "p" / "maps" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(ids)) <= {0, 1, 2}
    assert "Cityscapes'" in refused(
        capsys,
        "predict",
        runs / "m",
        "--input",
        image,
        "--output",
        tmp_path / "q",
        "--ids",
        "cityscapes",
    )
    options = [
        "--option",
        f"classes={json.dumps(CLASSES)}",
        "--option",
        f"encoding={json.dumps(TABLE)}",
    ]
    where = ["folder", "--data-dir", data, *options]
    assert (
        revt(capsys, "data", "show", *where, "--split", "val", "--output", tmp_path / "s.png")[0]
        == 0
    )
    sheet = cv2.imread(str(tmp_path / "s.png"))[..., ::-1]
    for colour in COLOURS[:3]:
        assert (sheet == colour).all(-1).sum() > 100
    code, out, error = revt(capsys, "data", "verify", *where)
    assert code == 0, error
    assert all(name in out for name in CLASSES)


def test_a_file_of_classes_stands_in_the_recipe_with_its_content(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(CLASSES, sort_keys=False))
    options = {"classes": "classes.yaml", "encoding": TABLE}
    assert checked_options(get_domain("folder"), options).classes == CLASSES
    rows = load_domain("folder", "val", data, options=options)
    assert set(np.unique(rows[0]["label"])) <= {0, 1, 2, 255}
    (tmp_path / "classes.yaml").write_text("[one]")
    with pytest.raises(UserError, match="2 to 254"):
        load_domain("folder", "val", data, options=options)


def test_a_resolved_recipe_has_the_same_table(data):
    encoding = {0: "water", 1: "boat", 7: 255}
    options = {"classes": CLASSES, "encoding": encoding}
    recipe = parse_recipe({**TINY, "source": {**source(data), "options": options}}, "own")
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()), "resolved")
    for found in (recipe, again):
        read = checked_options(get_domain("folder"), found.source.options)
        assert read.table.mapping == {0: 0, 1: 2, 7: 255}
        assert read.encoding == encoding


def test_zero_can_be_no_class(tmp_path):
    options = {"classes": ["a", "b"], "reduce_zero_label": True}
    table = checked_options(get_domain("folder"), options).table
    assert table(np.array([[0, 1, 2, 255]], np.uint8)).tolist() == [[255, 0, 1, 255]]
    with pytest.raises(UserError, match="only without an encoding"):
        _ = checked_options(get_domain("folder"), {**options, "encoding": {0: 0}}).table


def test_verify_writes_a_table_to_be_named(data, tmp_path, capsys):
    path = tmp_path / "harbour.yaml"
    command = ["data", "verify", "folder", "--data-dir", data, "--starter", path, "--quiet"]
    code, out, error = revt(capsys, *command)
    assert code == 0, error
    assert "4 values" in out
    written = yaml.safe_load(path.read_text())["source"]
    assert written["data_dir"] == str(data)
    assert list(written["options"]["classes"].values()) == sorted(["#000000", *CLASSES.values()])
    assert "exists already" in refused(capsys, *command)
    text = path.read_text().replace("      class 0: '#000000'\n", "")
    text = text.replace("'#000000': class 0", "'#000000': ignored")
    for number, name in enumerate(("water", "Grass Land", "boat"), 1):
        text = text.replace(f"class {number}", name)
    (tmp_path / "named.yaml").write_text(text)
    options = yaml.safe_load(text)["source"]["options"]
    assert options["classes"] == CLASSES
    assert set(np.unique(load_domain("folder", "val", data, options=options)[0]["label"])) <= {
        0,
        1,
        2,
        255,
    }


def test_values_that_are_no_classes_are_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind, shape in (("img_dir", (40, 60, 3)), ("ann_dir", (40, 60))):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
        pixels = rng.integers(0, 60_000, shape).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "data" / kind / "val" / "0.png"), pixels)
    command = ["data", "verify", "folder", "--data-dir", tmp_path / "data"]
    error = refused(capsys, *command, "--quiet", "--starter", tmp_path / "s.yaml")
    assert "more than 254 values" in error
    assert not (tmp_path / "s.yaml").exists()


def test_report_and_card_are_of_these_classes(runs, data, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    values = yaml.safe_load((runs / "a" / "recipe.yaml").read_text())
    night = {
        **source(data),
        "domain": "corruptions",
        "options": {
            "base": "folder",
            "base_options": source(data)["options"],
            "kind": "night",
            "severity": 3,
        },
    }
    recipe.write_text(yaml.safe_dump({**values, "targets": [night]}))
    page = tmp_path / "page.html"
    command = ["report", runs / "a", runs / "b", runs / "m", "--recipe", recipe, "--output", page]
    code, _, error = revt(capsys, *command, "--quiet")
    assert code == 0, error
    html = page.read_text()
    assert "Grass Land" in html
    assert "rgb(30 144 255)" in html
    assert "traffic sign" not in html
    assert "Cityscapes" not in html
    card = tmp_path / "card"
    command = ["push", runs / "m", "owner/name", "--license", "apache-2.0", "--dry-run", card]
    code, _, error = revt(capsys, *command, "--quiet")
    assert code == 0, error
    text = (card / "README.md").read_text()
    assert "3 classes" in text
    assert "Cityscapes classes" not in text


def test_cityscapes_classes_in_any_order_are_cityscapes(tmp_path):
    """Labels by another order of the 19 classes: the model has the train ids, and scores agree."""
    rng = np.random.default_rng(1)
    data = tmp_path / "data"
    names = list(CITYSCAPES.classes[::-1])
    for split in ("train", "val"):
        for kind in ("img_dir", "ann_dir"):
            (data / kind / split).mkdir(parents=True)
        ids = rng.integers(0, 19, (4, 6)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
        cv2.imwrite(str(data / "img_dir" / split / "0.png"), CITYSCAPES.palette[18 - ids])
        cv2.imwrite(str(data / "ann_dir" / split / "0.png"), ids)
    spec = {"domain": "folder", "data_dir": str(data), "options": {"classes": names}}
    changes = {"source": spec, "train": {**TINY["train"], "validate_every": 3}}
    recipe = parse_recipe({**TINY, **changes, "evaluation": {"max_size": None}}, "turned")
    train(recipe, tmp_path / "run", TrainOptions(quiet=True))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(CITYSCAPES.classes)
    (result,) = evaluate([tmp_path / "run"], recipe)
    assert read_metrics(tmp_path / "run")[-1]["val_mIoU"] == pytest.approx(result.scores[0].miou)
    labels = load_domain("folder", "val", data, options={"classes": names})[0]["label"]
    assert space_of_spec(recipe.source).classes[labels[0, 0]] == names[labels[0, 0]]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("encoding", [None, "train_ids"])
def test_cityscapes_classes_keep_colours_of_their_own(tmp_path, order, encoding, capsys):
    data = tmp_path / "data"
    names = CITYSCAPES.classes[::order]
    colours = {name: f"#{number:02x}00ff" for number, name in enumerate(names)}
    wanted = [colours[name] for name in CITYSCAPES.classes]
    ids = np.arange(19, dtype=np.uint8).repeat(10)[None].repeat(80, 0)
    for kind, pixels in (("img_dir", np.zeros((80, 190, 3), np.uint8)), ("ann_dir", ids)):
        (data / kind / "train").mkdir(parents=True)
        cv2.imwrite(str(data / kind / "train" / "0.png"), pixels)
    spec = source(data, classes=colours, encoding=encoding)
    recipe = parse_recipe({**TINY, "source": spec, "train": {**TINY["train"], "steps": 1}}, "own")
    train(recipe, tmp_path / "run", TrainOptions(quiet=True))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["class_colours"] == wanted
    space = label_space(load_model(tmp_path / "run"))
    assert space == CITYSCAPES
    assert [f"#{colour:06x}" for colour in space.colours] == wanted
    assert label_space(load_model(tmp_path / "run", CITYSCAPES)).colours == CITYSCAPES.colours
    options = [f"--option=classes={json.dumps(colours)}", f"--option=encoding={encoding or 'null'}"]
    sheet = tmp_path / "sheet.png"
    command = ["data", "show", "folder", "--data-dir", data, *options, "--split", "train"]
    code, _, error = revt(capsys, *command, "--output", sheet)
    assert code == 0, error
    seen = cv2.imread(str(sheet))[..., ::-1].reshape(-1, 3)
    assert {(number, 0, 255) for number in range(19)} <= set(map(tuple, seen.tolist()))


def test_colours_of_the_initial_weights_do_not_stay(runs, data, tmp_path):
    model = {
        **dict.fromkeys(("depths", "hidden_sizes", "decoder_hidden_size")),
        "init": str(runs / "a"),
    }
    recipe = parse_recipe({**TINY, "model": model}, "streets")
    train(recipe, tmp_path / "run", TrainOptions(quiet=True))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "class_colours" not in config
    assert config["id2label"]["0"] == "road"
    (runs / "c").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(runs / "a" / name, runs / "c" / name)
    config = json.loads((runs / "c" / "config.json").read_text())
    for wrong in (["#000000"], ["red"] * 3, "blue"):
        (runs / "c" / "config.json").write_text(json.dumps({**config, "class_colours": wrong}))
        with pytest.raises(UserError, match="list of 3 colours"):
            load_model(runs / "c")


def test_a_prepared_folder_keeps_its_order_of_classes(data, tmp_path, capsys):
    options = [f"classes={json.dumps(CLASSES)}", f"encoding={json.dumps(TABLE)}"]
    where = [argument for option in options for argument in ("--option", option)]
    command = ["data", "prepare", "folder", "--data-dir", data, *where, "--split", "train"]
    assert revt(capsys, *command, "--output", tmp_path / "prep", "--resize", "120x80")[0] == 0
    size = {"max_size": [120, 80], "crop": [64, 64], "method": 2}
    turned = source(data, classes=dict(reversed(CLASSES.items())))
    weights = []
    for spec in (turned, {**turned, "prepared": str(tmp_path / "prep")}):
        recipe = parse_recipe({**TINY, "source": spec, "augmentation": size}, "turned")
        train(recipe, tmp_path / "run", TrainOptions(quiet=True, overwrite=True))
        weights.append(load_model(tmp_path / "run").state_dict())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


NAMES = ["line\nbreak", "x" * 201, "\x1b[31mred"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_shown_are_refused(data, name):
    with pytest.raises(UserError, match="names no class"):
        load_domain("folder", "val", data, options={"classes": ["a", name]})


def test_what_the_commands_of_classes_refuse(data, tmp_path, capsys):
    empty = tmp_path / "none.yaml"
    empty.write_text("")
    nameless = ["label 0", "LABEL_1"]
    for options, words in (
        ({"classes": str(empty)}, "no classes"),
        ({"classes": nameless}, "no class"),
    ):
        with pytest.raises(UserError, match=words):
            load_domain("folder", "val", data, options=options)
    starter = ["--starter", tmp_path / "s.yaml", "--quiet"]
    assert "is for folder" in refused(capsys, "data", "verify", "streets", *starter)
    one = tmp_path / "one #1: data"
    for kind in ("img_dir", "ann_dir"):
        (one / kind / "val").mkdir(parents=True)
        (one / kind / "test").mkdir()
        cv2.imwrite(str(one / kind / "val" / "0.jpg.png"), np.zeros((40, 60), np.uint8))
    assert "one value" in refused(capsys, "data", "verify", "folder", "--data-dir", one, *starter)
    label = np.arange(40, dtype=np.uint8).repeat(60).reshape(40, 60) // 20
    cv2.imwrite(str(one / "ann_dir" / "val" / "0.jpg.png"), label)
    option = ["--option", "image_suffix=.jpg.png", "--option", "label_suffix=.jpg.png"]
    assert revt(capsys, "data", "verify", "folder", "--data-dir", one, *option, *starter)[0] == 0
    written = yaml.safe_load((tmp_path / "s.yaml").read_text())["source"]
    assert written["data_dir"] == str(one)
    assert written["options"]["image_suffix"] == ".jpg.png"
    assert load_domain("folder", "val", one, options=written["options"])[0]["label"].max() == 1


def test_names_are_text_on_cards_and_sheets(runs, data, tmp_path, capsys):
    config = json.loads((runs / "m" / "config.json").read_text())
    shutil.copytree(runs / "m", tmp_path / "odd")
    (tmp_path / "odd" / "merge.json").unlink()
    names = {"0": "<img src=x>", "1": "[a](http://b)", "2": "two\nlines"}
    changes = {"id2label": names, "label2id": {name: int(n) for n, name in names.items()}}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | changes))
    image = data / "img_dir" / "val" / "0.png"
    command = ["predict", tmp_path / "odd", "--input", image, "--output", tmp_path / "p"]
    assert revt(capsys, *command)[0] == 0
    command = [
        "push",
        tmp_path / "odd",
        "me/odd",
        "--license",
        "mit",
        "--dry-run",
        tmp_path / "card",
    ]
    code, _, error = revt(capsys, *command, "--quiet")
    assert code == 0, error
    card = (tmp_path / "card" / "README.md").read_text()
    assert "<img" not in card
    assert "[a](http" not in card
