"""The merge: right numbers for any dtype, order and method; little memory; all or nothing."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.checkpoints.headers import header_bytes, tensors_sha256
from revt_hf.checkpoints.local_files import Stamps
from revt_hf.checkpoints.names import disk_name
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.merging import average
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.member_states import member_states
from revt_hf.merging.merge_plan import make_plan
from revt_hf.merging.record import MemberRecord, read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models import convert as converting
from tests.helpers.command_line import measured_command
from tests.helpers.segformers import (
    BIG,
    COUNTER,
    change_tensors,
    random_state,
    saved,
    saved_state,
    tensors_of,
    tiny,
)

NAMES = [
    "segformer.encoder.patch_embeddings.0.proj.weight",
    "segformer.encoder.block.1.0.attention.self.query.weight",
    "decode_head.classifier.weight",
]
BIAS = "segformer.encoder.layer_norm.2.bias"


@pytest.fixture
def members(tmp_path):
    return [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(3)]


def _spec(members, *rules, **more):
    return MergeSpec(tuple(map(str, members)), rules or (Rule(),), **more)


def _same(folder, other):
    ours, theirs = tensors_of(folder), tensors_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def _only_members(folder):
    return sorted(path.name for path in folder.iterdir()) == ["m0", "m1", "m2"]


F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
MIXED = (F32, F16, BF16)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("dtypes", "head"),
    [*(((dtype,) * 3, 1) for dtype in (F16, BF16, F32, F64)), *((MIXED, n) for n in (1, 2, 3))],
)
def test_the_encoder_is_the_mean_summed_wide_and_the_head_is_copied(tmp_path, dtypes, head):
    states = [random_state(at, dtype) for at, dtype in enumerate(dtypes)]
    folders = [saved_state(tmp_path / f"m{at}", state) for at, state in enumerate(states)]
    out = merge(_spec(folders, head=head) if head > 1 else folders, tmp_path / "out")
    wide = F64 if dtypes[0] is F64 else F32
    merged = tensors_of(out)
    assert merged.keys() == states[0].keys()
    for name, tensor in merged.items():
        expected = states[head - 1][name]
        if name.startswith("segformer."):
            total = states[0][name].to(wide) + states[1][name] + states[2][name]
            expected = (total / 3).to(dtypes[head - 1])
        assert torch.equal(tensor, expected), name
        assert tensor.dtype == expected.dtype
    config = json.loads((out / "config.json").read_text())
    assert f"torch.{config['dtype']}" == str(dtypes[head - 1])


@pytest.mark.parametrize("method", ["mean", "weighted_mean", "min", "median", "slerp", "power"])
def test_pieces_give_what_the_whole_gives(members, tmp_path, monkeypatch, method):
    used = members[:2] if method == "slerp" else members
    weights = (1.0, 2.0, 5.0) if method == "weighted_mean" else None
    for size in (500, 1 << 20):
        for name in ("_BUFFER_BYTES", "_SMALLEST"):
            monkeypatch.setattr(f"revt_hf.merging.streaming.{name}", size)
        merge(_spec(used, Rule(method=method, weights=weights)), tmp_path / str(size))
    assert _same(tmp_path / "500", tmp_path / str(1 << 20))


@pytest.mark.numeric
def test_names_in_memory_and_another_order_of_tensors_change_nothing(tmp_path):
    a, b, memory, other = (tmp_path / name for name in ("a", "b", "memory", "other"))
    saved(a, 0), saved(b, 1)
    model = SegformerForSemanticSegmentation.from_pretrained(b)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert set(map(disk_name, state)) == tensors_of(b).keys() != state.keys()
    shutil.copytree(b, memory)
    save_file(state, memory / "model.safetensors")
    # safetensors sorts by name within a dtype, so the other order is written by hand.
    shutil.copytree(b, other)
    entries, data = {}, b""
    for name, tensor in reversed(tensors_of(b).items()):
        offsets = [len(data), len(data) + tensor.nbytes]
        kind = "I64" if tensor.dtype == torch.int64 else "F32"
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        data += tensor.numpy().tobytes()
    (other / "model.safetensors").write_bytes(header_bytes(entries) + data)
    usual = merge([a, b], tmp_path / "usual")
    for odd in (memory, other):
        mixed = merge([a, odd], tmp_path / f"with-{odd.name}")
        assert _same(mixed, usual)
        record = read_merge_record(mixed / "merge.json")
        assert record.members[1].sha256 == file_sha256(odd / "model.safetensors")


def test_neighbours_are_one_run(members):
    with ExitStack() as stack:
        plan = make_plan(_spec(members), stack)
        found = list(plan.runs())
    assert sum(run.last - run.first for run in found) == len(plan.items)
    assert len(found) < len(plan.items)


@pytest.mark.numeric
def test_rules_by_selection_and_the_last_one_counts(members, tmp_path):
    last = Rule("stage2", "weighted_mean", (0.0, 0.0, 1.0))
    rules = (Rule("backbone"), last, Rule("head", "min"))
    merged = tensors_of(merge(_spec(members, *rules), tmp_path / "out"))
    states = [tensors_of(member) for member in members]
    assert torch.equal(merged[NAMES[1]], states[2][NAMES[1]])
    expected = torch.stack([state[NAMES[2]] for state in states]).min(0).values
    assert torch.equal(merged[NAMES[2]], expected)
    assert merged[COUNTER] == 5  # whole numbers are copied from the head's member
    assert not torch.equal(merged[NAMES[0]], states[0][NAMES[0]])


WITH_BASE = ("task_arithmetic", "ties", "dare", "wise_ft", "model_stock")


@pytest.mark.parametrize("method", [*WITH_BASE, "tsv_m", "iso_c", "iso_cts", "score"])
def test_methods_with_a_base(members, tmp_path, method):
    base = saved_state(tmp_path / "base", random_state(9))
    out = merge(_spec(members, Rule(method=method), base=str(base)), tmp_path / "out")
    merged = tensors_of(out)
    assert all(merged[n].isfinite().all() for n in merged if n.startswith("segformer."))
    record = read_merge_record(out / "merge.json")
    assert record.base.sha256 == file_sha256(base / "model.safetensors")


def test_the_record_stands_in_the_file_and_beside_it(members, tmp_path):
    out = merge(members, tmp_path / "out")
    _whole(out)
    with safe_open(out / "model.safetensors", framework="np") as file:
        assert file.metadata()["format"] == "pt"
    for entry, member in zip(read_merge_record(out / "merge.json").members, members, strict=True):
        assert entry == MemberRecord(str(member), file_sha256(member / "model.safetensors"))


def test_changed_and_vanished_members_are_told(members, tmp_path):
    record = read_merge_record(merge(members, tmp_path / "out") / "merge.json")
    assert member_states(record) == ["same"] * 3
    change_tensors(members[1], lambda state: state[NAMES[0]].zero_())
    (members[2] / "model.safetensors").unlink()
    assert member_states(record) == ["same", "changed", "gone"]
    quick = merge(members[:2], tmp_path / "quick", options=MergeOptions(hashing=False))
    assert member_states(read_merge_record(quick / "merge.json")) == ["unknown"] * 2


def test_a_repeated_merge_gives_the_recorded_weights_or_nothing(members, tmp_path):
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop(BIAS), f"{BIAS} is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' has no place"),
        (lambda state: state.update({BIAS: torch.zeros(3)}), rf"{BIAS}'? is \[3\], not \[40\]"),
        (lambda state: state[BIAS].fill_(torch.nan), f"m1: the tensor {BIAS} holds NaN"),
        (lambda state: state[BIAS].fill_(-torch.inf), f"m1: the tensor {BIAS} holds NaN"),
    ],
    ids=["missing", "extra", "shape", "NaN", "infinity"],
)
def test_what_does_not_match_is_named_and_nothing_is_written(members, tmp_path, change, words):
    change_tensors(members[1], change)
    for method in ("mean", "min"):
        with pytest.raises(UserError, match=words):
            merge(_spec(members, Rule(method=method)), tmp_path / "out")
    assert _only_members(tmp_path)


def test_nan_can_be_allowed(members, tmp_path):
    change_tensors(members[0], lambda state: state[NAMES[2]].view(-1)[5:6].fill_(torch.nan))
    with pytest.raises(UserError, match=rf"m0: the tensor {NAMES[2]} holds NaN or infinity"):
        merge(members, tmp_path / "out")
    out = merge(members, tmp_path / "out", options=MergeOptions(allow_nonfinite=True))
    assert not tensors_of(out)[NAMES[2]].isfinite().all()


def test_bad_members_and_outputs(members, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "keep.txt").write_text("precious")
    for used, output, overwrite, words in (
        (members[:1], tmp_path / "out", False, "at least two"),
        ([members[0], "/nowhere"], tmp_path / "out", False, "nowhere.*no such file or folder"),
        (members[:2], members[0], True, "is or holds the input"),
        (members[:2], full, False, "full exists already"),
        (members[:2], full, True, "full was not written by revt"),
    ):
        with pytest.raises(UserError, match=words):
            merge(used, output, MergeOptions(overwrite=overwrite))
    assert (full / "keep.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_damaged_weights_are_one_sentence_with_the_file(members, tmp_path, name, content):
    (members[1] / "model.safetensors").unlink()
    (members[1] / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"m1/{name} ") as caught:
        merge(members, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# Files that change while they are read.


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
    ("name", "change"),
    [
        *(("a/model.safetensors", change) for change in CHANGES if change != "made"),
        *(("b/config.json", change) for change in CHANGES if change != "made"),
        ("b/preprocessor_config.json", "replaced"),
        ("c/preprocessor_config.json", "made"),
    ],
)
def test_a_member_that_changes_during_a_merge(tmp_path, during, change, name, hashing):
    folders = [saved(tmp_path / letter, seed) for seed, letter in enumerate("ab")]
    folders.append(saved(tmp_path / "c", 2, processor=False))
    during(lambda: CHANGES[change](tmp_path / name))
    with pytest.raises(UserError, match=rf"{name} changed while it was read") as caught:
        merge(folders, tmp_path / "out", options=MergeOptions(hashing=hashing))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".out*/model.safetensors"))
    assert not (tmp_path / "out").exists()


def test_torch_files_shards_and_the_base_count_too(tmp_path, during):
    torch.save(tiny(0).state_dict(), tmp_path / "x.pth")
    shards, base = tmp_path / "shards", saved(tmp_path / "base", 2)
    tiny(1).save_pretrained(shards, max_shard_size="400KB")
    spec = _spec([tmp_path / "x.pth", shards], Rule(method="wise_ft"), base=str(base))
    merge(spec, tmp_path / "fine")
    index, shard = shards / "model.safetensors.index.json", sorted(shards.glob("model-*"))[1]
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


def test_a_source_that_shrinks_is_told(members, tmp_path, monkeypatch):
    def shrinking(*arguments, **options):
        plan = make_plan(*arguments, **options)
        os.truncate(members[1] / "model.safetensors", 900)
        return plan

    monkeypatch.setattr(average, "make_plan", shrinking)
    with pytest.raises(UserError, match=r"m1/model\.safetensors ended while it was read"):
        merge(members, tmp_path / "out")
    assert _only_members(tmp_path)


def test_a_full_disk_is_one_sentence(members, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(average, "stream", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        merge(members, tmp_path / "out")
    assert _only_members(tmp_path)


def _whole(folder):
    """The weights; the record beside them is theirs."""
    with safe_open(folder / "model.safetensors", framework="np") as file:
        inside = json.loads(file.metadata()["revt_hf"])
    record = read_merge_record(folder / "merge.json")
    assert record.evaluation
    assert record.tensors_sha256 == tensors_sha256(folder / "model.safetensors")
    assert inside == record.to_json()
    assert (folder / "config.json").exists()
    return (folder / "model.safetensors").read_bytes()


def test_killed_at_any_moment_there_is_the_old_or_the_new(tmp_path):
    for seed in range(3):
        saved_state(tmp_path / f"m{seed}", random_state(seed, sizes=BIG), BIG)
    out, old = tmp_path / "out", tmp_path / "old"
    before = _whole(merge([tmp_path / "m0", tmp_path / "m1"], out))
    shutil.copytree(out, old)
    words = [tmp_path / "m1", tmp_path / "m2", "--output", out, "--overwrite", "--quiet"]
    command = [sys.executable, "-m", "revt_hf.cli.main", "merge", *map(str, words)]
    started = time.perf_counter()
    subprocess.run(command, check=True, timeout=120)
    lasts = time.perf_counter() - started
    after = _whole(out)
    assert before != after
    ends = []
    for share in (*np.linspace(0.3, 1.0, 8), 20):
        shutil.rmtree(out)
        shutil.copytree(old, out)
        process = subprocess.Popen(command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(lasts * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert _whole(out) in (before, after)
        ends.append(_whole(out) == after)
    assert ends[0] is False
    assert ends[-1] is True


CRASH = """
import os, pathlib, shutil, sys
from revt_hf.core import output_folders
from revt_hf.merging.average import MergeOptions, merge

