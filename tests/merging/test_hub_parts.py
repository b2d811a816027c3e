"""Merging Hub models of which only parts are read, over HTTP, with all that can go wrong."""

import itertools
import json
import logging
import re
import shutil
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from revt_hf.checkpoints import hub_requests
from revt_hf.checkpoints.download import fetch
from revt_hf.checkpoints.headers import read_header, tensors_sha256
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256, write_json
from revt_hf.merging import merge_plan
from revt_hf.merging.average import MergeOptions, merge
from revt_hf.merging.member_states import member_states
from revt_hf.merging.record import Change, ChangeSource, ChangesRecord, read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from tests.helpers.command_line import measured_command, refused, revt
from tests.helpers.hub_repository import COMMIT, Failure, Repository, files_of
from tests.helpers.hub_server import TOKEN
from tests.helpers.segformers import change_tensors, random_state, saved_state
from tests.helpers.small_hub import LIMIT, small_hub

IDS = ["org/a", "org/b", "org/c"]
WEIGHTS = "model.safetensors"
CONFIG, RECORD = "config.json", "merge.json"
NORM = "segformer.encoder.layer_norm.0.weight"
SIZES = {"depths": (1,) * 4, "hidden_sizes": (32, 64, 160, 256), "decoder_hidden_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three models of 7 MiB, whose headers are less than 1 % of that."""
    root = tmp_path_factory.mktemp("members")
    return [
        saved_state(root / name, random_state(seed, sizes=SIZES), SIZES)
        for seed, name in enumerate("abc")
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three models of 0.4 MiB."""
    root = tmp_path_factory.mktemp("small")
    return [saved_state(root / name, random_state(seed)) for seed, name in enumerate("abc")]


@pytest.fixture
def server(monkeypatch, tmp_path):
    with small_hub(monkeypatch, tmp_path / "cache", ranges=True) as hub:
        # Busy machines take their time.
        monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 8.0)
        yield hub


@pytest.fixture
def hub(server, small):
    return _serving(server, small)


def _serving(hub, folders):
    for name, folder in zip(IDS, folders, strict=True):
        hub.repositories["models", name] = Repository(files_of(folder))
    return hub


def _content(folder):
    """A folder's tensors and configuration: everything but provenance."""
    infos = read_header(folder / WEIGHTS)
    listed = [(info.name, info.dtype, info.shape) for info in infos]
    return listed, (folder / WEIGHTS).read_bytes()[infos[0].offset :], files_of(folder)[CONFIG]


def _asked(hub, name):
    """The parts of a file that were asked for, in order."""
    return [(begin, end) for file, begin, end in hub.sent if file == name]


def _tensors(folder, prefix=""):
    """Where the tensors of a folder's file lie."""
    infos = [i for i in read_header(folder / WEIGHTS) if i.name.startswith(prefix)]
    return [(info.offset, info.offset + info.nbytes) for info in infos]


def _not_merged(tmp_path, sentence, spec=IDS, **options):
    """The merge fails soon, with one sentence, and leaves nothing."""
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence) as caught:
        merge(spec, tmp_path / "failed", MergeOptions(**options))
    assert time.monotonic() - start < LIMIT
    assert "\n" not in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert [path.name for path in tmp_path.iterdir() if "failed" in path.name] == []


@pytest.mark.parametrize("head", [1, 3])
def test_only_what_is_needed_is_moved_and_the_result_is_the_same(server, folders, tmp_path, head):
    hub = _serving(server, folders)
    spec = MergeSpec(tuple(IDS), head=head)
    merged = merge(spec, tmp_path / "merged")
    local = merge(replace(spec, members=tuple(map(str, folders))), tmp_path / "local")
    assert _content(merged) == _content(local)
    moved = needed = 0
    for number, (name, folder) in enumerate(zip(IDS, folders, strict=True), 1):
        begins = _tensors(folder)[0][0]
        used = _tensors(folder, "" if number == head else "segformer.")
        parts = sorted(_asked(hub, f"{name}/{WEIGHTS}"))
        # Nothing twice, and beside the header no byte of another member's head.
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(parts))
        for begin, end in parts:
            inside = sum(max(0, min(end, e) - max(begin, b)) for b, e in used)
            assert end <= begins or inside == end - begin
        assert len(parts) <= 4
        moved += sum(end - begin for begin, end in parts)
        needed += sum(end - begin for begin, end in used)
    assert needed < moved <= 1.02 * needed
    assert hub.shown == []
    assert not list((tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}"))


def test_a_cut_connection_goes_on_at_the_byte_that_was_reached(hub, small, tmp_path, monkeypatch):
    local = _content(merge(small, tmp_path / "local"))
    cuts = Failure("signed*org/b", "half", times=5)
    # After the headers.
    monkeypatch.setattr(hub, "requests", _Later(7, lambda: hub.failures.append(cuts)))
    assert _content(merge(IDS, tmp_path / "merged")) == local
    parts = _asked(hub, f"org/b/{WEIGHTS}")
    begins = [begin for begin, end in parts if end == parts[-1][1]]
    reached = begins[:1]
    for _ in range(5):
        reached.append(reached[-1] + (parts[-1][1] - reached[-1]) // 2)
    assert begins == reached


def test_cuts_with_progress_and_pauses_of_the_merge_do_not_count(server, folders, monkeypatch):
    """A long merge reads on when it needs more, and connections do not last for hours."""
    hub = _serving(server, folders)
    monkeypatch.setattr(hub_requests, "_MOST_REPEATS", 3)
    monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.5)
    with ExitStack() as stack, open_checkpoint("org/a", parts=True) as found:
        hub.failures.append(Failure("signed", "half", times=5))
        first, *_, last = found.tensors.values()
        size = last.offset + last.nbytes - first.offset
        reader = found.reader(stack, [(0, first.offset, size)])
        content = bytearray(size)
        reader.fill(0, first.offset, memoryview(content)[:1000])
        time.sleep(0.7)
        reader.fill(0, first.offset + 1000, memoryview(content)[1000:])
    assert hub.failures[0].times == 0
    assert content == (folders[0] / WEIGHTS).read_bytes()[first.offset :]


@pytest.mark.parametrize(
    "failure",
    [
        Failure("signed", "cut", times=3),
        Failure("signed", "silence", times=2),
        Failure("signed", "stall", times=2),
        Failure("signed", 503, times=3),
        Failure("signed", 429, times=2, headers={"Retry-After": "0"}),
        Failure("GET*resolve*safetensors", 500, times=2),
        Failure("GET*resolve*safetensors", "cut", times=2),
        # The address has expired.
        Failure("signed", 403, times=3),
    ],
)
def test_passing_trouble_is_waited_for(hub, small, tmp_path, failure):
    times = failure.times
    hub.failures.append(failure)
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    resolved = [request for request in hub.requests if f"resolve/{COMMIT}/{WEIGHTS}" in request]
    assert failure.times == 0
    # An address of the storage is used as long as nothing fails.
    assert len(resolved) == 3 + times
    assert hub.shown == []


OTHER = {"Content-Range": "bytes 0-7/99"}


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (Failure("signed", "silence"), "did not answer"),
        (Failure("signed*org/c", "stall"), "did not answer"),
        (Failure("signed*org/b", "drip"), "did not answer within"),
        (Failure("signed", "cut"), "connection to http.* was lost"),
        (Failure("signed", 500), "answered with status 500"),
        (Failure("signed", 429, headers={"Retry-After": "9999"}), "asks to wait 9999 seconds"),
        (Failure("signed", 403), r"the Hub's storage refuses its address \(status 403\)"),
        (Failure("resolve*safetensors", 403), r"your token may not read .*\(status 403\)"),
        (Failure("resolve*safetensors", 404, headers={"X-Error-Code": "EntryNotFound"}), "removed"),
        (Failure("resolve*safetensors", 302, headers={"Location": "/x/resolve/y/z"}), "status 404"),
        (Failure("resolve*safetensors", 302, headers={"Location": "ftp://x/y"}), "not encrypted"),
        (Failure("*safetensors", 302, headers={"Location": "a.safetensors"}), "without end"),
        (Failure("signed", 206, headers=OTHER, body=bytes(8)), "changed on the Hub while it was"),
        (Failure("signed", 206, headers={"Content-Range": "bytes 5-7/*"}), "sends other parts"),
        (Failure("signed", 416), "changed on the Hub while it was read"),
        (Failure("resolve*safetensors", 302, headers={"X-Repo-Commit": "1" * 40}), "changed on"),
        (Failure("resolve*safetensors", 302, headers={"X-Linked-ETag": '"1"'}), "changed on the"),
    ],
)
def test_trouble_that_stays_is_one_sentence(hub, tmp_path, monkeypatch, failure, sentence):
    monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.5)
    hub.failures.append(failure)
    _not_merged(tmp_path, rf"org/\w@{COMMIT}/{WEIGHTS}:? .*{sentence}")


