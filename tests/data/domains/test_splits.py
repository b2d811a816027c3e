"""Which images belong to which split, and which map reads their labels."""

import warnings

import numpy as np
import pytest
from scipy.io import savemat

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import DOMAINS, load_domain, open_domain
from revt_hf.data.domains.catalogue import DEV_CITIES
from revt_hf.data.domains.files import SourceFile
from revt_hf.data.domains.special import frames, robustnet_splits, split_by_hash
from revt_hf.data.labels import label_table
from tests.helpers.golden import ROOT
from tests.helpers.on_disk import CASE, CASES, FACTS, random_image, save_image

GTA = FACTS["gta_split"]
REMOVED = set(GTA["robustnet_removed_from_train"])
BLANK = {number for numbers in GTA["blank_images"].values() for number in numbers}
SPLITS = ("train", "val", "test")
GTA5, CITYSCAPES = CASE["gta5-palette"], CASE["cityscapes-ids"]
WILDDASH, FOG = CASE["wilddash-ids"], CASE["acdc-fog-train-ids"]

# Images with public labels.
OFFICIAL_COUNTS = {
    ("gta5", None): {"train": 12_403, "val": 6_382, "test": 6_181, "full": 24_966},
    ("synthia", None): {"train": 6_580, "val": 2_820, "full": 9_400},
    ("urbansyn", None): {"train": 6_785, "val": 754, "full": 7_539},
    ("synscapes", "native"): {"train": 22_500, "val": 2_500, "full": 25_000},
    ("synscapes", "2k"): {"train": 22_500, "val": 2_500, "full": 25_000},
    **{
        ("foggy_cityscapes", f"beta_{beta}"): {"train": 2_975, "val": 500}
        for beta in ("0.02", "0.01", "0.005")
    },
    ("foggy_cityscapes", "all"): {"train": 8_925, "val": 1_500},
    **{
        ("rainy_cityscapes", f"alpha_{alpha}"): {"train": 262, "val": 33}
        for alpha in ("0.03", "0.02", "0.01")
    },
    ("rainy_cityscapes", "all"): {"train": 786, "val": 99},
    ("dark_zurich", None): {"val": 50},
    ("cityscapes", None): {"train": 2_975, "val": 500},
    ("bdd100k", None): {"train": 7_000, "val": 1_000},
    ("mapillary", "v1.2"): {"train": 18_000, "val": 2_000},
    ("mapillary", "v2.0"): {"train": 18_000, "val": 2_000},
    ("acdc", "all"): {"train": 1_600, "val": 406},
    ("acdc", "fog"): {"train": 400, "val": 100},
    ("acdc", "night"): {"train": 400, "val": 106},
    ("acdc", "rain"): {"train": 400, "val": 100},
    ("acdc", "snow"): {"train": 400, "val": 100},
    ("kitti2015", None): {"val": 200},
    ("camvid", "segnet"): {"train": 367, "val": 101, "test": 233},
    ("camvid", "full"): {"train": 367, "val": 101, "test": 233, "all": 701},
    ("wilddash", None): {"val": 70},
    ("idd", None): {"train": 6_993, "val": 981},
}
# Divisions must never change between versions. Second letters of train, val and test:
FROZEN_HASH_DIVISION = "araarreereerarreaeer"
FROZEN_SYNTHIA_VAL = ["0000001", "0000002", "0000005", "0000007", "0000008"]


