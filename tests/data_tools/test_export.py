"""A domain as a Hub dataset: what is in it, who may have it, and where it goes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain
from revt_hf.data.labels import CLASSES
from revt_hf.data.resize import resize_to_fit
from revt_hf.data_tools import export
from revt_hf.data_tools.export import Export, export_parquet
from tests.helpers.exported import STREETS, load, streets, tables


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def grid(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def own(tmp_path):
    """The ``folder`` domain: three PNGs in ``train``, two JPEGs in ``val``; Cityscapes ids."""
    root = tmp_path / "own data"
    for split, suffix, names in (("train", ".png", "abc"), ("val", ".jpg", "de")):
        for number, name in enumerate(names):
            for kind in ("img_dir", "ann_dir"):
                (root / kind / split / "city").mkdir(parents=True, exist_ok=True)
            path = root / "img_dir" / split / "city" / f"{name}{suffix}"
            Image.fromarray(grid(10, 16, number)).save(path)
            label = np.array([[7, 26], [33, 0]], np.uint8).repeat(5, axis=0).repeat(8, axis=1)
            Image.fromarray(label).save(root / "ann_dir" / split / "city" / f"{name}.png")
    return root


def own_request(
    root: Path, split: str, license: str | None = "CC BY 4.0", **changes: Any
) -> Export:
    options = {"encoding": "cityscapes_ids", "image_suffix": {"val": ".jpg"}.get(split, ".png")}
    values = {"options": options, "max_size": None, **changes}
    return Export("folder", root, None, splits=(split,), license=license, **values)


def test_streets_come_back_as_they_were(tmp_path):
    done = export_parquet(streets("train", "val"), tmp_path / "set", quiet=True)
    for split, count in (("train", 3), ("val", 2)):
        rows, source = load(done, split), load_domain("streets", split, options=STREETS)
        assert (len(rows), len(source)) == (count, count)
        assert rows.features == datasets.Features(
            {"image": datasets.Image(), "label": datasets.Image(), "name": datasets.Value("string")}
        )
        for row, original in zip(rows, source, strict=True):
            assert row["name"] == original["name"]
            assert (row["image"].mode, row["label"].mode) == ("RGB", "L")
            np.testing.assert_array_equal(np.array(row["image"]), original["image"])
            np.testing.assert_array_equal(np.array(row["label"]), original["label"])
        bare = datasets.load_dataset(
            "parquet", data_files={split: [str(path) for path in tables(done)]}, split=split
        )
        assert bare.features == rows.features
    assert [path.name for path in tables(done)] == [
        "train-00000-of-00001.parquet",
        "val-00000-of-00001.parquet",
    ]


@pytest.mark.parametrize(("split", "suffix"), [("train", ".png"), ("val", ".jpg")])
def test_images_keep_their_files_bytes_and_labels_become_train_ids(own, tmp_path, split, suffix):
    done = export_parquet(own_request(own, split), tmp_path / "set", quiet=True)
    rows = load(done, split).cast_column("image", datasets.Image(decode=False))
    for row in rows:
        path = own / "img_dir" / split / f"{row['name']}{suffix}"
        assert row["image"] == {"bytes": path.read_bytes(), "path": None}
        label = np.array(row["label"])
        assert label.shape == (10, 16)
        assert label[[0, 0, 9, 9], [0, 15, 0, 15]].tolist() == [0, 13, 18, 255]


def test_resized_images_and_labels(own, tmp_path):
    max_size = (12, 11)
    done = export_parquet(own_request(own, "val", max_size=max_size), tmp_path / "set", quiet=True)
    source = load_domain("folder", "val", own, options=own_request(own, "val").options)
    for row, original in zip(load(done, "val"), source, strict=True):
        assert row["image"].format == row["label"].format == "PNG"
        np.testing.assert_array_equal(
            np.array(row["image"]), resize_to_fit(original["image"], max_size)
        )
        np.testing.assert_array_equal(
            np.array(row["label"]), resize_to_fit(original["label"], max_size, cv2.INTER_NEAREST)
        )


def test_raw_arrays_become_images(own, tmp_path):
    images = own / "img_dir" / "train" / "city"
    for path in list(images.iterdir()):
        np.save(path.with_suffix(".npy"), np.array(Image.open(path)))
    options = {"encoding": "cityscapes_ids", "image_suffix": ".npy"}
    done = export_parquet(own_request(own, "train", options=options), tmp_path / "set", quiet=True)
    for number, row in enumerate(load(done, "train")):
        np.testing.assert_array_equal(np.array(row["image"]), grid(10, 16, number))


def test_several_shards(tmp_path, monkeypatch):
    whole = export_parquet(streets(), tmp_path / "whole", quiet=True)
    largest = max(len(row["bytes"]) for row in _cells(whole, "image"))
    monkeypatch.setattr(export, "SHARD_BYTES", 2 * largest)
    done = export_parquet(streets("train", "val"), tmp_path / "set", quiet=True)
    names = [path.name for path in tables(done)]
    assert len(names) > 3
    trains = [name for name in names if name.startswith("train")]
    assert trains == [f"train-{i:05d}-of-{len(trains):05d}.parquet" for i in range(len(trains))]
    assert load(done, "train")["name"] == load(whole, "train")["name"]
    assert len(load(done, "val")) == 2


def _cells(folder: Path, column: str) -> list[dict[str, Any]]:
    return [row for path in tables(folder) for row in pq.read_table(path)[column].to_pylist()]


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ROW_GROUP_BYTES", 1)
    done = export_parquet(streets(), tmp_path / "set", quiet=True)
    assert pq.ParquetFile(tables(done)[0]).num_row_groups == 3
    assert len(load(done, "train")) == 3


def test_no_path_of_this_machine_is_passed_on(own, tmp_path):
    (own / "list.txt").write_text("a\nc\n")
    options = {
        "encoding": "cityscapes_ids",
        "split_files": {"train": str(own / "list.txt")},
        "image_dir": str(own / "img_dir" / "{split}"),
    }
    request = own_request(own, "train", options=options)
    done = export_parquet(request, tmp_path / "set", quiet=True)
    for path in [*tables(done), done / "README.md"]:
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert b"own data" not in data
    assert [row["name"] for row in load(done, "train")] == ["city/a", "city/c"]
    assert "train: '.../list.txt'" in (done / "README.md").read_text()


def test_the_card(tmp_path):
    request = streets("train", "val", max_size=(96, 48))
    text = (export_parquet(request, tmp_path / "set", quiet=True) / "README.md").read_text()
    data = DatasetCard(text).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["task_categories"] == ["image-segmentation"]
    assert data["size_categories"] == "n<1K"
    assert data["pretty_name"].startswith("streets (source), 96x48")
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*"},
                {"split": "val", "path": "data/val-*"},
            ],
        }
    ]
    for train_id, name in enumerate(CLASSES):
        assert f"| {train_id} | {name} |" in text
    for words in ("| 255 | ignored |", "`train_ids`", "96x48", "| train | 3 |", "val_images: 2"):
        assert words in text
    assert "More Information Needed" not in text


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    done = export_parquet(streets(), tmp_path / "this folder, or its Hub id", quiet=True)
    code = (done / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    assert len(code.splitlines()) == 3
    assert np.array(found["label"]).shape == (64, 128)


@pytest.mark.parametrize(
    ("license", "identifier", "name"),
    [
        ("CC BY 4.0", "cc-by-4.0", None),
        ("mit", "mit", None),
        ("By permission of\nMüller & Co.", "other", "by-permission-of-m-ller-co"),
    ],
)
def test_the_license_of_a_folder_goes_into_the_card(own, tmp_path, license, identifier, name):
    done = export_parquet(own_request(own, "train", license), tmp_path / "set", quiet=True)
    text = (done / "README.md").read_text()
    data = DatasetCard(text).data.to_dict()
    assert (data["license"], data.get("license_name")) == (identifier, name)
    assert " ".join(license.split()) in text


@pytest.mark.parametrize("license", [None, "", "  "])
def test_a_folder_needs_a_license(own, tmp_path, license):
    with pytest.raises(UserError, match=r"folder: .*--license"):
        export_parquet(own_request(own, "train", license), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_gta5_is_refused(tmp_path):
    root = tmp_path / "gta"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(root / kind / "00001.png")
    request = Export("gta5", root, None, {}, ("full",), None, "for research")
    with pytest.raises(UserError, match=r"^gta5 may not be passed on: its authors"):
        export_parquet(request, tmp_path / "set", push="someone/gta")
    assert [path.name for path in tmp_path.iterdir()] == ["gta"]


@pytest.fixture
def synthia(tmp_path):
    root = tmp_path / "synthia"
    for folder in ("RGB", "GT/LABELS"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(grid(4, 6, 0)).save(root / "RGB" / "0000000.png")
    label = np.zeros((4, 6, 3), np.uint16)
    label[..., 2] = 8  # red: car
    cv2.imwrite(str(root / "GT" / "LABELS" / "0000000.png"), label)
    return root


def test_synthia_needs_its_license_named(synthia, tmp_path):
    def request(license: str | None) -> Export:
        return Export("synthia", synthia, None, {}, ("full",), None, license)

    with pytest.raises(UserError, match=r"read the license.*--license 'CC BY-NC-SA 3\.0'"):
        export_parquet(request(None), tmp_path / "set")
    with pytest.raises(UserError, match=r"the license of synthia is 'CC BY-NC-SA 3\.0', not 'MIT'"):
        export_parquet(request("MIT"), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.warns(UserWarning, match="officially 9400"):
        done = export_parquet(request("cc by-nc-sa3.0"), tmp_path / "set", quiet=True)
    assert (np.array(load(done, "full")[0]["label"]) == 13).all()
    text = (done / "README.md").read_text()
    assert DatasetCard(text).data.to_dict()["license"] == "cc-by-nc-sa-3.0"
    assert "officially 9400" in text
    assert "`synthia_ids`" in text


def test_an_output_that_exists_is_kept(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        export_parquet(streets(), tmp_path / "set")
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"
    with pytest.raises(UserError, match="not written by revt"):
        export_parquet(streets(), tmp_path / "set", overwrite=True, quiet=True)
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("place", ["own data", "."])
def test_the_source_is_never_overwritten(own, tmp_path, place):
    with pytest.raises(UserError, match="is or holds the input"):
        export_parquet(own_request(own, "train"), tmp_path / place, overwrite=True)
    assert own.is_dir()


def test_a_broken_image_leaves_nothing_behind(own, tmp_path):
    path = own / "img_dir" / "train" / "city" / "b.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"b\.png.*truncated"):
        export_parquet(own_request(own, "train"), tmp_path / "set", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["own data"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (replace(streets(), splits=()), "at least one split"),
        (streets("night-drive"), "'night-drive' cannot be exported"),
        (streets(max_size=(0, 5)), "0x5"),
        (streets(options={"images": 0}), "images"),
    ],
)
def test_mistakes(tmp_path, request_, words):
    with pytest.raises(UserError, match=words):
        export_parquet(request_, tmp_path / "set")
    assert not list(tmp_path.iterdir())
