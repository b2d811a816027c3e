"""A domain as a Hub dataset: what it holds, who may have it, what is refused, and pushing it."""

import traceback
from pathlib import Path
from typing import Any

import cv2
import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from revt_hf.checkpoints import hub_requests
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import MARKER_FILE
from revt_hf.data.domains import load_spec
from revt_hf.data.label_space import CLASSES
from revt_hf.data.reading import resize_to_fit
from revt_hf.data_tools import export as module
from tests.helpers.exported import STREETS, export, load, tables
from tests.helpers.hub_repository import Failure, files_of
from tests.helpers.hub_server import local_hub


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


FOLDER, GTA5 = (DomainSpec(domain=name, data_dir=".") for name in ("folder", "gta5"))


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


def own_spec(root, suffix=".png", **options):
    options = {"encoding": "cityscapes_ids", "image_suffix": suffix, **options}
    return DomainSpec(domain="folder", data_dir=str(root), options=options)


def export_own(root, output, split="train", suffix=".png", license="CC BY 4.0", **options):
    return export(output, split, spec=own_spec(root, suffix), license=license, **options)


def test_streets_come_back_as_they_were(tmp_path):
    done = export(tmp_path / "set", "train", "val")
    features = {"image": datasets.Image(), "label": datasets.Image()}
    features["name"] = datasets.Value("string")
    for split, count in (("train", 3), ("val", 2)):
        rows, source = load(done, split), load_spec(STREETS, split)
        assert (len(rows), len(source)) == (count, count)
        assert rows.features == datasets.Features(features)
        for row, original in zip(rows, source, strict=True):
            assert row["name"] == original["name"]
            assert (row["image"].mode, row["label"].mode) == ("RGB", "L")
            np.testing.assert_array_equal(np.array(row["image"]), original["image"])
            np.testing.assert_array_equal(np.array(row["label"]), original["label"])
        files = {split: [str(path) for path in tables(done)]}
        bare = datasets.load_dataset("parquet", data_files=files, split=split)
        assert bare.features == rows.features
    names = [path.name for path in tables(done)]
    assert names == [f"{split}-00000-of-00001.parquet" for split in ("train", "val")]


@pytest.mark.parametrize(("split", "suffix"), [("train", ".png"), ("val", ".jpg")])
def test_images_keep_their_files_bytes_and_labels_become_train_ids(own, tmp_path, split, suffix):
    done = export_own(own, tmp_path / "set", split, suffix)
    for row in load(done, split).cast_column("image", datasets.Image(decode=False)):
        path = own / "img_dir" / split / f"{row['name']}{suffix}"
        assert row["image"] == {"bytes": path.read_bytes(), "path": None}
        label = np.array(row["label"])
        assert label.shape == (10, 16)
        assert label[[0, 0, 9, 9], [0, 15, 0, 15]].tolist() == [0, 13, 18, 255]


def test_resized_images_and_raw_arrays_become_pngs(own, tmp_path):
    def check(done, split, spec, max_size):
        for row, original in zip(load(done, split), load_spec(spec, split), strict=True):
            assert row["image"].format == row["label"].format == "PNG"
            image = resize_to_fit(original["image"], max_size)
            label = resize_to_fit(original["label"], max_size, cv2.INTER_NEAREST)
            np.testing.assert_array_equal(np.array(row["image"]), image)
            np.testing.assert_array_equal(np.array(row["label"]), label)

    done = export_own(own, tmp_path / "small", "val", ".jpg", max_size=(12, 11))
    check(done, "val", own_spec(own, ".jpg"), (12, 11))
    for path in list((own / "img_dir" / "train" / "city").iterdir()):
        np.save(path.with_suffix(".npy"), np.array(Image.open(path)))
    done = export_own(own, tmp_path / "raw", suffix=".npy")
    check(done, "train", own_spec(own), (16, 10))


def test_shards_and_row_groups_are_bounded(tmp_path, monkeypatch):
    def cells(folder) -> list[dict[str, Any]]:
        return [row for path in tables(folder) for row in pq.read_table(path)["image"].to_pylist()]

    whole = export(tmp_path / "whole")
    assert pq.ParquetFile(tables(whole)[0]).num_row_groups == 1
    with monkeypatch.context() as patched:
        patched.setattr(module, "ROW_GROUP_BYTES", 1)
        groups = export(tmp_path / "groups")
    assert pq.ParquetFile(tables(groups)[0]).num_row_groups == 3
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * max(len(row["bytes"]) for row in cells(whole)))
    done = export(tmp_path / "set", "train", "val")
    trains = [path.name for path in tables(done) if path.name.startswith("train")]
    assert len(trains) > 1
    assert trains == [f"train-{i:05d}-of-{len(trains):05d}.parquet" for i in range(len(trains))]
    for folder in (groups, done):
        assert load(folder, "train")["name"] == load(whole, "train")["name"]
    assert len(load(done, "val")) == 2


