"""Real driving datasets: licenses, splits, and layouts on disk."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Given, Layout, Sharing
from revt_hf.data.domains.files import Match, read_split_file
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.labels import CITYSCAPES_IDS, MAPILLARY_VERSIONS, label_table, mapillary_table

# Whole cities, so that no street is on both sides; about a sixth of the training images. The
# original implementation's list was never published.
DEV_CITIES = ("darmstadt", "krefeld", "monchengladbach", "ulm", "zurich")
_CITYSCAPES_INSIDE = {"dev": "train", "train_without_dev": "train"}
_CITYSCAPES = ("leftImg8bit/{split}", "gtFine/{split}", "_leftImg8bit.png")
_CITYSCAPES_ARCHIVES = ("leftImg8bit_trainvaltest", "gtFine_trainvaltest")
_VISTAS = {"train": "training", "val": "validation"}
_MAPILLARY = {"train": 18_000, "val": 2_000}
_ACDC_VAL = {"fog": 100, "night": 106, "rain": 100, "snow": 100}
_ACDC_PARTS = {"all": tuple(_ACDC_VAL), **{name: (name,) for name in _ACDC_VAL}}
_ACDC = ("rgb_anon/{part}/{split}", "gt/{part}/{split}", "_rgb_anon.png")
_ACDC_BY_SPLIT = ("rgb_anon/{split}/{part}", "gt/{split}/{part}", "_rgb_anon.png")
_ACDC_FLAT = ("rgb_anon/{split}", "gt/{split}", "_rgb_anon.png")
_ACDC_OFFICIAL = (
    Layout("official", *_ACDC, "_gt_labelTrainIds.png"),
    Layout("official", *_ACDC, "_gt_labelIds.png", CITYSCAPES_IDS),
)
_ACDC_LAYOUTS = (
    *_ACDC_OFFICIAL,
    *(one.unpacked_apart("rgb_anon_trainvaltest", "gt_trainval") for one in _ACDC_OFFICIAL),
    Layout("converted", *_ACDC_BY_SPLIT, "_gt_labelTrainIds.png"),
)
_BDD_10K = Layout("official", "images/10k/{split}", "labels/sem_seg/masks/{split}", ".jpg", ".png")
_BDD_ARCHIVES = ("bdd100k_images_10k/bdd100k", "bdd100k_sem_seg_labels_trainval/bdd100k")
_BDD_SEG_MAPS = ("bdd100k_images_10k/10k/{split}", "bdd100k_seg_maps/labels/{split}")
_KITTI_COPY = ("images/validation", "labels/validation", ".png")
_WILDDASH = ("wd_val_01", "wd_val_01", "_100000.png")
# Of IDD: parts I and II have different images.
_IDD = ("leftImg8bit/{split}", "gtFine/{split}", ("_leftImg8bit.png", "_leftImg8bit.jpg"))


@register_domain
class Cityscapes(PairedDomain):
    """Cityscapes, fine annotations (Cordts et al., CVPR 2016): 50 German and Swiss cities."""

    name = "cityscapes"
    facts = Facts(
        license="Cityscapes terms: non-commercial, no redistribution",
        download=(
            "the Cityscapes site (registration): leftImg8bit_trainvaltest and gtFine_trainvaltest"
        ),
        sharing=Sharing("no", "its terms forbid to pass it on, changed versions included"),
        images={"train": 2_975, "val": 500},
    )
    inside = _CITYSCAPES_INSIDE
    hidden_test = True
    wrappers = ("cityscapes",)
    layouts = tuple(
        one
        for layout in (
            Layout("official", *_CITYSCAPES, "_gtFine_labelIds.png", CITYSCAPES_IDS),
            Layout("converted", *_CITYSCAPES, "_gtFine_labelTrainIds.png"),
        )
        for one in (layout, layout.unpacked_apart(*_CITYSCAPES_ARCHIVES))
    )

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if split not in self.inside:
            return None
        dev = {name for name in match.names if name.split("/")[0] in DEV_CITIES}
        if "dev" in options.split_files:
            path = match.data_dir / options.split_files["dev"]
            dev = set(read_split_file(path, match.names, match.layout.suffixes()[0])[0])
        return dev if split == "dev" else {*match.names} - dev


@register_domain
class Bdd100k(PairedDomain):
    """BDD100K, semantic segmentation (Yu et al., CVPR 2020): the 10k images of US dash cams."""

    name = "bdd100k"
    facts = Facts(
        license="BDD100K license (educational, research and not-for-profit use)",
        download=(
            "the BDD100K portal (registration): 10K Images and Segmentation; the 100K Images and "
            "Drivable Area have no semantic labels"
        ),
        sharing=Sharing(
            "confirm",
            "its license allows not-for-profit redistribution with its notice kept, so its notice "
            "must go into the repository",
        ),
        images={"train": 7_000, "val": 1_000},
    )
    hidden_test = True
    # The last two are those of copies of the archives.
    wrappers = ("bdd100k", "bdd100k/bdd100k", "bdd100k_seg/bdd100k")
    layouts = (
        _BDD_10K,
        _BDD_10K.unpacked_apart(*_BDD_ARCHIVES),
        Layout("official", "seg/images/{split}", "seg/labels/{split}", ".jpg", "_train_id.png"),
        Layout("official", *_BDD_SEG_MAPS, ".jpg", "_train_id.png"),
        Layout("converted", "images/{split}", "labels/{split}", ".jpg", "_train_id.png"),
        Layout("converted", "images/10k/{split}", "labels/semseg/masks/{split}", ".jpg", ".png"),
        Layout("converted", "images/{split}", "labels/{split}", ".jpg", ".png"),
    )


_DEFAULT_MAP = "dg_standard"
_HALF = Layout("converted", "half/{split}_img", "half/{split}_label", ".jpg", ".png")


class MapillaryOptions(PairedOptions):
    """Options of ``mapillary``: ``map`` (see ``labels.yaml``) turns its classes into train ids."""

    map: Literal["dg_standard", "rein", "ifn", "ifn_as_run", "segformer_as_run"] | None = None
    # Rein's images and labels of half size, which its tools write to ``half``.
    half: bool = False


@register_domain
class Mapillary(PairedDomain):
    """Mapillary Vistas (Neuhold et al., ICCV 2017), worldwide; configs are the labels' versions."""

    name = "mapillary"
    facts = Facts(
        license="CC BY-NC-SA 4.0 (research edition)",
        download=(
            "the Mapillary Vistas page (registration): version 1.2 or 2.0 (Rein's tools write "
            "half/, which half=true takes)"
        ),
        sharing=Sharing(
            "confirm", "its license is CC BY-NC-SA 4.0 at second hand", "cc-by-nc-sa-4.0"
        ),
        images=_MAPILLARY,
        images_of=dict.fromkeys(MAPILLARY_VERSIONS, _MAPILLARY),
    )
    options_model = MapillaryOptions
    configs = MAPILLARY_VERSIONS
    hidden_test = True
    wrappers = ("mapillary",)
    # Converted layouts; the official ones depend on the options.
    layouts = tuple(
        Layout("converted", images, labels, ".jpg", suffix, folders=folders)
        for images, labels, suffix, folders in (
            ("{split}/images", "{split}/labels", "_labelTrainIds.png", _VISTAS),
            ("{split}/images", "cityscapes_trainIdLabel/{name}/label", ".png", _VISTAS),
            ("{split}/ColorImage", "segmentation_trainid/{split}/Segmentation", ".png", _VISTAS),
        )
    )

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        mapped = options.get("map") or _DEFAULT_MAP
        name, _, split = super().label(split, data_dir, config, options).rpartition("/")
        half = "-half" if options.get("half") else ""
        return f"{name}{'' if mapped == _DEFAULT_MAP else f'-{mapped}'}{half}/{split}"

    def layouts_of(self, config: str | None, options: Any) -> Sequence[Layout]:
        if options.map and (options.half or options.layout == "converted"):
            raise UserError(
                "mapillary: converted labels were mapped when they were made: remove the option "
                f"map={options.map}"
            )
        if options.half:
            return [_HALF]
        table = mapillary_table(str(config), options.map or _DEFAULT_MAP)
        folders = (f"{{split}}/{config}/labels", "{split}/labels")
        official = [
            Layout("official", "{split}/images", labels, ".jpg", ".png", table, _VISTAS)
            for labels in folders[: 2 if config == MAPILLARY_VERSIONS[0] else 1]
        ]
        return official if options.map else [*official, *self.layouts]


