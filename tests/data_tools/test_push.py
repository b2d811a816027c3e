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
from tests.helpers.exported import export, load, tables
from tests.helpers.hub_repository import Failure
from tests.helpers.hub_server import TOKEN, local_hub, serve_uploads


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """A local Hub that takes one token; gives the folder of what is pushed."""
    folder = tmp_path_factory.mktemp("hub")
    # xet does not fall back to plain uploads.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve_uploads(folder, TOKEN) as endpoint:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        yield folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        # Not the marker, which is for this machine only.
        for path in folder.rglob("[!.]*")
        if path.is_file()
    }


def test_what_is_pushed_is_the_folder(hub, tmp_path):
    done = export(tmp_path / "set", "train", "val", push="me/roads")
    assert _files(hub / "me" / "roads") == _files(done)
    assert not list(hub.rglob(MARKER_FILE))
    assert 'load_dataset("me/roads", split="train")' in (done / "README.md").read_text()


def test_shards_of_an_earlier_push_go(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "SHARD_BYTES", 1)
        export(tmp_path / "three", push="me/roads")
    assert len(tables(hub / "me" / "roads")) == 3
    done = export(tmp_path / "one", push="me/roads")
    assert _files(hub / "me" / "roads") == _files(done)


@pytest.mark.parametrize("there", [{"README.md": b"# by hand"}, {"data/train.parquet": b"theirs"}])
def test_a_data_set_with_other_content_is_left_alone(tmp_path, monkeypatch, there):
    with local_hub(monkeypatch) as hub:
        hub.make("datasets", "me/other").commit("main", there)
        with pytest.raises(UserError, match=r"dataset me/other exists already and holds other"):
            export(tmp_path / "set", push="me/other")
        assert hub.repositories["datasets", "me/other"].files() == there


def test_a_silent_hub_is_not_waited_for(tmp_path, monkeypatch):
    with local_hub(monkeypatch) as hub:
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
    before = _files(hub / "me" / "public")
    with pytest.raises(UserError, match="me/public exists already and is public"):
        export(tmp_path / "c", "val", push="me/public", private=True)
    assert _files(hub / "me" / "public") == before


def test_a_wrong_token_or_no_connection_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(UserError, match=r"refused the token \(status 401\)") as caught:
        export(tmp_path / "set", push="me/roads")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "wrongwrong" not in "".join(traceback.format_exception(caught.value))
    assert not list(hub.iterdir())
    assert len(load(tmp_path / "set", "train")) == 3
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/roads: no connection to http://127\.0\.0\.1:9;"):
        export(tmp_path / "other", push="me/roads")


@pytest.mark.parametrize("repository", ["a/b/c", "me/ro ads", "", "../roads", "me/roads.git", None])
def test_a_bad_id_or_missing_token_is_refused_before_any_work(tmp_path, monkeypatch, repository):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(module, "open_domain", None)
    words = "HF_TOKEN" if repository is None else "is not the ID of a Hub dataset"
    with pytest.raises(UserError, match=words):
        export(tmp_path / "set", push="me/roads" if repository is None else repository)
    assert not list(tmp_path.iterdir())