def test_no_path_of_this_machine_is_passed_on(own, tmp_path):
    (own / "list.txt").write_text("a\nc\n")
    lists = {"train": str(own / "list.txt")}
    spec = own_spec(own, split_files=lists, image_dir=str(own / "img_dir" / "{split}"))
    done = export(tmp_path / "set", spec=spec, license="mit")
    for path in [*tables(done), done / "README.md"]:
        data = path.read_bytes()
        assert str(tmp_path).encode() not in data
        assert b"own data" not in data
    assert [row["name"] for row in load(done, "train")] == ["city/a", "city/c"]
    assert "train: list.txt" in (done / "README.md").read_text()


def test_the_card(tmp_path, monkeypatch):
    done = export(tmp_path / "this folder, or its Hub id", "train", "val", max_size=(96, 48))
    text = (done / "README.md").read_text()
    data = DatasetCard(text).data.to_dict()
    parquet = [{"split": split, "path": f"data/{split}-*"} for split in ("train", "val")]
    assert data == {
        "license": "apache-2.0",
        "task_categories": ["image-segmentation"],
        "size_categories": "n<1K",
        "pretty_name": "streets (source), 96x48, 19 Cityscapes classes",
        "configs": [{"config_name": "default", "data_files": parquet}],
    }
    for train_id, name in enumerate(CLASSES):
        assert f"| {train_id} | {name} |" in text
    for words in ("| 255 | ignored |", "`train_ids`", "96x48", "| train | 3 |", "val_images: 2"):
        assert words in text
    assert "More Information Needed" not in text
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    assert len(code.splitlines()) == 3
    assert np.array(found["label"]).shape == (48, 96)


@pytest.mark.parametrize(
    ("license", "identifier", "name"),
    [
        ("CC BY 4.0", "cc-by-4.0", None),
        ("mit", "mit", None),
        ("By permission of\nMüller & Co.", "other", "by-permission-of-m-ller-co"),
    ],
)
def test_the_license_of_a_folder_goes_into_the_card(own, tmp_path, license, identifier, name):
    text = (export_own(own, tmp_path / "set", license=license) / "README.md").read_text()
    data = DatasetCard(text).data
    assert (data.license, data.get("license_name")) == (identifier, name)
    assert " ".join(license.split()) in text


def test_synthia_needs_its_license_named(tmp_path):
    root = tmp_path / "synthia"
    label = np.full((4, 6, 3), (0, 0, 8), np.uint16)  # red: car
    for folder, pixels in (("RGB", grid(4, 6, 0)), ("GT/LABELS", label)):
        (root / folder).mkdir(parents=True)
        cv2.imwrite(str(root / folder / "0000000.png"), pixels)
    spec = DomainSpec(domain="synthia", data_dir=str(root))
    with pytest.raises(UserError, match=r"read the license.*--license 'CC BY-NC-SA 3\.0'"):
        export(tmp_path / "set", "full", spec=spec)
    with pytest.raises(UserError, match=r"the license of synthia is 'CC BY-NC-SA 3\.0', not 'MIT'"):
        export(tmp_path / "set", "full", spec=spec, license="MIT")
    assert not (tmp_path / "set").exists()
    with pytest.warns(UserWarning, match="officially 9400"):
        done = export(tmp_path / "set", "full", spec=spec, license="cc by-nc-sa3.0")
    assert (np.array(load(done, "full")[0]["label"]) == 13).all()
    text = (done / "README.md").read_text()
    assert DatasetCard(text).data.to_dict()["license"] == "cc-by-nc-sa-3.0"
    assert "officially 9400" in text
    assert "`synthia_ids`" in text


def test_an_output_that_exists_is_kept_and_a_broken_one_is_not(own, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "set")
    with pytest.raises(UserError, match="not written by revt"):
        export(tmp_path / "set", overwrite=True)
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"
    for output in (own, tmp_path):
        with pytest.raises(UserError, match="is or holds the input"):
            export_own(own, output, overwrite=True)
    assert own.is_dir()
    path = own / "img_dir" / "train" / "city" / "b.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"b\.png.*truncated"):
        export_own(own, tmp_path / "broken")
    assert {path.name for path in tmp_path.iterdir()} == {"own data", "set"}


