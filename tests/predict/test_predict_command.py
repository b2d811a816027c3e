"""`revt predict`: what is written for images of all kinds and for videos."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES, PALETTE
from revt_hf.data.reading import read_image
from revt_hf.evaluation.predictor import predict
from revt_hf.models.load import load_model
from revt_hf.predict import command
from revt_hf.predict.command import _model_names
from revt_hf.predict.video import VideoOutput
from revt_hf.results.sheets import overlay
from tests.helpers.command_line import refused, revt
from tests.helpers.image_files import IMAGE, KINDS, read_video, write_video
from tests.helpers.networks import random_image, tiny_model

NATIVE = ("--max-size", "native", "--quiet")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("models") / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        tiny_model(seed).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def network(models):
    return load_model(models[0])


@pytest.fixture
def run(capsys, tmp_path, models):
    """Predict with the first model: exit code, standard error, JSON; results go to ``out``."""

    def predicted(*places, model=(0,), more=(), code=0):
        named = [word for number in model for word in ("--model", models[number])]
        found, _, error = revt(
            *(capsys, "predict", *places, *named, "--output", tmp_path / "out"),
            *("--json", tmp_path / "p.json", *NATIVE, *more),
        )
        assert found == code, error
        return error, json.loads((tmp_path / "p.json").read_text())

    return predicted


def _save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def _read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def _written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("[!.]*") if p.is_file())


def test_every_kind_of_file_gives_the_class_map_of_what_is_displayed(run, network, tmp_path):
    for name, (write, _, _) in KINDS.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        write(tmp_path / "in" / name)
    _, done = run(tmp_path / "in")
    assert len(done["images"]) == len(KINDS)
    assert done["failed"] == []
    native = Protocol(max_size=None)
    for found in done["images"]:
        path = tmp_path / "in" / found["file"].rpartition("/")[2]
        _, displayed, tolerance = KINDS[path.name]
        image = read_image({"path": str(path), "bytes": None})
        off = np.abs(image.astype(int) - displayed).mean()
        assert off <= tolerance, path.name
        classes = _read(tmp_path / "out" / "maps" / f"{found['name']}.png")
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(classes, predict(network, image, native), path.name)
        assert (found["height"], found["width"]) == classes.shape == IMAGE.shape[:2]
        # The image stands in the overlay as it is, the legend below it.
        drawn = _read(tmp_path / "out" / "overlays" / f"{found['name']}.png")
        height, width = classes.shape
        np.testing.assert_array_equal(drawn[:height, :width], overlay(image, classes))
        assert drawn.shape[0] > height


def test_the_legend_has_the_classes_that_are_there(run, tmp_path):
    _save(tmp_path / "a.png", IMAGE)
    _, done = run(tmp_path / "a.png")
    (found,) = done["images"]
    shares = found["models"]["first"]["shares"]
    classes = _read(tmp_path / "out" / "maps" / "a.png")
    assert shares == {
        CLASSES[train_id]: pytest.approx((classes == train_id).mean())
        for train_id in np.unique(classes)
    }
    assert found["models"]["first"]["seconds"] > 0
    assert found["differing"] is None and found["frames"] is None
    legend = _read(tmp_path / "out" / "overlays" / "a.png")[IMAGE.shape[0] :]
    for train_id, name in enumerate(CLASSES):
        there = (legend == PALETTE[train_id]).all(-1).sum() > 20
        assert there == (name in shares), name


def test_ids_of_cityscapes(run, tmp_path):
    _save(tmp_path / "a.png", IMAGE)
    run(tmp_path / "a.png", more=["--save", "maps"])
    train = _read(tmp_path / "out" / "maps" / "a.png")
    run(tmp_path / "a.png", more=["--save", "maps", "--ids", "cityscapes", "--overwrite"])
    official = _read(tmp_path / "out" / "maps" / "a.png")
    assert _written(tmp_path / "out") == ["maps/a.png"]
    # cityscapesScripts: road, sidewalk, building, wall, fence, pole, light, sign, ...
    table = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    np.testing.assert_array_equal(official, np.array(table)[train])


def test_several_models_stand_side_by_side(run, models, tmp_path):
    _save(tmp_path / "in" / "sub" / "a.png", IMAGE)
    _, done = run(tmp_path / "in", model=(0, 1))
    assert _written(tmp_path / "out") == [
        "differences/sub/a.png",
        "maps/first/sub/a.png",
        "maps/second/sub/a.png",
        "overlays/first/sub/a.png",
        "overlays/second/sub/a.png",
        "side-by-side/sub/a.png",
    ]
    assert done["models"] == {model.name: str(model) for model in models}
    (found,) = done["images"]
    assert sorted(found["outputs"]) == [
        str(tmp_path / "out" / name) for name in _written(tmp_path / "out")
    ]
    first, second = (_read(tmp_path / "out" / "maps" / m.name / "sub" / "a.png") for m in models)
    assert found["differing"] == pytest.approx((first != second).mean())
    assert 0 < found["differing"] < 1
    view = _read(tmp_path / "out" / "differences" / "sub" / "a.png").astype(int)
    red = view[..., 0] - view[..., 1] > 30
    np.testing.assert_array_equal(red, first != second)
    sheet = _read(tmp_path / "out" / "side-by-side" / "sub" / "a.png")
    assert sheet.shape[1] > 4 * IMAGE.shape[1]


def test_models_are_called_by_the_ends_of_their_paths(monkeypatch, tmp_path):
    assert _model_names(["runs/x/base", "me/revt@main"]) == ["base", "revt@main"]
    assert _model_names(["runs/base/0", "runs/both/0"]) == ["base-0", "both-0"]
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert _model_names(["."]) == ["mine"]
    with pytest.raises(UserError, match="the same model twice"):
        _model_names([".", "../mine"])


def test_broken_files_are_warned_of_and_the_rest_goes_on(run, tmp_path):
    good = _save(tmp_path / "in" / "good.png", IMAGE)
    (tmp_path / "in" / "cut.png").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "in" / "text.jpg").write_text("hello")
    (tmp_path / "in" / "empty.webp").touch()
    (tmp_path / "in" / "text.mp4").write_text("hello")
    error, done = run(tmp_path / "in", code=2)
    assert [found["name"] for found in done["images"]] == ["good"]
    assert (tmp_path / "out" / "maps" / "good.png").is_file()
    warned = [line for line in error.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(done["failed"]) == 4
    for name in ("cut.png", "text.jpg", "empty.webp", "text.mp4"):
        assert sum(str(tmp_path / "in" / name) in line for line in warned) == 1
    reasons = {failed["file"].rpartition("/")[2]: failed["reason"] for failed in done["failed"]}
    assert reasons["cut.png"] == "the file is truncated"
    assert reasons["text.mp4"] == "not a video that OpenCV can read"


def test_damage_inside_a_jpeg_is_named_and_shown_as_far_as_it_goes(run, tmp_path):
    path = _save(tmp_path / "in" / "b.jpg", random_image(64, 96))
    shutil.copy(path, tmp_path / "in" / "a.jpg")
    data = bytearray(path.read_bytes())
    data[-60:-50] = b"\xff\xd0" * 5
    path.write_bytes(data)
    error, done = run(tmp_path / "in")
    assert f"warning: {path}: damaged inside, shown as far as it goes (Corrupt JPEG" in error
    assert "a.jpg" not in error
    assert len(done["images"]) == 2
    assert done["failed"] == []


def test_batches_and_threads_change_nothing(run, tmp_path):
    for number in range(7):
        size = (48, 96) if number != 3 else (40, 56)
        _save(tmp_path / "in" / f"{number}.png", random_image(*size, seed=number))
    _, one = run(tmp_path / "in")
    shutil.move(tmp_path / "out", tmp_path / "alone")
    _, three = run(tmp_path / "in", more=["--batch-size", "3", "--workers", "3"])
    assert [found["name"] for found in three["images"]] == [str(number) for number in range(7)]
    assert len(one["images"]) == 7
    for name in _written(tmp_path / "alone"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_becomes_a_video(run, network, tmp_path, suffix):
    frames = [cv2.GaussianBlur(random_image(64, 96, seed), (5, 5), 0) for seed in range(5)]
    write_video(tmp_path / f"drive{suffix}", frames)
    _, done = run(tmp_path / f"drive{suffix}", more=["--save", "overlays,maps"])
    rate, drawn = read_video(tmp_path / "out" / "overlays" / f"drive{suffix}")
    assert (rate, len(drawn)) == (12.5, 5)
    _, read = read_video(tmp_path / f"drive{suffix}")
    for number, (frame, shown) in enumerate(zip(read, drawn, strict=True)):
        classes = predict(network, np.ascontiguousarray(frame), Protocol(max_size=None))
        saved = _read(tmp_path / "out" / "maps" / "drive" / f"{number:06}.png")
        np.testing.assert_array_equal(saved, classes)
        assert shown.shape == frame.shape
        # Both codecs are lossy.
        assert np.abs(shown.astype(int) - overlay(frame, classes)).mean() < 16
    (found,) = done["images"]
    assert found["frames"] == 5
    assert sum(found["models"]["first"]["shares"].values()) == pytest.approx(1)
    assert "legends/drive.png" in _written(tmp_path / "out")


def test_a_video_of_several_models(run, tmp_path):
    write_video(tmp_path / "drive.mov", [random_image(64, 96, seed) for seed in range(2)])
    _, done = run(tmp_path / "drive.mov", model=(0, 1))
    # Class maps of frames only where they are asked for: a codec would spoil them.
    assert _written(tmp_path / "out") == [
        "differences/drive.mp4",
        "legends/drive.png",
        "overlays/first/drive.mp4",
        "overlays/second/drive.mp4",
        "side-by-side/drive.mp4",
    ]
    _, frames = read_video(tmp_path / "out" / "side-by-side" / "drive.mp4")
    assert len(frames) == 2
    assert frames[0].shape[1] == 3 * 96
    assert 0 < done["images"][0]["differing"] < 1


def test_a_video_of_odd_size_loses_nothing(tmp_path):
    frame = random_image(49, 65)
    with VideoOutput(tmp_path / "odd.avi", 10.0) as output:
        output.write(frame)
    _, (found,) = read_video(tmp_path / "odd.avi")
    assert found.shape == (50, 66, 3)
    assert np.abs(found[:49, :65].astype(int) - frame).mean() < 20


def test_a_video_that_ends_early_is_a_failure_but_its_frames_are_there(run, tmp_path):
    write_video(tmp_path / "whole.avi", [random_image(64, 96, seed) for seed in range(12)])
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    error, done = run(tmp_path / "cut.avi", code=2)
    assert f"warning: {tmp_path / 'cut.avi'}: the video ends after" in error
    assert "of 12 frames" in done["failed"][0]["reason"]
    _, frames = read_video(tmp_path / "out" / "overlays" / "cut.avi")
    assert 0 < len(frames) == done["images"][0]["frames"] < 12


def test_nothing_half_written_stays(monkeypatch, models, tmp_path):
    write_video(tmp_path / "drive.mp4", [random_image(64, 96, seed) for seed in range(4)])

    class Interrupted(BaseException):
        pass

    def interrupt(video):
        frames = whole(video)
        yield next(frames)
        raise Interrupted

    whole = command.Video.__iter__
    monkeypatch.setattr(command.Video, "__iter__", interrupt)
    options = command.PredictOptions(max_size="native", quiet=True)
    with pytest.raises(Interrupted):
        command.predict_command(
            [tmp_path / "drive.mp4"], [str(models[0])], tmp_path / "out", options
        )
    assert _written(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--save", "mpas"], "--save mpas: use maps, overlays, side-by-side, differences"),
        (["--save", "differences"], "--save differences compares models: name at least two"),
        (["--max-size", "big"], "--max-size big"),
        (["--model", "/no/such/model"], "cannot load the model '/no/such/model'"),
    ],
)
def test_mistakes_are_one_sentence(capsys, models, tmp_path, more, words):
    path = _save(tmp_path / "a.png", IMAGE)
    arguments = ("predict", path, "--model", models[0], "--output", tmp_path / "out", *more)
    assert words in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_to_unasked(capsys, models, tmp_path):
    path = _save(tmp_path / "a.png", IMAGE)
    _save(tmp_path / "out" / "mine.png", IMAGE)
    arguments = ("predict", path, "--model", models[0], "--output", tmp_path / "out")
    assert "exists already" in refused(capsys, *arguments)
    code, out, error = revt(capsys, *arguments, "--overwrite", *NATIVE[:2])
    assert code == 0, error
    assert out == f"1 image or video: {tmp_path / 'out'}\n"
    assert "mine.png" in _written(tmp_path / "out")


def test_what_the_network_cannot_take_is_one_warning_and_the_rest_goes_on(run, tmp_path):
    folder = tmp_path / "in"
    _save(folder / "a.png", random_image(64, 64))
    _save(folder / "thin.png", random_image(9, 64))
    _save(folder / f"{'n' * 250}.png", random_image(64, 64))
    _save(folder / "z.png", random_image(64, 64))
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    error, report = run(folder, code=2)
    assert {Path(item["file"]).name[:8]: item["reason"][:20] for item in report["failed"]} == {
        "thin.png": "64x9 pixels give the",
        "nnnnnnnn": "its name has 250 byt",
        "gone.png": "a link to nothing",
        "pipe.png": "not a regular file",
        "\ufffd.png": "its name is not UTF-",
    }
    assert error.count("warning:") == 5
    assert {"maps/a.png", "maps/z.png"} <= set(_written(tmp_path / "out"))
