"""Downloads: only the bytes that the Hub names; every request ends; the client stays as it is."""

import errno
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from revt_hf.checkpoints.download import fetch, is_hub_id
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning
from revt_hf.models.recorded import recorded_protocol
from tests.helpers.hub_repository import COMMIT, Failure
from tests.helpers.small_hub import FILES, WEIGHTS, not_fetched, small_hub, use_endpoint

GATED = {"X-Error-Code": "GatedRepo"}


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


def test_half_a_snapshot_is_not_used(hub, monkeypatch):
    hub.failures.append(Failure("GET*.safetensors", 500))
    not_fetched("status 500")
    assert any(name.endswith("config.json") for name in _cached())
    assert not any("incomplete" in name for name in _cached())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    not_fetched("the cache does not hold all of it")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("someone/absent", "no model http.*/someone/absent .*: check the name"),
        ("someone/tiny@nowhere", "has no branch, tag or commit 'nowhere'"),
        ("someone/tiny@empty", "'someone/tiny' has no config.json"),
        ("someone/tiny@weightless", "has no weights: neither model.safetensors nor"),
        ("some--one/ti..ny", "is not the id of a Hub model"),
    ],
)
def test_what_is_not_there_is_told_apart(hub, monkeypatch, source, sentence):
    model = hub.model("someone/tiny")
    model.commit("empty", {"README.md": b""})
    model.commit("weightless", {"config.json": b"{}", "other.safetensors": WEIGHTS})
    not_fetched(sentence, source)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    not_fetched("no such folder, and the cache does not hold all of it, and HF_HUB_OFFLINE is")


