"""What every domain must do, in each of its layouts; see ``on_disk`` for the layouts."""

import logging
import multiprocessing

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, DataLoader

from revt_hf.core.errors import UserError
from revt_hf.data.domains import DOMAINS, load_domain, open_domain
from tests.helpers import on_disk

pytestmark = pytest.mark.filterwarnings("ignore::revt_hf.core.errors.DataWarning")

# Domains without files have tests of their own.
FILES_DOMAINS = sorted(set(DOMAINS) - {"streets", "corruptions"})
HIDDEN_TEST = (
    *("cityscapes", "bdd100k", "mapillary", "acdc", "kitti2015", "wilddash", "idd"),
    *("dark_zurich", "foggy_cityscapes", "rainy_cityscapes"),
)
CONFIGS = {
    "mapillary": ("v1.2", "v2.0"),
    "acdc": ("all", "fog", "night", "rain", "snow"),
    "camvid": ("segnet", "full"),
    "synscapes": ("native", "2k"),
    "foggy_cityscapes": ("beta_0.02", "beta_0.01", "beta_0.005", "all"),
    "rainy_cityscapes": ("alpha_0.03", "alpha_0.02", "alpha_0.01", "all"),
}
# Datasets with labels that are known to differ in size from their images.
FITTED = ("gta5", "synscapes-2k")
# Archives unpack to a folder, and the original implementation puts datasets side by side.
OWN_FOLDERS = {
    "gta5-palette": "gta",
    "synthia-16bit": "RAND_CITYSCAPES",
    "cityscapes-converted": "cityscapes",
    "urbansyn-hub": "UrbanSyn",
    "synscapes-2k-ids": "Synscapes",
    "foggy_cityscapes-all-ids": "cityscapes",
    "dark_zurich-train-ids": "Dark_Zurich_val_anon",
    "dark_zurich-ids": "val",
    "bdd100k-new": "bdd100k",
    "bdd100k-old": "bdd100k_seg/bdd100k",
    "mapillary-v1.2-ifn": "mapillary",
    "acdc-all-turned": "acdc",
    "kitti2015-ids": "data_semantics",
    "kitti2015-converted": "kitti",
    "camvid-segnet": "CamVid",
}


