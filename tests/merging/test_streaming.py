"""The streaming merge: any dtype, order and method; little memory; all or nothing."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from revt_hf.checkpoints.headers import tensors_sha256
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.merge_plan import make_plan
from revt_hf.merging.record import MemberRecord, member_states, read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from tests.helpers.segformers import (
    BIG,
    COUNTER,
    change_tensors,
    random_state,
    saved_state,
    tensors_of,
)

NAMES = [
    "segformer.encoder.patch_embeddings.0.proj.weight",
    "segformer.encoder.block.1.0.attention.self.query.weight",
    "decode_head.classifier.weight",
]


@pytest.fixture
def members(tmp_path):
    return [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(3)]


def _spec(members, *rules, **more):
    return MergeSpec(tuple(map(str, members)), rules or (Rule(),), **more)


def _backbone(states):
    return [name for name in states if name.startswith("segformer.")]


def test_pieces_give_what_the_whole_gives(members, tmp_path, monkeypatch):
    for method in ("mean", "weighted_mean", "min", "median", "slerp", "power"):
        used = members[:2] if method == "slerp" else members
        weights = (1.0, 2.0, 5.0) if method == "weighted_mean" else None
        spec = _spec(used, Rule(method=method, weights=weights))
        found = []
        for size in (500, 1 << 20):
            for name in ("_BUFFER_BYTES", "_SMALLEST"):
                monkeypatch.setattr(f"revt_hf.merging.streaming.{name}", size)
            found.append(tensors_of(merge(spec, tmp_path / f"{method}-{size}")))
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("dtypes", "head"),
    [
        ((F64,) * 3, 1),
        ((F16,) * 3, 1),
        ((BF16,) * 3, 1),
        *(((F32, F16, BF16), n) for n in (1, 2, 3)),
    ],
)
def test_dtypes_are_summed_wide_and_the_heads_stays(tmp_path, dtypes, head):
    states = [random_state(at, dtype) for at, dtype in enumerate(dtypes)]
    members = [saved_state(tmp_path / f"m{at}", state) for at, state in enumerate(states)]
    out = merge(_spec(members, head=head), tmp_path / "out")
    wide = F64 if dtypes[0] is F64 else F32
    for name, tensor in tensors_of(out).items():
        expected = states[head - 1][name]
        if name.startswith("segformer."):
            total = states[0][name].to(wide) + states[1][name] + states[2][name]
            expected = (total / 3).to(dtypes[head - 1])
        assert torch.equal(tensor, expected), name
        assert tensor.dtype == expected.dtype
    config = json.loads((out / "config.json").read_text())
    assert f"torch.{config['dtype']}" == str(dtypes[head - 1])


def test_another_order_of_tensors_changes_nothing(members, tmp_path):
    """safetensors sorts by name within a dtype, so write the other order by hand."""
    state = tensors_of(members[1])
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(members[1] / "config.json", other)
    header, data, offset = {}, b"", 0
    for name in reversed(list(state)):
        raw = state[name].numpy().tobytes()
        kind = "I64" if state[name].dtype == torch.int64 else "F32"
        header[name] = {
            "dtype": kind,
            "shape": list(state[name].shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        data, offset = data + raw, offset + len(raw)
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    (other / "model.safetensors").write_bytes(content)
    usual = merge(members[:2], tmp_path / "a")
    mixed = merge([members[0], other], tmp_path / "b")
    first, second = (tensors_of(folder) for folder in (usual, mixed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    record = read_merge_record(mixed / "merge.json")
    assert record.members[1].sha256 == file_sha256(other / "model.safetensors")


def test_neighbours_are_one_run(members):
    with ExitStack() as stack:
        plan = make_plan(_spec(members), stack)
        found = list(plan.runs())
    assert sum(run.last - run.first for run in found) == len(plan.items)
    assert len(found) < len(plan.items)


def test_rules_by_selection_and_the_last_one_counts(members, tmp_path):
    rules = (
        Rule("backbone"),
        Rule("stage2", "weighted_mean", (0.0, 0.0, 1.0)),
        Rule("head", "min"),
    )
    merged = tensors_of(merge(_spec(members, *rules), tmp_path / "out"))
    states = [tensors_of(member) for member in members]
    assert torch.equal(merged[NAMES[1]], states[2][NAMES[1]])
    expected = torch.stack([state[NAMES[2]] for state in states]).min(0).values
    assert torch.equal(merged[NAMES[2]], expected)
    assert merged[COUNTER] == 5  # whole numbers are copied from the head's member
    assert not torch.equal(merged[NAMES[0]], states[0][NAMES[0]])


def test_methods_with_a_base(members, tmp_path):
    base = saved_state(tmp_path / "base", random_state(9))
    spec = _spec(members, Rule(method="task_arithmetic"), base=str(base))
    merged = tensors_of(merge(spec, tmp_path / "out"))
    assert all(torch.isfinite(merged[name]).all() for name in _backbone(merged))
    record = read_merge_record(tmp_path / "out" / "merge.json")
    assert record.base.sha256 == file_sha256(base / "model.safetensors")
    for method in ("ties", "dare", "wise_ft", "model_stock"):
        merge(_spec(members, Rule(method=method), base=str(base)), tmp_path / method)


def test_the_record_stands_in_the_file_and_beside_it(members, tmp_path):
    out = merge(members, tmp_path / "out")
    record = read_merge_record(out / "merge.json")
    with safe_open(out / "model.safetensors", framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    inside = json.loads(metadata["revt_hf"])
    assert inside == record.to_json()
    assert record.tensors_sha256 == tensors_sha256(out / "model.safetensors")
    for entry, member in zip(record.members, members, strict=True):
        assert entry == MemberRecord(str(member), file_sha256(member / "model.safetensors"))


def test_changed_and_vanished_members_are_told(members, tmp_path):
    out = merge(members, tmp_path / "out")
    record = read_merge_record(out / "merge.json")
    assert member_states(record) == ["same"] * 3
    change_tensors(members[1], lambda state: state[NAMES[0]].zero_())
    (members[2] / "model.safetensors").unlink()
    assert member_states(record) == ["same", "changed", "gone"]
    quick = merge(members[:2], tmp_path / "quick", options=MergeOptions(hashing=False))
    states = member_states(read_merge_record(quick / "merge.json"))
    assert states == ["unknown"] * 2


def test_nan_can_be_allowed(members, tmp_path):
    change_tensors(members[0], lambda state: state[NAMES[2]].view(-1)[5:6].fill_(torch.nan))
    with pytest.raises(UserError, match=rf"m0: the tensor {NAMES[2]} holds NaN or infinity"):
        merge(_spec(members, Rule(method="min")), tmp_path / "out")
    out = merge(members, tmp_path / "out", options=MergeOptions(allow_nonfinite=True))
    assert not torch.isfinite(tensors_of(out)[NAMES[2]]).all()


def test_a_source_that_shrinks_is_told(members, tmp_path, monkeypatch):
    real = make_plan

    def shrinking(spec, stack, quiet):
        plan = real(spec, stack, quiet)
        os.truncate(members[1] / "model.safetensors", 900)
        return plan

    monkeypatch.setattr("revt_hf.merging.average.make_plan", shrinking)
    with pytest.raises(UserError, match=r"m1/model\.safetensors ended while it was read"):
        merge(members, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "m2"]


def test_a_full_disk_is_one_sentence(members, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("revt_hf.merging.average.stream", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        merge(members, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "m2"]


def test_killed_at_any_moment_there_is_the_old_or_the_new(tmp_path):
    for seed in range(3):
        saved_state(tmp_path / f"m{seed}", random_state(seed, sizes=BIG), BIG)
    out = tmp_path / "out"
    old = merge([tmp_path / "m0", tmp_path / "m1"], out)
    before = (old / "model.safetensors").read_bytes()
    command = [sys.executable, "-m", "revt_hf.cli.main", "merge"]
    command += [*(str(tmp_path / f"m{seed}") for seed in (1, 2)), "--output", str(out)]
    command += ["--overwrite", "--quiet"]
    shutil.copytree(out, tmp_path / "old")
    started = time.perf_counter()
    subprocess.run(command, check=True, timeout=120)
    lasts = time.perf_counter() - started
    after = (out / "model.safetensors").read_bytes()
    assert before != after
    ends = []
    for share in (*np.linspace(0.3, 1.0, 8), 20):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "old", out)
        process = subprocess.Popen(command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(lasts * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert _whole(out) in (before, after)
        ends.append(_whole(out) == after)
    assert ends[0] is False
    assert ends[-1] is True


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
    out = tmp_path / "out"
    before = (merge(members[:2], out) / "model.safetensors").read_bytes()
    shutil.copytree(out, tmp_path / "old")
    after = (merge(members[1:], tmp_path / "new") / "model.safetensors").read_bytes()
    found = []
    for step in range(1, 20):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "old", out)
        names = [str(member) for member in members[1:]]
        crash = [sys.executable, "-c", CRASH, str(step), str(out), *names]
        code = subprocess.run(crash, timeout=120).returncode
        found.append(_whole(out))
        assert found[-1] in (before, after), step
        if code == 0:
            break
    assert len(found) > 3
    assert (found[0], found[-1]) == (before, after)


@pytest.mark.parametrize(("count", "blocks"), [(3, 14), (48, 1)])  # of 100 and 12 MiB
def test_the_command_is_small_and_imports_little(tmp_path, count, blocks):
    """The max_size is for members of any size and number: these do not fit below it."""
    made = []
    for seed in range(3):
        sizes = {**BIG, "depths": (1, 1, blocks, 1)}
        made.append(str(saved_state(tmp_path / f"m{seed}", random_state(seed, sizes=sizes), sizes)))
    members = [made[number % 3] for number in range(count)]
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from revt_hf.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "line = next(l for l in open('/proc/self/status') if 'VmHWM' in l)\n"
        "print(line.split()[1], sys.modules.keys() & {'torch', 'typer', 'pydantic'} or 'none')\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    arguments = ["merge", *members, "--output", str(tmp_path / "out"), "--quiet"]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    peak, heavy = run.stdout.split(maxsplit=1)
    assert int(peak) / 1024 <= 64
    assert heavy.strip() == "none"
