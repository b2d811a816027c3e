"""Which images belong to which split, and which map reads their labels."""

import warnings

import numpy as np
import pytest
from scipy.io import savemat

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import DOMAINS, load_domain, open_domain
from revt_hf.data.domains.base import SourceFile
from revt_hf.data.domains.camvid import frames
from revt_hf.data.domains.catalogue import DEV_CITIES
from revt_hf.data.domains.gta5 import robustnet_split, split_by_hash
from tests.helpers.golden import ROOT
from tests.helpers.on_disk import (
    CASE,
    CASES,
    FACTS,
    IGNORED,
    MAPILLARY_V1_2,
    MAPILLARY_V2_0,
    by_raw_id,
    random_image,
    save_image,
)

CONDITIONS = ("fog", "night", "rain", "snow")
GTA = FACTS["gta_split"]
REMOVED = set(GTA["robustnet_removed_from_train"])
BLANK = {number for numbers in GTA["blank_images"].values() for number in numbers}
GTA_KEYS = {"train": "trainIds", "val": "valIds", "test": "testIds"}
SYNTHIA_NAMES = [f"{number:07d}" for number in range(9_400)]

# From datasets.md: images with public labels.
OFFICIAL_COUNTS = {
    ("gta5", None): {"train": 12_403, "val": 6_382, "test": 6_181, "full": 24_966},
    ("synthia", None): {"train": 6_580, "val": 2_820, "full": 9_400},
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
MAPS = {
    "dg_standard": "id_to_trainid_dg_standard",
    "segformer_as_run": "id_to_trainid_segformer_MaillaryHack_effective",
    "rein": "id_to_trainid_rein",
    "ifn": "id_to_trainid_ifn_def_by_name",
    "ifn_as_run": "id_to_trainid_ifn_def_effective_color_script",
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def names(root, tmp_path):
    """The names of a split of ``root``; warnings of small counts are of no interest."""

    def run(domain, split, config=None, /, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            images = load_domain(domain, split, root, config, options, cache_dir=tmp_path / "cache")
        return images.with_format(None)["name"][:]

    return run


def touch(case, root, names):
    """Empty files: enough for everything but decoding."""
    for name in names:
        for path in case.paths(root, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def pretend(root, monkeypatch):
    """Let a flat folder of images and one of labels look as if they held all these names."""

    def run(case, names):
        files = {}
        for path in case.paths(root, "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
            suffix = path.name.removeprefix("x")
            files[path.parent] = {
                f"{name}{suffix}": SourceFile(str(path.parent / f"{name}{suffix}"), 1, 1)
                for name in names
            }
        monkeypatch.setattr(
            "revt_hf.data.domains.layouts.list_files", lambda folder, _: files[folder]
        )

    return run


def joined(parts):
    return sorted(name for part in parts.values() for name in part)


def gta_names(numbers):
    return [f"{number:05d}" for number in sorted(numbers)]


def official_gta(split):
    return robustnet_split(split) | (REMOVED if split == "train" else set())


def write_split_mat(path, **ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {GTA_KEYS[split]: np.array([[n] for n in found]) for split, found in ids.items()}
    savemat(path, columns)


# GTA5


@pytest.mark.parametrize("place", ["", "code", "mapping", "read_mapping"])
def test_gta5_reads_split_mat(place, root, names):
    touch(CASE["gta5-palette"], root, gta_names(range(1, 7)))
    write_split_mat(root / place / "split.mat", train=[6, 1], val=[3], test=[2, 4, 900])
    assert names("gta5", "train") == ["00001", "00006"]
    assert names("gta5", "val") == ["00003"]
    assert names("gta5", "test") == ["00002", "00004"]
    assert names("gta5", "full") == gta_names(range(1, 7))


def test_gta5_reads_split_mat_beside_its_own_folder(root, names):
    touch(CASE["gta5-palette"], root / "gta", gta_names([1, 2]))
    write_split_mat(root / "gta" / "split.mat", train=[2], val=[1], test=[3])
    assert names("gta5", "train") == ["00002"]
    (root / "gta" / "split.mat").rename(root / "split.mat")
    assert names("gta5", "val") == ["00001"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_gta5_without_split_mat_says_what_to_do(split, root, names):
    touch(CASE["gta5-palette"], root, gta_names(range(1, 30)))
    with pytest.raises(UserError) as refusal:
        names("gta5", split)
    for hint in ("split.mat", "split=robustnet", "split=hash", str(root)):
        assert hint in str(refusal.value)
    assert len(names("gta5", "full")) == 29


def corruptions():
    good = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return {
        "empty": b"",
        "text": b"1\n2\n3\n",
        "header": good,
        "noise": np.random.default_rng(0).bytes(400),
        "header and noise": good + np.random.default_rng(1).bytes(400),
        "hdf5": b"\x89HDF\r\n\x1a\n".ljust(600, b"\0"),
    }


@pytest.mark.parametrize("content", corruptions().values(), ids=corruptions().keys())
def test_gta5_with_a_broken_split_mat(content, root, names):
    touch(CASE["gta5-palette"], root, ["00001"])
    (root / "split.mat").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        names("gta5", "train")
    assert str(root / "split.mat") in str(refusal.value)
    assert "trainIds, valIds, testIds" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("bytes_left", [130, 200, -1])
def test_gta5_with_a_truncated_split_mat(bytes_left, root, names):
    touch(CASE["gta5-palette"], root, ["00001"])
    write_split_mat(root / "split.mat", val=[1, 2, 3], train=list(range(1, 60)))
    data = (root / "split.mat").read_bytes()
    (root / "split.mat").write_bytes(data[:bytes_left])
    with pytest.raises(UserError, match=r"split\.mat is not the split file of gta5"):
        names("gta5", "train")


@pytest.mark.parametrize(
    "content", [{"valIds": [[1]]}, {"trainIds": [["one"]]}, {"trainIds": [[np.nan]]}]
)
def test_gta5_with_another_mat_file(content, root, names):
    touch(CASE["gta5-palette"], root, ["00001"])
    savemat(root / "split.mat", {key: np.array(ids) for key, ids in content.items()})
    with pytest.raises(UserError, match=r"split\.mat is not the split file of gta5"):
        names("gta5", "train")


def test_gta5_list_of_robustnet():
    parts = {split: set(robustnet_split(split)) for split in GTA["official"]}
    assert [len(parts[split]) for split in ("train", "val", "test")] == GTA["robustnet_counts"]
    assert GTA["robustnet_counts"] == [12_388, 6_382, 6_181]
    everything = set().union(*parts.values())
    assert len(everything) == sum(len(part) for part in parts.values())
    assert set(range(1, GTA["total"] + 1)) - everything == REMOVED
    assert len(REMOVED) == 15
    begin = [number for number in range(1, 27) if number in parts["train"]]
    assert begin == [*range(1, 11), *range(16, 22), 25, 26]
    assert (15_188 in parts["train"], 17_705 in parts["test"]) == (True, True)


def test_gta5_robustnet_needs_no_split_mat(root, names):
    touch(CASE["gta5-palette"], root, gta_names(range(1, 31)))
    found = {split: names("gta5", split, split="robustnet") for split in GTA_KEYS}
    for split in GTA_KEYS:
        assert found[split] == gta_names(n for n in range(1, 31) if n in robustnet_split(split))
    assert joined(found) == gta_names(range(1, 31))


def test_gta5_hash_is_a_matter_of_the_name(root, names):
    touch(CASE["gta5-palette"], root, gta_names(range(1, 41)))
    before = {split: names("gta5", split, split="hash") for split in GTA_KEYS}
    assert joined(before) == gta_names(range(1, 41))
    for name in gta_names(range(1, 41, 3)):
        for path in CASE["gta5-palette"].paths(root, name):
            path.unlink()
    left = set(gta_names(range(1, 41))) - set(gta_names(range(1, 41, 3)))
    for split in GTA_KEYS:
        now = names("gta5", split, split="hash")
        assert now == [name for name in before[split] if name in left]
    frozen = "".join(split_by_hash(name)[1] for name in gta_names(range(1, 21)))
    assert frozen == FROZEN_HASH_DIVISION


def test_gta5_hash_has_the_official_proportions():
    found = [split_by_hash(name) for name in gta_names(range(1, GTA["total"] + 1))]
    for split, count in GTA["official"].items():
        # Three standard deviations of a binomial are at most 238.
        assert abs(found.count(split) - count) < 238
    assert split_by_hash("city/00017") == split_by_hash("00017")


@pytest.mark.parametrize(
    ("division", "split", "defective"),
    [
        ("official", "train", False),
        ("official", "train", True),
        ("official", "test", False),
        ("official", "full", False),
        ("robustnet", "train", False),
        ("robustnet", "train", True),
        ("robustnet", "test", False),
    ],
)
def test_complete_gta5_is_not_warned_of(division, defective, split, root, pretend):
    pretend(CASE["gta5-palette"], gta_names(range(1, GTA["total"] + 1)))
    write_split_mat(root / "split.mat", **{s: sorted(official_gta(s)) for s in GTA_KEYS})
    opened = open_domain(
        "gta5", split, root, options={"split": division, "include_defective": defective}
    )
    wanted = set(range(1, GTA["total"] + 1)) if split == "full" else official_gta(split)
    if not defective:
        wanted = wanted - REMOVED - BLANK
    elif division == "robustnet" and split == "train":
        wanted = wanted - REMOVED
    assert opened.images == len(wanted)
    assert opened.difference is None


def test_gta5_leaves_defective_images_out(root, names, caplog):
    numbers = {1, 2, *REMOVED, *BLANK}
    touch(CASE["gta5-palette"], root, gta_names(numbers))
    write_split_mat(
        root / "split.mat", train=sorted(numbers - {2, 17_705}), val=[2], test=[17_705, 3]
    )
    with caplog.at_level("INFO", logger="revt_hf.data.domains"):
        assert names("gta5", "full") == ["00001", "00002"]
    assert "gta5/full: 17 defective images left out (12160, 12166, 12167, ...)" in caplog.text
    assert "include_defective" in caplog.text
    assert names("gta5", "train") == ["00001"]
    assert names("gta5", "full", include_defective=True) == gta_names(numbers)
    assert names("gta5", "test", include_defective=True) == ["17705"]


def test_gta5_of_defective_images_only_is_refused(root, names):
    touch(CASE["gta5-palette"], root, ["12160"])
    with pytest.raises(UserError, match="split 'full' of gta5 has no images"):
        names("gta5", "full")


def test_gta5_labels_of_another_size_are_fitted(root, tmp_path):
    case = CASE["gta5-palette"]
    raw = np.full((6, 8), 7)
    raw[:, 4:] = 11
    raw[3:, :4] = 23
    image, label = case.paths(root, "00001")
    for path in (image, label):
        path.parent.mkdir(parents=True)
    save_image(image, random_image((3, 4), 1))
    case.encoding.write(label, raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        row = load_domain("gta5", "full", root, cache_dir=tmp_path / "cache")[0]
    assert row["label"].dtype == np.uint8
    wanted = [[0, 0, 2, 2], [10, 10, 2, 2]]
    assert row["label"][[0, 2]].tolist() == wanted


# SYNTHIA


def test_synthia_is_divided_by_seed(pretend, names):
    pretend(CASE["synthia-16bit"], SYNTHIA_NAMES)
    train, val = set(names("synthia", "train")), set(names("synthia", "val"))
    assert (len(train), len(val)) == (6_580, 2_820)
    assert train | val == set(SYNTHIA_NAMES) == set(names("synthia", "full"))
    assert train == set(names("synthia", "train", split_seed=0))
    other = set(names("synthia", "train", split_seed=1))
    assert len(other) == 6_580
    # Two random divisions share 0.7 * 0.7 of all images; the standard deviation is 20.
    assert abs(len(train & other) - 4_606) < 100
    assert sorted(val)[:5] == FROZEN_SYNTHIA_VAL


def test_synthia_refuses_other_seeds(root):
    with pytest.raises(UserError, match=r"options of the domain 'synthia'.*split_seed"):
        open_domain("synthia", "train", root, options={"split_seed": -1})


# Cityscapes


@pytest.fixture
def city_names(root):
    cities = ("aachen", "darmstadt", "krefeld", "monchengladbach", "ulm", "weimar", "zurich")
    found = sorted(f"{city}/{city}_00000{n}_000019" for city in cities for n in (0, 1))
    touch(CASE["cityscapes-ids"], root, found)
    return found


def test_cityscapes_dev_is_whole_cities(city_names, names):
    dev, rest = names("cityscapes", "dev"), names("cityscapes", "train_without_dev")
    assert names("cityscapes", "train") == city_names
    assert sorted([*dev, *rest]) == city_names
    assert {name.split("/")[0] for name in dev} == set(DEV_CITIES)
    assert {name.split("/")[0] for name in rest} == {"aachen", "weimar"}


def test_cityscapes_dev_by_a_list(city_names, names, root):
    listed = ["weimar/weimar_000001_000019", "ulm/ulm_000000_000019"]
    (root / "cs_splits").mkdir()
    (root / "cs_splits" / "val_split.txt").write_text("\n".join(listed) + "\n")
    by_list = {"split_files": {"dev": "cs_splits/val_split.txt"}}
    dev = names("cityscapes", "dev", **by_list)
    assert dev == sorted(listed)
    rest = names("cityscapes", "train_without_dev", **by_list)
    assert sorted([*dev, *rest]) == city_names


def test_two_splits_of_the_same_images_share_a_cache(root, names):
    """Where all images are of dev cities, dev and train are the same files."""
    everything = ["ulm/ulm_000000_000019", "ulm/ulm_000001_000019"]
    touch(CASE["cityscapes-ids"], root, everything)
    assert names("cityscapes", "train") == everything
    assert names("cityscapes", "dev") == everything
    assert names("cityscapes", "train") == everything


# CamVid


def test_camvid_frames():
    parts = [frames(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [367, 101, 233]
    assert len(frozenset().union(*parts)) == 701


def test_camvid_frames_of_the_real_folder():
    folder = ROOT.parent / "shared" / "data" / "camvid" / "img_dir"
    if not folder.is_dir():
        pytest.skip("the images of CamVid are not here")
    everything = frames("train") | frames("val") | frames("test")
    found = {path.stem for path in folder.rglob("*.png")}
    assert len(found) > 100
    assert found <= everything
    assert {path.parent.name for path in folder.rglob("*.png")} == {"train", "val", "dusk"}


def test_camvid_full_edition_is_divided_by_frame(root, names):
    everything = [sorted(frames(split))[3] for split in ("test", "val", "train")]
    touch(CASE["camvid-full"], root, [*everything, "0099XX_000001"])
    for split, name in zip(("test", "val", "train"), everything, strict=True):
        assert names("camvid", split, "full") == [name]
    assert names("camvid", "all", "full") == sorted([*everything, "0099XX_000001"])
    with pytest.raises(UserError, match=r"unknown split 'dusk' of camvid: use train, val, test"):
        names("camvid", "dusk", "full")


@pytest.mark.parametrize("split", ["all", "night-drive", "day & night", "split.1"])
def test_splits_of_any_name(split, root, names):
    """Of ``datasets`` they would have to be words, and not ``all``."""
    for folder in ("img_dir", "ann_dir"):
        (root / folder / split).mkdir(parents=True)
        (root / folder / split / "a.png").touch()
    assert names("folder", split) == ["a"]


def test_a_folder_without_splits_is_all(root, names):
    for folder in ("images", "masks"):
        (root / folder).mkdir()
        (root / folder / "a.png").touch()
    places = {"image_dir": "images", "label_dir": "masks"}
    domain = DOMAINS["folder"]
    (split,) = domain.splits(root, None, domain.options_model(**places))
    assert names("folder", split, **places) == ["a"]


def test_names_follow_the_options(root, names):
    """The files are the same, and so is the cache."""
    for folder in ("img_dir", "ann_dir"):
        (root / folder / "train").mkdir(parents=True)
        (root / folder / "train" / "a_rgb.png").touch()
    assert names("folder", "train") == ["a_rgb"]
    both = {"image_suffix": "_rgb.png", "label_suffix": "_rgb.png"}
    assert names("folder", "train", **both) == ["a"]
    assert names("folder", "train", image_dir="img_dir", label_dir="ann_dir") == ["train/a_rgb"]
    assert names("folder", "train") == ["a_rgb"]


def test_camvid_folders_of_any_name(root, names):
    case = CASE["camvid-segnet-folders"]
    for name in case.names:
        for path in case.paths(root, name):
            path = root / path.relative_to(root).as_posix().replace("train", "dusk")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert names("camvid", "dusk", "segnet") == sorted(case.names)


# Mapillary


def mapillary_rows(root, tmp_path, version, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return load_domain(
            "mapillary", "train", root, version, options, cache_dir=tmp_path / "cache"
        )


@pytest.mark.parametrize(
    ("version", "chosen", "facts", "encoding"),
    [
        *(("v1.2", chosen, key, MAPILLARY_V1_2) for chosen, key in MAPS.items()),
        ("v2.0", "rein", "id_to_trainid_rein_rules", MAPILLARY_V2_0),
    ],
)
def test_mapillary_maps(version, chosen, facts, encoding, root, tmp_path):
    written = CASE[f"mapillary-{version}"].write(root)
    train_ids = by_raw_id(FACTS[f"mapillary_{version.replace('.', '_')}"][facts])
    assert set(train_ids) == set(encoding.train_ids)
    for row in mapillary_rows(root, tmp_path, version, map=chosen):
        raw = written[row["name"]].raw
        for value, train_id in train_ids.items():
            assert set(row["label"][raw == value].tolist()) == {train_id}, f"raw value {value}"
    opened = open_domain("mapillary", "train", root, version, {"map": chosen})
    assert opened.table.name == f"mapillary_{version}/{chosen}@1"


def test_mapillary_maps_differ_from_each_other():
    """Otherwise the test of the maps could not tell one from another."""
    maps = [tuple(FACTS["mapillary_v1_2"][key].values()) for key in MAPS.values()]
    assert len(set(maps)) == len(MAPS)


@pytest.mark.parametrize("chosen", ["dg_standard", "segformer_as_run", "ifn", "ifn_as_run"])
def test_mapillary_v2_0_follows_the_class_it_was_split_from(chosen, root, tmp_path):
    """By equal name; what became of lights, signs and lane markings is told by hand."""
    written = CASE["mapillary-v2.0"].write(root)
    old = dict(
        zip(
            FACTS["mapillary_v1_2"]["names"],
            FACTS["mapillary_v1_2"][MAPS[chosen]].values(),
            strict=True,
        )
    )
    new = FACTS["mapillary_v2_0"]["names"]
    wanted = {value: old[name] for value, name in enumerate(new) if name in old}
    wanted |= {
        new.index("Traffic Light - General (Upright)"): old["Traffic Light"],
        new.index("Lane Marking - Dashed Line"): old["Lane Marking - General"],
        new.index("Traffic Sign - Direction (Front)"): old["Traffic Sign (Front)"],
        new.index("Unlabeled"): IGNORED,
    }
    assert len(wanted) > 60
    for row in mapillary_rows(root, tmp_path, "v2.0", map=chosen):
        raw = written[row["name"]].raw
        for value, train_id in wanted.items():
            assert set(row["label"][raw == value].tolist()) == {train_id}, new[value]


def test_mapillary_maps_do_not_go_with_converted_labels(root):
    CASE["mapillary-v1.2-ifn"].write(root)
    with pytest.raises(UserError, match=r"mapped when they were made.*map=rein"):
        open_domain("mapillary", "val", root, options={"map": "rein", "layout": "converted"})
    with pytest.raises(UserError) as refusal:
        open_domain("mapillary", "val", root, options={"map": "rein"})
    assert "converted:" not in str(refusal.value)
    with pytest.raises(UserError, match=r"options of the domain 'mapillary'.*map"):
        open_domain("mapillary", "val", root, options={"map": "mine"})


# ACDC


def test_acdc_configs_are_parts_of_all(root, names):
    case = CASE["acdc-all-train-ids"]
    touch(case, root, case.names)
    parts = {condition: names("acdc", "train", condition) for condition in CONDITIONS}
    for condition, found in parts.items():
        assert found
        assert all(name.startswith(f"{condition}/") for name in found)
    assert joined(parts) == names("acdc", "train", "all") == sorted(case.names)


def test_acdc_all_needs_all_conditions(root, names):
    case = CASE["acdc-fog-train-ids"]
    touch(case, root, case.names)
    assert len(names("acdc", "train", "fog")) == len(case.names)
    with pytest.raises(UserError, match=r"rgb_anon/night/train is missing"):
        names("acdc", "train")


def test_acdc_reference_images_are_passed_over(root, names):
    case = CASE["acdc-fog-train-ids"]
    touch(case, root, case.names)
    image, _ = case.paths(root, case.names[0])
    image.with_name(image.name.replace("_rgb_anon", "_rgb_ref_anon")).touch()
    assert names("acdc", "train", "fog") == sorted(case.names)


# Counts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_official_counts(case, root):
    touch(case, root, case.names)
    opened = open_domain(case.domain, case.split, root, case.config, case.options)
    counts = OFFICIAL_COUNTS.get((case.domain, case.config), {})
    # Of these, nobody knows how many they are.
    free = case.id in ("kitti2015-converted", "camvid-segnet-folders")
    expected = None if free else counts.get(case.split)
    assert opened.expected == expected
    if expected is None:
        assert opened.difference is None
        return
    with pytest.warns(DataWarning) as caught:
        opened.check("here")
    assert len(caught) == 1
    here = len(case.names)
    assert str(caught[0].message) == (
        f"here: {here} images, officially {expected} ({expected - here} missing)"
    )


@pytest.mark.parametrize(("key", "counts"), OFFICIAL_COUNTS.items(), ids=str)
def test_counts_of_every_split(key, counts):
    domain, config = DOMAINS[key[0]], key[1]
    options = domain.options_model()
    for split, count in counts.items():
        assert domain.expected(split, config, options) == count
    for split in set(domain.split_names) - set(counts):
        assert domain.expected(split, config, options) is None


def test_too_many_images_are_warned_of(root, names, tmp_path):
    case = CASE["wilddash-ids"]
    touch(case, root, [f"ad{number:04d}" for number in range(72)])
    with pytest.warns(DataWarning, match=r"wilddash/val: 72 images, officially 70 \(2 too many"):
        load_domain("wilddash", "val", root, cache_dir=tmp_path / "cache")
    for number in (0, 1):
        for path in case.paths(root, f"ad{number:04d}"):
            path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        assert len(load_domain("wilddash", "val", root, cache_dir=tmp_path / "cache")) == 70


def test_splits_by_a_list_have_no_official_count(root, tmp_path):
    case = CASE["wilddash-ids"]
    touch(case, root, case.names)
    (root / "list.txt").write_text("\n".join(case.names))
    opened = open_domain("wilddash", "val", root, options={"split_files": {"val": "list.txt"}})
    assert (opened.expected, opened.difference) == (None, None)


# Split files

LISTED = ("a b", "city/c", "zürich/zürich_01")
ON_DISK = (*LISTED, "city/d", "town/d", "e")
FORMS = {
    "stems": "a b\ncity/c\nzürich/zürich_01\n",
    "no line break at the end": "a b\ncity/c\nzürich/zürich_01",
    "names": "a b_rgb.png\ncity/c_rgb.png\nzürich/zürich_01_rgb.png\n",
    "names of another suffix": "a b.jpg\ncity/c.JPG\nzürich/zürich_01.jpeg\n",
    "last parts": "a b\nc\nzürich_01\n",
    "another prefix": "/SegNet/data/a b_rgb.png\nimages/city/c\n./zürich/zürich_01\n",
    "absolute": "/data/images/city/c_rgb.png\n/data/images/zürich/zürich_01_rgb.png\na b",
    "windows": "a b\r\ncity\\c_rgb.png\r\nC:\\data\\zürich\\zürich_01.png\r\n",
    "byte order mark": "\ufeffa b\ncity/c\nzürich/zürich_01\n",
    "blank lines": "\n\na b\n\n  \ncity/c\n\t\nzürich/zürich_01\n\n",
    "comments": "# mine\na b\n#city/d\ncity/c\nzürich/zürich_01\n",
    "indented comments": "  # mine\na b\ncity/c\n\t# more\nzürich/zürich_01\n",
    "spaces around": "  a b  \ncity/c\t\n zürich/zürich_01\n",
    "repeated": "a b\na b\ncity/c\nc\nzürich/zürich_01\n",
    "another order": "zürich/zürich_01\ncity/c\na b\n",
    "two columns": "city/c_rgb.png city/c_ids.png\na b\nzürich/zürich_01 labels/zürich_01.png\n",
    "tabs": "city/c_rgb.png\tcity/c_ids.png\na b\nzürich/zürich_01\tlabels/zürich_01.png\n",
    "commas": "city/c_rgb.png,city/c_ids.png\na b\nzürich/zürich_01;labels/zürich_01.png\n",
}
SUFFIXES = {"image_suffix": "_rgb.png", "label_suffix": "_ids.png"}


@pytest.fixture
def listed(root, names):
    """The names of the folder's training split by a list; ``ON_DISK`` is there."""
    for name in ON_DISK:
        for folder, suffix in (("img_dir", "_rgb.png"), ("ann_dir", "_ids.png")):
            path = root / folder / "train" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def run(content, split="train"):
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (root / "list.txt").write_bytes(data)
        return names("folder", split, **SUFFIXES, split_files={split: "list.txt"})

    return run


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
def test_split_files(content, listed):
    assert listed(content) == sorted(LISTED)


def test_split_files_may_lie_anywhere(listed, root, names, tmp_path):
    path = tmp_path / "lists" / "mine.txt"
    path.parent.mkdir()
    path.write_text("e\n")
    assert names("folder", "train", **SUFFIXES, split_files={"train": str(path)}) == ["e"]


def test_unknown_entries_are_named(listed, root):
    with pytest.raises(UserError, match=r"list\.txt lists 'zebra', an image that does not exist$"):
        listed("e\nzebra\n")
    with pytest.raises(UserError, match=r"list\.txt lists 'zebra'.*and 1 more like it"):
        listed("zebra\ne\nyak\n")
    with pytest.raises(UserError, match=r"list\.txt lists 'town/c'"):
        listed("town/c\n")


def test_ambiguous_entries_are_not_guessed(listed):
    with pytest.raises(UserError, match=r"list\.txt lists 'd'"):
        listed("d\n")
    assert listed("town/d\n") == ["town/d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read the split file .*list\.txt"),
        (b"\xff\xfe\x00\x81", r"cannot read the split file .*list\.txt"),
        ("", r"the split file .*list\.txt lists nothing"),
        ("# nothing\n\n", r"the split file .*list\.txt lists nothing"),
    ],
)
def test_unusable_split_files(content, message, listed):
    with pytest.raises(UserError, match=message):
        listed(content)


def test_a_listed_image_without_label_is_named(listed, root):
    (root / "ann_dir" / "train" / "e_ids.png").unlink()
    with pytest.raises(UserError, match=r"e_rgb\.png has no label.*e_ids\.png"):
        listed("e\n")
    assert listed("town/d\n") == ["town/d"]


def test_a_split_of_ones_own_is_taken_from_all_splits(city_names, root, names):
    val = CASE["cityscapes-ids"]
    for name in ("lindau/lindau_000000_000019", "munster/munster_000000_000019"):
        for path in val.paths(root, name):
            path = root / path.relative_to(root).as_posix().replace("/train/", "/val/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (root / "mine.txt").write_text("lindau_000000_000019\nulm_000001_000019\n")
    found = names("cityscapes", "mine", split_files={"mine": "mine.txt"})
    assert found == ["lindau/lindau_000000_000019", "ulm/ulm_000001_000019"]
    with pytest.raises(UserError, match=r"unknown split 'yours' of cityscapes: use .*mine"):
        names("cityscapes", "yours", split_files={"mine": "mine.txt"})


def test_a_split_of_ones_own_is_taken_from_all_of_the_folder(listed):
    """As PairedOptions promises: any other name makes a split out of all of them."""
    assert listed("e\ncity/c\n", split="mine") == ["city/c", "e"]


def test_a_list_narrows_a_split_down(city_names, root, names):
    (root / "few.txt").write_text("aachen_000000_000019\nulm_000001_000019\n")
    found = names("cityscapes", "train", split_files={"train": "few.txt"})
    assert found == ["aachen/aachen_000000_000019", "ulm/ulm_000001_000019"]
    assert len(names("cityscapes", "train")) == len(city_names)


def test_split_lists_of_robustnet_fit_gta5(root, names):
    """They hold file names, those of the original implementation hold stems."""
    touch(CASE["gta5-palette"], root, gta_names(range(1, 6)))
    (root / "names.txt").write_text("00002.png\n00004.png\n")
    (root / "stems.txt").write_text("00002\n00004\n")
    for path in ("names.txt", "stems.txt"):
        assert names("gta5", "train", split_files={"train": path}) == ["00002", "00004"]
