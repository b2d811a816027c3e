"""Every request to a Hub ends, whatever the Hub does, and the user's own client stays as it is."""

import socket
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pytest
from huggingface_hub import constants

from revt_hf.checkpoints.download import fetch
from revt_hf.core.errors import DataWarning
from tests.helpers.hub_repository import COMMIT, Failure
from tests.helpers.small_hub import FILES, WEIGHTS, not_fetched, small_hub, use_endpoint


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with small_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


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
        (
            Failure("/tree/", 503, headers={"Retry-After": "9" * 5000}),
            r"asks to wait \d+ seconds \(status 503\)",
        ),
        (
            Failure("GET*.safetensors", 429, headers={"ratelimit": '"api";r=0;t=86400'}),
            r"asks to wait 86400 seconds \(status 429\)",
        ),
        (Failure("", 302, headers={"Location": "/again"}), "redirects without end"),
        (Failure("HEAD", 307, headers={"Location": "/again"}), "without coming to an end"),
    ],
)
def test_a_hub_that_does_not_answer_ends_in_one_sentence(hub, failure, sentence):
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
    not_fetched("did not answer within 0.6 seconds")
    assert sum("GET" in request and ".safetensors" in request for request in hub.requests) < 6


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
