"""What every domain has to do, in every layout that it knows; see ``on_disk`` for the layouts."""

import logging
import multiprocessing
import os
import warnings

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from revt_hf.core.errors import UserError
from revt_hf.data.domains import DOMAINS, load_domain, open_domain
from tests.helpers.on_disk import (
    CASE,
    CASES,
    CLASSES,
    FACTS,
    IGNORED,
    Encoding,
    as_they_are,
    random_image,
    save_image,
)

pytestmark = pytest.mark.filterwarnings("ignore::revt_hf.core.errors.DataWarning")

# Domains without files of their own have tests of their own.
WITHOUT_FILES = {"streets", "corruptions"}
HIDDEN_TEST = ("cityscapes", "bdd100k", "mapillary", "acdc", "kitti2015", "wilddash", "idd")
ANY_SPLIT = ("folder", "camvid")
CONFIGS = {
    "mapillary": ("v1.2", "v2.0"),
    "acdc": ("all", "fog", "night", "rain", "snow"),
    "camvid": ("segnet", "full"),
}
LOADED_IN_PARALLEL = ("gta5-palette", "cityscapes-ids", "acdc-all-train-ids")
THROUGH_WORKERS = ("gta5-palette", "synthia-16bit", "camvid-full")
# Archives unpack to a folder, and the original implementation puts datasets side by side.
OWN_FOLDERS = (
    ("gta5-palette", "gta"),
    ("synthia-16bit", "RAND_CITYSCAPES"),
    ("cityscapes-converted", "cityscapes"),
    ("bdd100k-new", "bdd100k"),
    ("mapillary-v1.2-ifn", "mapillary"),
    ("acdc-all-turned", "acdc"),
    ("kitti2015-ids", "data_semantics"),
    ("kitti2015-converted", "kitti"),
    ("camvid-segnet", "CamVid"),
)


def of_kind(kind):
    return [case for case in CASES if case.kind == kind]


def by_case(cases=CASES):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


every_case = by_case()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def load(root, tmp_path):
    """Load a case from ``root``, always with the same cache."""

    def run(case, split=None, options=None, **how):
        return load_domain(
            case.domain,
            split or case.split,
            root,
            case.config,
            {**case.options, **(options or {})},
            cache_dir=tmp_path / "cache",
            **how,
        )

    return run


def open_case(case, root, **options):
    return open_domain(case.domain, case.split, root, case.config, {**case.options, **options})


def assert_image(case, found, written):
    assert found.dtype == np.uint8
    assert found.shape == written.shape
    difference = np.abs(found.astype(int) - written.astype(int))
    assert difference.max() <= (4 if case.lossy else 0)


def assert_label(encoding, found, raw):
    """Every pixel by the facts' map; where they have none, at least within the classes."""
    assert found.dtype == np.uint8
    assert found.shape == raw.shape
    assert set(np.unique(raw)) == set(encoding.train_ids)
    for value, train_id in encoding.train_ids.items():
        there = set(found[raw == value].tolist())
        if train_id is None:
            assert len(there) == 1
            assert there <= {*range(len(CLASSES)), IGNORED}
        else:
            assert there == {train_id}, f"raw value {value}"