def by_case(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


every_case = by_case(on_disk.CASES)


@pytest.fixture(scope="module", params=on_disk.CASES, ids=lambda case: case.id)
def there(request, tmp_path_factory):
    """A case on disk that no test changes, among other files: (case, folder, what was written)."""
    case, root = request.param, tmp_path_factory.mktemp(request.param.domain) / "data"
    written = case.write(root)
    for path in (path for name in case.names for path in case.paths(root, name)):
        path.with_name(f"._{path.name}").write_bytes(b"of a Mac")
        path.with_name("Thumbs.db").write_bytes(b"of Windows")
        path.with_name("readme.txt").write_text("hello")
    return case, root, written


def load(case, root, **how):
    """Always with the same cache for the same folder."""
    cache = root.parent / "cache"
    return load_domain(
        case.domain, case.split, root, case.config, case.options, cache_dir=cache, **how
    )


def open_case(case, root, **options):
    return open_domain(case.domain, case.split, root, case.config, {**case.options, **options})


def assert_image(case, found, written):
    assert (found.dtype, found.shape) == (np.uint8, written.shape)
    difference = np.abs(found.astype(int) - written.astype(int))
    assert difference.max() <= (4 if case.lossy else 0)


def assert_label(encoding, found, raw):
    """Every pixel by the facts' map; where they have none, at least within the classes."""
    assert (found.dtype, found.shape) == (np.uint8, raw.shape)
    assert set(np.unique(raw)) == set(encoding.train_ids)
    for value, train_id in encoding.train_ids.items():
        ids = set(found[raw == value].tolist())
        if train_id is None:
            assert len(ids) == 1
            assert ids <= {*range(len(on_disk.CLASSES)), on_disk.IGNORED}
        else:
            assert ids == {train_id}, f"raw value {value}"


def assert_same_rows(found, wanted):
    assert [row["name"] for row in found] == [row["name"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for key in ("image", "label"):
            assert np.asarray(one[key]).dtype == np.uint8
            np.testing.assert_array_equal(one[key], other[key])


def test_rows_are_images_and_train_ids_in_order_of_name(there):
    """Every raw value maps as the facts say; the Arrow table holds paths."""
    case, root, written = there
    images = load(case, root)
    rows = list(images)
    assert [row["name"] for row in rows] == sorted(case.names)
    for row in rows:
        assert_image(case, row["image"], written[row["name"]].image)
        assert_label(case.encoding, row["label"], written[row["name"]].raw)
    for row, name in zip(images.with_format(None), sorted(case.names), strict=True):
        image, label = ({"path": str(path), "bytes": None} for path in case.paths(root, name))
        assert row == {"image": image, "label": label, "name": name}
    assert_same_rows(list(load(case, root, streaming=True)), rows)


def test_the_layout_is_recognised_and_said(there, caplog):
    case, root, _ = there
    opened = open_case(case, root)
    assert (opened.layout, opened.table.name) == (case.kind, case.encoding.table)
    with caplog.at_level(logging.INFO, logger="revt_hf.data.domains"):
        load(case, root)
    (record,) = (one for one in caplog.records if one.name == "revt_hf.data.domains")
    said = record.getMessage()
    assert said.startswith(f"{case.domain}/{case.split}: {case.kind} layout in {root}")
    assert case.looked_for in said
    assert case.encoding.table in said
    assert open_case(case, root, layout=case.kind).layout == case.kind
    other = {"official": "converted", "converted": "official"}[case.kind]
    with pytest.raises(UserError, match=rf"split '{case.split}' of {case.domain} is not in"):
        open_case(case, root, layout=other)


@every_case
def test_a_bad_file_is_named(case, root):
    """A label of an unknown value or another size, and truncated files; the others are read."""
    written = case.write(root)
    images = load(case, root)
    first, second = sorted(case.names)[:2]
    image, label = case.paths(root, second)

    def refusal():
        assert images[0]["name"] == first
        with pytest.raises(UserError) as refused:
            images[1]
        return str(refused.value)

    encoding, raw = case.encoding, written[second].raw.copy()
    raw[encoding.cell : 2 * encoding.cell, encoding.cell : 2 * encoding.cell] = encoding.unknown
    encoding.write(label, raw)
    shown = encoding.shown or str(encoding.unknown)
    assert all(words in refusal() for words in (str(label), shown, f"'{encoding.table}'"))
    encoding.write(label, encoding.raw(20))
    if case.id.startswith(FITTED):
        assert images[1]["label"].shape == images[1]["image"].shape[:2]
    else:
        assert str(label) in refusal()
    for path in (label, image):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
        assert str(path) in refusal()


@every_case
def test_an_empty_folder_is_told_what_was_looked_for(case, root):
    with pytest.raises(UserError) as refusal:
        open_case(case, root)
    message = str(refusal.value)
    if case.domain == "folder":
        wanted = root / case.image.partition("/")[0]
        assert message.removesuffix("/") == f"the folder of images is missing: {wanted}"
        return
    start, _, reasons = message.partition("looked for ")
    assert message.endswith(f"; it comes from {DOMAINS[case.domain].facts.download}")
    assert f"split '{case.split}' of {case.domain} is not in {root}" in start
    kind = f"{case.kind}: "
    assert any(one.startswith(kind) and case.looked_for in one for one in reasons.split("; "))


@every_case
def test_a_missing_label_is_named(case, root):
    case.touch(root)
    image, label = case.paths(root, sorted(case.names)[0])
    label.unlink()
    with pytest.raises(UserError) as refusal:
        load(case, root)
    assert all(str(path) in str(refusal.value) for path in (image, label))
    for name in case.names:
        case.paths(root, name)[1].unlink(missing_ok=True)
    with pytest.raises(UserError) as refusal:
        open_case(case, root)
    assert any(str(case.paths(root, name)[1]) in str(refusal.value) for name in case.names)


@every_case
def test_what_comes_goes_and_changes_is_seen(case, root):
    written, contents = case.write(root), []

    def rows():
        contents.append(open_case(case, root).content)
        found = {row["name"]: row for row in load(case, root)}
        assert list(found) == sorted(written)
        return found

    rows()
    written[case.extra] = case.write_one(root, case.extra, 5)
    rows()
    first, second = sorted(case.names)[:2]
    for path in case.paths(root, first):
        path.unlink()
    del written[first]
    rows()
    written[second] = case.write_one(root, second, 6)
    row = rows()[second]
    assert_image(case, row["image"], written[second].image)
    assert_label(case.encoding, row["label"], written[second].raw)
    assert len(set(contents)) == len(contents)
    assert open_case(case, root).content == contents[-1]


def converted_beside(case):
    """The converted layout of the same images, in the same folders if there is one."""

    def of(one):
        return one.domain, one.config, one.split, sorted(one.names)

    fitting = [one for one in on_disk.CASES if one.kind == "converted" and of(one) == of(case)]
    return max(fitting, key=lambda other: other.image == case.image, default=None)


@by_case([case for case in on_disk.CASES if case.kind == "official" and converted_beside(case)])
def test_of_both_layouts_the_official_one_is_taken(case, root):
    converted_beside(case).write(root)
    written = case.write(root)
    opened = open_case(case, root)
    assert (opened.layout, opened.table.name) == ("official", case.encoding.table)
    for row in load(case, root):
        assert_label(case.encoding, row["label"], written[row["name"]].raw)


def test_processes_and_workers_give_the_same_rows(tmp_path):
    """Also spawned workers, which get label tables of every kind of reading."""
    cases = [on_disk.CASE[name] for name in ("gta5-palette", "synthia-16bit", "camvid-full")]
    for case in cases:
        case.write(tmp_path / case.id / "data")
    images = ConcatDataset([load(case, tmp_path / case.id / "data") for case in cases])
    wanted = [images[i] for i in range(len(images))]
    how = {"multiprocessing_context": multiprocessing.get_context("spawn"), "num_workers": 2}
    loader = DataLoader(images, 2, collate_fn=on_disk.as_they_are, **how)
    assert_same_rows([row for batch in loader for row in batch], wanted)
    place = {"data_dir": tmp_path / "gta5-palette" / "data", "cache_dir": tmp_path / "another"}
    gta5 = load_domain("gta5", cases[0].split, **place, num_proc=2)
    assert_same_rows(list(gta5), wanted[: len(gta5)])


@pytest.mark.parametrize(("name", "folder"), OWN_FOLDERS.items())
def test_a_data_set_in_its_own_folder_is_found(name, folder, root):
    case = on_disk.CASE[name]
    case.touch(root / folder)
    assert load(case, root).with_format(None)["name"][:] == sorted(case.names)
    assert open_case(case, root).layout == case.kind


@by_case([on_disk.CASE["acdc-fog-ids"], on_disk.CASE["folder-default"]])
def test_relative_and_linked_folders(case, root, monkeypatch):
    case.touch(root)
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    for place in ("data", "link", "link/../data"):
        opened = open_domain(case.domain, case.split, place, case.config)
        assert opened.content == open_case(case, root).content
        assert str(root) in opened.found


def test_there_are_cases_for_every_domain_and_config(root):
    assert {case.domain for case in on_disk.CASES} == set(FILES_DOMAINS)
    for name in FILES_DOMAINS:
        assert DOMAINS[name].configs == CONFIGS.get(name, ())
        configs = {case.config for case in on_disk.CASES if case.domain == name}
        assert configs == set(CONFIGS.get(name, (None,)))
        default = CONFIGS.get(name, (None,))[0]
        case = next(one for one in on_disk.CASES if (one.domain, one.config) == (name, default))
        case.touch(root / name)
        opened = open_domain(name, case.split, root / name, options=case.options)
        assert opened.table.name == case.encoding.table


@pytest.mark.parametrize("name", FILES_DOMAINS)
def test_wrong_arguments_are_named(name, root):
    def refused(words, split="val", data_dir=root, config=None, **options):
        with pytest.raises(UserError, match=words):
            open_domain(name, split, data_dir, config, options)

    unknown = "unknown split 'trian' of {}: use .*val"
    # Any folder may be a split of these two.
    any_split = {"folder": "the folder of images is missing", "camvid": "split 'trian' of camvid"}
    refused(any_split.get(name, unknown.format(name)), "trian")
    if name in HIDDEN_TEST:
        refused(f"{name}: the labels of the test split.*use val", "test")
    refused(rf"options of the domain '{name}'.*options\.split_fils", split_fils={})
    refused(rf"options of the domain '{name}'.*options\.layout", layout="folded")
    known = CONFIGS.get(name)
    configs = f"'sleet' of {name}: use one of {', '.join(known)}" if known else "no configs.*sleet"
    refused(configs, config="sleet")
    refused(f"'{name}' needs data_dir", data_dir=None)
    refused("nowhere is not a folder", data_dir=root / "nowhere")


def test_other_labels_of_synthia_are_refused(root):
    """As a decoder that loses 16 bits would write them, or with a palette."""
    case = on_disk.CASE["synthia-16bit"]
    shape = case.write(root)["0000000"].raw.shape
    label = case.paths(root, "0000000")[1]
    for write in (
        lambda: on_disk.save_palette(label, np.zeros(shape), [[0, 0, 0]] * 23),
        lambda: on_disk.save_image(label, on_disk.random_image(shape, 0)),
    ):
        write()
        with pytest.raises(UserError, match=r"0000000\.png.*synthia_ids.*8 bits"):
            load(case, root)[0]


def test_colour_labels_saved_with_a_palette(root):
    """An index must never pass for the colour of that number."""
    case = on_disk.CASE["camvid-full"]
    raw = case.write(root)[min(case.names)].raw
    label = case.paths(root, min(case.names))[1]
    colours = on_disk.FACTS["camvid32"]["colors"]
    indices = np.vectorize(list(case.encoding.train_ids).index)(raw)
    on_disk.save_palette(label, indices, colours)
    assert_label(case.encoding, load(case, root)[0]["label"], raw)
    on_disk.save_palette(label, indices, [[1, 2, 3], *colours[1:]])
    with pytest.raises(UserError, match=r"label colour \(1, 2, 3\)") as refusal:
        load(case, root)[0]
    assert str(label) in str(refusal.value)


def test_palettes_of_few_colours(root):
    """They are packed: two or more pixels in a byte."""
    case = on_disk.CASE["gta5-palette"]
    thirds = case.write(root)[min(case.names)].raw % 3
    raw, train_ids = np.array([0, 7, 11])[thirds], np.array([on_disk.IGNORED, 0, 2])[thirds]
    on_disk.save_palette(case.paths(root, min(case.names))[1], raw, [[10, 20, 30]] * 12, bits=4)
    np.testing.assert_array_equal(load(case, root)[0]["label"], train_ids)
