"""Everything that can go wrong with a push: one sentence, nothing published by halves."""

import os
import shutil
import subprocess
import sys
import traceback
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from revt_hf.checkpoints import hub_requests
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.evaluation.result import write_results
from revt_hf.hub import commit
from revt_hf.hub import push as push_module
from revt_hf.hub.push import push
from tests.helpers.hub_repository import Failure
from tests.helpers.hub_server import TOKEN
from tests.helpers.pushed import LICENSE, changed, results_of

PUSH = """
import sys
from revt_hf.hub.push import PushOptions, push
push(sys.argv[1], "me/revt", PushOptions(license="apache-2.0"))
"""
STEPS = ["/api/repos/create", "/preupload/", "PUT", "/commit/"]


@pytest.fixture
def copy(models, tmp_path):
    """A copy of the merge that may be broken."""
    return shutil.copytree(models.revt, tmp_path / "copy")


def _refused(folder, sentence, options=LICENSE, results=None, name="me/revt"):
    """The push fails with the sentence, which says nothing of the token."""
    with pytest.raises(UserError, match=sentence) as caught:
        push(folder, name, options, results)
    assert "\n" not in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


LOST = "the connection to http.* was lost"
TOKEN_REFUSED = r"refused the token \(status 40[13]\)"
NOT_ACCEPTED = r"did not accept what it was sent \(status 4(00|22)\)"


@pytest.mark.parametrize(
    ("where", "what", "sentence"),
    [
        ("POST /api/repos/create", 401, TOKEN_REFUSED),
        ("POST /api/repos/create", 403, TOKEN_REFUSED),
        ("POST /api/repos/create", 500, "answered with status 500"),
        ("GET /api/models/", 503, "answered with status 503"),
        ("/api/validate-yaml", "cut", LOST),
        ("/preupload/", 500, "answered with status 500"),
        ("/preupload/", 403, TOKEN_REFUSED),
        ("/preupload/", 429, "answered with status 429"),
        ("/objects/batch", 500, "answered with status 500"),
        ("PUT /storage/", "cut", LOST),
        ("PUT /storage/", 500, "answered with status 500"),
        ("PUT /storage/", "damage", NOT_ACCEPTED),
        ("POST /verify", 422, NOT_ACCEPTED),
        ("/commit/", 500, "answered with status 500"),
        ("/commit/", 403, TOKEN_REFUSED),
        ("/commit/", "cut", LOST),
        *((step, "wait", "asks to wait 100000 seconds") for step in STEPS),
    ],
)
def test_what_the_hub_fails_at_is_one_sentence_and_no_commit(models, hub, where, what, sentence):
    wait = {"headers": {"Retry-After": "100000"}} if what == "wait" else {}
    hub.failures.append(Failure(where, 429 if wait else what, **wait))
    _refused(models.revt, f"cannot push to me/revt: .*{sentence}.*; .*run the same command again$")
    assert all(len(made.commits) == 1 for made in hub.repositories.values())
    hub.failures.clear()
    push(models.revt, "me/revt", LICENSE)
    assert len(hub.model("me/revt").commits) == 2


def test_a_passing_trouble_is_not_one(models, hub, capfd):
    hub.failures += [Failure("/preupload/", 500, times=2), Failure("PUT", "cut", times=1)]
    push(models.revt, "me/revt", LICENSE)
    assert "model.safetensors" in hub.model("me/revt").files()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", STEPS)
def test_a_silent_hub_is_not_waited_for(models, hub, monkeypatch, where):
    monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.3)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(huggingface_hub.constants, name, 0.1)
    hub.failures.append(Failure(where, "silence"))
    _refused(models.revt, "did not answer (in time|within 0.3 seconds)")
    assert all(len(made.commits) == 1 for made in hub.repositories.values())
    assert huggingface_hub.get_session().timeout.read is None


def test_an_answer_that_is_lost_on_its_way_and_a_later_failure(models, hub):
    hub.failures.append(Failure("/commit/", "forget"))
    _refused(models.base, "the connection to http.* was lost")
    push(models.base, "me/revt", LICENSE)
    repository = hub.model("me/revt")
    before = repository.files()
    assert len(repository.commits) == 2
    hub.failures[:] = [Failure("/commit/", 500)]
    _refused(models.revt, "answered with status 500")
    assert repository.files() == before


def test_whoever_was_faster_is_not_overwritten(models, hub, monkeypatch):
    theirs = {"README.md": b"theirs"}
    monkeypatch.setattr(
        commit, "check_ours", lambda *_: hub.model("me/revt").commit("main", theirs)
    )
    _refused(models.revt, r"changed at the same time \(status 412\)")
    assert hub.model("me/revt").files() == theirs


