"""Files that change while they are read: refused, and nothing is left."""

import os
from dataclasses import replace

import pytest
import torch

from revt_hf.checkpoints.tensors import Stamps
from revt_hf.core.errors import UserError
from revt_hf.merging import average
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.record import read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models import convert as converting
from tests.helpers.segformers import change_tensors, random_state, saved, saved_state, tiny


def overwritten(path):
    """The same number of other bytes in the same file, its time set back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").rename(path)


CHANGES = {
    "overwritten": overwritten,
    "replaced": replaced,
    "removed": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "made": lambda path: path.write_text("{}"),
}


@pytest.fixture
def during(monkeypatch):
    """Call a function when the members are opened and the first bytes are written."""
    stream = average.stream

    def install(function):
        monkeypatch.setattr(average, "stream", lambda *a: [stream(*a), function()][0])

    return install


@pytest.mark.parametrize("hashing", [False, True])
@pytest.mark.parametrize(
    ("member", "name", "change"),
    [
        *(("a", "model.safetensors", change) for change in CHANGES if change != "made"),
        *(("b", "config.json", change) for change in CHANGES if change != "made"),
        ("b", "preprocessor_config.json", "replaced"),
        ("c", "preprocessor_config.json", "made"),
    ],
)
def test_a_member_that_changes_during_a_merge(tmp_path, during, change, name, member, hashing):
    members = [saved(tmp_path / letter, seed) for seed, letter in enumerate("ab")]
    members.append(saved(tmp_path / "c", 2, processor=False))
    during(lambda: CHANGES[change](tmp_path / member / name))
    with pytest.raises(UserError, match=rf"{member}/{name} changed while it was read") as caught:
        merge(members, tmp_path / "out", options=MergeOptions(hashing=hashing))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".out*/model.safetensors"))
    assert not (tmp_path / "out").exists()


def test_torch_files_shards_and_the_base_count_too(tmp_path, during):
    torch.save(tiny(0).state_dict(), tmp_path / "x.pth")
    tiny(1).save_pretrained(tmp_path / "shards", max_shard_size="400KB")
    base = saved(tmp_path / "base", 2)
    members = (str(tmp_path / "x.pth"), str(tmp_path / "shards"))
    spec = MergeSpec(members, (Rule(method="wise_ft"),), base=str(base))
    shard = sorted((tmp_path / "shards").glob("model-*"))[1]
    index = tmp_path / "shards" / "model.safetensors.index.json"
    merge(spec, tmp_path / "fine")
    for path in (tmp_path / "x.pth", shard, base / "model.safetensors", index):
        during(lambda path=path: overwritten(path))
        with pytest.raises(UserError, match=rf"{path.name} changed while it was read"):
            merge(spec, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_file_that_changes_during_a_conversion(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    torch.save(tiny().state_dict(), path)
    save = converting.save_file
    monkeypatch.setattr(converting, "save_file", lambda *a, **k: [save(*a, **k), replaced(path)][0])
    with pytest.raises(UserError, match=r"x\.pth changed while it was read"):
        converting.convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stamp_is_of_the_file_and_not_of_its_name(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    stamps = Stamps([path, tmp_path / "absent"])
    stamps.check()
    (tmp_path / "absent").write_text("2")
    with pytest.raises(UserError, match="absent changed"):
        stamps.check()


def test_a_repeated_merge_gives_the_recorded_weights_or_nothing(tmp_path):
    members = [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(2)]
    record = read_merge_record(merge(members, tmp_path / "out") / "merge.json")
    options = MergeOptions(repeats=record)
    merge(members, tmp_path / "again", options=options)
    change_tensors(members[1], lambda state: state.update(random_state(7)))
    with pytest.raises(UserError, match="m1 is not what was merged: its sha256 is"):
        merge(members, tmp_path / "no", options=options)
    unknown = tuple(replace(member, sha256=None) for member in record.members)
    other = replace(record, tensors_sha256="0" * 64, members=unknown)
    with pytest.raises(UserError, match="gives other weights than those of the record"):
        merge(members, tmp_path / "no", options=MergeOptions(repeats=other))
    assert not (tmp_path / "no").exists()
