"""The corruptions of another domain's images: what changes, what stays, and who decides."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from revt_hf.config.recipe import DomainSpec, Source, Target
from revt_hf.core.errors import UserError
from revt_hf.data.domains import corruptions, domain_label, load_domain, load_spec, open_domain
from revt_hf.data.domains.corruptions import KINDS, SEVERITIES, Corruption, corrupt, corruption_of
from revt_hf.data.domains.prepared import load_prepared
from revt_hf.data.domains.streets import render
from revt_hf.data_tools.prepare import prepare
from tests.helpers import drawn
from tests.helpers.golden import ROOT
from tests.helpers.on_disk import CASES, as_they_are

pytestmark = [
    pytest.mark.numeric,
    pytest.mark.filterwarnings("ignore::revt_hf.data.domains.base.DataWarning"),
]

STREETS = {"base": "streets", "base_options": {"val_images": 3, "size": [64, 128]}}
FOG = {"base": "streets", "kind": "fog"}
# One case of each base domain; every domain of files can be corrupted.
BASES = list({case.domain: case for case in CASES if case.options == {}}.values())


@pytest.fixture
def load(tmp_path):
    def run(kind="rain", split="val", **options):
        values = {**STREETS, "kind": kind, **options}
        return load_domain("corruptions", split, options=values, cache_dir=tmp_path / "cache")

    return run


@pytest.fixture(scope="module")
def scene():
    image = render(7, "source", 180, 320)[0]
    image.setflags(write=False)
    return image


def test_corrupted_pixels_belong_to_their_version():
    golden = np.load(drawn.GOLDEN)
    changed = (
        "the pixels of {} changed: raise CORRUPTIONS_VERSION, then python -m tests.helpers.drawn"
    )
    assert drawn.VERSIONS["corruptions"] == golden["version/corruptions"], changed.format("a kind")
    for name, values in drawn.corruption_values().items():
        assert np.abs(values - golden[name]).max() <= drawn.TOLERANCE, changed.format(name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind, scene):
    corrupted = [corrupt(scene, "a", kind, severity) for severity in SEVERITIES]
    assert {(one.shape, one.dtype) for one in corrupted} == {(scene.shape, scene.dtype)}
    changes = [np.abs(one.astype(int) - scene).mean() for one in corrupted]
    assert changes[0] > 1
    assert changes == sorted(set(changes))


@pytest.mark.parametrize("kind", ["rain", "snow", "night", "motion_blur", "noise"])
def test_name_and_seed_decide_what_is_random(kind, scene):
    first = corrupt(scene, "a", kind, 3)
    for name, seed in (("a", 0), ("b", 0), ("a", 1)):
        same = np.array_equal(corrupt(scene, name, kind, 3, seed), first)
        assert same is ((name, seed) == ("a", 0))


def test_severities_share_their_drops(scene):
    black = np.zeros_like(scene)
    drops = [corrupt(black, "a", "rain", severity) > 0 for severity in (3, 4)]
    assert (drops[0] & drops[1]).sum() > 0.9 * drops[0].sum()


@pytest.mark.parametrize("case", BASES, ids=lambda case: case.id)
def test_only_the_image_changes(case, tmp_path):
    case.write(tmp_path)
    options = {"base": case.domain, "base_config": case.config, "kind": "contrast"}
    place = (case.split, tmp_path)
    corrupted = load_domain("corruptions", *place, options=options, cache_dir=tmp_path / "cache")
    clean = load_domain(case.domain, *place, case.config, cache_dir=tmp_path / "cache")
    assert len(corrupted) == len(clean) > 0
    # The table of paths is the base's own: nothing is copied.
    assert corrupted.cache_files == clean.cache_files
    for one, other in zip(corrupted, clean, strict=True):
        assert one["name"] == other["name"]
        np.testing.assert_array_equal(one["label"], other["label"])
        expected = corrupt(other["image"], other["name"], "contrast", 3)
        np.testing.assert_array_equal(one["image"], expected)
        assert not np.array_equal(one["image"], other["image"])


def test_neither_order_nor_workers_matter(load):
    images = load()
    rows = [images[index] for index in range(3)]
    backwards = [images[index] for index in (2, 1, 0)][::-1]
    loader = DataLoader(images, batch_size=2, num_workers=2, collate_fn=as_they_are)
    in_workers = [row for batch in loader for row in batch]
    target = Target(domain="corruptions", options={**STREETS, "kind": "rain"}, split="val")
    streamed = load_domain("corruptions", "val", options=target.options, streaming=True)
    for others in (backwards, in_workers, streamed, load_spec(target, "val")):
        for one, other in zip(rows, others, strict=True):
            assert one["name"] == other["name"]
            np.testing.assert_array_equal(one["image"], other["image"])
    with pytest.raises(UserError, match="select the column 'name' too"):
        images.select_columns("image")[0]  # what is random depends on the name


def test_what_decides_the_images_is_in_the_fingerprint(monkeypatch):
    def content(kind="fog", **options):
        values = {**STREETS, "kind": kind, **options}
        return open_domain("corruptions", "val", options=values).content

    changes = ({"kind": "rain"}, {"severity": 4}, {"seed": 1}, {"base_config": "night"})
    contents = [content(**change) for change in ({}, *changes, {"base_options": {"images": 4}})]
    contents.append(open_domain("streets", "val", options=STREETS["base_options"]).content)
    assert content() == contents[0]
    for name, value in (("CORRUPTIONS_VERSION", 0), ("version", lambda _: "2.0.7")):
        monkeypatch.setattr(corruptions, name, value)
        contents.append(content())
    assert len(set(contents)) == len(contents)


def test_labels_name_kind_severity_and_split(tmp_path):
    def label(split="val", data_dir=None, **options):
        spec = DomainSpec(domain="corruptions", data_dir=data_dir, options=options)
        return domain_label(spec, split)

    assert label(base="camvid", kind="fog", severity=2) == "camvid-fog-2/val"
    assert label("test", base="camvid", kind="motion_blur") == "camvid-motion_blur-3/test"
    night = label(base="acdc", base_config="night", kind="rain", severity=5, seed=7)
    assert night == "acdc-night-rain-5-seed7/val"
    assert corruption_of(night) == Corruption("rain", 5, 7, "acdc-night/val")
    folder = label(data_dir=str(tmp_path / "mine"), base="folder", kind="jpeg")
    assert corruption_of(folder) == Corruption("jpeg", 3, 0, "mine/val")
    for other in ("camvid/val", "acdc-fog/val", "camvid-fog-6/val", "camvid-sleet-3/val"):
        assert corruption_of(other) is None


def test_prepared_images_are_the_corrupted_ones(load, tmp_path):
    source = Source(domain="corruptions", options={**STREETS, "kind": "noise"}, train="val")
    prepare(source, "val", tmp_path / "prepared", None, "png", quiet=True)
    prepared = load_prepared(
        source.model_copy(update={"prepared": str(tmp_path / "prepared")}), None
    )
    for one, other in zip(prepared, load("noise"), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "options.base: required"),
        ({"base": "streets"}, "options.kind: required"),
        ({"base": "streets", "kind": "sleet"}, "options.kind: input should be 'fog', 'rain'"),
        ({"base": "streets", "kind": "fog", "severity": 6}, "options.severity"),
        ({"base": "streets", "kind": "fog", "severity": 0}, "options.severity"),
        ({"base": "street", "kind": "fog"}, "unknown base 'street': use one of acdc"),
        ({"base": "corruptions", "kind": "fog"}, "unknown base 'corruptions'"),
        ({"base": "camvid", "kind": "fog"}, "'camvid' needs data_dir"),
        ({"base": "streets", "base_config": "sunny", "kind": "fog"}, "unknown config 'sunny'"),
        ({**FOG, "base_options": {"colour": 1}}, "domain 'streets': options.colour"),
        ({**FOG, "split": "test"}, "unknown split 'test' of streets"),
        ({**FOG, "data_dir": "."}, "'streets' is built in: it takes no data_dir"),
        ({**FOG, "config": "fog"}, "'corruptions' has no configs"),
    ],
)
def test_mistakes_are_one_sentence(options, words):
    options = dict(options)
    others = {key: options.pop(key) for key in ("split", "data_dir", "config") if key in options}
    with pytest.raises(UserError, match=re.escape(words)):
        open_domain("corruptions", **{"split": "val", **others}, options=options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_parameters_are_the_real_ones(kind):
    text = Path(ROOT / "docs" / "corruptions.md").read_text()
    for name, values in corruptions.PARAMETERS[kind].items():
        cells = " | ".join(map(str, values))
        assert re.search(rf"^\| `{kind}` \| .*`{name}`.* \| {re.escape(cells)} \|$", text, re.M)
