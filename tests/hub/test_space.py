"""Spaces: what is written, that it runs, and that a push publishes it beside the model."""

import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import pytest
import yaml
from huggingface_hub import constants

from revt_hf.core.errors import UserError
from revt_hf.hub.commit import MARKER
from revt_hf.hub.push import push
from revt_hf.merging.average import merge
from tests.helpers.command_line import refused, revt, until
from tests.helpers.golden import ROOT
from tests.helpers.hub_repository import Failure, files_of
from tests.helpers.pushed import LICENSE
from tests.helpers.small_hub import use_endpoint

pytest.importorskip("gradio", reason="the extra 'app' is not installed")
WITH_SPACE = replace(LICENSE, with_space=True)


def front_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_space_names_its_models_and_runs_the_app(capsys, hub, tmp_path):
    space = tmp_path / "space"
    models = ["plain=me/plain", "me/revt@v1"]
    more = ["--ensemble", "--max-size", "native", "--examples", "streets"]
    code, out, error = revt(capsys, "app", *models, *more, "--space", space)
    assert (code, out, error) == (0, f"written: {space}\n", "")
    files = {name: content.decode() for name, content in files_of(space).items()}
    assert set(files) == {".revt_hf.json", "README.md", "app.py", "requirements.txt"}
    front = front_of(files["README.md"])
    assert front["models"] == ["me/plain", "me/revt"]
    assert (front["sdk"], front["sdk_version"]) == ("gradio", version("gradio"))
    assert front["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (front["app_file"], front["license"]) == ("app.py", "apache-2.0")
    assert len(front["short_description"]) <= 60
    assert MARKER in files["README.md"]
    assert re.fullmatch(r"revt_hf\[app\]==[\w.]+\n", files["requirements.txt"])
    names = {}
    exec(files["app.py"], names)
    assert names["COMMAND"] == ["app", *models, "--ensemble", "--max-size", "native", *more[-2:]]
    # Nobody was asked.
    assert hub.requests == []
    assert "--overwrite" in refused(capsys, "app", *models, "--space", space)
    code, *_ = revt(capsys, "app", *models, "--space", space, "--overwrite", "--quiet")
    assert code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["MODEL"], "is not on the Hub, where a Space finds its models"),
        (["nothing"], "nothing is not on the Hub"),
        (["me/revt", "--port", "7860"], "--host and --port are for a page served here"),
        (["me/revt", "--examples", "photos"], "a Space shows drawn scenes only"),
        (["me/revt", "--examples", "camvid"], "a Space shows drawn scenes only"),
    ],
)
def test_what_is_no_space_is_refused(capsys, models, tmp_path, words, sentence):
    words = [str(models.revt) if word == "MODEL" else word for word in words]
    assert sentence in refused(capsys, "app", *words, "--space", tmp_path / "space")
    assert list(tmp_path.iterdir()) == []


def test_without_gradio_the_extra_is_named(capsys, monkeypatch, models, tmp_path):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("revt_hf.hub.space.version", missing)
    for words in (["me/revt", "--space", tmp_path / "space"], [models.revt]):
        assert "pip install 'revt_hf[app]'" in refused(capsys, "app", *words)
    with pytest.raises(UserError, match="gradio is not installed"):
        push(models.revt, "me/revt", WITH_SPACE)


def test_a_push_publishes_the_space_and_the_card_links_it(models, hub, tmp_path, monkeypatch):
    use_endpoint(monkeypatch, hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("base", "pixmix"):
        push(getattr(models, name), f"me/{name}", LICENSE)
    merge(["me/base", "me/pixmix"], tmp_path / "revt")
    options = replace(WITH_SPACE, base_models=("me/base", "me/pixmix"), collection="Ours")
    for _ in range(2):  # again changes nothing
        assert push(tmp_path / "revt", "me/revt", options) == f"{hub.endpoint}/me/revt"
        space = hub.repositories["spaces", "me/revt"]
        files = {name: content.decode() for name, content in space.files().items()}
        assert set(files) == {".gitattributes", "README.md", "app.py", "requirements.txt"}
        assert len(space.commits) == 2
    assert front_of(files["README.md"])["models"] == ["me/base", "me/pixmix", "me/revt"]
    assert "['app', 'me/base', 'me/pixmix', 'me/revt', '--ensemble']" in files["app.py"]
    (held,) = hub.collections.values()
    assert sorted(map(sorted, held.items)) == [["me/revt", "model"], ["me/revt", "space"]]
    card = hub.model("me/revt").files()["README.md"].decode()
    assert "<https://huggingface.co/spaces/me/revt>" in card
    assert "huggingface.co/spaces" not in hub.model("me/base").files()["README.md"].decode()


def test_a_space_of_somebody_elses_is_left_alone(models, hub):
    other = hub.make("spaces", "me/revt")
    other.commit("main", {"app.py": b"mine"})
    with pytest.raises(UserError, match="Hub space me/revt exists already"):
        push(models.revt, "me/revt", WITH_SPACE)
    assert other.files() == {"app.py": b"mine"}
    assert ("models", "me/revt") not in hub.repositories


def test_a_space_that_fails_leaves_the_model_published_and_says_so(models, hub):
    hub.failures.append(Failure("POST /api/spaces", 403))
    with pytest.raises(UserError, match="the model is published: run the same command again"):
        push(models.revt, "me/revt", WITH_SPACE)
    hub.failures.clear()
    push(models.revt, "me/revt", WITH_SPACE)
    assert "app.py" in hub.repositories["spaces", "me/revt"].files()


@pytest.mark.parametrize("more", [["--dry-run", "DIR"], ["--create-pr"], ["--revision", "v2"]])
def test_a_space_goes_with_what_is_on_main(capsys, models, hub, tmp_path, more):
    more = [str(tmp_path / "dry") if word == "DIR" else word for word in more]
    words = ["push", models.revt, "me/revt", "--license", "mit", "--with-space", *more]
    assert f"{more[0]} goes without --with-space" in refused(capsys, *words)
    assert hub.requests == []


@pytest.mark.slow
def test_the_published_space_serves_its_page(models, hub, stranger, tmp_path):
    push(models.revt, "me/revt", WITH_SPACE)
    app = tmp_path / "app.py"
    app.write_bytes(hub.repositories["spaces", "me/revt"].files()["app.py"])
    environment = {**stranger, "GRADIO_SERVER_PORT": "17860", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w+") as log:
        running = subprocess.Popen(
            [sys.executable, str(app)], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            until(
                lambda: running.poll() is not None or "open http" in (tmp_path / "log").read_text()
            )
            with urllib.request.urlopen("http://127.0.0.1:17860/config", timeout=20) as answer:
                assert b"ReVT: models side by side" in answer.read()
        finally:
            running.terminate()
            running.wait(30)
    assert os.fspath(models.revt) not in (tmp_path / "log").read_text()
