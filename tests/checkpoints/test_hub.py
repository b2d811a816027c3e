"""Downloads: the files that are needed, with the bytes that the Hub names or not at all."""

import errno
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from revt_hf.checkpoints.download import fetch, is_hub_id
from tests.helpers.hub_repository import COMMIT, Failure
from tests.helpers.small_hub import FILES, WEIGHTS, not_fetched, small_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with small_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def _cached():
    """Every file of the cache that is not the library's bookkeeping."""
    found = map(str, Path(constants.HF_HUB_CACHE).rglob("*"))
    return [name for name in found if "/blobs/" in name or "/snapshots/" in name]


def test_what_is_fetched_is_what_the_hub_holds_and_again_from_the_cache(hub):
    folder = fetch("someone/tiny", quiet=True)
    assert folder.name == COMMIT
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    count = len(hub.requests)
    assert fetch("someone/tiny", quiet=True) == folder
    assert all("/resolve/" not in request for request in hub.requests[count:])


@pytest.mark.parametrize("file", FILES)
def test_other_bytes_than_the_hash_says_are_refused_and_not_kept(hub, file):
    hub.failures.append(Failure(f"GET*{file}", "wrong"))
    said = not_fetched(
        rf"sends other bytes for {file} of 'someone/tiny' than its own hash \w+ says"
    )
    assert "nothing of them was kept" in said
    assert not any(path.endswith(file) for path in _cached())
    # Once is bad luck.
    hub.failures[:] = [Failure(f"GET*{file}", "wrong", times=1)]
    assert {path.name: path.read_bytes() for path in fetch("someone/tiny").iterdir()} == FILES


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("plain", [False, True])
def test_a_damaged_file_in_the_cache_is_fetched_again(hub, monkeypatch, file, plain):
    path = fetch("someone/tiny", quiet=True) / file
    damaged = bytes([FILES[file][0] ^ 1]) + FILES[file][1:]
    if plain:
        # A cache without links.
        path.unlink()
    path.write_bytes(damaged)
    fetch("someone/tiny", quiet=True)
    assert path.read_bytes() == FILES[file]
    if not plain:
        path.resolve().write_bytes(damaged)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert str(path) in not_fetched("is damaged, its bytes are not those of the Hub's hash")


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            Failure("resolve", 403, headers={"X-Error-Code": "GatedRepo"}),
            "the model is gated: accept its license on http.*/someone/tiny with your account, and",
        ),
        (Failure("resolve", 401, headers={"X-Error-Code": "GatedRepo"}), "the model is gated"),
        (Failure("/api", 401), r"refuses your token \(status 401\): log in with 'hf auth login'"),
        (Failure("/api", 403), r"your token may not read http.* \(status 403\)"),
        (Failure("resolve", 403), r"your token may not read http.* \(status 403\)"),
        (Failure("resolve", 404, headers={"X-Error-Code": "EntryNotFound"}), "was removed"),
        (Failure("/api", 404, headers={"X-Error-Code": "RepoNotFound"}), "check the name"),
    ],
)
def test_refusals_are_told_apart(hub, failure, sentence):
    hub.failures.append(failure)
    not_fetched(sentence)


def test_half_a_snapshot_is_not_used(hub, monkeypatch):
    hub.failures.append(Failure("GET*.safetensors", 500))
    not_fetched("status 500")
    assert any(name.endswith("config.json") for name in _cached())
    assert not any("incomplete" in name for name in _cached())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    not_fetched("not whole in the cache")


def test_what_is_not_there_is_told_apart(hub, monkeypatch, tmp_path):
    not_fetched("no model http.*/someone/absent .*: check the name", "someone/absent")
    not_fetched("has no branch, tag or commit 'nowhere'", "someone/tiny@nowhere")
    hub.model("someone/tiny").commit("empty", {"README.md": b""})
    not_fetched("'someone/tiny' has no config.json", "someone/tiny@empty")
    hub.model("someone/tiny").commit(
        "weightless", {"config.json": b"{}", "other.safetensors": WEIGHTS}
    )
    not_fetched("has no weights: neither model.safetensors nor", "someone/tiny@weightless")
    not_fetched("is not the id of a Hub model", "some--one/ti..ny")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub.failures.append(Failure("/api", 401))
    not_fetched("there is no such folder, and http.* asks for a token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    not_fetched("there is no such folder, and it is not whole in the cache, and HF_HUB_OFFLINE is")


def test_a_cache_that_cannot_be_written(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    not_fetched(r"cannot write to the Hub's cache .* \(No space left on device\): set HF_HOME")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", "a/../../evil.bin"])
def test_a_listed_path_is_not_followed(hub, tmp_path, name):
    assert is_hub_id("a/b@refs/pr/1")
    assert not is_hub_id(f"a/b@{name}")
    hub.model("someone/tiny").commit("main", {**FILES, name: b"evil"})
    folder = fetch("someone/tiny", quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert not any(b"evil" in path.encode() for path in _cached())
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


@pytest.mark.parametrize(
    ("extra", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin", "optimizer.safetensors"], 1),
        (["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"], 3),
        (["pytorch_model.bin", "training_args.bin", "pytorch_model-1.bin"], 1),
        (["pytorch_model.bin.index.json", "pytorch_model-1.bin", "pytorch_model-2.bin"], 3),
    ],
)
def test_only_what_transformers_would_read_is_fetched(hub, extra, taken):
    files = {name: name.encode() for name in ["config.json", *extra, "code.py", "a/model.bin"]}
    hub.model("someone/tiny").commit("main", files)
    folder = fetch("someone/tiny", quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", *extra[:taken]])


def test_a_push_in_between_does_not_mix(hub, monkeypatch):
    """The listing and every file are of one commit."""
    newer = {**FILES, "model.safetensors": b"newer"}
    first = {"config.json": b"{}", "pytorch_model.bin": b"first"}
    old = hub.model("someone/tiny").commit("main", first)
    requests = hub.requests

    class Pushing(list):
        def append(self, request):
            requests.append(request)
            if "/tree/" in request:
                hub.model("someone/tiny").commit("main", newer)

    monkeypatch.setattr(hub, "requests", Pushing())
    folder = fetch("someone/tiny", quiet=True)
    assert folder.name == old
    assert (folder / "pytorch_model.bin").read_bytes() == b"first"