class _Later(list):
    """Requests; ``then`` is called before the answer to the one of this number to the storage."""

    def __init__(self, number, then):
        super().__init__()
        self._number, self._then = number, then

    def append(self, request):
        super().append(request)
        if sum("/signed/" in one for one in self) == self._number and "/signed/" in request:
            self._then()


def test_another_file_in_the_middle_is_refused(hub, tmp_path, monkeypatch):
    weights = hub.model("org/a").files()[WEIGHTS]
    begins = 8 + int.from_bytes(weights[:8], "little")
    told = {"ETag": '"other"', "Content-Range": f"bytes 8-{begins - 1}/{len(weights)}"}
    other = Failure("signed", 206, headers=told, body=weights[8:begins])
    # Everything is right but the tag.
    monkeypatch.setattr(hub, "requests", _Later(2, lambda: hub.failures.append(other)))
    _not_merged(tmp_path, "changed on the Hub while it was read")


def test_a_part_that_is_longer_than_it_says_is_refused(hub, small, tmp_path, monkeypatch):
    def lie():
        hub.failures.append(Failure("signed*org/a", 206, headers=told, body=bytes(64)))

    begin, size = _tensors(small[0])[0][0], len(hub.model("org/a").files()[WEIGHTS])
    told = {"Content-Range": f"bytes {begin}-{begin + 7}/{size}"}
    # After the headers.
    monkeypatch.setattr(hub, "requests", _Later(7, lie))
    _not_merged(tmp_path, "the Hub sends more than it was asked for")


