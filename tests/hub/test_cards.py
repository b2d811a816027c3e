"""What cards contain and what they do not, and metadata that the Hub would reject."""

import json
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from revt_hf import __version__
from revt_hf.cli.app import app
from revt_hf.cli.options import key_values
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, load_recipe, parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json, write_text
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.domains import DOMAINS, load_spec
from revt_hf.evaluation.calibration import Calibration
from revt_hf.hub.cards import card_text, check_card, method_name
from revt_hf.hub.commit import MARKER
from revt_hf.hub.facts import model_facts
from revt_hf.hub.push import PushOptions, push
from revt_hf.hub.table_cards import file_name, row_card, table_cards, write_table_cards
from revt_hf.merging.average import merge
from revt_hf.merging.recalibration import recalibrate_on_images
from revt_hf.merging.record import ChangeSource, checked_record
from revt_hf.results.published import ROWS
from tests.helpers.golden import ROOT, check_text
from tests.helpers.pushed import changed, results_of
from tests.helpers.tiny import tiny_recipe

CARDS = ROOT / "model_cards"


def card(folder, results=None, base_models=(), license="apache-2.0", **more):
    """The checked text of a folder's card."""
    options = PushOptions(license=license, base_models=base_models, **more)
    text = card_text(model_facts(Path(folder), "me/roads", options, results))
    check_card(text)
    return text


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def missing(text, *words):
    """Those of the words that a card does not contain."""
    return [word for word in words if word not in text]


def _results_section(text):
    return text.partition("## Results\n")[2].partition("\n## ")[0]


def _command(text):
    return shlex.split(re.search(r"```bash\n(revt evaluate .*)\n```", text)[1])


def _linked(folder, target, *names):
    target.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", *names):
        (target / name).symlink_to(folder / name)
    return target


def _with(folder, target, **changes):
    """A copy of a folder whose recipe has another model section, and other changes."""
    _linked(folder, target, "preprocessor_config.json")
    recipe = load_recipe(folder / "recipe.yaml").model_dump(mode="json")
    sizes = dict.fromkeys(("size", "depths", "hidden_sizes", "decoder_hidden_size"))
    recipe["model"] |= sizes | changes.pop("model", {"init": "/x"})
    write_text(target / "recipe.yaml", yaml.safe_dump({**recipe, **changes}))
    return target


def test_a_card_byte_by_byte(models):
    """A merge with results; its hashes and versions have names in card.md, its scores no digits."""
    text = card(models.revt, results_of(models))
    text = text.replace(version("numpy"), "numpy-version").replace(__version__, "our-version")
    record = read_json_object(models.revt / "merge.json")
    for member, name in zip(record["members"], ("base", "pixmix"), strict=True):
        text = text.replace(member["sha256"], f"sha256-of-{name}")
    text = text.replace(record["tensors_sha256"], "sha256-of-tensors")
    for result in results_of(models):
        for score in result.scores:
            for digits in (f"{score.miou:.2f}", f"{round(score.miou, 2)}"):
                text = text.replace(digits, "mIoU")
    check_text(text, Path(__file__).with_name("card.md"))
    assert MARKER in text
    for words in ("[More", "None", str(models.revt.parent), "/tmp", "/root", "/home"):
        assert words not in text + card(models.base, results_of(models))


def test_a_card_without_results_has_no_numbers(models):
    text = card(models.revt)
    assert "Not evaluated." in _results_section(text)
    assert "mIoU" not in text and "model-index" not in text
    # Versions are all that is left; 2308.13331 is the paper.
    told = re.findall(r"\d+\.[\d.]*\d", text.replace("apache-2.0", ""))
    assert set(told) == {"2308.13331", __version__, version("numpy")}


def test_a_members_card_holds_its_recipe(models, tmp_path):
    text = card(models.pixmix)
    assert "augmentation method 4 (pixmix): 3 steps of 2 images" in text
    assert "model-merging" not in text
    folded = re.search(
        r"<summary>Training recipe \(recipe.yaml\)</summary>\n\n```yaml\n(.*?)```", text, re.DOTALL
    )
    write_text(tmp_path / "recipe.yaml", folded[1])
    assert load_recipe(tmp_path / "recipe.yaml") == load_recipe(models.pixmix / "recipe.yaml")