@pytest.fixture
def load(root, tmp_path):
    """Load a split of ``root``; warnings of small counts are of no interest."""

    def run(domain, split, config=None, /, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            return load_domain(domain, split, root, config, options, cache_dir=tmp_path / "cache")

    return run


@pytest.fixture
def names(load):
    return lambda *split, **options: load(*split, **options).with_format(None)["name"][:]


@pytest.fixture
def pretend(root, monkeypatch):
    """Let a flat folder of images and one of labels look as if they held all these names."""

    def run(case, names):
        files = {}
        for path in case.paths(root, "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
            listed = (f"{name}{path.name.removeprefix('x')}" for name in names)
            found = {file: SourceFile(str(path.parent / file), 1, 1) for file in listed}
            files[path.parent] = (found, {})
        monkeypatch.setattr("revt_hf.data.domains.files.list_files", files.__getitem__)

    return run


def joined(parts):
    return sorted(name for part in parts.values() for name in part)


def remove(case, root, names):
    for path in (path for name in names for path in case.paths(root, name)):
        path.unlink()


def touch(root, *images):
    """Empty images and labels of the same names."""
    for path in (root / kind / image for image in images for kind in ("img_dir", "ann_dir")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def gta_names(numbers):
    return [f"{number:05d}" for number in sorted(numbers)]


def write_split_mat(path, **ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(
        path,
        {f"{split}Ids": np.array([[n] for n in sorted(found)]) for split, found in ids.items()},
    )


@pytest.mark.parametrize("folder", ["", "code", "mapping", "read_mapping"])
def test_gta5_reads_split_mat(folder, root, names):
    GTA5.touch(root / "gta", gta_names(range(1, 7)))
    path = root / "gta" / folder / "split.mat"
    write_split_mat(path, train=[6, 1], val=[3], test=[2, 4, 900])
    numbers = {"train": [1, 6], "val": [3], "test": [2, 4], "full": range(1, 7)}
    assert {split: names("gta5", split) for split in numbers} == {
        split: gta_names(wanted) for split, wanted in numbers.items()
    }
    path.rename(root / "split.mat")
    assert names("gta5", "val") == ["00003"]
    (root / "split.mat").unlink()
    with pytest.raises(UserError) as refusal:
        names("gta5", "train")
    for hint in ("split.mat", "split=robustnet", "split=hash", str(root)):
        assert hint in str(refusal.value)


_HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
_NOISE = np.random.default_rng(0).bytes(400)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"1\n2\n3\n", _HEAD, _NOISE, _HEAD + _NOISE, b"\x89HDF\r\n\x1a\n".ljust(600, b"\0")),
        *({"valIds": [1, 2, 3], "trainIds": [*range(1, 60)], "cut": at} for at in (130, 200, -1)),
        *({"valIds": [[1]]}, {"trainIds": [["one"]]}, {"trainIds": [[np.nan]]}),
    ],
)
def test_gta5_with_a_broken_split_mat(content, root, names):
    GTA5.touch(root, ["00001"])
    path = root / "split.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, {key: np.array(ids) for key, ids in content.items() if key != "cut"})
        path.write_bytes(path.read_bytes()[: content.get("cut")])
    with pytest.raises(UserError) as refusal:
        names("gta5", "train")
    problem = "is not the split file of gta5 (trainIds, valIds, testIds)"
    assert str(refusal.value) == f"{path} {problem}"


def test_gta5_list_of_robustnet(root, names):
    parts = robustnet_splits()
    assert [len(part) for part in parts.values()] == GTA["robustnet_counts"]
    assert GTA["robustnet_counts"] == [12_388, 6_382, 6_181]
    everything = set().union(*parts.values())
    assert len(everything) == sum(GTA["robustnet_counts"])
    assert set(range(1, GTA["total"] + 1)) - everything == REMOVED
    assert len(REMOVED) == 15
    begin = [number for number in range(1, 27) if number in parts["train"]]
    assert begin == [*range(1, 11), *range(16, 22), 25, 26]
    assert (15_188 in parts["train"], 17_705 in parts["test"]) == (True, True)
    # It needs no split.mat.
    GTA5.touch(root, gta_names(range(1, 31)))
    for split, numbers in parts.items():
        wanted = gta_names(n for n in range(1, 31) if n in numbers)
        assert names("gta5", split, split="robustnet") == wanted


def test_gta5_hash_is_a_matter_of_the_name(root, names):
    """In the official proportions: three standard deviations of a binomial are at most 238."""
    GTA5.touch(root, gta_names(range(1, 41)))
    before = {split: names("gta5", split, split="hash") for split in SPLITS}
    assert joined(before) == gta_names(range(1, 41))
    gone = gta_names(range(1, 41, 3))
    remove(GTA5, root, gone)
    for split in SPLITS:
        now = names("gta5", split, split="hash")
        assert now == [name for name in before[split] if name not in gone]
    found = [split_by_hash(name) for name in gta_names(range(1, GTA["total"] + 1))]
    assert "".join(split[1] for split in found[:20]) == FROZEN_HASH_DIVISION
    for split, count in GTA["official"].items():
        assert abs(found.count(split) - count) < 238
    assert split_by_hash("city/00017") == split_by_hash("00017")


def test_complete_gta5_is_not_warned_of(root, pretend):
    everything = set(range(1, GTA["total"] + 1))
    pretend(GTA5, gta_names(everything))
    parts = robustnet_splits()
    official = {**parts, "train": parts["train"] | REMOVED}
    write_split_mat(root / "split.mat", **official)
    for division, split, defective, wanted in (
        ("official", "train", True, official["train"]),
        ("official", "full", False, everything - REMOVED - BLANK),
        ("robustnet", "train", False, parts["train"] - BLANK),
        ("robustnet", "train", True, parts["train"]),
    ):
        options = {"split": division, "include_defective": defective}
        opened = open_domain("gta5", split, root, options=options)
        assert (opened.images, opened.difference) == (len(wanted), None)


def test_gta5_leaves_defective_images_out(root, names, caplog):
    numbers = {1, 2, *REMOVED, *BLANK}
    GTA5.touch(root, gta_names(numbers))
    train = numbers - {2, 17_705}
    write_split_mat(root / "split.mat", train=train, val=[2, 12160], test=[17_705, 3])
    with caplog.at_level("INFO", logger="revt_hf.data.domains"):
        assert names("gta5", "full") == ["00001", "00002"]
    assert "gta5/full: 17 defective images left out (12160, 12166, 12167, ...)" in caplog.text
    assert "include_defective" in caplog.text
    assert names("gta5", "train") == ["00001"]
    assert names("gta5", "full", include_defective=True) == gta_names(numbers)
    with pytest.raises(UserError, match="split 'test' of gta5 has no images"):
        names("gta5", "test")
    assert names("gta5", "test", include_defective=True) == ["17705"]


def test_gta5_labels_of_another_size_are_fitted(root, load):
    raw = np.full((6, 8), 7)
    raw[:, 4:] = 11
    raw[3:, :4] = 23
    GTA5.touch(root, ["00001"])
    image, label = GTA5.paths(root, "00001")
    save_image(image, random_image((3, 4), 1))
    GTA5.encoding.write(label, raw)
    fitted = load("gta5", "full")[0]["label"]
    assert fitted.dtype == np.uint8
    assert fitted[[0, 2]].tolist() == [[0, 0, 2, 2], [10, 10, 2, 2]]


def test_synthia_is_divided_by_seed(root, pretend):
    everything = {f"{number:07d}" for number in range(9_400)}
    pretend(CASE["synthia-16bit"], everything)

    def names(split, **options):
        opened = open_domain("synthia", split, root, options=options)
        return {name for name, _, _ in opened.builder.args[0]}

    train, val = names("train"), names("val")
    assert (len(train), len(val)) == (6_580, 2_820)
    assert train | val == everything == names("full")
    assert train == names("train", split_seed=0)
    other = names("train", split_seed=1)
    assert len(other) == 6_580
    # Two random divisions share 0.7 * 0.7 of all images; the standard deviation is 20.
    assert abs(len(train & other) - 4_606) < 100
    assert sorted(val)[:5] == FROZEN_SYNTHIA_VAL
    with pytest.raises(UserError, match=r"options of the domain 'synthia'.*split_seed"):
        names("train", split_seed=-1)


@pytest.fixture
def city_names(root):
    cities = ("aachen", "darmstadt", "krefeld", "monchengladbach", "ulm", "weimar", "zurich")
    found = sorted(f"{city}/{city}_00000{n}_000019" for city in cities for n in (0, 1))
    CITYSCAPES.touch(root, found)
    return found


def test_cityscapes_dev_is_whole_cities_or_a_list(city_names, names, root):
    dev, rest = names("cityscapes", "dev"), names("cityscapes", "train_without_dev")
    assert names("cityscapes", "train") == city_names
    assert sorted([*dev, *rest]) == city_names
    assert {name.split("/")[0] for name in dev} == set(DEV_CITIES)
    assert {name.split("/")[0] for name in rest} == {"aachen", "weimar"}
    listed = ["ulm/ulm_000000_000019", "weimar/weimar_000001_000019"]
    (root / "cs_splits").mkdir()
    (root / "cs_splits" / "val_split.txt").write_text("\n".join(reversed(listed)) + "\n")
    by_list = {"split_files": {"dev": "cs_splits/val_split.txt"}}
    assert names("cityscapes", "dev", **by_list) == listed
    others = names("cityscapes", "train_without_dev", **by_list)
    assert sorted([*listed, *others]) == city_names
    # Where all images are of dev cities, dev and train are the same files with one cache.
    remove(CITYSCAPES, root, rest)
    assert names("cityscapes", "train") == names("cityscapes", "dev") == dev


def test_camvid_is_divided_by_frame(root, names):
    parts = {split: frames(split) for split in SPLITS}
    assert [len(part) for part in parts.values()] == [367, 101, 233]
    everything = frozenset().union(*parts.values())
    assert len(everything) == 701
    folder = ROOT.parent / "shared" / "data" / "camvid" / "img_dir"
    if folder.is_dir():
        assert {path.stem for path in folder.rglob("*.png")} <= everything
    some = {split: sorted(frames(split))[3] for split in SPLITS}
    CASE["camvid-full"].touch(root, [*some.values(), "0099XX_000001"])
    for split, name in some.items():
        assert names("camvid", split, "full") == [name]
    assert names("camvid", "all", "full") == sorted([*some.values(), "0099XX_000001"])
    with pytest.raises(UserError, match=r"unknown split 'dusk' of camvid: use train, val, test"):
        names("camvid", "dusk", "full")
    CASE["camvid-segnet-folders"].touch(root)
    for kind in ("img_dir", "ann_dir"):
        (root / kind / "train").rename(root / kind / "dusk")
    assert names("camvid", "dusk", "segnet") == sorted(CASE["camvid-segnet-folders"].names)


def test_splits_of_any_name(root, names):
    """For ``datasets`` they would have to be words, and not ``all``."""
    for split in ("all", "night-drive", "day & night", "split.1"):
        touch(root, f"{split}/a.png")
        assert names("folder", split) == ["a"]


def test_names_follow_the_options(root, names):
    """The files are the same, and so is the cache."""
    touch(root, "train/a_rgb.png")
    assert names("folder", "train") == ["a_rgb"]
    assert names("folder", "train", image_suffix="_rgb.png", label_suffix="_rgb.png") == ["a"]
    whole = {"image_dir": "img_dir", "label_dir": "ann_dir"}
    domain = DOMAINS["folder"]
    assert domain.splits(root, None, domain.options_model(**whole)) == ("all",)
    assert names("folder", "all", **whole) == ["train/a_rgb"]
    assert names("folder", "train") == ["a_rgb"]


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary_maps(version, root):
    CASE[f"mapillary-{version}"].touch(root)
    for chosen in ("dg_standard", "segformer_as_run", "rein", "ifn", "ifn_as_run"):
        opened = open_domain("mapillary", "train", root, version, {"map": chosen})
        assert opened.table.name == f"mapillary_{version}/{chosen}@1"
        assert opened.table.mapping == label_table(opened.table.name).mapping


def test_mapillary_maps_do_not_go_with_converted_labels(root):
    def refused(words, **options):
        with pytest.raises(UserError, match=words) as refusal:
            open_domain("mapillary", "val", root, options=options)
        return str(refusal.value)

    CASE["mapillary-v1.2-ifn"].touch(root)
    refused(r"mapped when they were made.*map=rein", map="rein", layout="converted")
    assert "converted:" not in refused("is not in", map="rein")
    refused(r"options of the domain 'mapillary'.*map", map="mine")


def test_acdc_configs_are_parts_of_all(root, names):
    case = CASE["acdc-all-train-ids"]
    case.touch(root)
    parts = {name: names("acdc", "train", name) for name in ("fog", "night", "rain", "snow")}
    for condition, found in parts.items():
        assert {name.partition("/")[0] for name in found} == {condition}
    assert joined(parts) == names("acdc", "train", "all") == sorted(case.names)


def test_acdc_all_needs_all_conditions(root, names):
    FOG.touch(root)
    image, _ = FOG.paths(root, FOG.names[0])
    # A reference image is passed over.
    image.with_name(image.name.replace("_rgb_anon", "_rgb_ref_anon")).touch()
    assert names("acdc", "train", "fog") == sorted(FOG.names)
    with pytest.raises(UserError, match=r"rgb_anon/night/train is missing"):
        names("acdc", "train")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_official_counts(case, root):
    case.touch(root)
    opened = open_domain(case.domain, case.split, root, case.config, case.options)
    counts = OFFICIAL_COUNTS.get((case.domain, case.config), {})
    domain, options = DOMAINS[case.domain], DOMAINS[case.domain].options_model(**case.options)
    for split in {*domain.splits(root, case.config, options), *counts}:
        assert domain.expected(split, case.config, options) == counts.get(split)
    # The official number of these is unknown.
    unknown = case.id in ("kitti2015-converted", "camvid-segnet-folders")
    expected = None if unknown else counts.get(case.split)
    assert opened.expected == expected
    if expected is None:
        assert opened.difference is None
        return
    with pytest.warns(DataWarning) as caught:
        opened.check("here")
    here = len(case.names)
    words = f"here: {here} images, officially {expected} ({expected - here} missing)"
    assert [str(one.message) for one in caught] == [words]


def test_too_many_images_are_warned_of(root, tmp_path):
    WILDDASH.touch(root, [f"ad{number:04d}" for number in range(72)])
    with pytest.warns(DataWarning, match=r"wilddash/val: 72 images, officially 70 \(2 too many"):
        load_domain("wilddash", "val", root, cache_dir=tmp_path / "cache")
    remove(WILDDASH, root, ("ad0000", "ad0001"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        assert len(load_domain("wilddash", "val", root, cache_dir=tmp_path / "cache")) == 70
    (root / "list.txt").write_text("ad0002\nad0003")
    opened = open_domain("wilddash", "val", root, options={"split_files": {"val": "list.txt"}})
    assert (opened.images, opened.expected, opened.difference) == (2, None, None)


LISTED = ("a b", "city/c", "zürich/zürich_01")
ON_DISK = (*LISTED, "city/d", "town/d", "e")
FORMS = {
    "stems": "a b\ncity/c\nzürich/zürich_01\n",
    "no line break at the end": "a b\ncity/c\nzürich/zürich_01",
    "names": "a b_rgb.png\ncity/c_rgb.png\nzürich/zürich_01_rgb.png\n",
    "names of another suffix": "a b.jpg\ncity/c.JPG\nzürich/zürich_01.jpeg\n",
    "last parts": "a b\nc\nzürich_01\n",
    "another prefix": "/SegNet/data/a b_rgb.png\nimages/city/c\n./zürich/zürich_01\n",
    "windows": "a b\r\ncity\\c_rgb.png\r\nC:\\data\\zürich\\zürich_01.png\r\n",
    "byte order mark": "\ufeffa b\ncity/c\nzürich/zürich_01\n",
    "blank lines": "\n\na b\n\n  \ncity/c\n\t\nzürich/zürich_01\n\n",
    "comments": "# mine\na b\n#city/d\n  # indented\ncity/c\nzürich/zürich_01\n",
    "spaces around": "  a b  \ncity/c\t\n zürich/zürich_01\n",
    "repeated": "a b\na b\ncity/c\nc\nzürich/zürich_01\n",
    "another order": "zürich/zürich_01\ncity/c\na b\n",
    "two columns": "city/c_rgb.png city/c_ids.png\na b\nzürich/zürich_01 labels/zürich_01.png\n",
    "tabs": "city/c_rgb.png\tcity/c_ids.png\na b\nzürich/zürich_01\tlabels/zürich_01.png\n",
    "commas": "city/c_rgb.png,city/c_ids.png\na b\nzürich/zürich_01;labels/zürich_01.png\n",
}


@pytest.fixture
def listed(root, names):
    """The names of a split of the folder by a list; ``ON_DISK`` is there."""
    suffixes = {"image_suffix": "_rgb.png", "label_suffix": "_ids.png"}
    for name in ON_DISK:
        touch(root, f"train/{name}_rgb.png")
        label = root / "ann_dir" / "train" / f"{name}_rgb.png"
        label.rename(label.with_name(label.name.replace("_rgb", "_ids")))

    def run(content, split="train", path=root / "list.txt"):
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return names("folder", split, **suffixes, split_files={split: str(path)})

    return run


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
def test_split_files(content, listed):
    assert listed(content) == sorted(LISTED)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("e\nzebra\n", r"list\.txt lists 'zebra', an image that does not exist$"),
        ("zebra\ne\nyak\n", r"list\.txt lists 'zebra'.*and 1 more like it"),
        ("town/c\n", r"list\.txt lists 'town/c'"),
        ("d\n", r"list\.txt lists 'd'"),  # city/d or town/d
        (None, r"cannot read the split file .*list\.txt"),
        (b"\xff\xfe\x00\x81", r"cannot read the split file .*list\.txt"),
        ("", r"the split file .*list\.txt lists nothing"),
        ("# nothing\n\n", r"the split file .*list\.txt lists nothing"),
    ],
)
def test_unknown_entries_are_named(content, words, listed):
    with pytest.raises(UserError, match=words):
        listed(content)


def test_a_listed_image_without_label_is_named(listed, root, tmp_path):
    assert listed("e\n", path=tmp_path / "mine.txt") == ["e"]  # a list may lie anywhere
    (root / "ann_dir" / "train" / "e_ids.png").unlink()
    with pytest.raises(UserError, match=r"e_rgb\.png has no label.*e_ids\.png"):
        listed("e\n")
    assert listed("town/d\n") == ["town/d"]


def test_a_split_of_ones_own_is_taken_from_all_splits(city_names, listed, root, names):
    others = root / "others"
    CITYSCAPES.touch(others, ["lindau/lindau_000000_000019", "munster/munster_000000_000019"])
    for folder in ("leftImg8bit", "gtFine"):
        (others / folder / "train").rename(root / folder / "val")
    mine = {"split_files": {"mine": "mine.txt"}}
    (root / "mine.txt").write_text("lindau_000000_000019\nulm_000001_000019\n")
    found = names("cityscapes", "mine", **mine)
    assert found == ["lindau/lindau_000000_000019", "ulm/ulm_000001_000019"]
    with pytest.raises(UserError, match=r"unknown split 'yours' of cityscapes: use .*mine"):
        names("cityscapes", "yours", **mine)
    assert listed("e\ncity/c\n", split="mine") == ["city/c", "e"]
    # A list for a split of the dataset narrows it down.
    (root / "few.txt").write_text("aachen_000000_000019\nulm_000001_000019\n")
    few = names("cityscapes", "train", split_files={"train": "few.txt"})
    assert few == ["aachen/aachen_000000_000019", "ulm/ulm_000001_000019"]
