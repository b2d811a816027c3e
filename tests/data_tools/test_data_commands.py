"""``revt data``: list, verify, show, prepare on the command line."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from revt_hf.data.domains import DOMAINS
from revt_hf.data.label_space import CLASSES
from tests.helpers.command_line import refused, revt
from tests.helpers.golden import ROOT

CAMVID = ROOT.parent / "shared" / "data" / "camvid"
FOLDER = ("folder", "--data-dir")


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


@pytest.fixture
def verify(capsys, tmp_path):
    """``revt data verify``: the exit code, all that it prints, and its report."""

    def run(root, *more, name="folder"):
        report = tmp_path / "report.json"
        code, out, error = revt(
            capsys, "data", "verify", name, "--data-dir", root, "--json", report, "--quiet", *more
        )
        return code, out + error, json.loads(report.read_text()) if report.exists() else None

    return run


def test_good_data(verify, root):
    code, text, report = verify(root)
    assert code == 0, text
    assert report == {
        "domain": "folder",
        "config": None,
        "layout": "converted",
        "label_encoding": "train_ids",
        "splits": {"train": {"images": 4, "expected": None}},
        "classes": {name: 0.25 if at < 4 else 0 for at, name in enumerate(CLASSES)},
        "ignored": pytest.approx(0.1),
        "problems": [],
        "notes": report["notes"],
    }
    for words in ("no problems", "road            25.00 %", "(ignored        10.00 % of all)"):
        assert words in text


def _exif_3(data):
    tags, turned = Image.Exif(), io.BytesIO()
    tags[0x0112] = 3
    Image.open(io.BytesIO(data)).save(turned, "PNG", exif=tags)
    return turned.getvalue()


def _damaged_jpeg(_):
    noise = np.random.default_rng(0).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    return data[:-30] + bytes(20) + data[-10:]


def _as(suffix, pixels):
    return lambda _: cv2.imencode(suffix, np.asarray(pixels, np.uint8))[1].tobytes()


UNKNOWN = np.ones((8, 10))
UNKNOWN[0, :3], UNKNOWN[1, 0] = 77, 78
IMAGE, LABEL = "img_dir/train/1.png", "ann_dir/train/1.png"
NO_LABELS = {f"ann_dir/train/{n}.png": _as(".png", np.full((8, 10), 255)) for n in range(4)}
OTHERS = dict.fromkeys(("img_dir/val/1.bmp", "ann_dir/val/1.bmp"), lambda _: b"")
ABSENT = ("--option", "split_files={train: list.txt, mine: absent.txt}")
TURNED = {IMAGE: _exif_3}
# What becomes of files, the file that is reported, the problem, and options.
DAMAGES = {
    "absent list": ({"list.txt": lambda _: b"0\n1"}, "mine", "absent.txt", *ABSENT),
    "other suffixes": (OTHERS, "val", "1 with other suffixes, such as"),
    "unlabelled": (NO_LABELS, "train", "no pixel of this split is labelled"),
    "lossy label": ({LABEL: _as(".jpg", np.ones((8, 10)))}, LABEL, "may change values (jpeg)"),
    "damaged JPEG": ({IMAGE: _damaged_jpeg}, IMAGE, "Corrupt JPEG data"),
    "truncated": ({IMAGE: lambda data: data[:-30]}, IMAGE, "truncated"),
    "corrupt": ({LABEL: lambda data: data[:45] + b"\0" + data[46:]}, LABEL, "not a label"),
    "unknown": ({LABEL: _as(".png", UNKNOWN)}, LABEL, "77 (3 pixels), 78 (1 pixels)"),
    "size": ({LABEL: _as(".png", np.zeros((8, 9)))}, LABEL, "label is 9x8, its image 10x8"),
    "missing": ({LABEL: None}, LABEL, "has no label"),
    "turned": (TURNED, LABEL, "EXIF orientation 3"),
}


def _damage(root, changes):
    for name, change in changes.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)
        if change is not None:
            path.write_bytes(change(data))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_reported_once_with_its_file(verify, root, damage):
    changes, file, words, *options = damage
    _damage(root, changes)
    code, text, report = verify(root, *options)
    assert code == 2
    (problem,) = report["problems"]
    # The path stands before the problem, once.
    expected = str(root / file) if "/" in file else file
    assert problem["file"] == expected
    assert words in problem["what"]
    assert str(root / file) not in problem["what"]
    assert f"problem: {expected}: " in text
    assert "1 problem" in text.splitlines()


def test_all_problems_are_found_whatever_the_number_of_threads(verify, root):
    changes = {"img_dir/train/2.png": lambda data: data[:-30], LABEL: _as(".png", UNKNOWN)}
    _damage(root, changes)
    reports = [verify(root, *more)[2] for more in ((), ("--workers", "1"))]
    assert len(reports[0]["problems"]) == 2
    assert reports[0] == reports[1]


def test_an_option_decides_about_labels_beside_turned_images(verify, root):
    _damage(root, TURNED)
    for follow in ("true", "false"):
        assert verify(root, "--option", f"labels_follow_exif={follow}")[0] == 0


def test_files_that_are_left_out_are_named(verify, root, tmp_path):
    images = root / "img_dir" / "train"
    (images / "1.png").rename(images / "1.bmp")
    (images / "4.png").symlink_to(tmp_path / "nowhere")
    code, text, report = verify(root)
    assert code == 2
    assert report["problems"] == [{"file": str(images / "4.png"), "what": "a link to nothing"}]
    assert "without an image" in text
    assert str(root / "ann_dir" / "train" / "1.png") in text
    assert str(images / "1.bmp") in text


@pytest.fixture
def gta5(tmp_path):
    root = tmp_path / "gta5"
    for number in range(1, 7):
        label = np.full((8, 10), 7 if number < 4 else 8, np.uint8)
        for kind, image in (("images", np.zeros((8, 10, 3), np.uint8)), ("labels", label)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / kind / f"{number:05d}.png")
    return root


def test_splits_that_share_images_count_them_once(verify, gta5):
    columns = {"trainIds": [1, 2, 3], "valIds": [4], "testIds": [5, 6]}
    savemat(gta5 / "split.mat", {key: np.array(ids)[:, None] for key, ids in columns.items()})
    code, text, report = verify(gta5, name="gta5")
    assert code == 0, text
    images = {name: count["images"] for name, count in report["splits"].items()}
    assert images == {"train": 3, "val": 1, "test": 2, "full": 6}
    assert report["splits"]["full"]["expected"] == 24966
    assert report["layout"] == "official"
    assert report["classes"]["road"] == report["classes"]["sidewalk"] == 0.5
    assert "train: 3 images, officially 12403 (12400 missing)" in text
    assert verify(gta5, "--strict", name="gta5")[0] == 2


def test_absent_splits_and_known_defects_are_notes(verify, gta5):
    Image.fromarray(np.full((9, 10), 7, np.uint8)).save(gta5 / "labels" / "00002.png")
    code, text, report = verify(gta5, name="gta5")
    assert code == 0
    assert report["splits"]["train"] == {"images": 0, "expected": 12403}
    assert report["problems"] == []
    assert "note: train: " in text
    assert "split.mat" in text
    assert "1 label not of its image's size, as known of this dataset" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify kitty", "unknown domain 'kitty'"),
        ("verify folder", "needs data_dir"),
        ("verify cityscapes --data-dir EMPTY", "leftImg8bit/train"),
        ("verify streets --data-dir EMPTY", "takes no data_dir"),
        ("verify acdc --config hail --data-dir EMPTY", "unknown config 'hail'"),
        ("verify folder --data-dir EMPTY --option x", "key=value"),
        ("verify folder --data-dir EMPTY --option encoding=[1", "not YAML"),
        ("show folder --data-dir EMPTY --output SHEET", "empty/img_dir"),
        ("show streets --output OUT", "out: PNG is written, so its name has to end in"),
        ("prepare streets --output OUT --resize big", "--resize big"),
        ("prepare streets --output OUT --push me/x --format raw", "--format parquet"),
        ("prepare streets --output OUT --format parquet --workers 2", "--workers is for"),
        ("prepare cityscapes --output OUT --push me/x", "may not be passed on"),
        ("prepare streets --output OUT --split a --split b", "one --split"),
        ("prepare gta5 --output OUT --data-dir EMPTY", "images/*.png"),
        ("prepare folder --output FULL --data-dir EMPTY", "exists already"),
    ],
)
def test_mistakes_are_one_sentence(capsys, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    paths = {"EMPTY": "empty", "OUT": "out", "SHEET": "sheet.png", "FULL": "full"}
    given = [tmp_path / paths[w] if w in paths else w for w in arguments.split()]
    error = refused(capsys, "data", *given)
    assert error.count("\n") == 1, error
    assert words in error
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "precious").exists()


def test_show_writes_a_sheet(capsys, root, tmp_path):
    sizes = []
    for count in (3, 4):
        output = tmp_path / f"{count}.png"
        command = ("data", "show", *FOLDER, root, "--split", "train", "--output", output)
        code, out, error = revt(capsys, *command, "--images", count)
        assert code == 0, error
        assert f"{count} images of folder/train" in out
        sizes.append(Image.open(output).size)
    assert 300 < sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]


def test_list_names_every_domain(capsys, tmp_path):
    code, out, _ = revt(capsys, "data", "list", "--json", tmp_path / "list.json")
    assert code == 0
    rows = {row["domain"]: row for row in json.loads((tmp_path / "list.json").read_text())}
    assert list(rows) == list(DOMAINS)
    assert all(name in out for name in DOMAINS)
    gta5 = rows["gta5"]
    assert (gta5["kind"], gta5["redistribution"]) == ("synthetic", "no")
    assert gta5["images"]["train"] == 12403
    assert all(row["license"] and row["download"] for row in rows.values())


def test_prepare_resizes_and_tells_how_to_use_the_result(capsys, root, tmp_path):
    def prepare(name, *more):
        output = tmp_path / name
        done = revt(capsys, "data", "prepare", *FOLDER, root, "--output", output, *more)
        assert done[0] == 0, done
        return output, done

    small, (_, out, loud) = prepare("small", "--resize", "20x20", "--format", "raw")
    assert f"source.prepared: {small}" in out
    assert "converted layout in" in loud
    assert np.load(small / "images" / "2.npy").shape == (16, 20, 3)
    same, (_, _, quiet) = prepare("same", "--resize", "native", "--format", "png", "--quiet")
    assert quiet == ""
    assert cv2.imread(str(same / "images" / "2.png")).shape == (8, 10, 3)
    packed, (_, out, _) = prepare("packed", "--format", "parquet", "--license", "mit", "--quiet")
    assert f"packed: {packed}" in out
    assert (packed / "data" / "train-00000-of-00001.parquet").exists()


def test_the_shared_camvid(verify):
    if not CAMVID.is_dir():
        pytest.skip("the real CamVid images are not here")
    code, _, report = verify(CAMVID, "--option", "encoding=camvid_11")
    assert code == 0
    counts = {name: split["images"] for name, split in report["splits"].items()}
    assert counts == {
        split.name: len(list(split.glob("*.png"))) for split in (CAMVID / "img_dir").iterdir()
    }
    assert report["problems"] == []
    assert report["classes"]["road"] > 0.2
