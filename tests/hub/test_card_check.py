"""Metadata that the Hub would reject, and places that must not be told."""

import re

import pytest
import yaml

from revt_hf.core.errors import UserError
from revt_hf.hub.cards import check_card
from revt_hf.hub.commit import last_part, without_local_paths

GOOD = {
    "library_name": "transformers",
    "pipeline_tag": "image-segmentation",
    "license": "mit",
    "tags": ["revt"],
}
METRIC = {"type": "mean_iou", "value": 3}
RESULT = {
    "task": {"type": "image-segmentation"},
    "dataset": {"type": "streets", "name": "streets"},
    "metrics": [METRIC],
}


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


def test_places_of_any_system_are_reduced():
    value = {
        "data_dir": "data/gta5/",
        "options": {"files": ["/a/b.txt", "lists/b.txt", "C:\\data\\c", "~/d", "../e"]},
        "init": "me/start@v2",
        "prepared": None,
        "steps": 3,
        "path": ".",
    }
    assert without_local_paths(value, ["me/start"]) == {
        "data_dir": "gta5",
        "options": {"files": ["b.txt", "lists/b.txt", "c", "d", "e"]},
        "init": "me/start@v2",
        "prepared": None,
        "steps": 3,
        "path": "folder",
    }
    assert without_local_paths(value)["init"] == "start"
    assert last_part("/") == "folder"
