"""``revt data``: list, verify, show, prepare on the command line."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from revt_hf.cli.main import main
from revt_hf.data.domains import DOMAINS
from revt_hf.data.labels import CLASSES
from tests.helpers.golden import ROOT

CAMVID = ROOT.parent / "shared" / "data" / "camvid"


@pytest.fixture
def revt(capsys):
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def root(tmp_path):
    """Split ``train`` of four images: 10x8 pixels, one class each, a tenth of it ignored."""
    for number in range(4):
        label = np.full((8, 10), number, np.uint8)
        label[:, 0] = 255
        for kind, image in (("img_dir", np.full((8, 10, 3), 90, np.uint8)), ("ann_dir", label)):
            path = tmp_path / "data" / kind / "train" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return tmp_path / "data"


def _verify(revt, root, tmp_path, *more, name="folder"):
    report = tmp_path / "report.json"
    code, out, error = revt(
        *("data", "verify", name, "--data-dir", root, "--json", report, "--quiet", *more)
    )
    return code, out + error, json.loads(report.read_text()) if report.exists() else None


def test_good_data(revt, root, tmp_path):
    code, text, report = _verify(revt, root, tmp_path)
    assert code == 0, text
    assert report["domain"] == "folder"
    assert report["layout"] == "converted"
    assert report["splits"] == {"train": {"images": 4, "expected": None}}
    assert report["classes"] == {name: 0.25 if at < 4 else 0 for at, name in enumerate(CLASSES)}
    assert report["ignored"] == pytest.approx(0.1)
    assert report["problems"] == []
    assert "no problems" in text
    assert "road            25.00 %" in text


def test_a_split_that_is_asked_for_but_cannot_be_read_is_a_problem(revt, root, tmp_path):
    option = ("--option", "split_files={mine: absent.txt}")
    code, text, report = _verify(revt, root, tmp_path, *option)
    assert code == 2
    assert [problem["file"] for problem in report["problems"]] == ["mine"]
    assert "absent.txt" in text


def test_a_split_of_other_suffixes_only_is_a_problem(revt, root, tmp_path):
    for kind in ("img_dir", "ann_dir"):
        (root / kind / "val").mkdir()
        (root / kind / "val" / "1.bmp").touch()
    code, text, report = _verify(revt, root, tmp_path)
    assert code == 2
    assert [problem["file"] for problem in report["problems"]] == ["val"]
    assert "1 with other suffixes, such as" in text


def test_a_split_without_a_labelled_pixel_is_a_problem(revt, root, tmp_path):
    for path in (root / "ann_dir" / "train").iterdir():
        cv2.imwrite(str(path), np.full((8, 10), 255, np.uint8))
    code, _, report = _verify(revt, root, tmp_path)
    assert code == 2
    assert report["problems"] == [
        {"file": "train", "what": "no pixel of this split is labelled"},
    ]


def test_lossy_labels_are_problems_whatever_they_are_called(revt, root, tmp_path):
    path = root / "ann_dir" / "train" / "1.png"
    Image.open(path).save(path, "JPEG")
    code, _, report = _verify(revt, root, tmp_path)
    assert code == 2
    (problem,) = report["problems"]
    assert problem["file"] == str(path)
    assert "may change values (jpeg)" in problem["what"]


def test_damage_inside_a_jpeg_is_a_problem(revt, root, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    for path in (root / "img_dir" / "train").iterdir():
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg")), noise)
    path = root / "img_dir" / "train" / "2.jpg"
    data = bytearray(path.read_bytes())
    data[-30:-10] = bytes(20)
    path.write_bytes(data)
    code, _, report = _verify(revt, root, tmp_path, "--option", "image_suffix=.jpg")
    assert code == 2
    (problem,) = report["problems"]
    assert problem["file"] == str(path)
    assert problem["what"].startswith("Corrupt JPEG data")


def test_labels_beside_turned_images_are_problems_until_said_how(revt, root, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 3
    Image.open(root / "img_dir" / "train" / "1.png").save(
        root / "img_dir" / "train" / "1.png", exif=tags
    )
    code, _, report = _verify(revt, root, tmp_path)
    assert code == 2
    (problem,) = report["problems"]
    assert "EXIF orientation 3" in problem["what"]
    for follow in ("true", "false"):
        option = ("--option", f"labels_follow_exif={follow}")
        assert _verify(revt, root, tmp_path, *option)[0] == 0


def test_files_that_are_left_out_are_named(revt, root, tmp_path):
    images = root / "img_dir" / "train"
    (images / "1.png").rename(images / "1.bmp")
    (images / "4.png").symlink_to(tmp_path / "nowhere")
    code, text, report = _verify(revt, root, tmp_path)
    assert code == 2
    assert report["problems"] == [{"file": str(images / "4.png"), "what": "a link to nothing"}]
    assert "without an image" in text
    assert str(root / "ann_dir" / "train" / "1.png") in text
    assert str(images / "1.bmp") in text


def _truncate(root):
    path = root / "img_dir" / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    return path, "truncated"


def _corrupt(root):
    path = root / "ann_dir" / "train" / "1.png"
    data = bytearray(path.read_bytes())
    data[45] ^= 0xFF
    path.write_bytes(data)
    return path, "not a label"


def _unknown_value(root):
    path = root / "ann_dir" / "train" / "1.png"
    label = np.ones((8, 10), np.uint8)
    label[0, :3] = 77
    label[1, 0] = 78
    cv2.imwrite(str(path), label)
    return path, "77 (3 pixels), 78 (1 pixels)"


def _other_size(root):
    path = root / "ann_dir" / "train" / "1.png"
    cv2.imwrite(str(path), np.zeros((8, 9), np.uint8))
    return path, "the label is 9x8, its image 10x8"


def _missing_label(root):
    path = root / "ann_dir" / "train" / "1.png"
    path.unlink()
    return path, "has no label"


@pytest.mark.parametrize(
    "damage", [_truncate, _corrupt, _unknown_value, _other_size, _missing_label]
)
def test_damage_is_reported_with_its_file(revt, root, tmp_path, damage):
    path, words = damage(root)
    code, text, report = _verify(revt, root, tmp_path)
    assert code == 2
    assert len(report["problems"]) == 1
    assert report["problems"][0]["file"] == str(path)
    assert words in report["problems"][0]["what"]
    # Once, before it.
    assert str(path) not in report["problems"][0]["what"]
    assert f"problem: {path}: " in text
    assert "1 problem" in text.splitlines()


def test_several_problems_are_all_found(revt, root, tmp_path):
    _truncate(root)
    cv2.imwrite(str(root / "ann_dir" / "train" / "2.png"), np.full((8, 10), 40, np.uint8))
    _, _, report = _verify(revt, root, tmp_path)
    assert len(report["problems"]) == 2


def test_one_thread_sees_what_all_see(revt, root, tmp_path):
    _unknown_value(root)
    reports = [_verify(revt, root, tmp_path, *more)[2] for more in ((), ("--workers", "1"))]
    assert reports[0] == reports[1]


@pytest.fixture
def gta5(tmp_path):
    root = tmp_path / "gta5"
    for number in range(1, 7):
        label = np.full((8, 10), 7 if number < 4 else 8, np.uint8)
        for kind, image in (("images", np.zeros((8, 10, 3), np.uint8)), ("labels", label)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / kind / f"{number:05d}.png")
    return root


def test_splits_that_share_images_count_them_once(revt, gta5, tmp_path):
    columns = {"trainIds": [1, 2, 3], "valIds": [4], "testIds": [5, 6]}
    savemat(gta5 / "split.mat", {key: np.array(ids)[:, None] for key, ids in columns.items()})
    code, text, report = _verify(revt, gta5, tmp_path, name="gta5")
    assert code == 0, text
    assert {name: count["images"] for name, count in report["splits"].items()} == {
        "train": 3,
        "val": 1,
        "test": 2,
        "full": 6,
    }
    assert report["splits"]["full"]["expected"] == 24966
    assert report["layout"] == "official"
    assert report["classes"]["road"] == report["classes"]["sidewalk"] == 0.5
    assert "train: 3 images, officially 12403 (12400 missing)" in text
    assert _verify(revt, gta5, tmp_path, "--strict", name="gta5")[0] == 2


def test_splits_that_cannot_be_opened_are_noted(revt, gta5, tmp_path):
    code, text, report = _verify(revt, gta5, tmp_path, name="gta5")
    assert code == 0
    assert report["splits"]["train"] == {"images": 0, "expected": 12403}
    assert "note: train: " in text
    assert "split.mat" in text


def test_known_size_defects_are_a_note_for_gta5(revt, gta5, tmp_path):
    Image.fromarray(np.full((9, 10), 7, np.uint8)).save(gta5 / "labels" / "00002.png")
    code, text, report = _verify(revt, gta5, tmp_path, name="gta5")
    assert code == 0
    assert report["problems"] == []
    assert "1 label not of its image's size, a known defect" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "kitty"], "unknown domain 'kitty'"),
        (["verify", "folder"], "needs data_dir"),
        (["verify", "cityscapes", "--data-dir", "EMPTY"], "leftImg8bit/train"),
        (["verify", "streets", "--data-dir", "EMPTY"], "takes no data_dir"),
        (["verify", "acdc", "--config", "hail", "--data-dir", "EMPTY"], "unknown config 'hail'"),
        (["verify", "folder", "--data-dir", "EMPTY", "--option", "x"], "key=value"),
        (["verify", "folder", "--data-dir", "EMPTY", "--option", "encoding=[1"], "not YAML"),
        (["show", "folder", "--data-dir", "EMPTY", "--output", "SHEET"], "empty/img_dir"),
        (
            ["show", "streets", "--output", "OUT"],
            "out: PNG is written, so its name has to end in",
        ),
        (["prepare", "streets", "--output", "OUT", "--resize", "big"], "--resize big"),
        (
            ["prepare", "streets", "--output", "OUT", "--push", "me/x", "--format", "raw"],
            "--format parquet",
        ),
        (["prepare", "cityscapes", "--output", "OUT", "--push", "me/x"], "may not be passed on"),
        (["prepare", "streets", "--output", "OUT", "--split", "a", "--split", "b"], "one --split"),
        (["prepare", "gta5", "--output", "OUT", "--data-dir", "EMPTY"], "images/*.png"),
        (["prepare", "folder", "--output", "FULL", "--data-dir", "EMPTY"], "exists already"),
    ],
)
def test_mistakes_are_one_sentence(revt, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    names = {
        "EMPTY": tmp_path / "empty",
        "OUT": tmp_path / "out",
        "SHEET": tmp_path / "sheet.png",
        "FULL": tmp_path / "full",
    }
    code, _, error = revt("data", *(names.get(word, word) for word in arguments))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert words in error
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "precious").exists()


def test_show_writes_a_sheet(revt, root, tmp_path):
    output = tmp_path / "sheet.png"
    arguments = ("data", "show", "folder", "--data-dir", root, "--split", "train")
    code, out, error = revt(*arguments, "--output", output, "--images", "3")
    assert code == 0, error
    assert "3 images of folder/train" in out
    assert Image.open(output).size[0] > 300
    more = tmp_path / "more.png"
    revt(*arguments, "--output", more, "--images", "4")
    assert Image.open(more).size[1] > Image.open(output).size[1]


def test_list_names_every_domain(revt, tmp_path):
    code, out, _ = revt("data", "list", "--json", tmp_path / "list.json")
    assert code == 0
    rows = json.loads((tmp_path / "list.json").read_text())
    assert [row["domain"] for row in rows] == list(DOMAINS)
    assert all(name in out for name in DOMAINS)
    gta5 = next(row for row in rows if row["domain"] == "gta5")
    assert gta5["kind"] == "synthetic"
    assert gta5["images"]["train"] == 12403
    assert gta5["redistribution"] == "no"
    assert all(row["license"] and row["download"] for row in rows)


def test_prepare_says_how_to_use_it(revt, root, tmp_path):
    arguments = ("data", "prepare", "folder", "--data-dir", root, "--quiet", "--resize", "20x20")
    code, out, error = revt(*arguments, "--output", tmp_path / "small", "--format", "raw")
    assert code == 0, error
    assert f"source.prepared: {tmp_path / 'small'}" in out
    assert np.load(tmp_path / "small" / "images" / "2.npy").shape == (16, 20, 3)
    native = (*arguments[:-1], "native")
    assert revt(*native, "--output", tmp_path / "same", "--format", "png")[0] == 0
    assert cv2.imread(str(tmp_path / "same" / "images" / "2.png")).shape == (8, 10, 3)


def test_quiet_says_nothing_but_results(revt, root, tmp_path):
    arguments = ("data", "prepare", "folder", "--data-dir", root, "--resize", "20x20")
    _, _, loud = revt(*arguments, "--output", tmp_path / "a")
    _, _, quiet = revt(*arguments, "--output", tmp_path / "b", "--quiet")
    assert "converted layout in" in loud
    assert quiet == ""


def test_the_shared_camvid(revt, tmp_path):
    if not CAMVID.is_dir():
        pytest.skip("the real CamVid images are not here")
    code, _, report = _verify(revt, CAMVID, tmp_path, "--option", "encoding=camvid_11")
    assert code == 0
    counts = {name: split["images"] for name, split in report["splits"].items()}
    assert counts == {
        split.name: len(list(split.glob("*.png"))) for split in (CAMVID / "img_dir").iterdir()
    }
    assert report["problems"] == []
    assert report["classes"]["road"] > 0.2