left = int(sys.argv[1])

def counted(real):
    def call(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return real(*arguments, **more)
    return call

pathlib.Path.rename = counted(pathlib.Path.rename)
pathlib.Path.replace = counted(pathlib.Path.replace)
shutil.rmtree = counted(shutil.rmtree)
output_folders._swap = counted(output_folders._swap)
merge(sys.argv[3:], sys.argv[2], MergeOptions(overwrite=True))
"""


def test_a_crash_before_any_step_of_the_replacement_loses_nothing(members, tmp_path):
    out, old = tmp_path / "out", tmp_path / "old"
    before = _whole(merge(members[:2], old))
    after = _whole(merge(members[1:], tmp_path / "new"))
    found = []
    for step in range(1, 20):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out)
        crash = [sys.executable, "-c", CRASH, str(step), str(out), *map(str, members[1:])]
        code = subprocess.run(crash, timeout=120).returncode
        found.append(_whole(out))
        assert found[-1] in (before, after), step
        if code == 0:
            break
    assert len(found) > 3
    assert (found[0], found[-1]) == (before, after)


@pytest.mark.parametrize(("count", "blocks"), [(3, 14), (48, 1)])  # of 100 and 12 MiB
def test_the_command_is_small_and_imports_little(tmp_path, count, blocks):
    """The bound is for members of any size and number: these do not fit below it."""
    sizes = {**BIG, "depths": (1, 1, blocks, 1)}
    made = [
        saved_state(tmp_path / f"m{seed}", random_state(seed, sizes=sizes), sizes)
        for seed in range(3)
    ]
    members = [f"{number}={made[number % 3]}" for number in range(count)]
    arguments = ("merge", *members, "--output", tmp_path / "out", "--quiet")
    mebibytes, heavy = measured_command(arguments, ("torch", "typer", "pydantic"))
    assert mebibytes <= 64
    assert heavy == []