def test_a_card_tells_that_images_were_drawn_by_class():
    recipe = tiny_recipe(augmentation={"method": 4}, train={"rare_classes": {}})
    assert method_name(recipe) == "4 (pixmix) and rare class sampling"


def test_the_results_are_the_measured_ones(models):
    scores = results_of(models)[0].scores
    text = card(models.revt, results_of(models))
    told = {result.dataset_name: result for result in ModelCard(text).data.eval_results}
    for score in scores:
        assert told[score.label].metric_value == round(score.miou, 2)
        assert f"| {score.label} | " in text and f"| {score.miou:.2f} |" in text
    measured = {f"{score.miou:.2f}" for score in scores}
    assert set(re.findall(r"\d+\.\d+", _results_section(text))) == measured
    assert len(told) == len(scores) == 2


def test_calibration_stands_below_the_results_it_was_measured_with(models):
    (result, *_) = results_of(models)
    assert "Confidence on" not in card(models.revt, [result])
    known = {"ece": 3.214, "brier": 0.25, "nll": None, "auroc": 81.5, "aurc": 4.0}
    score = result.scores[0].model_copy(update={"calibration": Calibration(**known)})
    text = card(models.revt, [result.model_copy(update={"scores": (score,)})])
    words = (
        f"Confidence on {score.label} (",
        "expected calibration error 3.21 %, Brier score 0.250, NLL infinite, AUROC",
        "pixels 81.50 %, area under the risk-coverage curve 4.00 %.",
    )
    assert missing(_results_section(text), *words) == []


def test_results_of_the_pushed_model_count_and_other_models_do_not(models):
    own, other = results_of(models)
    told = f"{own.scores[0].miou:.2f}"
    assert told in card(models.revt, [changed(own, model="me/roads@v1")])
    # A label (NAME=PATH) is no folder: the weights are those of the folder.
    assert told in card(models.revt, [changed(own, model="merged"), other])
    for name in ("you/roads", str(models.base), "revt"):
        with pytest.raises(UserError, match=f"results, but none of .*revt: they are of {name}"):
            card(models.revt, [changed(other, model=name)])
    with pytest.raises(UserError, match="does not tell which weights it was measured on"):
        card(models.revt, [changed(own, network_sha256=())])
    with pytest.raises(UserError, match="twice on night/val"):
        card(models.revt, [own, own])