def test_a_killed_push_leaves_no_commit(models, hub, stranger, tmp_path):
    hub.failures.append(Failure("PUT /storage/", "silence"))
    pushing = subprocess.Popen(
        [sys.executable, "-c", PUSH, str(models.revt)],
        env={**stranger, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert hub.reached.wait(60)
    finally:
        pushing.kill()
    said = pushing.communicate(timeout=60)[0]
    assert pushing.returncode == -9
    assert TOKEN not in said
    assert list(hub.model("me/revt").files()) == [".gitattributes"]
    hub.failures.clear()
    push(models.revt, "me/revt", LICENSE)
    assert len(hub.model("me/revt").commits) == 2


def test_a_wrong_token_none_and_no_connection(models, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongsecret")
    _refused(models.revt, r"refused the token \(status 401\)")
    assert not hub.repositories
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    _refused(models.revt, r"me/revt: no connection to http://127\.0\.0\.1:9;")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    # Before any work.
    monkeypatch.setattr(push_module, "assemble", None)
    _refused(models.revt, "HF_TOKEN")


@pytest.mark.parametrize("name", ["a/b/c", "me/ro ads", "", "../roads", "me/roads.git", "roads"])
def test_a_bad_id(models, hub, name):
    _refused(models.revt, "is not the ID of a Hub model: write it as owner/name", name=name)
    assert hub.requests == []


def _gone(name):
    return lambda folder: (folder / name).unlink()


def _written(name, text):
    return lambda folder: (folder / name).write_text(text)


def _configured(**fields):
    return lambda folder: write_json(
        folder / "config.json", {**read_json_object(folder / "config.json"), **fields}
    )


def _tensors(change):
    def rewrite(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


BIAS = "decode_head.classifier.bias"
CLASSES = {number: f"c{number}" for number in range(19)}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_gone("model.safetensors"), "model.safetensors is missing"),
        (_gone("config.json"), "config.json is missing"),
        (_gone("preprocessor_config.json"), "preprocessor_config.json is missing"),
        (_written("preprocessor_config.json", "[]"), "_config.json is not a JSON object"),
        (lambda f: os.truncate(f / "model.safetensors", 5000), "not a readable safetensors file"),
        (_tensors(lambda t: t.pop(BIAS)), BIAS),
        (_tensors(lambda t: t.update(optimizer=torch.ones(2))), ".optimizer. has no place"),
        (_tensors(lambda t: t[BIAS].fill_(torch.nan)), f"{BIAS} holds NaN"),
        (_written("config.json", '{"model_type": "bert"}'), "is no segmenter of transformers"),
        (_configured(dtype="bfloat16"), "says bfloat16, the weights are float32: correct its"),
        (_configured(id2label={**CLASSES, 1: "c0"}), "names 'c0' twice"),
        (_tensors(lambda t: t[BIAS].add_(1)), r"merge\.json does not describe the weights"),
        (_written("merge.json", "{}"), "is not a merge record"),
        (_written("recipe.yaml", "model: {}\nsource: {}\nmodle: 1"), "recipe.yaml: modle"),
    ],
)
def test_a_broken_folder_is_refused_before_any_request(hub, copy, spoil, sentence):
    spoil(copy)
    _refused(copy, sentence)
    assert hub.requests == []


def test_what_the_card_needs_is_asked_for_before_any_request(models, hub, tmp_path, monkeypatch):
    _refused(models.revt, "name the license of the weights", replace(LICENSE, license=" "))
    _refused(models.revt, "'base' is not the ID", replace(LICENSE, base_models=("base",)))
    _refused(models.revt, "'x y' is not the ID", replace(LICENSE, datasets=("x y",)))
    other = replace(LICENSE, with_members=(models.revt,))
    _refused(models.revt, "is not a member of this model: merge.json does not name", other)
    _refused(models.base, "is not a member", replace(LICENSE, with_members=(models.base,)))
    _refused(models.pixmix, "results, but none of .*pixmix: they are of", results=models.results)
    _refused(models.revt, "cannot read", results=tmp_path / "absent.json")
    file = tmp_path / "results.json"
    write_json(file, {"mIoU": 3})
    _refused(models.revt, "is not a result file", results=file)
    # Results of members that go along are checked, too.
    own, other = results_of(models)
    write_results(file, [own, changed(other, network_sha256=own.network_sha256)])
    words, along = rf"results\[1\] \({models.base}\) .*on other weights", (models.base,)
    _refused(models.revt, words, replace(LICENSE, with_members=along), file)
    # A local folder is not a base model.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "start").mkdir(parents=True)
    _refused(models.revt, "'runs/start' is not", replace(LICENSE, base_models=("runs/start",)))
    assert hub.requests == []
