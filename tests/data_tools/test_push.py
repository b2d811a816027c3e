"""Pushing an exported dataset to a Hub: what arrives, and everything that can go wrong."""

import traceback
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from revt_hf.checkpoints import hub_requests
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import MARKER_FILE
from revt_hf.data_tools import export
from revt_hf.data_tools.export import export_parquet
from tests.helpers.exported import load, streets, tables
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
    done = export_parquet(streets("train", "val"), tmp_path / "set", push="me/roads", quiet=True)
    assert _files(hub / "me" / "roads") == _files(done)
    assert not list(hub.rglob(MARKER_FILE))
    assert 'load_dataset("me/roads", split="train")' in (done / "README.md").read_text()


def test_shards_of_an_earlier_push_go(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(export, "SHARD_BYTES", 1)
        export_parquet(streets(), tmp_path / "three", push="me/roads", quiet=True)
    assert len(tables(hub / "me" / "roads")) == 3
    done = export_parquet(streets(), tmp_path / "one", push="me/roads", quiet=True)
    assert _files(hub / "me" / "roads") == _files(done)


@pytest.mark.parametrize("there", [{"README.md": b"# by hand"}, {"data/train.parquet": b"theirs"}])
def test_a_data_set_with_other_content_is_left_alone(tmp_path, monkeypatch, there):
    with local_hub(monkeypatch) as hub:
        hub.make("datasets", "me/other").commit("main", there)
        with pytest.raises(UserError, match=r"dataset me/other exists already and holds other"):
            export_parquet(streets(), tmp_path / "set", push="me/other", quiet=True)
        assert hub.repositories["datasets", "me/other"].files() == there


def test_a_silent_hub_is_not_waited_for(tmp_path, monkeypatch):
    with local_hub(monkeypatch) as hub:
        monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.3)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
        hub.failures.append(Failure("PUT", "silence"))
        with pytest.raises(UserError, match=r"did not answer .*: push it later with 'hf upload"):
            export_parquet(streets(), tmp_path / "set", push="me/roads", quiet=True)
    assert len(load(tmp_path / "set", "train")) == 3


def test_images_that_should_be_private_do_not_become_public(hub, tmp_path):
    export_parquet(streets(), tmp_path / "a", push="me/private", private=True, quiet=True)
    export_parquet(
        streets(), tmp_path / "a", push="me/private", private=True, overwrite=True, quiet=True
    )
    export_parquet(streets(), tmp_path / "b", push="me/public", quiet=True)
    before = _files(hub / "me" / "public")
    with pytest.raises(UserError, match="me/public exists already and is public"):
        export_parquet(streets("val"), tmp_path / "c", push="me/public", private=True, quiet=True)
    assert _files(hub / "me" / "public") == before
    with pytest.raises(UserError, match="--push"):
        export_parquet(streets(), tmp_path / "d", private=True)


def test_a_wrong_token_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(UserError, match=r"refused the token \(status 401\)") as caught:
        export_parquet(streets(), tmp_path / "set", push="me/roads", quiet=True)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "wrongwrong" not in "".join(traceback.format_exception(caught.value))
    assert not list(hub.iterdir())
    assert len(load(tmp_path / "set", "train")) == 3


def test_no_connection_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/roads: no connection to http://127\.0\.0\.1:9;"):
        export_parquet(streets(), tmp_path / "set", push="me/roads", quiet=True)


@pytest.mark.parametrize("repository", ["a/b/c", "me/ro ads", "", "../roads", "me/roads.git"])
def test_a_bad_id_is_refused_before_any_work(hub, tmp_path, monkeypatch, repository):
    monkeypatch.setattr(export, "open_domain", None)
    with pytest.raises(UserError, match="is not the id of a Hub dataset"):
        export_parquet(streets(), tmp_path / "set", push=repository)
    assert not list(tmp_path.iterdir())


def test_a_missing_token_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(export, "open_domain", None)
    with pytest.raises(UserError, match="HF_TOKEN"):
        export_parquet(streets(), tmp_path / "set", push="me/roads")