def _scaled(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["decode_head.classifier.bias"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _normalised(folder):
    path = folder / "preprocessor_config.json"
    write_json(path, {**read_json_object(path), "image_mean": [0.1, 0.2, 0.3]})


def _renamed(folder):
    config = read_json_object(folder / "config.json")
    names = [*config["id2label"].values()][::-1]
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    write_json(folder / "config.json", {**config, **labels})


@pytest.mark.parametrize("change", [_scaled, _normalised, _renamed])
def test_results_of_what_the_folder_held_before_are_refused(models, tmp_path, change):
    folder = shutil.copytree(models.base, tmp_path / "base")
    rows = [changed(results_of(models)[1], model=str(folder))]
    before = card(folder, rows)
    write_json(folder / "config.json", {**read_json_object(folder / "config.json"), "note": "x"})
    assert card(folder, rows) == before
    change(folder)
    words = rf"results\[0\] \({folder}\) was measured on other weights, .* again"
    with pytest.raises(UserError, match=words):
        card(folder, rows)


def test_ones_own_folders_are_told_apart_and_what_was_trained_on_is_not_unseen(models, tmp_path):
    source = {"domain": "folder", "data_dir": "/data/camvid", "options": {}}
    trained = _with(models.base, tmp_path / "a", source=source, targets=[])
    own = [
        {"domain": "folder", "config": None, "label": f"{name}/{split}", "split": split}
        for name, split in (("camvid", "val"), ("camvid", "dusk"), ("My dusk|x", "val"))
    ]
    measured = changed(results_of(models)[1], *own, model=str(trained))
    text = card(trained, [measured])
    types = [result.dataset_type for result in ModelCard(text).data.eval_results]
    assert types == ["camvid", "camvid", "my-dusk-x"]
    assert "| camvid/val | source |" in text
    assert "| camvid/dusk | unseen |" in text
    assert "| My dusk\\|x/val | unseen |" in text
    (trained / "recipe.yaml").unlink()
    text = card(trained, [changed(measured, {**own[0], "is_source": True}, own[1])])
    assert "| camvid/val | source |" in text
    assert "| camvid/dusk | not recorded |" in text
    assert "holds no record of how the model was made" in text


def test_the_line_that_measures_it_again(models):
    words = _command(card(models.revt, results_of(models)))
    assert words[:3] == ["revt", "evaluate", "me/roads"]
    values = dict(zip(words[3::2], words[4::2], strict=True))
    assert (values["--domain"], values["--config"]) == ("streets", "night")
    assert (values["--max-size"], values["--option"]) == ("native", "val_images=2")
    # The member's recipe knows the options, which results do not hold.
    options = key_values([values["--option"]])
    assert len(load_spec(DomainSpec(domain="streets", config="night", options=options), "val")) == 2
    assert _command(card(models.base)) == words
    other = {"domain": "cityscapes", "config": None, "label": "c/val"}
    given = _command(card(models.revt, [changed(results_of(models)[0], other)]))
    assert given[given.index("--data-dir") + 1] == "data/cityscapes"
    mapping = ClassMapping(name="ade20k", classes={"road": "road"}, missing=("rider",))
    mapped = [results_of(models)[0].model_copy(update={"mapping": mapping})]
    text = card(models.revt, mapped)
    assert "IoU 0 where labelled: rider" in _results_section(text)
    assert "(mapping ade20k)" in metadata(text)["model-index"][0]["results"][0]["dataset"]["name"]
    given += _command(text)
    assert given[given.index("--map") + 1] == "ade20k"
    known = typer.main.get_command(app).commands["evaluate"].params
    flags = {flag for parameter in known for flag in parameter.opts}
    assert {word for word in (*words, *given) if word.startswith("--")} <= flags


def test_hub_models_are_named_and_folders_are_not(models, tmp_path):
    text = card(_with(models.base, tmp_path / "a", model={"init": "nvidia/mit-b2@main"}))
    assert metadata(text)["base_model"] == ["nvidia/mit-b2"]
    assert metadata(text)["base_model_relation"] == "finetune"
    assert "Training started from `nvidia/mit-b2@main`, whose license applies, too." in text
    for number, init in enumerate(("runs/start", "/data/me/start", "../start", "~/start")):
        text = card(_with(models.base, tmp_path / f"b{number}", model={"init": init}))
        assert "base_model" not in metadata(text)
        assert "init: start\n" in text and init not in text
    folder = _with(models.base, tmp_path / "c", model={"init": "me/start"})
    text = card(folder, base_models=["me/start"])
    assert metadata(text)["base_model"] == ["me/start"]
    assert "init: me/start\n" in text


def test_data_are_named_with_their_license(models, tmp_path):
    source = {"domain": "gta5", "data_dir": "/data/gta5", "options": {"split_files": {"a": "/b/c"}}}
    text = card(_with(models.base, tmp_path / "a", source=source))
    assert "Training data `gta5`: for research and educational use only." in text
    assert "data_dir: gta5" in text
    assert "a: c\n" in text
    assert metadata(card(models.base, datasets=["me/streets"]))["datasets"] == ["me/streets"]


def test_members_of_the_hub(models, tmp_path):
    record = read_json_object(models.revt / "merge.json")
    record["members"][0]["path"] = "me/base@v1"
    record["members"][1]["sha256"] = None
    rule = {"select": "all", "method": "slerp", "weights": [0.25, 0.75], "parameters": {"t": 0.5}}
    base = {"path": "/data/init", "sha256": None}
    _linked(models.revt, tmp_path)
    write_json(tmp_path / "merge.json", {**record, "rules": [*record["rules"], rule], "base": base})
    text = card(tmp_path, base_models=["me/base"])
    assert metadata(text)["base_model"] == ["me/base"]
    assert metadata(text)["base_model_relation"] == "merge"
    assert "revt" not in metadata(text)["tags"]
    assert not missing(
        text,
        *(
            "| [`me/base@v1`](https://huggingface.co/me/base/tree/v1) | not recorded |",
            "| `pixmix` | not recorded | not recorded |",
        ),
        '- the members\' tensors `all`: `slerp`, weights [0.25, 0.75], parameters {"t": 0.5}',
        *("every other tensor: that of `me/base@v1`", '"path": "init"'),
        "\n- base, the members' common start: `init`\n",
    )
    without = card(tmp_path)
    assert "me/base" not in without
    assert "| `base` | not recorded |" in without
    # The record may know that it is no folder.
    record["members"][0]["hub"] = {"commit": "1" * 40, "verified": False}
    write_json(tmp_path / "merge.json", record)
    text = card(tmp_path)
    assert metadata(text)["base_model"] == ["me/base"]
    assert "| [`me/base@v1`](https://huggingface.co/me/base/tree/v1) | not recorded |" in text
    assert f"read in parts at commit {'1' * 40}; its sha256 is the Hub's word" in text


@pytest.fixture(scope="module")
def recalibrated(models, tmp_path_factory):
    """The recalibrated merge and the recalibrated member, by name."""
    root = tmp_path_factory.mktemp("recalibrated")
    images = [{"image": np.zeros((64, 128, 3), np.uint8)}] * 3
    sources = (ChangeSource("streets", "train", "/data/streets"),)
    for name in ("revt", "base"):
        source = getattr(models, name)
        recalibrate_on_images(source, root / name, images, Protocol(max_size=None), sources=sources)
    return {name: root / name for name in ("revt", "base")}


def test_a_recalibrated_model_is_told_as_such(models, recalibrated, tmp_path):
    for name, folder in recalibrated.items():
        text = card(folder)
        assert "Then recalibrated on 3 images of streets: mean and variance" in text
        assert "recalibrated afterwards" in text
        assert "/data/streets" not in text
        assert "recalibrated" not in card(getattr(models, name))
        push(folder, "me/revt", PushOptions(license="mit", dry_run=tmp_path / name))
        assert checked_record(tmp_path / name).changes[0].images == 3


def test_a_merge_of_merges_is_told_as_such(models, recalibrated, tmp_path):
    text = card(merge([recalibrated["base"], models.pixmix], tmp_path / "flat"))
    assert "a [ReVT](https://arxiv.org/abs/2308.13331) of 2 fine-tuned models (1 recalibr" in text
    assert "`base`: then recalibrated on 3 images of streets" in text
    nested = merge([*recalibrated.values(), models.pixmix], tmp_path / "nested")
    text = card(nested)
    assert not missing(
        text,
        "a merge of 3 models (1 merged before, 2 recalibrated before), made",
        "`revt`: itself a merge of base, pixmix (mean of ",
        "`revt`: then recalibrated on 3 images of streets",
    )
    assert "revt" not in metadata(text)["tags"]
    sent = tmp_path / "sent"
    push(nested, "me/revt", PushOptions(license="mit", dry_run=sent))
    entries = json.loads((sent / "merge.json").read_text())["members"]
    assert [member["path"] for member in entries[0]["merge"]["members"]] == ["base", "pixmix"]
    assert entries[1]["changes"][0]["images"] == 3
    content = b"".join(file.read_bytes() for file in sent.iterdir())
    assert str(recalibrated["base"].parent).encode() not in content
    assert b"/data/streets" not in content


def test_members_that_are_called_by_numbers(models, tmp_path, monkeypatch):
    for name, source in (("1", models.pixmix), ("2", models.base)):
        (tmp_path / name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    merge(["2", "1"], "revt")
    text = card("revt")
    assert "every other tensor: that of `2`" in text
    assert '"head": 1,' in text
    assert re.findall(r"^\| `(\d)` \| (\d) ", text, re.MULTILINE) == [("2", "1"), ("1", "4")]


@pytest.mark.parametrize(
    ("license", "wanted"),
    [
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("My  own terms, §1", {"license": "other", "license_name": "my-own-terms-1"}),
    ],
)
def test_the_license_in_words(models, license, wanted):
    text = card(models.revt, license=license)
    assert metadata(text).items() >= wanted.items()
    assert f"License of the weights: {' '.join(license.split())}." in text


TASK = "image-segmentation"
GOOD = {"library_name": "transformers", "pipeline_tag": TASK, "license": "mit", "tags": ["revt"]}
METRIC = {"type": "mean_iou", "value": 3}
DATASET = {"type": "streets", "name": "streets"}
RESULT = {"task": {"type": TASK}, "dataset": DATASET, "metrics": [METRIC]}


def _index(**changes):
    return {"model-index": [{"name": "roads", "results": [{**RESULT, **changes}]}]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"library_name": None}, "library_name"),
        ({"pipeline_tag": "text-generation"}, "pipeline_tag"),
        ({"license": "apache"}, "license: 'apache'"),
        ({"license": "other"}, "license_name"),
        ({"license": "other", "license_name": "My Own"}, "license_name"),
        ({"tags": []}, "tags"),
        ({"tags": [1]}, "tags.0"),
        ({"base_model": "/tmp/start"}, "base_model"),
        ({"base_model": ["me/a", "init"]}, "base_model"),
        ({"base_model_relation": "merge"}, "base_model"),
        ({"base_model": "me/a", "base_model_relation": "child"}, "base_model_relation"),
        ({"datasets": ["no id"]}, "datasets"),
        ({"model-index": []}, "model-index"),
        ({"model-index": [{"name": "roads"}]}, "model-index.0.results"),
        (_index(task={}), "model-index.0.results.0.task.type"),
        (_index(task={"type": "image-classification"}), "model-index.0.results.0.task.type"),
        (_index(dataset={"type": "streets"}), "model-index.0.results.0.dataset.name"),
        (_index(metrics=[]), "model-index.0.results.0.metrics"),
        (_index(metrics=[{**METRIC, "value": "3"}]), "results.0.metrics.0.value"),
        (_index(metrics=[{**METRIC, "value": float("nan")}]), "results.0.metrics.0.value"),
    ],
)
def test_metadata_that_the_hub_would_reject_are_refused_by_field(changes, field):
    good = {**GOOD, "base_model": ["me/a"], "base_model_relation": "merge", **_index()}
    check_card(f"---\n{yaml.safe_dump(good)}---\n\n# roads\n")
    bad = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=f"the model card's .*{re.escape(field)}") as caught:
        check_card(f"---\n{yaml.safe_dump(bad)}---\n\n# roads\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# roads\n", "does not start with metadata"),
        ("---\na: [\n---\n\n# roads\n", "are not YAML"),
        ("---\n- a\n---\n\n# roads\n", "not a YAML mapping"),
        (f"---\n{yaml.safe_dump(GOOD)}---\n\n", "not filled in"),
        (f"---\n{yaml.safe_dump(GOOD)}---\n\n[More Information Needed]\n", "not filled in"),
    ],
)
def test_a_card_that_is_none_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        check_card(text)