def test_a_token_is_asked_for(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub.failures.append(Failure("/api", 401))
    not_fetched("there is no such folder, and http.* asks for a token")


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
        (["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"], 2),
        (["adapter_config.json", "model.safetensors", "adapter_model.safetensors"], 2),
    ],
)
def test_only_what_transformers_would_read_is_fetched(hub, extra, taken):
    files = {name: name.encode() for name in ["config.json", *extra, "code.py", "a/model.bin"]}
    hub.model("someone/tiny").commit("main", files)
    folder = fetch("someone/tiny", quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", *extra[:taken]])


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_an_adapter_without_whole_weights_needs_no_config(hub, monkeypatch, whole):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
    model = hub.model("someone/tiny")
    model.commit("main", files)
    folder = fetch("someone/tiny", quiet=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    (folder / "adapter_model.safetensors").resolve().write_bytes(b"damaged")
    assert fetch("someone/tiny", quiet=True) == folder
    assert (folder / "adapter_model.safetensors").read_bytes() == WEIGHTS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("someone/tiny", quiet=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    model.commit("main", {"adapter_config.json": b"{}"})
    not_fetched("has no weights: .*nor an adapter's adapter_model.safetensors")
    # Else it is not the model.
    model.commit("main", {**files, "config.json": b"{}", whole: WEIGHTS})
    assert (fetch("someone/tiny", quiet=True) / whole).is_file()


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


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (Failure("GET /api", "silence"), "did not answer in time"),
        (Failure("/tree/", "silence"), "did not answer"),
        (Failure("HEAD", "silence"), "did not answer"),
        (Failure("GET*.safetensors", "silence"), "did not answer"),
        (Failure("GET*.safetensors", "stall"), "did not answer"),
        (Failure("GET*config.json", "stall"), "did not answer"),
        (Failure("GET*.safetensors", "drip"), "did not answer"),
        (Failure("GET*.safetensors", "half"), "connection to http.* was lost"),
        (Failure("GET /api", 500), "answered with status 500: try again later"),
        (Failure("HEAD", 503), "answered with status 503"),
        (Failure("GET*.safetensors", 500), "answered with status 500"),
        (Failure("GET*.safetensors", 429), "answered with status 429"),
        (Failure("HEAD", 429, headers={"Retry-After": "100000"}), "asks to wait 100000 seconds"),
        (Failure("/tree/", 503, headers={"Retry-After": "9" * 5000}), r"asks to wait \d+ .*503"),
        (Failure("GET*.s", 429, headers={"ratelimit": '"api";r=0;t=86400'}), "wait 86400 .*429"),
        (Failure("", 302, headers={"Location": "/again"}), "redirects without end"),
        (Failure("HEAD", 307, headers={"Location": "/again"}), "without coming to an end"),
        (Failure("resolve", 403, headers=GATED), "is gated: accept its license on .*/someone/tiny"),
        (Failure("resolve", 401, headers=GATED), "the model is gated"),
        (Failure("/api", 401), r"refuses your token \(status 401\): log in with 'hf auth login'"),
        (Failure("/api", 403), r"your token may not read http.* \(status 403\)"),
        (Failure("resolve", 403), r"your token may not read http.* \(status 403\)"),
        (Failure("resolve", 404, headers={"X-Error-Code": "EntryNotFound"}), "was removed"),
        (Failure("/api", 404, headers={"X-Error-Code": "RepoNotFound"}), "check the name"),
    ],
)
def test_a_hub_that_refuses_or_does_not_answer_is_one_sentence(hub, failure, sentence):
    hub.failures.append(failure)
    not_fetched(f"cannot load the model 'someone/tiny': .*{sentence}")
    hub.failures.clear()
    assert {path.name: path.read_bytes() for path in fetch("someone/tiny").iterdir()} == FILES


def test_a_listing_without_an_end(hub):
    link = f'<{hub.endpoint}/api/models/someone/tiny/tree/x>; rel="next"'
    headers = {"Content-Type": "application/json", "Link": link}
    hub.failures.append(Failure("/tree/", 200, headers=headers, body=b"[]"))
    not_fetched("keeps answering without coming to an end")


def test_the_same_half_again_and_again_is_no_progress(hub, monkeypatch):
    """A large one, of which the library keeps what came and asks on."""
    hub.model("someone/tiny").commit("main", {**FILES, "model.safetensors": bytes(300_000)})
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.failures.append(Failure("GET*.safetensors", "stall"))
    not_fetched("did not answer within 1.5 seconds")
    assert sum("GET" in request and ".safetensors" in request for request in hub.requests) < 16


def test_the_cache_is_used_where_the_hub_is_silent_and_that_is_said(hub, monkeypatch):
    folder = fetch("someone/tiny", quiet=True)
    silent = Failure("", "silence")
    busy = Failure("", 429, headers={"Retry-After": "100000"})
    for failure in (silent, busy, Failure("", 500)):
        hub.failures[:] = [failure]
        with pytest.warns(DataWarning, match=f"gave no answer for 'someone/tiny'.*{COMMIT}"):
            assert fetch("someone/tiny", quiet=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("someone/tiny", quiet=True) == folder


def test_no_network(hub, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
        not_fetched(
            "there is no such folder, and no connection to http://127.0.0.1:.*: check the net"
        )


@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", None])
def test_an_etag_or_a_commit_is_not_a_path(hub, tmp_path, header):
    if header:
        told = {header: '"../../../evil"', "X-Repo-Commit": COMMIT, "Content-Length": "4"}
        hub.failures.append(Failure("resolve", 200, headers=told))
        not_fetched(f"the Hub's {header} is a path")
    for sha in () if header else ('"../../evil"', "7", "null"):
        body = f'{{"id": "a", "sha": {sha}}}'.encode()
        hub.failures[:] = [Failure("/revision/", 200, body=body)]
        not_fetched("names no commit")
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_passing_trouble_is_retried_and_not_logged(hub, capfd):
    hub.failures += [Failure("GET*.safetensors", "half", times=1), Failure("HEAD", 503, times=2)]
    assert (fetch("someone/tiny", quiet=True) / "model.safetensors").read_bytes() == WEIGHTS
    assert capfd.readouterr() == ("", "")
    assert huggingface_hub.logging.get_verbosity() == huggingface_hub.logging.WARNING


def test_the_users_own_client_is_left_alone(hub):
    made = []

    def factory():
        made.append(huggingface_hub.utils._http.default_client_factory())
        return made[-1]

    huggingface_hub.set_client_factory(factory)
    try:
        own = huggingface_hub.get_session()
        fetch("someone/tiny", quiet=True)
        assert huggingface_hub.get_session() is own and not own.is_closed
        assert own.timeout.read is None
        assert len(own.event_hooks["request"]) == 1
        # Proxies and certificates of the user's count for ours, too.
        assert len(made) == 2 and made[1].is_closed
        hub.failures.append(Failure("", 500))
        not_fetched("status 500", "someone/other")
        assert huggingface_hub.get_session() is own and not own.is_closed
        assert constants.HF_HUB_DISABLE_XET is False
    finally:
        huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


def test_downloads_in_two_threads(hub):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: fetch("someone/tiny", quiet=True), range(2)))
    assert found[0] == found[1]
    assert huggingface_hub.get_session().timeout.read is None


def test_the_protocol_that_a_hub_model_records_is_used(hub):
    record = json.dumps({"evaluation": {"max_size": [64, 32], "flip": True}}).encode()
    hub.model("someone/tiny").commit("main", {**FILES, "merge.json": record})
    assert recorded_protocol(["someone/tiny"]) == Protocol(max_size=(64, 32), flip=True)
