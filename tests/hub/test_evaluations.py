"""Entries of ``.eval_results``, datasets by their Hub IDs, and collections of single models."""

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from revt_hf.core.errors import UserError
from revt_hf.data.class_mapping import ClassMapping
from revt_hf.data.domains import DOMAINS
from revt_hf.hub.commit import HubDataset
from revt_hf.hub.evaluations import evaluations_text, parse_dataset_ids
from revt_hf.hub.facts import model_facts
from revt_hf.hub.push import push
from tests.helpers.command_line import refused, revt
from tests.helpers.hub_repository import Failure
from tests.helpers.pushed import LICENSE, changed, results_of
from tests.hub.test_cards import card, metadata

FILE = ".eval_results/revt_hf.yaml"
NIGHT = {"night": HubDataset("org/roads", "night")}
EVAL = b"name: Roads\ntasks:\n  - id: night\n    split: val\n  - id: day\n"


def _entries(models, results=None, **named):
    options = replace(LICENSE, dataset_ids=named or NIGHT)
    facts = model_facts(models.revt, "me/roads", options, results or results_of(models))
    text, others = evaluations_text(facts)
    return parse_eval_result_entries(yaml.safe_load(text)) if text else [], others


def test_an_entry_tells_the_score_its_protocol_and_its_source(models):
    (entry,), others = _entries(models)
    score = next(one for one in results_of(models)[0].scores if one.label == "night/val")
    assert (entry.dataset_id, entry.task_id) == ("org/roads", "night")
    assert entry.value == round(score.miou, 2)
    assert entry.source_url == "https://huggingface.co/me/roads/blob/main/results.json"
    assert entry.notes == (
        "mIoU (%) of night/val, 2 images, protocol native size, in training: unseen, "
        "label encoding train_ids"
    )
    # Nobody recorded when it was measured: the Hub takes the date of the commit.
    assert entry.date is None
    assert others == ["source/val"]


@pytest.mark.parametrize("name", ["night/val", "night", "streets"])
def test_a_split_is_named_by_its_label_or_its_domain(models, name):
    other = {"source": HubDataset("org/roads")} if name == "streets" else {}
    (entry,), others = _entries(models, **{name: HubDataset("org/roads", "night")}, **other)
    assert "night/val" in entry.notes and others == ["source/val"]


def test_two_splits_are_not_one_task(models):
    with pytest.raises(UserError, match=r"are both task night of org/roads: name the one"):
        _entries(models, streets=HubDataset("org/roads", "night"))


def test_an_entry_tells_a_mapping_and_holds_odd_names_as_text(models):
    odd = "`<img src=x>` ](y)\n- a: b"
    first = results_of(models)[0]
    mapping = ClassMapping(name="coarse", classes={"road": "road"})
    row = {"label": f"{odd}/val", "domain": "folder", "label_encoding": odd}
    (entry,), _ = _entries(
        models, [changed(first, row, mapping=mapping)], folder=HubDataset("org/roads", "night")
    )
    assert f"of {odd}/val (mapping coarse)" in entry.notes


def test_the_file_is_pushed_and_goes_with_its_scores(models, hub, capsys):
    hub.make("datasets", "org/roads").files()["eval.yaml"] = EVAL
    arguments = ["push", models.revt, "me/revt", "--license", "mit", "--results", models.results]
    code, _, error = revt(capsys, *arguments, "--dataset-id", "night=org/roads:night")
    assert code == 0 and "source/val: scores are in the card's model-index; an entry" in error
    held = hub.model("me/revt").files()
    (entry,) = parse_eval_result_entries(yaml.safe_load(held[FILE]))
    index = yaml.safe_load(held["README.md"].decode().split("---\n")[1])["model-index"]
    scored = {one["dataset"]["type"]: one["metrics"][0]["value"] for one in index[0]["results"]}
    assert scored["org/roads"] == entry.value
    # A push without it deletes what an earlier one wrote, and nothing else.
    files = {**held, ".eval_results/theirs.yaml": b"[]"}
    hub.model("me/revt").commit("main", files)
    push(models.revt, "me/revt", LICENSE, models.results)
    assert FILE not in hub.model("me/revt").files()
    assert ".eval_results/theirs.yaml" in hub.model("me/revt").files()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "there is no dataset of that name with an eval.yaml, so it is no benchmark"),
        ({}, "there is no dataset of that name with an eval.yaml, so it is no benchmark"),
        ({"eval.yaml": b"tasks: 3"}, "its eval.yaml lists no tasks"),
        ({"eval.yaml": b"tasks: ["}, "its eval.yaml lists no tasks"),
        ({"eval.yaml": EVAL.replace(b"night", b"dusk")}, "its tasks are dusk, day"),
    ],
)
def test_a_task_that_is_none_is_refused_before_anything_is_sent(models, hub, files, words):
    if files is not None:
        hub.make("datasets", "org/roads").files().update(files)
    with pytest.raises(UserError, match=f"--dataset-id night=org/roads:night: {words}"):
        push(models.revt, "me/revt", replace(LICENSE, dataset_ids=NIGHT), models.results)
    assert ("models", "me/revt") not in hub.repositories