def test_a_push_in_between_changes_nothing(hub, small, tmp_path, monkeypatch):
    def push():
        hub.model("org/b").commit("main", hub.model("org/a").files())

    # After the headers.
    monkeypatch.setattr(hub, "requests", _Later(7, push))
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    assert hub.model("org/b").oid("main") != COMMIT


def test_a_server_without_ranges_gives_whole_files(hub, small, tmp_path, caplog, monkeypatch):
    hub.ranges = False
    local = _content(merge(small, tmp_path / "local"))
    with caplog.at_level(logging.INFO, "revt_hf"):
        assert _content(merge(IDS, tmp_path / "merged")) == local
    said = [text for text in caplog.messages if "whole" in text]
    assert said == [
        f"{name} is downloaded whole: the Hub answers with whole files, not with parts of them"
        for name in IDS
    ]
    record = read_merge_record(tmp_path / "merged" / RECORD)
    assert [member.hub.verified for member in record.members] == [True] * 3
    # No other is refused in the middle of a merge.
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.ranges = True
    monkeypatch.setattr(hub, "requests", _Later(8, lambda: setattr(hub, "ranges", False)))
    _not_merged(tmp_path, r"to its end: the Hub answers with whole files.*\(hf download org/\w\)")


def test_what_is_whole_in_the_cache_is_read_there(hub, small, tmp_path):
    for name in IDS[:2]:
        fetch(name, quiet=True)
    hub.sent.clear()
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    assert {name for name, *_ in hub.sent if name.endswith(WEIGHTS)} == {f"org/c/{WEIGHTS}"}
    members = read_merge_record(merged / RECORD).members
    assert [member.hub.verified for member in members] == [True, True, False]
    assert [member.sha256 for member in members] == [file_sha256(one / WEIGHTS) for one in small]


