"""Scenes of ``revt app``: the same class maps as elsewhere, confidence, examples, refusals."""

import os
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from revt_hf.app.scenes import LONGEST_SIDE, Scene, load_shown, read_examples, read_upload
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains.corruptions import corrupt
from revt_hf.data.label_space import CITYSCAPES, LabelSpace
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import load_for_evaluation
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.merging.average import merge
from revt_hf.prediction.saving import DIFFERENCES
from revt_hf.results.sheets import overlay
from tests.helpers.command_line import refused, until
from tests.helpers.golden import ROOT
from tests.helpers.networks import tiny_model

NATIVE = Protocol(max_size=None)
TWO = "ensemble of 2 (probabilities)"
NONE = {"fog": 0, "night": 0, "noise": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        tiny_model(seed).save_pretrained(root / name)
    merge([root / "a", root / "b"], root / "revt")
    return {name: str(root / name) for name in ("a", "b", "revt")}


@pytest.fixture(scope="module")
def shown(models):
    return load_shown(models, NATIVE, ensemble=True)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def test_members_merge_and_ensemble_are_those_of_the_evaluation(models, shown, image):
    scene = shown.segment(image, NONE, "x")
    assert (shown.members, shown.leading) == (("a", "b"), "revt")
    assert list(scene.found) == ["a", "b", "revt", TWO]
    loaded = {name: load_for_evaluation(path) for name, path in models.items()}
    segmenters = {name: model_segmenter(model) for name, model in loaded.items()}
    segmenters[TWO] = ensemble_segmenter([loaded["a"], loaded["b"]], "probabilities")
    for name, segmenter in segmenters.items():
        found = scene.found[name]
        np.testing.assert_array_equal(found.classes, segmenter.class_map(image, NATIVE))
        ((mean,),) = segmenter.probabilities([image], NATIVE)
        highest = np.concatenate([strip.amax(0).numpy() for strip in mean.strips()])
        np.testing.assert_allclose(found.confidence / 255, highest, atol=0.5 / 255 + 1e-6)


def test_exported_graphs_are_refused(models, tmp_path):
    (tmp_path / "revt.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="is an exported graph"):
        load_shown({**models, "graph": str(tmp_path / "revt.onnx")}, NATIVE, ensemble=False)


def test_corruptions_are_those_of_the_domain_one_after_the_other(shown, image):
    scene = shown.segment(image, {"fog": 2, "night": 0, "noise": 3}, "x")
    expected = corrupt(corrupt(image, "x", "fog", 2), "x", "noise", 3)
    np.testing.assert_array_equal(scene.image, expected)


def test_hidden_classes_look_as_in_the_image(shown, image):
    scene = shown.segment(image, NONE, "x")
    views = {panel.title: panel.image for panel in scene.panels(shown.space, (), False)}
    assert list(views) == ["image", *scene.found, DIFFERENCES]
    np.testing.assert_array_equal(views["revt"], overlay(image, scene.found["revt"].classes))
    classes = scene.found["revt"].classes
    first = int(classes[0, 0])
    at = classes == first
    for confidence in (False, True):
        panels = scene.panels(shown.space, {CITYSCAPES.classes[first]}, confidence)
        hidden = {panel.title: panel.image for panel in panels}["revt"]
        np.testing.assert_array_equal(hidden[at], image[at])
        assert (hidden[~at] != image[~at]).any(axis=-1).all()


def test_uploads_are_turned_scaled_down_and_told(tmp_path):
    pixels = np.zeros((600, 2048, 3), np.uint8)
    pixels[:, :1024] = 200
    large = Image.fromarray(pixels)
    exif = large.getexif()
    exif[0x0112] = 6
    large.save(tmp_path / "large.jpg", exif=exif)
    read, remark = read_upload(tmp_path / "large.jpg")
    assert read.shape == (LONGEST_SIDE, 300, 3)
    assert remark == "scaled down from 600x2048"
    assert read[100].mean() > 150 > 50 > read[-100].mean()
    whole = (tmp_path / "large.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(whole[:3000] + b"\xff\x00" * 40 + whole[3080:])
    assert "damaged inside" in read_upload(tmp_path / "torn.jpg")[1]
    (tmp_path / "none.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^none\.png: not an image"):
        read_upload(tmp_path / "none.png")


def test_examples_are_drawn_streets_or_a_folder(tmp_path):
    assert [name for name, _ in read_examples(None, CITYSCAPES)][:2] == ["source", "pretext"]
    assert read_examples(None, LabelSpace("pets", ("cat", "dog"), (1, 2))) == []
    with pytest.raises(UserError, match="no image in it can be read"):
        read_examples(str(tmp_path), CITYSCAPES)
    for number in range(14):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "03.png").write_text("no image")
    with pytest.warns(DataWarning) as told:
        found = read_examples(str(tmp_path), CITYSCAPES)
    assert [name for name, _ in found] == [f"{n:02}.png" for n in range(12) if n != 3]
    assert "the first 12 of 14 images" in str(told[-1].message)
    for wrong in ("camvid", "nowhere"):
        with pytest.raises(UserError, match=f"--examples {wrong}: "):
            read_examples(wrong, CITYSCAPES)


def test_what_does_not_fit_is_refused(capsys, models, shown, image):
    a, b, revt = models.values()
    assert "name at least two that are no merges" in refused(capsys, "app", a, revt, "--ensemble")
    assert "the page has a picture of this name" in refused(capsys, "app", f"image={a}", b)
    with pytest.raises(UserError, match="needs at least 29"):
        shown.segment(image[:20], NONE, "x")
    assert isinstance(shown.segment(image[:32], NONE, "x"), Scene)


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(models, tmp_path):
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    command = [sys.executable, "-m", "revt_hf.cli.main", "app", models["a"], "--port", "17861"]
    with (tmp_path / "out").open("w+") as out:
        running = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out
        )
        until(lambda: running.poll() is not None or "Ctrl-C" in (tmp_path / "out").read_text())
        with urllib.request.urlopen("http://127.0.0.1:17861/", timeout=20) as answer:
            assert answer.status == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 128 + signal.SIGTERM
    assert "Traceback" not in (tmp_path / "out").read_text()
