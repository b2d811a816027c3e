"""Rendered datasets, weather rendered into Cityscapes, and sizes that are part of a protocol."""

import warnings

import cv2
import numpy as np
import pytest

from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import DOMAINS, domain_label, load_domain, open_domain
from revt_hf.data.domains.rendered import DrawnDomain
from tests.helpers.on_disk import CASE, random_image, save_image

pytestmark = pytest.mark.filterwarnings("ignore::revt_hf.core.errors.DataWarning")

SCENES = [f"frankfurt/frankfurt_000000_{number:06d}" for number in range(3)]
# The division must never change between versions: first images of val.
FROZEN_VAL = {
    "urbansyn": ["rgb_0010", "rgb_0015", "rgb_0021"],
    "synscapes": ["1", "10009", "10071"],
}


def names_of(opened):
    return [name for name, _, _ in opened.builder.args[0]]


def weather(root, images, renderings, scenes=SCENES):
    """Empty images of every scene in every rendering, and their labels."""
    kind = images.removesuffix("DBF")
    for scene in scenes:
        paths = [root / images / "val" / f"{scene}_{kind}_{one}.png" for one in renderings]
        for path in (*paths, root / "gtFine" / "val" / f"{scene}_gtFine_labelIds.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.mark.parametrize(
    ("name", "everything"),
    [
        ("urbansyn", {f"rgb_{number:04d}" for number in range(1, 7_540)}),
        ("synscapes", {str(number) for number in range(1, 25_001)}),
    ],
)
def test_the_division_is_drawn_by_a_seed(name, everything):
    domain = DOMAINS[name]
    assert isinstance(domain, DrawnDomain)

    class Match:
        names = sorted(everything)

    def chosen(split, seed=0):
        options = domain.options_model(split_seed=seed)
        return domain.chosen(split, Match, options)

    train, val = chosen("train"), chosen("val")
    assert chosen("full") is None
    assert train | val == everything
    assert not train & val
    facts = domain.facts.images
    assert (len(train), len(val), len(everything)) == tuple(facts.values())
    assert sorted(val)[:3] == FROZEN_VAL[name]
    assert chosen("val", 1) != val


def test_colours_are_no_labels_of_urbansyn(root, tmp_path):
    """As in ``ss_color``, the folder beside."""
    case = CASE["urbansyn-hub"]
    shape = case.write(root)["rgb_0001"].raw.shape
    label = case.paths(root, "rgb_0001")[1]
    save_image(label, random_image(shape, 0))
    with pytest.raises(UserError, match=r"ss_0001\.png.*'urbansyn_ids' are grey.*colours"):
        load_domain("urbansyn", "full", root, cache_dir=tmp_path / "cache")[0]


def test_a_name_with_another_beginning_is_told(root):
    case = CASE["urbansyn-hub"]
    case.touch(root)
    (root / "ss" / "mask_0001.png").touch()
    unused = dict(open_domain("urbansyn", "full", root).unused)
    assert unused == {str(root / "ss" / "mask_0001.png"): "its name does not begin with ss_"}


def test_capitals_at_the_beginning_of_a_name_do_not_matter(root):
    case = CASE["urbansyn-hub"]
    case.touch(root)
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name(path.name.upper()))
    opened = open_domain("urbansyn", "full", root)
    assert (names_of(opened), opened.missing, opened.unused) == (sorted(case.names), (), ())