@register_domain
class Acdc(PairedDomain):
    """ACDC (Sakaridis et al., ICCV 2021): the same Swiss roads in fog, night, rain and snow."""

    name = "acdc"
    facts = Facts(
        license="ACDC license: non-commercial research",
        download="the ACDC site of ETH Zurich (registration): rgb_anon and gt archives",
        sharing=Sharing("no", "its license is for its users' own non-commercial research"),
        images={"train": 400 * len(_ACDC_VAL), "val": sum(_ACDC_VAL.values())},
        images_of={name: {"train": 400, "val": count} for name, count in _ACDC_VAL.items()},
    )
    configs = tuple(_ACDC_PARTS)
    hidden_test = True
    wrappers = ("acdc",)
    layouts = (
        *(
            replace(layout, parts=parts, config=config)
            for config, parts in _ACDC_PARTS.items()
            for layout in _ACDC_LAYOUTS
        ),
        # A flat folder does not tell the conditions apart.
        Layout("converted", *_ACDC_FLAT, "_gt_labelTrainIds.png", config="all"),
    )


@register_domain
class DarkZurich(PairedDomain):
    """Dark Zurich (Sakaridis et al., ICCV 2019): Zurich at night; only val has labels."""

    name = "dark_zurich"
    facts = Facts(
        license="CC BY-NC 4.0 at second hand",
        download="the Dark Zurich page of ETH Zurich (GCMA_UIoU): Dark_Zurich_val_anon",
        sharing=Sharing("no", "its license was not read at first hand"),
        images={"val": 50},
    )
    hidden_test = True
    wrappers = ("Dark_Zurich_val_anon", "dark_zurich", "DarkZurich", "val")
    layouts = (
        Layout("official", *_ACDC_FLAT, "_gt_labelTrainIds.png"),
        Layout("official", *_ACDC_FLAT, "_gt_labelIds.png", CITYSCAPES_IDS),
    )


