"""Records that strangers wrote: one sentence with the file, or a record that is right."""

import copy
import json
import random

import pytest

from revt_hf.core.errors import UserError
from revt_hf.merging.average import merge
from revt_hf.merging.record import (
    change_lines,
    describes,
    history_lines,
    member_states,
    read_merge_record,
    read_record,
    recorded_changes,
    spec_from_record,
)
from tests.helpers.segformers import saved

SHA = "0" * 64
CHANGE = {
    "kind": "recalibrated",
    "sources": [{"domain": "streets", "train": "train"}],
    "images": 3,
    "protocol": {"max_size": None},
    "before": SHA,
    "after": SHA,
    "revt_hf": "0.1.0",
}
INNER = {
    "members": [{"path": "d", "sha256": SHA, "changes": [CHANGE]}, {"path": "e", "sha256": None}],
    "base": None,
    "rules": [{"select": "norm", "method": "mean", "weights": None, "parameters": {}}],
    "head": 2,
}
RECORD = {
    "members": [
        {"path": "a", "sha256": SHA, "dropped": ["x"], "merge": INNER},
        {"path": "b", "sha256": SHA, "files": {"1": SHA, "2": SHA}},
    ],
    "base": {"path": "c", "sha256": None},
    "method": "mean",
    "selection": "backbone",
    "rules": [
        {"select": "backbone", "method": "mean", "weights": None, "parameters": {}},
        {"select": "norm", "method": "power", "weights": [1, 2.5], "parameters": {"exponent": 1}},
    ],
    "head": 1,
    "revt_hf": "0.1.0",
    "numpy": "2.0",
    "evaluation": {"max_size": [1024, 512]},
    "tensors_sha256": SHA,
    "changes": [CHANGE],
}
ODD = (None, True, -1, 10**30, 1.5, float("nan"), "", "x\n\x1b[2J", [], {}, [[]], {"a": None})


def _places(value, at=()):
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*at, key))


def _mutated(random_numbers):
    """A record with one value changed, removed or added, or its text damaged."""
    record = copy.deepcopy(RECORD)
    *where, key = random_numbers.choice([place for place in _places(record) if place])
    parent = record
    for step in where:
        parent = parent[step]
    if random_numbers.random() < 0.3:
        del parent[key]
    else:
        parent[key] = random_numbers.choice(ODD)
    text = json.dumps(record)
    if random_numbers.random() < 0.3:
        cut = random_numbers.randrange(len(text))
        text = (
            text[:cut] + random_numbers.choice(["", "]", "[" * 2000, "\x00", '"a":']) + text[cut:]
        )
    if random_numbers.random() < 0.1:
        return text.encode()[: random_numbers.randrange(len(text))] + b"\xff"
    return text.encode()


def test_mutated_records_are_right_or_one_sentence(tmp_path):
    random_numbers = random.Random(0)
    refused = 0
    for _ in range(300):
        path = tmp_path / "merge.json"
        path.write_bytes(_mutated(random_numbers))
        try:
            record = read_merge_record(path)
            change_lines(record.get("changes", []))
            [history_lines(entry) for entry in record["members"]]
            describes(record, tmp_path)
            member_states({**record, "members": record["members"][:1]})
            recorded_changes(tmp_path)
        except UserError as error:
            refused += 1
            assert "merge.json" in str(error)
            assert "\n" not in str(error)
            assert "\x1b" not in str(error)
            assert len(str(error)) < 400
            continue
        spec_from_record({**record, "changes": []}, "merge.json")
    assert 150 < refused <= 300


def test_a_whole_record_is_read(tmp_path):
    (tmp_path / "merge.json").write_text(json.dumps(RECORD))
    record = read_merge_record(tmp_path / "merge.json")
    assert record == RECORD
    assert read_record(tmp_path) == (tmp_path / "merge.json", RECORD)
    with pytest.raises(UserError, match="does not describe the weights"):
        recorded_changes(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "first"}, "head: "),
        ({"members": [{"path": "a", "sha256": SHA}]}, "members: "),
        ({"tensors_sha256": "1"}, "tensors_sha256: "),
        ({"rules": [{**RECORD["rules"][0], "weights": [float("inf"), 1]}]}, r"rules\.0\.weights"),
    ],
)
def test_the_wrong_field_is_named(tmp_path, change, words):
    (tmp_path / "merge.json").write_text(json.dumps({**RECORD, **change}))
    with pytest.raises(UserError, match=rf"merge\.json is not a merge record .*: {words}"):
        read_merge_record(tmp_path / "merge.json")


def test_a_damaged_record_of_changes_is_named(tmp_path):
    (tmp_path / "recalibration.json").write_text('{"changes": [{}], "tensors_sha256": null}')
    with pytest.raises(UserError, match=r"recalibration\.json is not a record of changes"):
        recorded_changes(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_damaged_weights_are_one_sentence_with_the_file(tmp_path, content):
    members = [saved(tmp_path / "a"), saved(tmp_path / "b")]
    for name in ("model.safetensors", "pytorch_model.bin"):
        for path in (tmp_path / "b").glob("*model*"):
            path.unlink()
        (tmp_path / "b" / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"b/{name} ") as caught:
            merge(members, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