def test_labels_of_synscapes_are_enlarged_to_its_second_edition(root, tmp_path):
    case = CASE["synscapes-2k-ids"]
    raw = case.write_one(root, "1", 0).raw
    height, width = raw.shape
    save_image(case.paths(root, "1")[0], random_image((2 * height, 2 * width), 1))
    with pytest.warns(DataWarning, match="1 image, officially 25000"):
        row = load_domain("synscapes", "full", root, "2k", cache_dir=tmp_path / "cache")[0]
    assert row["image"].shape[:2] == row["label"].shape == (2 * height, 2 * width)
    grown = cv2.resize(
        raw.astype(np.uint8), (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST
    )
    for value, train_id in case.encoding.train_ids.items():
        assert set(row["label"][grown == value].tolist()) == {train_id}


def test_a_scene_in_fog_counts_once_unless_asked(root):
    weather(root, "leftImg8bit_foggyDBF", ["beta_0.005", "beta_0.01", "beta_0.02"])
    for config in (None, "beta_0.01", "beta_0.005"):
        opened = open_domain("foggy_cityscapes", "val", root, config)
        strength = config or "beta_0.02"
        assert names_of(opened) == [f"{strength}/{scene}" for scene in SCENES]
        assert all(image.endswith(f"_{strength}.png") for _, image, _ in opened.builder.args[0])
        # Neither the other strengths nor scenes without fog are reported.
        assert opened.unused == ()
    every = open_domain("foggy_cityscapes", "val", root, "all")
    assert (every.images, every.expected) == (9, 1_500)


def test_a_missing_strength_of_fog_is_named(root):
    weather(root, "leftImg8bit_foggyDBF", ["beta_0.01"])
    with pytest.raises(UserError, match=r"no images \*_leftImg8bit_foggy_beta_0\.02\.png"):
        open_domain("foggy_cityscapes", "val", root)


def test_editions_of_fog_do_not_replace_each_other(root):
    weather(root, "leftImg8bit_foggy", ["beta_0.02"])
    with pytest.raises(UserError, match=r"leftImg8bit_foggyDBF/val is missing.*comes from the Cit"):
        open_domain("foggy_cityscapes", "val", root)
    assert open_domain("foggy_cityscapes", "val", root, options={"edition": "first"}).images == 3


@pytest.mark.parametrize("name", ["foggy_trainval_refined", "trainval_refined"])
@pytest.mark.parametrize("form", ["{}", "val/{}", "leftImg8bit/val/{}_leftImg8bit.png"])
def test_the_refined_list_is_that_of_the_dataset(name, form, root):
    weather(root, "leftImg8bit_foggyDBF", ["beta_0.02", "beta_0.01"])
    refined = {"refined": True}
    with pytest.raises(UserError, match=r"option refined needs foggy_trainval_refined_filenames"):
        open_domain("foggy_cityscapes", "val", root, options=refined)
    path = root / f"{name}_filenames.txt"
    # One list of both splits.
    path.write_text("\n".join(form.format(one) for one in [SCENES[1], "ulm/ulm_000000_000019"]))
    opened = open_domain("foggy_cityscapes", "val", root, options=refined)
    assert (names_of(opened), opened.expected) == ([f"beta_0.02/{SCENES[1]}"], 52)
    path.write_text("ulm/ulm_000000_000019\n")
    with pytest.raises(UserError, match=rf"{path.name} lists no image of the split 'val'"):
        open_domain("foggy_cityscapes", "val", root, options=refined)


def test_a_scene_in_rain_counts_once_unless_asked(root):
    strengths = DOMAINS["rainy_cityscapes"].strengths
    patterns = [f"{one}_pattern_{n}" for one in strengths.values() for n in range(1, 13)]
    weather(root, "leftImg8bit_rain", patterns, SCENES[:2])

    def images(config=None, **options):
        opened = open_domain("rainy_cityscapes", "val", root, config, options)
        assert opened.unused == ()
        return opened.images, opened.expected

    assert images() == images("alpha_0.01") == images(pattern=12) == (2, 33)
    assert images("all") == (6, 99)
    assert images(pattern="all") == (24, 396)
    assert images("all", pattern="all") == (72, 1_188)
    for pattern in (0, 13, "some"):
        with pytest.raises(UserError, match=r"options of the domain 'rainy_cityscapes'.*pattern"):
            images(pattern=pattern)


def test_what_decides_the_images_is_in_the_label():
    def label(domain, config=None, **options):
        return domain_label(DomainSpec(domain=domain, config=config, options=options), "val")

    assert label("foggy_cityscapes") == "foggy_cityscapes/val"
    assert label("foggy_cityscapes", "beta_0.005") == "foggy_cityscapes-beta_0.005/val"
    assert label("foggy_cityscapes", "all", edition="first", refined=True) == (
        "foggy_cityscapes-all-first-refined/val"
    )
    assert label("rainy_cityscapes", "all", pattern="all") == (
        "rainy_cityscapes-all-pattern-all/val"
    )
    assert label("synscapes", "2k") == "synscapes-2k/val"
    assert label("mapillary", half=True) == "mapillary-half/val"


def test_half_size_images_of_mapillary_are_taken_when_asked_only(root):
    CASE["mapillary-v1.2-rein-half"].touch(root)
    with pytest.raises(UserError, match="is not in") as refusal:
        open_domain("mapillary", "val", root)
    assert "half=true" in str(refusal.value)
    CASE["mapillary-v1.2-rein-val"].touch(root)
    assert "validation/images" in open_domain("mapillary", "val", root).found
    assert "half/val_img" in open_domain("mapillary", "val", root, options={"half": True}).found
    for options in ({"map": "rein"}, {"layout": "official"}):
        with pytest.raises(UserError, match=r"converted labels were mapped|no official layout"):
            open_domain("mapillary", "val", root, options={"half": True, **options})


def test_100k_images_of_bdd100k_have_no_labels(root):
    """What is there is for detection and drivable areas."""
    for path in ("images/100k/val/a.jpg", "labels/drivable/masks/val/a.png"):
        (root / path).parent.mkdir(parents=True)
        (root / path).touch()
    with pytest.raises(UserError, match=r"10K Images and Segmentation; the 100K Images.*no sem"):
        open_domain("bdd100k", "val", root)


def test_only_val_of_dark_zurich_has_labels(root):
    case = CASE["dark_zurich-train-ids"]
    case.touch(root)
    # Images by day and those of train have none.
    for folder in ("val_ref/day/GOPR0356_ref", "train/night/GOPR0351"):
        (root / "rgb_anon" / folder).mkdir(parents=True)
        (root / "rgb_anon" / folder / "GOPR0356_frame_000324_rgb_anon.png").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        opened = open_domain("dark_zurich", "val", root)
        opened.check("night")
    assert opened.images == len(case.names)
    assert [str(one.message) for one in caught] == ["night: 3 images, officially 50 (47 missing)"]
    with pytest.raises(UserError, match="unknown split 'train' of dark_zurich: use val"):
        open_domain("dark_zurich", "train", root)