def _contents(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_the_folder_is_what_is_rendered(tmp_path):
    """``python -m revt_hf.hub.table_cards`` writes them anew."""
    write_table_cards(tmp_path)
    assert _contents(CARDS) == _contents(tmp_path)
    assert len(_contents(CARDS)) == 18 + 1


@pytest.mark.parametrize("row", ROWS, ids=file_name)
def test_a_card(row):
    text = row_card(row)
    check_card(text)
    assert "model-index" not in text
    assert "the paper's" in text
    assert f"| Cityscapes | {row.miou['cityscapes/val']:.2f} |" in text
    assert f"| BDD100K | {row.miou['bdd100k/val']:.2f} |" in text
    assert ("Weights not published" in text) == (row.link is None)
    assert "planned" in text
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    recipe = parse_recipe(values, file_name(row))
    assert recipe.source.domain == row.source
    assert {spec.domain for spec in (recipe.source, *recipe.targets)} <= DOMAINS.keys()
    numbers = re.findall(r"--set augmentation\.method=(\d)", text)
    assert tuple(map(int, numbers)) == row.methods
    assert ("revt merge" in text) == row.is_merge


def test_links_between_documents_lead_somewhere():
    for name, text in table_cards().items():
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
            assert (CARDS / link).exists(), (name, link)