def _sharded(folder):
    """A folder's files with the weights in two, heads and encoders mixed."""
    files, tensors = files_of(folder), {}
    state = random_state(1)
    names = {"model-1.safetensors": sorted(state)[::2], "model-2.safetensors": sorted(state)[1::2]}
    del files[WEIGHTS]
    for file, held in names.items():
        files[file] = save({name: state[name] for name in held})
        tensors |= dict.fromkeys(held, file)
    files[f"{WEIGHTS}.index.json"] = json.dumps({"weight_map": tensors}).encode()
    return files


def test_shards_and_what_a_later_command_finds_in_the_cache(hub, small, tmp_path, monkeypatch):
    files = _sharded(small[1])
    hub.repositories["models", "org/b"] = Repository(files)
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    heads = [f for f in files if f.startswith("model-")]
    sizes = sum(end - begin for f in heads for begin, end in _asked(hub, f"org/b/{f}"))
    assert sizes < sum(len(files[f]) for f in heads)
    digests = {file: read_merge_record(merged / RECORD).members[1].files[file] for file in heads}
    assert len(set(digests.values())) == 2
    # Half of a model is no model.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in IDS[:2]:
        with pytest.raises(UserError, match="cache does not hold all of it, and HF_HUB_OFFLINE"):
            fetch(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch("org/b", quiet=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_the_token_goes_to_the_hub_alone(hub, small, tmp_path, monkeypatch):
    for name in IDS:
        hub.model(name).private = True
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    assert any("/signed/" in request for request in hub.requests)
    assert hub.shown == []
    assert TOKEN.encode() not in b"".join(files_of(merged).values())
    monkeypatch.setenv("HF_TOKEN", "hf_othersecretothersecret")
    _not_merged(tmp_path, "refuses your token")


def test_the_record_says_what_is_the_hubs_word_and_is_repeated(hub, small, tmp_path, capsys):
    output = tmp_path / "merged"
    code, _, error = revt(capsys, "merge", *IDS, "--output", output, "--head", 2)
    assert code == 0
    assert re.search(r"read [\d,]+ of [\d,]+ bytes of weights from the Hub", error)
    members = json.loads((output / RECORD).read_text())["members"]
    assert [one["hub"] for one in members] == [{"commit": COMMIT, "verified": False}] * 3
    assert [one["sha256"] for one in members] == [file_sha256(one / WEIGHTS) for one in small]
    hub.sent.clear()
    code, out, error = revt(capsys, "inspect", output)
    assert code == 0, error
    assert all(re.search(rf"same +{name}", out) for name in IDS)
    assert "the Hub's word" in out
    assert max(end for name, _, end in hub.sent if name.endswith(WEIGHTS)) < 20_000
    again = ("merge", "--from", output / RECORD, "--output")
    code, _, error = revt(capsys, *again, tmp_path / "again")
    assert code == 0, error
    assert files_of(tmp_path / "again") == files_of(output)
    # The same merge of what is in the cache is the same, and its members are verified.
    for name in IDS:
        fetch(name, quiet=True)
    code, _, error = revt(capsys, *again, tmp_path / "local")
    assert code == 0, error
    assert _content(tmp_path / "local") == _content(output)
    hub.model("org/b").commit("main", {**hub.model("org/b").files(), "note.txt": b"new"})
    hub.sent.clear()
    error = refused(capsys, *again, tmp_path / "x")
    assert f"org/b is at commit {hub.model('org/b').oid('main')}, and commit {COMMIT} was" in error
    assert f"merge org/b@{COMMIT}" in error
    code, out, _ = revt(capsys, "inspect", output)
    assert code == 0


def test_members_on_a_hub_that_cannot_be_asked_are_unknown(hub, tmp_path, monkeypatch, caplog):
    record = read_merge_record(merge(IDS[:2], tmp_path / "merged") / RECORD)
    del hub.repositories["models", "org/b"]
    assert member_states(record) == ["same", "gone"]
    for name, value in (("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")):
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "revt_hf"):
            patch.setattr(constants, name, value)
            assert member_states(record) == ["unknown"] * 2
    assert "HF_HUB_OFFLINE is set" in caplog.text


def test_no_more_connections_than_the_transport_has(hub, small, tmp_path, monkeypatch):
    monkeypatch.setattr(merge_plan, "_MOST_IN_PARTS", 3)
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    assert all(one.hub.verified for one in read_merge_record(merged / RECORD).members)


def test_a_record_of_another_file_is_not_repeated(hub, tmp_path, capsys):
    output = merge(IDS, tmp_path / "merged")
    record = json.loads((output / RECORD).read_text())
    record["members"][0]["sha256"] = "1" * 64
    (output / RECORD).write_text(json.dumps(record))
    hub.sent.clear()
    error = refused(capsys, "merge", "--from", output / RECORD, "--output", tmp_path / "x")
    assert "org/a is not what was merged: its sha256 is" in error
    assert max(end for name, _, end in hub.sent if name.endswith(WEIGHTS)) < 20_000
    code, out, _ = revt(capsys, "inspect", output)
    assert (code, "changed  org/a" in out) == (2, True)


def test_a_dry_run_says_what_would_be_moved(hub, small, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    code, out, error = revt(capsys, "merge", *IDS, small[0], "--dry-run", "--json", plan)
    assert code == 0, error
    told = json.loads(plan.read_text())["hub_bytes"]
    assert f"from the Hub: {told['moved']:,} of {told['whole']:,} bytes of weights" in out
    assert told["whole"] == sum((folder / WEIGHTS).stat().st_size for folder in small)
    hub.sent.clear()
    merge([*IDS, str(small[0])], tmp_path / "merged")
    moved = [end - begin for name, begin, end in hub.sent if name.endswith(WEIGHTS)]
    assert sum(moved) == told["moved"]


@pytest.mark.parametrize(
    ("method", "select", "base"),
    [
        ("task_arithmetic", "backbone", "org/c"),
        ("tsv_m", "stage2", "org/c"),
        ("median", "norm", ""),
        # A variance needs the mean beside it, too.
        ("moments", "all", ""),
    ],
)
def test_each_tensor_is_moved_once_whatever_the_method(hub, small, tmp_path, method, select, base):
    spec = MergeSpec(tuple(IDS[:2]), (Rule(select, method),), 1, base or None)
    merged = merge(spec, tmp_path / "merged")
    local = replace(spec, members=tuple(map(str, small[:2])), base=(base and str(small[2])) or None)
    assert _content(merged) == _content(merge(local, tmp_path / "local"))
    for name in {*IDS[:2], base} - {""}:
        parts = sorted(_asked(hub, f"{name}/{WEIGHTS}"))
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(parts))
        with_head = name == "org/a" or select == "all"
        own = 0 if with_head else sum(e - b for b, e in _tensors(small[0], "decode_head."))
        size = (small[0] / WEIGHTS).stat().st_size
        assert sum(end - begin for begin, end in parts) <= size - own


def test_other_orders_of_tensors_and_dtypes(hub, small, tmp_path):
    """What cannot be read as one part is read as several."""
    other = saved_state(tmp_path / "half", random_state(3, torch.bfloat16))
    hub.repositories["models", "org/b"] = Repository(files_of(other))
    merged = merge(IDS[:2], tmp_path / "merged")
    assert _content(merged) == _content(merge([small[0], other], tmp_path / "local"))
    parts = sorted(_asked(hub, f"org/b/{WEIGHTS}"))
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(parts))


