"""Pushing an exported dataset to a Hub: what arrives, and everything that can go wrong."""

import traceback
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from revt_hf.checkpoints import hub_requests
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import MARKER_FILE
from revt_hf.data_tools import export as module
from tests.helpers.exported import export, load
from tests.helpers.hub_repository import Failure, files_of
from tests.helpers.hub_server import local_hub


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.fixture
def hub(monkeypatch):
    """A local Hub that takes one token."""
    with local_hub(monkeypatch) as hub:
        yield hub


def _pushed(hub, name: str) -> dict[str, bytes]:
    files = dict(hub.repositories["datasets", name].files())
    assert files.pop(".gitattributes")
    return files


def _files(folder: Path) -> dict[str, bytes]:
    # Not the marker, which is for this machine only.
    return {name: held for name, held in files_of(folder).items() if name != MARKER_FILE}


def test_what_is_pushed_is_the_folder(hub, tmp_path):
    done = export(tmp_path / "set", "train", "val", push="me/roads")
    assert _pushed(hub, "me/roads") == _files(done)
    assert 'load_dataset("me/roads", split="train")' in (done / "README.md").read_text()


def test_shards_of_an_earlier_push_go(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "SHARD_BYTES", 1)
        export(tmp_path / "three", push="me/roads")
    assert sum(name.startswith("data/") for name in _pushed(hub, "me/roads")) == 3
    done = export(tmp_path / "one", push="me/roads")
    assert _pushed(hub, "me/roads") == _files(done)


@pytest.mark.parametrize("there", [{"README.md": b"# by hand"}, {"data/train.parquet": b"theirs"}])
def test_a_data_set_with_other_content_is_left_alone(hub, tmp_path, there):
    hub.make("datasets", "me/other").commit("main", there)
    with pytest.raises(UserError, match=r"dataset me/other exists already and holds other"):
        export(tmp_path / "set", push="me/other")
    assert hub.repositories["datasets", "me/other"].files() == there


def test_a_silent_hub_is_not_waited_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.failures.append(Failure("PUT", "silence"))
    with pytest.raises(UserError, match=r"did not answer .*: push it later with 'hf upload"):
        export(tmp_path / "set", push="me/roads")
    assert len(load(tmp_path / "set", "train")) == 3


def test_images_that_should_be_private_do_not_become_public(hub, tmp_path):
    export(tmp_path / "a", push="me/private", private=True)
    export(tmp_path / "a", push="me/private", private=True, overwrite=True)
    export(tmp_path / "b", push="me/public")
    before = _pushed(hub, "me/public")
    with pytest.raises(UserError, match="me/public exists already and is public"):
        export(tmp_path / "c", "val", push="me/public", private=True)
    assert _pushed(hub, "me/public") == before


def test_a_wrong_token_or_no_connection_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(UserError, match=r"refused the token \(status 401\)") as caught:
        export(tmp_path / "set", push="me/roads")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "wrongwrong" not in "".join(traceback.format_exception(caught.value))
    assert not hub.repositories
    assert len(load(tmp_path / "set", "train")) == 3
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/roads: no connection to http://127\.0\.0\.1:9;"):
        export(tmp_path / "other", push="me/roads")


@pytest.mark.parametrize("repository", ["a/b/c", "me/ro ads", "", "../roads", "me/roads.git", None])
def test_a_bad_id_or_missing_token_is_refused_before_any_work(tmp_path, monkeypatch, repository):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(module.domains, "open_domain", None)
    words = "HF_TOKEN" if repository is None else "is not the ID of a Hub dataset"
    with pytest.raises(UserError, match=words):
        export(tmp_path / "set", push="me/roads" if repository is None else repository)
    assert not list(tmp_path.iterdir())
