"""Records that strangers wrote: one sentence with the file, or a record that is right."""

import json

import pytest

from revt_hf.core.errors import UserError
from revt_hf.merging.member_states import member_states
from revt_hf.merging.record import (
    MergeRecord,
    checked_record,
    describes,
    read_merge_record,
    read_record,
)
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses

SHA = "0" * 64
CHANGE = {
    "kind": "recalibrated",
    "sources": [{"domain": "streets", "train": "train", "weight": 1.0}],
    "images": 3,
    "protocol": {"max_size": None},
    "before": SHA,
    "after": SHA,
    "revt_hf": "0.1.0",
}
INNER = {
    "members": [{"path": "d", "sha256": SHA, "changes": [CHANGE]}, {"path": "e", "sha256": None}],
    "base": None,
    "rules": [{"select": "norm", "method": "mean"}],
    "head": 2,
}
RECORD = {
    "format": "revt_hf.merge/1",
    "members": [
        {"path": "a", "sha256": SHA, "name": "first", "dropped": ["x"], "merge": INNER},
        {"path": "b", "sha256": SHA, "files": {"1": SHA, "2": SHA}, "added": ["y"]},
    ],
    "base": {"path": "c", "sha256": None},
    "rules": [
        {"select": "backbone", "method": "mean"},
        {"select": "norm", "method": "power", "weights": [1, 2.5], "parameters": {"exponent": 1}},
        {"select": "mlp", "method": "power", "layer_weights": {"anchor": 2, "share": 0.5}},
    ],
    "head": 1,
    "revt_hf": "0.1.0",
    "numpy": "2.0",
    "evaluation": {"max_size": [1024, 512]},
    "tensors_sha256": SHA,
    "changes": [CHANGE],
}


def _use(folder):
    """Everything that is done with a record; what it writes can be read again."""
    record = read_merge_record(folder / "merge.json")
    [(str(member), member.history()) for member in record.inputs]
    [str(change) for change in record.changes]
    describes(record, folder)
    member_states(record)
    (folder / "merge.json").write_text(json.dumps(record.to_json()))
    assert read_merge_record(folder / "merge.json") == record
    return record


def test_mutated_records_are_right_or_one_sentence(tmp_path):
    refused = 0
    for rng, where in cases("merge.json"):
        if rng.random() < 0.7:
            content = json.dumps(mutated_json(RECORD, rng)).encode()
        else:
            content = mutated_bytes(json.dumps(RECORD).encode(), rng)
        (tmp_path / "merge.json").write_bytes(content)
        refused += reads_or_refuses(lambda: _use(tmp_path), where) is None
    assert 100 < refused < 300


def test_a_whole_record_is_read_and_written(tmp_path):
    (tmp_path / "merge.json").write_text(json.dumps(RECORD))
    record = _use(tmp_path)
    assert isinstance(record, MergeRecord)
    assert record.to_json() == RECORD
    assert next(iter(record.to_json())) == "format"
    assert read_record(tmp_path) == record
    assert str(record.members[0]) == "first (a)"
    with pytest.raises(UserError, match="does not describe the weights"):
        checked_record(tmp_path)
    with pytest.raises(UserError, match=r"merge\.json describes weights that were recalibrated"):
        record.spec("merge.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "revt_hf.merge/2"}, "format: "),
        ({"head": "first"}, "head: "),
        ({"head": 3}, "head is the number of a member, not 3"),
        ({"members": [{"path": "a", "sha256": SHA}]}, "members: "),
        ({"tensors_sha256": "1"}, "tensors_sha256: "),
        ({"rules": []}, "rules: "),
        ({"rules": [{**RECORD["rules"][0], "weights": [float("inf"), 1]}]}, r"rules\.0\.weights"),
        ({"changes": [{**CHANGE, "images": 0}]}, r"changes\.0\.images"),
        ({"changes": [{**CHANGE, "sources": [{"domain": "/", "train": ""}]}]}, r"\.domain"),
    ],
)
def test_the_wrong_field_is_named(tmp_path, change, words):
    (tmp_path / "merge.json").write_text(json.dumps({**RECORD, **change}))
    with pytest.raises(
        UserError, match=rf"merge\.json is not a merge record of revt_hf: .*{words}"
    ):
        read_merge_record(tmp_path / "merge.json")


def test_a_damaged_record_of_changes_is_named(tmp_path):
    (tmp_path / "changes.json").write_text('{"changes": [{}], "tensors_sha256": null}')
    with pytest.raises(UserError, match=r"changes\.json is not a record of changes"):
        checked_record(tmp_path)