@pytest.mark.parametrize(
    ("splits", "changes", "words"),
    [
        (["night-drive"], {}, "'night-drive' cannot be exported"),
        ([], {"max_size": (0, 5)}, "0x5"),
        ([], {"private": True}, "--push"),
        ([], {"spec": DomainSpec(domain="streets", options={"images": 0})}, "images"),
        ([], {"spec": FOLDER}, "folder: .*--license"),
        ([], {"spec": FOLDER, "license": "  "}, "folder: .*--license"),
        (["full"], {"spec": GTA5, "license": "for research", "push": "me/x"}, "^gta5 may not be"),
    ],
)
def test_mistakes(tmp_path, splits, changes, words):
    with pytest.raises(UserError, match=words):
        export(tmp_path / "set", *splits, **changes)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="at least one split"):
        module.export_parquet(STREETS, (), tmp_path / "set")


@pytest.fixture
def hub(monkeypatch):
    """A local Hub that takes one token."""
    with local_hub(monkeypatch) as hub:
        yield hub


def _pushed(hub, name: str) -> dict[str, bytes]:
    files = dict(hub.repositories["datasets", name].files())
    assert files.pop(".gitattributes")
    return files


def _files(folder: Path) -> dict[str, bytes]:
    # Not the marker, which is for this machine only.
    return {name: held for name, held in files_of(folder).items() if name != MARKER_FILE}


def test_what_is_pushed_is_the_folder(hub, tmp_path):
    done = export(tmp_path / "set", "train", "val", push="me/roads")
    assert _pushed(hub, "me/roads") == _files(done)
    assert 'load_dataset("me/roads", split="train")' in (done / "README.md").read_text()


def test_shards_of_an_earlier_push_go(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "SHARD_BYTES", 1)
        export(tmp_path / "three", push="me/roads")
    assert sum(name.startswith("data/") for name in _pushed(hub, "me/roads")) == 3
    done = export(tmp_path / "one", push="me/roads")
    assert _pushed(hub, "me/roads") == _files(done)


@pytest.mark.parametrize("there", [{"README.md": b"# by hand"}, {"data/train.parquet": b"theirs"}])
def test_a_data_set_with_other_content_is_left_alone(hub, tmp_path, there):
    hub.make("datasets", "me/other").commit("main", there)
    with pytest.raises(UserError, match=r"dataset me/other exists already and holds other"):
        export(tmp_path / "set", push="me/other")
    assert hub.repositories["datasets", "me/other"].files() == there


def test_a_silent_hub_is_not_waited_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_requests, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.failures.append(Failure("PUT", "silence"))
    with pytest.raises(UserError, match=r"did not answer .*: push it later with 'hf upload"):
        export(tmp_path / "set", push="me/roads")
    assert len(load(tmp_path / "set", "train")) == 3


def test_images_that_should_be_private_do_not_become_public(hub, tmp_path):
    export(tmp_path / "a", push="me/private", private=True)
    export(tmp_path / "a", push="me/private", private=True, overwrite=True)
    export(tmp_path / "b", push="me/public")
    before = _pushed(hub, "me/public")
    with pytest.raises(UserError, match="me/public exists already and is public"):
        export(tmp_path / "c", "val", push="me/public", private=True)
    assert _pushed(hub, "me/public") == before


def test_a_wrong_token_or_no_connection_is_one_sentence(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(UserError, match=r"refused the token \(status 401\)") as caught:
        export(tmp_path / "set", push="me/roads")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "wrongwrong" not in "".join(traceback.format_exception(caught.value))
    assert not hub.repositories
    assert len(load(tmp_path / "set", "train")) == 3
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"me/roads: no connection to http://127\.0\.0\.1:9;"):
        export(tmp_path / "other", push="me/roads")


@pytest.mark.parametrize("repository", ["a/b/c", "me/ro ads", "", "../roads", "me/roads.git", None])
def test_a_bad_id_or_missing_token_is_refused_before_any_work(tmp_path, monkeypatch, repository):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(module.domains, "open_domain", None)
    words = "HF_TOKEN" if repository is None else "is not the ID of a Hub dataset"
    with pytest.raises(UserError, match=words):
        export(tmp_path / "set", push="me/roads" if repository is None else repository)
    assert not list(tmp_path.iterdir())