def test_dataset_ids_are_read_and_mistakes_are_told(models, hub, capsys):
    texts = ["cityscapes=a/b", "night/val=c/d:task/1"]
    assert parse_dataset_ids(texts) == {
        "cityscapes": HubDataset("a/b"),
        "night/val": HubDataset("c/d", "task/1"),
    }
    for text in ("cityscapes", "=a/b", "cityscapes=b", "cityscapes=a/b:", "cityscapes=a/b:a b"):
        with pytest.raises(UserError, match=r"--dataset-id .*write DOMAIN=OWNER/NAME"):
            parse_dataset_ids([text])
    with pytest.raises(UserError, match="names x twice"):
        parse_dataset_ids(["x=a/b", "x=a/c"])
    push_it = ["push", models.revt, "me/revt", "--license", "mit", "--results", models.results]
    error = refused(capsys, *push_it, "--dataset-id", "knight=a/b")
    assert "no score or training is of knight; known are night, night/val, source, " in error
    error = refused(
        capsys,
        "merge-and-push",
        models.base,
        models.pixmix,
        "me/x",
        "--output",
        "x",
        "--license",
        "mit",
        "--dataset-id",
        "b",
    )
    assert "--dataset-id b: write" in error
    assert hub.requests == []


def test_training_datasets_of_the_hub_are_linked(models, monkeypatch):
    named = card(models.revt, dataset_ids={"streets": HubDataset("org/streets")})
    assert metadata(named)["datasets"] == ["org/streets"]
    assert "datasets" not in metadata(card(models.revt))
    # Of its authors; copies by others are no homes of a dataset.
    known = {name: one.facts.hub_id for name, one in DOMAINS.items() if one.facts.hub_id}
    assert known == {"urbansyn": "UrbanSyn/UrbanSyn"}
    facts = replace(DOMAINS["streets"].facts, hub_id="authors/streets")
    monkeypatch.setattr(type(DOMAINS["streets"]), "facts", facts)
    both = metadata(card(models.revt, results_of(models), datasets=("org/more",)))
    assert both["datasets"] == ["org/more", "authors/streets"]
    types = [one["dataset"]["type"] for one in both["model-index"][0]["results"]]
    assert types == ["authors/streets"] * 2


def test_one_model_goes_into_a_collection(models, hub, capsys):
    arguments = ["push", models.revt, "me/revt", "--license", "mit", "--collection", "Our roads"]
    for _ in range(2):
        code, _, error = revt(capsys, *arguments)
        assert code == 0
    (held,) = hub.collections.values()
    assert (held.title, held.owner, held.items) == ("Our roads", "me", [("me/revt", "model")])
    assert f"collection: {hub.endpoint}/collections/{held.slug}" in error
    words = "there is no collection me/none"
    assert words in refused(capsys, *arguments[:-1], "me/none", "--private")
    assert "name the collection by its title" in refused(capsys, *arguments[:-1], " ")
    hub.failures.append(Failure("GET /api/collections", 503))
    assert "cannot push to me/revt: " in refused(capsys, *arguments)