@register_domain
class Kitti2015(PairedDomain):
    """KITTI 2015, semantics (Alhaija et al., IJCV 2018): 200 labelled images from Karlsruhe."""

    name = "kitti2015"
    facts = Facts(
        license="CC BY-NC-SA 3.0",
        download="the KITTI site, semantics benchmark: data_semantics (the version of April 2018)",
        sharing=Sharing(
            "confirm", "its license is CC BY-NC-SA 3.0 at second hand", "cc-by-nc-sa-3.0"
        ),
        images={"val": 200},
    )
    hidden_test = True
    wrappers = ("data_semantics", "kitti")
    layouts = (
        Layout("official", "training/image_2", "training/semantic", ".png", ".png", CITYSCAPES_IDS),
        # How many of the 200 the original implementation's own copy held is unknown.
        Layout("converted", *_KITTI_COPY, "_labelTrainIds.png", counted=False),
    )


@register_domain
class Wilddash(PairedDomain):
    """WildDash 1 (Zendel et al., ECCV 2018): hard road scenes; WildDash 2 is not covered."""

    name = "wilddash"
    facts = Facts(
        license="CC BY-NC at second hand, version not known",
        download="the WildDash site (registration): wd_val_01",
        sharing=Sharing("no", "its license was not read at first hand"),
        images={"val": 70},
    )
    hidden_test = True
    layouts = (
        Layout("official", *_WILDDASH, "_100000_labelIds.png", CITYSCAPES_IDS),
        Layout("converted", *_WILDDASH, "_100000_labelTrainIds.png"),
    )


@register_domain
class Idd(PairedDomain):
    """IDD, the India Driving Dataset, segmentation part I (Varma et al., WACV 2019)."""

    name = "idd"
    facts = Facts(
        license="IDD terms of use (registration)",
        download="the IDD site of IIIT Hyderabad (registration): IDD Segmentation, part I",
        sharing=Sharing("no", "its terms of use were not read at first hand"),
        images={"train": 6_993, "val": 981},
    )
    hidden_test = True
    wrappers = ("IDD_Segmentation",)
    layouts = (
        # The download holds polygons; where there are none, labels made by IDD's own tool.
        Layout("official", *_IDD, "_gtFine_polygons.json", label_table("idd_ids")),
        Layout("official", *_IDD, "_gtFine_labelids.png", label_table("idd_ids")),
        Layout("converted", *_IDD, "_gtFine_labelTrainIds.png"),
    )