def assert_same_rows(found, wanted):
    assert [row["name"] for row in found] == [row["name"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for key in ("image", "label"):
            assert np.asarray(one[key]).dtype == np.uint8
            np.testing.assert_array_equal(one[key], other[key])


def damage(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@every_case
def test_rows_are_the_images_in_order_of_name(case, root, load):
    written = case.write(root)
    images = load(case)
    assert len(images) == len(written)
    rows = list(images)
    assert [row["name"] for row in rows] == sorted(case.names)
    for row in rows:
        assert_image(case, row["image"], written[row["name"]].image)


@every_case
def test_every_raw_value_maps_as_the_facts_say(case, root, load):
    written = case.write(root)
    for row in load(case):
        assert_label(case.encoding, row["label"], written[row["name"]].raw)


@every_case
def test_an_unknown_value_is_refused_by_file_and_value(case, root, load):
    written = case.write(root)
    name = sorted(case.names)[-1]
    label = case.paths(root, name)[1]
    raw, cell = written[name].raw.copy(), case.encoding.cell
    raw[cell : 2 * cell, cell : 2 * cell] = case.encoding.unknown
    case.encoding.write(label, raw)
    images = load(case)
    with pytest.raises(UserError) as refusal:
        images[len(case.names) - 1]
    assert str(label) in str(refusal.value)
    assert case.encoding.shown in str(refusal.value)
    assert f"'{case.table}'" in str(refusal.value)
    assert images[0]["name"] == sorted(case.names)[0]


@every_case
def test_the_layout_is_recognised_and_said(case, root, load, caplog):
    case.write(root)
    opened = open_case(case, root)
    assert opened.layout == case.kind
    assert opened.table.name == case.table
    assert opened.images == len(case.names)
    with caplog.at_level(logging.INFO, logger="revt_hf.data.domains"):
        load(case)
    said = [
        record.getMessage() for record in caplog.records if record.name == "revt_hf.data.domains"
    ]
    assert len(said) == 1
    assert said[0].startswith(f"{case.domain}/{case.split}: {case.kind} layout in {root}")
    assert case.looked_for in said[0]
    assert case.table in said[0]


@every_case
def test_only_the_wanted_kind_of_layout_is_taken(case, root):
    case.write(root)
    assert open_case(case, root, layout=case.kind).layout == case.kind
    other = {"official": "converted", "converted": "official"}[case.kind]
    with pytest.raises(UserError, match=rf"split '{case.split}' of {case.domain} is not in"):
        open_case(case, root, layout=other)


@by_case([case for case in CASES if case.domain != "folder"])
def test_an_empty_folder_is_told_what_was_looked_for(case, root):
    with pytest.raises(UserError) as refusal:
        open_case(case, root)
    message = str(refusal.value)
    assert f"split '{case.split}' of {case.domain} is not in {root}" in message
    assert any(
        reason.lstrip().removeprefix("looked for ").startswith(f"{case.kind}: ")
        and case.looked_for in reason
        for reason in message.split(";")
    )


@by_case([case for case in CASES if case.domain == "folder"])
def test_an_empty_folder_lacks_its_images(case, root):
    with pytest.raises(UserError) as refusal:
        open_case(case, root)
    assert f"the folder of images is missing: {root}/" in str(refusal.value)
    assert case.image.partition("/")[0] in str(refusal.value)


@every_case
def test_a_missing_label_is_named(case, root, load):
    case.write(root)
    image, label = case.paths(root, sorted(case.names)[0])
    label.unlink()
    with pytest.raises(UserError) as refusal:
        load(case)
    assert str(image) in str(refusal.value)
    assert str(label) in str(refusal.value)


@every_case
def test_labels_that_are_all_missing_are_named(case, root):
    case.write(root)
    for name in case.names:
        case.paths(root, name)[1].unlink()
    with pytest.raises(UserError) as refusal:
        open_case(case, root)
    assert any(str(case.paths(root, name)[1]) in str(refusal.value) for name in case.names)


@every_case
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_truncated_file_is_named(case, root, load, which):
    case.write(root)
    path = case.paths(root, sorted(case.names)[0])[which == "label"]
    damage(path, 0.6)
    images = load(case)
    with pytest.raises(UserError) as refusal:
        images[0]
    assert str(path) in str(refusal.value)
    assert images[1]["name"] == sorted(case.names)[1]


@every_case
def test_a_label_of_another_size(case, root, load):
    case.write(root)
    name = sorted(case.names)[0]
    label = case.paths(root, name)[1]
    case.encoding.write(label, case.encoding.raw(20))
    if case.domain == "gta5":  # the only dataset that is known for it
        row = load(case)[0]
        assert row["label"].shape == row["image"].shape[:2]
    else:
        with pytest.raises(UserError) as refusal:
            load(case)[0]
        assert str(label) in str(refusal.value)


@every_case
def test_what_comes_goes_and_changes_is_seen(case, root, load):
    written = case.write(root)
    contents = [open_case(case, root).content]
    assert len(load(case)) == len(case.names)

    written[case.extra] = case.write_one(root, case.extra, 5)
    contents.append(open_case(case, root).content)
    assert [row["name"] for row in load(case)] == sorted(written)

    first, second = sorted(case.names)[:2]
    for path in case.paths(root, first):
        path.unlink()
    del written[first]
    contents.append(open_case(case, root).content)
    assert [row["name"] for row in load(case)] == sorted(written)

    written[second] = case.write_one(root, second, 6)
    contents.append(open_case(case, root).content)
    row = {row["name"]: row for row in load(case)}[second]
    assert_image(case, row["image"], written[second].image)
    assert_label(case.encoding, row["label"], written[second].raw)

    assert len(set(contents)) == len(contents)
    assert open_case(case, root).content == contents[-1]


@every_case
def test_arrow_holds_paths(case, root, load):
    case.write(root)
    rows = load(case).with_format(None)
    for row, name in zip(rows, sorted(case.names), strict=True):
        image, label = case.paths(root, name)
        assert row == {
            "image": {"path": str(image), "bytes": None},
            "label": {"path": str(label), "bytes": None},
            "name": name,
        }


@every_case
def test_streaming_gives_the_same_rows(case, root, load):
    case.write(root)
    assert_same_rows(list(load(case, streaming=True)), list(load(case)))


@by_case([CASE[name] for name in LOADED_IN_PARALLEL])
def test_two_processes_give_the_same_rows(case, root, load):
    case.write(root)
    in_parallel = list(load(case, num_proc=2))
    with_one = load_domain(
        case.domain, case.split, root, case.config, cache_dir=root.parent / "another"
    )
    assert_same_rows(in_parallel, list(with_one))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same_rows(start, tmp_path):
    parts = []
    for name in THROUGH_WORKERS:
        case = CASE[name]
        folder = tmp_path / name
        case.write(folder)
        parts.append(
            load_domain(case.domain, case.split, folder, case.config, cache_dir=tmp_path / "cache")
        )
    images = ConcatDataset(parts)
    loader = DataLoader(
        images,
        batch_size=2,
        num_workers=2,
        collate_fn=as_they_are,
        multiprocessing_context=multiprocessing.get_context(start),
    )
    found = [row for batch in loader for row in batch]
    assert len(found) == sum(len(CASE[name].names) for name in THROUGH_WORKERS)
    assert_same_rows(found, [images[i] for i in range(len(images))])


def converted_beside(case):
    """The converted layout of the same images, in the same folders if there is one."""
    fitting = [
        other
        for other in of_kind("converted")
        if (other.domain, other.config, other.split, sorted(other.names))
        == (case.domain, case.config, case.split, sorted(case.names))
    ]
    return max(fitting, key=lambda other: other.image == case.image, default=None)


@by_case([case for case in of_kind("official") if converted_beside(case)])
def test_of_both_layouts_the_official_one_is_taken(case, root, load):
    converted_beside(case).write(root)
    written = case.write(root)
    opened = open_case(case, root)
    assert (opened.layout, opened.table.name) == ("official", case.table)
    for row in load(case):
        assert_label(case.encoding, row["label"], written[row["name"]].raw)


@pytest.mark.parametrize(("name", "folder"), OWN_FOLDERS)
def test_a_data_set_in_its_own_folder_is_found(name, folder, root, load):
    case = CASE[name]
    case.write(root / folder)
    assert [row["name"] for row in load(case)] == sorted(case.names)
    assert open_case(case, root).layout == case.kind


@every_case
def test_other_files_do_not_matter(case, root, load):
    case.write(root)
    for name in case.names:
        for path in case.paths(root, name):
            path.with_name(f"._{path.name}").write_bytes(b"of a Mac")
            path.with_name("Thumbs.db").write_bytes(b"of Windows")
            path.with_name("readme.txt").write_text("hello")
    assert [row["name"] for row in load(case)] == sorted(case.names)


@by_case([case for case in CASES if case.options == {}])
def test_relative_and_linked_folders(case, root, load, monkeypatch):
    case.write(root)
    link = root.parent / "link"
    link.symlink_to(root)
    monkeypatch.chdir(root.parent)
    for place in ("data", "link", os.path.join("link", "..", "data")):  # noqa: PTH118
        opened = open_domain(case.domain, case.split, place, case.config)
        assert opened.content == open_case(case, root).content
        assert str(root) in opened.found


def files_domains():
    return sorted(set(DOMAINS) - WITHOUT_FILES)


def test_there_are_cases_for_every_domain_and_config():
    assert {case.domain for case in CASES} == set(files_domains())
    for name in files_domains():
        assert DOMAINS[name].configs == CONFIGS.get(name, ())
        if name in CONFIGS:
            assert {case.config for case in CASES if case.domain == name} == set(CONFIGS[name])


@pytest.mark.parametrize("name", sorted(set(files_domains()) - set(ANY_SPLIT)))
def test_an_unknown_split_lists_the_known_ones(name, root):
    with pytest.raises(UserError, match=rf"unknown split 'trian' of {name}: use .*val"):
        open_domain(name, "trian", root)


@pytest.mark.parametrize("case_id", ["camvid-segnet", "camvid-full", "folder-default"])
def test_an_unknown_split_of_free_splits(case_id, root):
    case = CASE[case_id]
    case.write(root)
    with pytest.raises(UserError, match=rf"split 'trian' of {case.domain}"):
        open_domain(case.domain, "trian", root, case.config)


@pytest.mark.parametrize("name", HIDDEN_TEST)
def test_hidden_labels_of_the_test_split(name, root):
    with pytest.raises(UserError, match=rf"{name}: the labels of the test split.*use val"):
        open_domain(name, "test", root)


@pytest.mark.parametrize("name", files_domains())
def test_an_unknown_option_is_named(name, root):
    with pytest.raises(UserError, match=rf"options of the domain '{name}'.*options\.split_fils"):
        open_domain(name, "val", root, options={"split_fils": {}})
    with pytest.raises(UserError, match=rf"options of the domain '{name}'.*options\.layout"):
        open_domain(name, "val", root, options={"layout": "folded"})


@pytest.mark.parametrize("name", files_domains())
def test_an_unknown_config_is_named(name, root):
    with pytest.raises(UserError, match=rf"{name}.*") as refusal:
        open_domain(name, "val", root, "sleet")
    assert "'sleet'" in str(refusal.value)
    if name in CONFIGS:
        assert f"use one of {', '.join(CONFIGS[name])}" in str(refusal.value)
    else:
        assert "no configs" in str(refusal.value)


@pytest.mark.parametrize("name", files_domains())
def test_the_folder_has_to_be_there(name, tmp_path):
    with pytest.raises(UserError, match=rf"'{name}' needs data_dir"):
        open_domain(name, "val")
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        open_domain(name, "val", tmp_path / "nowhere")


def test_known_configs_are_the_defaults(root):
    for name, config in (("acdc", "all"), ("mapillary", "v1.2"), ("camvid", "segnet")):
        case = next(c for c in CASES if (c.domain, c.config) == (name, config))
        case.write(root / name)
        assert open_domain(name, case.split, root / name).table.name == case.table


def test_eight_bit_labels_of_synthia_are_refused(root, load):
    """As a decoder that loses 16 bits would write them."""
    case = CASE["synthia-16bit"]
    case.write(root)
    label = case.paths(root, "0000000")[1]
    save_image(label, random_image(case.encoding.raw(0).shape, 0))
    with pytest.raises(UserError, match=r"0000000\.png.*synthia_ids.*8 bits"):
        load(case)[0]


def palette_label(raw, colours, path, **how):
    label = Image.fromarray(raw.astype(np.uint8), mode="P")
    label.putpalette([value for colour in colours for value in colour])
    label.save(path, **how)


def test_colour_labels_saved_with_a_palette(root, load):
    """An index must never pass for the colour of that number."""
    case = CASE["camvid-full"]
    written = case.write(root)
    name = sorted(case.names)[0]
    label = case.paths(root, name)[1]
    colours = FACTS["camvid32"]["colors"]
    values = list(case.encoding.train_ids)
    indices = np.vectorize(values.index)(written[name].raw)
    palette_label(indices, colours, label)
    assert_label(case.encoding, load(case)[0]["label"], written[name].raw)
    palette_label(indices, [[1, 2, 3], *colours[1:]], label)
    with pytest.raises(UserError) as refusal:
        load(case)[0]
    assert f"{label}: label colour (1, 2, 3)" in str(refusal.value)


def test_palette_labels_of_synthia_are_refused(root, load):
    case = CASE["synthia-16bit"]
    written = case.write(root)
    name = sorted(case.names)[0]
    label = case.paths(root, name)[1]
    palette_label(np.zeros_like(written[name].raw), [[0, 0, 0]] * 23, label)
    with pytest.raises(UserError) as refusal:
        load(case)[0]
    assert str(label) in str(refusal.value)


def test_palettes_of_few_colours(root, load):
    """They are packed: two or more pixels in a byte."""
    case = CASE["gta5-palette"]
    case.write(root)
    few = Encoding({0: IGNORED, 7: 0, 11: 2}, case.encoding.write, 99, "99")
    name = sorted(case.names)[0]
    raw = few.raw(case.names.index(name))
    palette_label(raw, [[10, 20, 30]] * 12, case.paths(root, name)[1], bits=4)
    assert_label(few, load(case)[0]["label"], raw)


def test_nothing_warns_of_what_is_not_known(root, load):
    case = CASE["folder-default"]
    case.write(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(case)) == len(case.names)