def test_weights_that_are_no_safetensors_are_downloaded_whole(hub, small, tmp_path):
    files = files_of(small[1])
    del files[WEIGHTS]
    torch.save(random_state(1), tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    hub.repositories["models", "org/b"] = Repository({**files, "pytorch_model.bin": content})
    merged = merge(IDS, tmp_path / "merged")
    assert _content(merged) == _content(merge(small, tmp_path / "local"))
    assert ("org/b/pytorch_model.bin", 0, len(content)) in hub.sent
    members = read_merge_record(merged / RECORD).members
    assert [member.hub.verified for member in members] == [False, True, False]


def test_members_that_need_a_second_look_are_downloaded_whole(hub, small, tmp_path, caplog):
    floats = shutil.copytree(small[0], tmp_path / "floats")
    counter = "decode_head.batch_norm.num_batches_tracked"
    change_tensors(floats, lambda tensors: tensors.update({counter: tensors[counter].float()}))
    inner = merge(small[:2], tmp_path / "inner")
    foreign = shutil.copytree(inner, tmp_path / "foreign")
    change_tensors(foreign, lambda tensors: None)
    for name, folder in zip(IDS, (floats, inner, foreign), strict=True):
        hub.repositories["models", name] = Repository(files_of(folder))
    with caplog.at_level(logging.INFO, "revt_hf"):
        merged = merge(IDS, tmp_path / "merged")
    assert "org/a is downloaded whole: its counters are floating-point numbers" in caplog.text
    assert "org/c is downloaded whole: its merge.json has to be compared" in caplog.text
    members = read_merge_record(merged / RECORD).members
    assert [member.hub.verified for member in members] == [True, False, True]
    assert [bool(member.merge) for member in members] == [False, True, True]
    local = merge([floats, inner, foreign], tmp_path / "local")
    assert _content(merged) == _content(local)


def test_what_was_done_to_a_member_of_the_hub_stays_in_the_record(hub, small, tmp_path):
    changed = shutil.copytree(small[0], tmp_path / "changed")
    digest = tensors_sha256(changed / "model.safetensors")
    source = ChangeSource(domain="streets", train="train")
    change = Change("recalibrated", (source,), 10, "0" * 64, digest, "0.1.0", {"name": "paper"})
    record = ChangesRecord("revt_hf.changes/1", (change,), digest)
    write_json(changed / record.file, record.to_json())
    hub.repositories["models", IDS[0]] = Repository(files_of(changed))
    merged = merge(IDS, tmp_path / "merged")
    members = read_merge_record(merged / RECORD).members
    assert [member.changes for member in members] == [(change,), (), ()]


def test_files_on_the_hub_are_checked_like_local_ones(hub, small, tmp_path):
    weights = hub.model("org/b").files()[WEIGHTS]
    broken = {
        "is not JSON": weights[:8] + b"x" + weights[9:],
        "goes on after its last tensor": weights + bytes(4),
        "do not hold the header": weights[:4] + b"\x7f" * 4 + weights[8:],
    }
    for sentence, content in broken.items():
        hub.model("org/b").commit("main", {**hub.model("org/b").files(), WEIGHTS: content})
        _not_merged(
            tmp_path, rf"org/b@\w+/{WEIGHTS} is not a readable safetensors file: .*{sentence}"
        )
    nan = shutil.copytree(small[1], tmp_path / "nan")
    change_tensors(nan, lambda tensors: tensors[NORM].fill_(float("nan")))
    hub.model("org/b").commit("main", files_of(nan))
    _not_merged(tmp_path, f"org/b: the tensor {NORM} holds NaN")
    merge(IDS, tmp_path / "merged", MergeOptions(allow_nonfinite=True))


def test_the_command_is_small_and_fast_over_http(server, folders, tmp_path, monkeypatch):
    """As for local members, whatever their size: no weights are held, nor put on the disk."""
    hub = _serving(server, folders)
    for key, value in {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": tmp_path / "own"}.items():
        monkeypatch.setenv(key, str(value))
    arguments = ("merge", *IDS, "--output", tmp_path / "out", "--quiet")
    mebibytes, heavy = measured_command(arguments, ("torch", "transformers", "typer", "pydantic"))
    assert mebibytes <= 64
    assert heavy == []
    assert _content(tmp_path / "out") == _content(merge(folders, tmp_path / "local"))
    assert (
        sum(path.stat().st_size for path in (tmp_path / "own").rglob("*") if path.is_file())
        < 10_000
    )
