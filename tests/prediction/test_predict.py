"""`revt predict`: what is predicted on, and what is written for images of all kinds and videos."""

import json
import os
import shutil
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.label_space import CITYSCAPES, CLASSES
from revt_hf.data.reading import read_image
from revt_hf.evaluation.predictor import predict
from revt_hf.models.load import load_model
from revt_hf.prediction.inputs import find_inputs, unique_names
from revt_hf.prediction.prediction import PredictOptions, predict_files, short_names
from revt_hf.prediction.saving import Video, VideoOutput, disagreement
from revt_hf.results.sheets import overlay
from tests.helpers.command_line import refused, revt
from tests.helpers.image_files import IMAGE, KINDS, read_video, write_kind, write_video
from tests.helpers.networks import random_image, tiny_model

NATIVE = Protocol(max_size=None)


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
    """Predict with the first model: standard error, JSON; results go to ``out``."""

    def predicted(path, *more, chosen=(0,), code=0):
        found, _, error = revt(
            *(capsys, "predict", *(models[number] for number in chosen), "--input", path),
            *("--output", tmp_path / "out", "--json", tmp_path / "p.json"),
            *("--max-size", "native", "--quiet", *more),
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
    (tmp_path / "in").mkdir()
    for name in KINDS:
        write_kind(tmp_path / "in" / name)
    _, done = run(tmp_path / "in")
    assert len(done["images"]) == len(KINDS)
    assert done["failed"] == []
    for found in done["images"]:
        path = Path(found["file"])
        *_, displayed, tolerance = KINDS[path.name]
        image = read_image({"path": str(path), "bytes": None})
        assert np.abs(image.astype(int) - displayed).mean() <= tolerance, path.name
        classes = _read(tmp_path / "out" / "maps" / f"{found['name']}.png")
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(classes, predict(network, image, NATIVE), path.name)
        assert (found["height"], found["width"]) == classes.shape == IMAGE.shape[:2]
        # The overlay is the image at its size, above the legend.
        drawn = _read(tmp_path / "out" / "overlays" / f"{found['name']}.png")
        height, width = classes.shape
        np.testing.assert_array_equal(drawn[:height, :width], overlay(image, classes))
        assert drawn.shape[0] > height


def test_shares_legend_and_ids_are_those_of_the_class_map(run, tmp_path):
    _, done = run(_save(tmp_path / "a.png", IMAGE))
    (found,) = done["images"]
    shares = found["models"]["first"]["shares"]
    classes = _read(tmp_path / "out" / "maps" / "a.png")
    assert shares == {
        CLASSES[train_id]: pytest.approx((classes == train_id).mean())
        for train_id in np.unique(classes)
    }
    assert found["models"]["first"]["seconds"] > 0
    assert found["differing"] is found["frames"] is None
    legend = _read(tmp_path / "out" / "overlays" / "a.png")[IMAGE.shape[0] :]
    for train_id, name in enumerate(CLASSES):
        assert ((legend == CITYSCAPES.palette[train_id]).all(-1).sum() > 20) == (name in shares), (
            name
        )
    shutil.rmtree(tmp_path / "out" / "overlays")
    run(tmp_path / "a.png", "--save", "maps", "--ids", "cityscapes", "--overwrite")
    assert _written(tmp_path / "out") == ["maps/a.png"]
    # cityscapesScripts: road, sidewalk, building, wall, fence, pole, light, sign, ...
    table = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    official = _read(tmp_path / "out" / "maps" / "a.png")
    np.testing.assert_array_equal(official, np.array(table)[classes])


def test_several_models_stand_side_by_side(run, models, tmp_path):
    _save(tmp_path / "in" / "sub" / "a.png", IMAGE)
    write_video(tmp_path / "in" / "b.mov", [random_image(64, 96, seed) for seed in range(2)])
    _, done = run(tmp_path / "in", chosen=(0, 1))
    written, out = _written(tmp_path / "out"), tmp_path / "out"
    # Class maps of frames only on request: a codec would spoil them.
    files = ("differences", "overlays/first", "overlays/second", "side-by-side")
    image = [f"{kind}/sub/a.png" for kind in (*files, "maps/first", "maps/second")]
    assert written == sorted([*image, *(f"{kind}/b.mp4" for kind in files), "legends/b.png"])
    assert done["models"] == {model.name: str(model) for model in models}
    found, video = sorted(done["images"], key=lambda one: one["file"], reverse=True)
    assert sorted(found["outputs"]) == sorted(str(out / name) for name in image)
    first, second = (_read(out / "maps" / m.name / "sub" / "a.png") for m in models)
    assert found["differing"] == pytest.approx((first != second).mean())
    assert 0 < found["differing"] < 1
    assert 0 < video["differing"] < 1
    view = _read(out / "differences" / "sub" / "a.png").astype(int)
    np.testing.assert_array_equal(view[..., 0] - view[..., 1] > 30, first != second)
    assert _read(out / "side-by-side" / "sub" / "a.png").shape[1] > 4 * IMAGE.shape[1]
    _, frames = read_video(out / "side-by-side" / "b.mp4")
    assert (len(frames), frames[0].shape[1]) == (2, 3 * 96)


def test_disagreement_is_the_share_outside_the_majority():
    maps = [np.array([[0, 0, 0, 0]]), np.array([[0, 1, 1, 1]]), np.array([[0, 0, 2, 1]])]
    np.testing.assert_allclose(disagreement(maps), [[0, 0.5, 1, 0.5]])


def test_models_are_named_by_their_labels_or_the_ends_of_their_paths(monkeypatch, tmp_path):
    def names(*models, **labels):
        return list(short_names({**{model: model for model in models}, **labels}))

    assert names("runs/x/base", "me/revt@main") == ["base", "revt@main"]
    assert names("runs/base/0", "runs/both/0") == ["base-0", "both-0"]
    assert names("runs/base/0", ours="runs/both/0") == ["0", "ours"]
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert names(".") == ["mine"]
    with pytest.raises(UserError, match="the same model is listed twice"):
        names(".", "../mine")
    with pytest.raises(UserError, match=r"\.\.=mine: choose another name"):
        short_names({"..": "mine"})


def test_what_cannot_be_used_is_one_warning_and_the_rest_goes_on(run, tmp_path):
    folder = tmp_path / "in"
    good = _save(folder / "a.png", random_image(64, 64))
    _save(folder / "z.png", random_image(64, 64))
    _save(folder / "thin.png", random_image(9, 64))
    _save(folder / f"{'n' * 250}.png", random_image(64, 64))
    (folder / "cut.png").write_bytes(good.read_bytes()[:-40])
    (folder / "text.jpg").write_text("hello")
    (folder / "text.mp4").write_text("hello")
    (folder / "empty.webp").touch()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    shutil.copy(good, os.fsencode(folder) + b"/\xff.png")
    error, done = run(folder, code=2)
    reasons = {Path(item["file"]).name[:8]: item["reason"] for item in done["failed"]}
    expected = {
        "thin.png": "64x9 pixels give the",
        "nnnnnnnn": "its name has 250 byt",
        "cut.png": "the file is truncated",
        "text.jpg": "",
        "text.mp4": "not a video that OpenCV can read",
        "empty.we": "",
        "gone.png": "a link to nothing",
        "pipe.png": "not a regular file",
        "\ufffd.png": "its name is not UTF-",
    }
    assert reasons.keys() == expected.keys()
    assert all(reasons[name].startswith(words) for name, words in expected.items())
    warned = [line for line in error.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(expected)
    for name in expected:
        assert sum(f"/{name}" in line for line in warned) == 1, name
    assert [found["name"] for found in done["images"]] == ["a", "z"]
    assert {"maps/a.png", "maps/z.png"} <= set(_written(tmp_path / "out"))


def test_damage_inside_a_jpeg_is_named_and_shown_as_far_as_it_goes(run, tmp_path):
    path = _save(tmp_path / "in" / "b.jpg", random_image(64, 96))
    shutil.copy(path, tmp_path / "in" / "a.jpg")
    data = bytearray(path.read_bytes())
    data[-60:-50] = b"\xff\xd0" * 5
    path.write_bytes(data)
    error, done = run(tmp_path / "in")
    assert f"warning: {path}: damaged inside, shown as far as it goes (Corrupt JPEG" in error
    assert "a.jpg" not in error
    assert (len(done["images"]), done["failed"]) == (2, [])


def test_batches_and_threads_change_nothing(run, tmp_path):
    for number in range(7):
        size = (48, 96) if number != 3 else (40, 56)
        _save(tmp_path / "in" / f"{number}.png", random_image(*size, seed=number))
    run(tmp_path / "in")
    shutil.move(tmp_path / "out", tmp_path / "alone")
    _, three = run(tmp_path / "in", "--batch-size", "3", "--workers", "3")
    assert [found["name"] for found in three["images"]] == [str(number) for number in range(7)]
    assert _written(tmp_path / "alone") == _written(tmp_path / "out") != []
    for name in _written(tmp_path / "alone"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_becomes_a_video(run, network, tmp_path, suffix):
    frames = [cv2.GaussianBlur(random_image(64, 96, seed), (5, 5), 0) for seed in range(5)]
    write_video(tmp_path / f"drive{suffix}", frames)
    _, done = run(tmp_path / f"drive{suffix}", "--save", "overlays,maps")
    rate, drawn = read_video(tmp_path / "out" / "overlays" / f"drive{suffix}")
    assert (rate, len(drawn)) == (12.5, 5)
    _, read = read_video(tmp_path / f"drive{suffix}")
    for number, (frame, shown) in enumerate(zip(read, drawn, strict=True)):
        classes = predict(network, np.ascontiguousarray(frame), NATIVE)
        saved = _read(tmp_path / "out" / "maps" / "drive" / f"{number:06}.png")
        np.testing.assert_array_equal(saved, classes)
        assert shown.shape == frame.shape
        # Both codecs are lossy.
        assert np.abs(shown.astype(int) - overlay(frame, classes)).mean() < 16
    (found,) = done["images"]
    assert found["frames"] == 5
    assert sum(found["models"]["first"]["shares"].values()) == pytest.approx(1)
    assert "legends/drive.png" in _written(tmp_path / "out")


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
        yield next(whole(video))
        raise Interrupted

    whole = Video.__iter__
    monkeypatch.setattr(Video, "__iter__", interrupt)
    options = PredictOptions(protocol=NATIVE, quiet=True)
    with pytest.raises(Interrupted):
        predict_files({"a": str(models[0])}, [tmp_path / "drive.mp4"], tmp_path / "out", options)
    assert _written(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--save", "mpas"], "--save mpas: use maps, overlays, side-by-side, differences"),
        (["--save", "differences"], "--save differences compares models: name at least two"),
        (["--max-size", "big"], "--max-size big"),
        (["/no/such/model"], "cannot load the model '/no/such/model'"),
        (["IMAGE"], "a.png is not a model: put --input before each image"),
    ],
)
def test_mistakes_are_one_sentence(capsys, models, tmp_path, more, words):
    path = _save(tmp_path / "a.png", IMAGE)
    more = [path if word == "IMAGE" else word for word in more]
    arguments = ("predict", models[0], "--input", path, "--output", tmp_path / "out", *more)
    assert words in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_only_written_to_with_overwrite(capsys, models, tmp_path):
    path = _save(tmp_path / "a.png", IMAGE)
    _save(tmp_path / "out" / "mine.png", IMAGE)
    arguments = ("predict", models[0], "--input", path, "--output", tmp_path / "out")
    assert "exists already" in refused(capsys, *arguments)
    code, out, error = revt(capsys, *arguments, "--overwrite", "--max-size", "native")
    assert code == 0, error
    assert out == f"predicted 1 input: {tmp_path / 'out'}\n"
    assert "mine.png" in _written(tmp_path / "out")


def _names(*files):
    return unique_names([PurePosixPath(file) for file in files])


def _touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def _found(*places, output="out"):
    return {str(item.path): item.name for item in find_inputs(places, Path(output))[0]}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b/a.jpg"], ["a", "b/a"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
        (["a.png", "A.png"], ["a.png", "A.png-2"]),
        (["a.png", "a.png"], ["a.png", "a.png-2"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg-2"]),
        # The frames of a video have a folder of its name.
        (["a.mp4", "a/000000.png"], ["a.mp4", "a/000000"]),
        (["a.mp4", "a/0.png", "a.mp4/0.png"], ["a.mp4-2", "a/0", "a.mp4/0"]),
        (["frame.0001.png", "frame.0002.png"], ["frame.0001", "frame.0002"]),
    ],
)
def test_names_are_the_files_own_where_that_is_unique(files, names):
    assert _names(*files) == names


@given(st.lists(st.lists(st.sampled_from(["a", "A", "a.jpg", "a-2", "b"]), min_size=1, max_size=3)))
def test_no_name_is_another_one_or_its_folder(files):
    names = [PurePosixPath(name.casefold()) for name in _names(*("/".join(f) for f in files))]
    assert len(names) == len(files) == len(set(names))
    assert not {parent for name in names for parent in name.parents} & set(names)


def test_folders_are_searched_with_all_that_is_in_them(tmp_path):
    files = ("b.JPG", "a/x.png", "a/drive.mp4", "notes.txt", ".hidden.png", "a/x.json")
    # Links are images of their own name, and results of an earlier run are no inputs.
    _touch(tmp_path / "in", *files, "out/maps/a.png", "outer/b.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "in" / "a" / "x.png")
    found, _ = find_inputs([tmp_path / "in"], tmp_path / "in" / "out")
    videos = {"a/drive": True, "a/x": False, "b": False, "link": False, "outer/b": False}
    assert {item.name: item.is_video for item in found} == videos


def test_of_several_paths_folders_keep_their_names(tmp_path, monkeypatch):
    _touch(tmp_path, "day/0.png", "day/1.png", "night/0.png", "more/one.xyz")
    day, night, one = tmp_path / "day", tmp_path / "night", tmp_path / "more" / "one.xyz"
    assert list(_found(day, night, one).values()) == ["day/0", "day/1", "night/0", "one"]
    assert list(_found(day).values()) == ["0", "1"]
    # What is named twice is taken once.
    assert list(_found(day / "0.png", day).values()) == ["0", "day/1"]
    monkeypatch.chdir(tmp_path)
    assert list(_found(Path("day"), day).values()) == ["day/0", "day/1"]


def test_images_of_other_formats_are_named(tmp_path):
    _touch(tmp_path, "in/a.jfif", "in/b.GIF", "in/c.HEIC", "in/raw/d.nef", "in/notes.txt")
    with pytest.warns(DataWarning) as said:
        found, left_out = find_inputs([tmp_path / "in"], tmp_path / "out")
    assert [item.name for item in found] == ["a", "b"]
    assert left_out == {}
    names = ", ".join(str(tmp_path / "in" / name) for name in ("c.HEIC", "raw/d.nef"))
    assert [str(one.message) for one in said] == [f"not taken (save them as PNG or JPEG): {names}"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: there is no such file or folder"),
        ("empty", "empty holds no images or videos (avi, avif, bmp"),
        ("model", "model is a model, not a folder of images: name it without --input"),
        ("out", "out is or holds the input"),
        ("out/a.png", "out is or holds the input"),
    ],
)
def test_places_that_cannot_be_used(tmp_path, place, words):
    _touch(tmp_path, "empty/notes.txt", "model/config.json", "out/a.png")
    with pytest.raises(UserError) as refusal:
        find_inputs([tmp_path / place], tmp_path / "out")
    assert words in str(refusal.value)
