"""Small datasets on disk, in every layout and label encoding that the domains know.

Encodings are written from the collected facts (``golden/label_maps.json``), never from
``revt_hf.data.labels``, so that the two can be held against each other.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.helpers.golden import golden_file

FACTS: dict[str, Any] = json.loads(golden_file("label_maps.json").read_text())
CLASSES: list[str] = FACTS["cityscapes19"]["names"]
IGNORED = 255

# Images are grids of cells, one raw value each; polygons need cells of several pixels.
_ROWS, _COLUMNS = 9, 14
_POLYGON_CELL = 4
_INSTANCE = 4_000


@dataclass(frozen=True)
class Encoding:
    """How labels are written down.

    Attributes:
        train_ids: of every raw value; None where the facts do not say.
        write: writes raw values (H, W) to a path.
        unknown: a raw value that the encoding does not have.
        shown: how messages show it.
        cell: pixels that a raw value covers in each direction.
    """

    train_ids: Mapping[int, int | None]
    write: Callable[[Path, np.ndarray], None]
    unknown: int
    shown: str
    cell: int = 1

    def raw(self, number: int) -> np.ndarray:
        """All raw values, in an order and a width of the image's own."""
        shape = (_ROWS, _COLUMNS + number)
        values = np.array(list(self.train_ids))
        assert values.size <= shape[0] * shape[1]
        places = (np.arange(shape[0] * shape[1]) + 5 * number) % values.size
        grid = values[places].reshape(shape)
        return grid.repeat(self.cell, axis=0).repeat(self.cell, axis=1)


@dataclass(frozen=True)
class Written:
    """An image (H, W, 3) RGB and the raw values (H, W) of its label, as they were written."""

    image: np.ndarray
    raw: np.ndarray


@dataclass(frozen=True)
class Case:
    """A dataset in one layout; paths hold ``{name}``, or ``{part}`` and ``{rest}`` of it.

    Attributes:
        id: of the case.
        domain: its domain.
        kind: of the layout.
        encoding: of the labels.
        table: the name of the table that they are to be read with.
        image: path of an image.
        label: path of its label.
        names: of the rows.
        extra: a name that fits but is not written at first.
        split: the split that lies there.
        config: of the domain.
        options: of the domain, where the layout needs them.
    """

    id: str
    domain: str
    kind: str
    encoding: Encoding
    table: str
    image: str
    label: str
    names: tuple[str, ...]
    extra: str
    split: str = "train"
    config: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lossy(self) -> bool:
        return self.image.endswith(".jpg")

    @property
    def looked_for(self) -> str:
        """What a message has to say about the layout."""
        wild = {"name": "*", "part": self.names[0].partition("/")[0], "rest": "*"}
        return f"{self.image.format(**wild)} with {self.label.format(**wild)}"

    def paths(self, root: Path, name: str) -> tuple[Path, Path]:
        part, _, rest = name.partition("/")
        filled = {"name": name, "part": part, "rest": rest}
        return root / self.image.format(**filled), root / self.label.format(**filled)

    def write_one(self, root: Path, name: str, number: int) -> Written:
        raw = self.encoding.raw(number)
        written = Written(random_image(raw.shape, number, self.lossy), raw)
        image, label = self.paths(root, name)
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, written.image)
        self.encoding.write(label, raw)
        return written

    def write(self, root: Path) -> dict[str, Written]:
        return {name: self.write_one(root, name, i) for i, name in enumerate(self.names)}


def random_image(shape: tuple[int, ...], number: int, lossy: bool = False) -> np.ndarray:
    """An image (H, W, 3), uint8; a smooth one if the file's compression is lossy."""
    height, width = shape
    if not lossy:
        rng = np.random.default_rng(number)
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 40, width, dtype=np.float64)[None].repeat(height, axis=0)
    channels = (200 - ramp, 40 + 30 * number + ramp, np.full_like(ramp, 10 + 20 * number))
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def save_image(path: Path, rgb: np.ndarray) -> None:
    quality = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(rgb).save(path, **quality)


def as_they_are(rows: list[Any]) -> list[Any]:
    """Collates nothing; workers that are spawned have to find it by name."""
    return rows


def _grey(path: Path, raw: np.ndarray) -> None:
    Image.fromarray(raw.astype(np.uint8)).save(path)


def _palette(colours: list[list[int]]) -> Callable[[Path, np.ndarray], None]:
    flat = [value for colour in colours for value in colour]

    def write(path: Path, raw: np.ndarray) -> None:
        label = Image.fromarray(raw.astype(np.uint8), mode="P")
        label.putpalette(flat)
        label.save(path)

    return write


def _sixteen_bits(path: Path, raw: np.ndarray) -> None:
    instances = _INSTANCE + np.arange(raw.size).reshape(raw.shape)
    blue_green_red = np.stack([np.zeros_like(raw), instances, raw], axis=-1)
    cv2.imwrite(str(path), blue_green_red.astype(np.uint16))


def _colours(path: Path, raw: np.ndarray) -> None:
    rgb = np.stack([raw >> 16, raw >> 8 & 255, raw & 255], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(path)


def _polygons(path: Path, raw: np.ndarray) -> None:
    """A square for every cell, over a sky that covers everything and under a deleted wall."""
    height, width = raw.shape
    names = [*FACTS["idd40"]["names"], "spaceship"]

    def shape(label: str, left: int, top: int, right: int, bottom: int, deleted: int) -> Any:
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        return {"label": label, "polygon": corners, "deleted": deleted, "draw": True}

    shapes = [shape("sky", 0, 0, width, height, 0)]
    last = _POLYGON_CELL - 1
    for top in range(0, height, _POLYGON_CELL):
        for left in range(0, width, _POLYGON_CELL):
            name = names[raw[top, left]]
            if name == "car" and top % (2 * _POLYGON_CELL):
                name = "cargroup"
            shapes.append(shape(name, left, top, left + last, top + last, 0))
    shapes.append(shape("wall", 0, 0, width, height, 1))
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": shapes}))


def by_raw_id(mapping: Mapping[str, int]) -> dict[int, int | None]:
    """A map of ``label_maps.json``, without the id -1 that no file can hold."""
    return {int(raw): train_id for raw, train_id in mapping.items() if int(raw) >= 0}


def _plain(train_ids: Mapping[int, int | None], unknown: int) -> Encoding:
    return Encoding(train_ids, _grey, unknown, str(unknown))


def _colour_value(colour: list[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def obvious_classes(names: list[str]) -> dict[int, int | None]:
    """Train ids of names that Cityscapes has too, by position; None for all others."""
    same = {**{name: name for name in CLASSES}, "pedestrian": "person", "tree": "vegetation"}
    found: dict[int, int | None] = {
        i: CLASSES.index(same[name.lower()]) if name.lower() in same else None
        for i, name in enumerate(names)
    }
    for i, name in enumerate(names):
        if name in ("Void", "Unlabeled"):
            found[i] = IGNORED
    return found


_GTA5_COLOURS = [row["color"] for row in FACTS["cityscapes"]["labels"] if row["id"] >= 0]
_CAMVID_32 = obvious_classes(FACTS["camvid32"]["names"])

TRAIN_IDS = _plain({**{i: i for i in range(len(CLASSES))}, IGNORED: IGNORED}, 19)
CITYSCAPES = _plain(by_raw_id(FACTS["cityscapes"]["id_to_trainid"]), 100)
ACDC = _plain(by_raw_id(FACTS["acdc"]["labelIds_to_trainid"]), 100)
WILDDASH = _plain(by_raw_id(FACTS["wilddash1"]["id_to_trainid"]), 100)
# The id -1 comes as 255.
KITTI = _plain({**by_raw_id(FACTS["kitti2015_semantic"]["id_to_trainid"]), 255: IGNORED}, 100)
GTA5 = Encoding(
    {**by_raw_id(FACTS["gta"]["id_to_trainid"]), 34: IGNORED},
    _palette([*_GTA5_COLOURS, [0, 0, 142]]),
    77,
    "77",
)
SYNTHIA = Encoding(
    by_raw_id(FACTS["synthia_rand_cityscapes"]["id_to_trainid"]), _sixteen_bits, 259, "259"
)
MAPILLARY_V1_2 = Encoding(
    by_raw_id(FACTS["mapillary_v1_2"]["id_to_trainid_dg_standard"]),
    _palette(FACTS["mapillary_v1_2"]["palette"]),
    66,
    "66",
)
MAPILLARY_V2_0 = Encoding(
    obvious_classes(FACTS["mapillary_v2_0"]["names"]),
    _palette(FACTS["mapillary_v2_0"]["palette"]),
    124,
    "124",
)
CAMVID_11 = _plain(by_raw_id(FACTS["camvid11_segnet"]["id_to_cityscapes_trainid_suggested"]), 12)
CAMVID_32 = Encoding(
    {_colour_value(colour): _CAMVID_32[i] for i, colour in enumerate(FACTS["camvid32"]["colors"])},
    _colours,
    0x010203,
    "(1, 2, 3)",
)
_IDD_IDS = by_raw_id(FACTS["idd40"]["id_to_trainid_by_equal_name"])
IDD_POLYGONS = Encoding(_IDD_IDS, _polygons, 40, "'spaceship'", _POLYGON_CELL)
IDD_IDS = _plain(_IDD_IDS, 40)


def _cases(domain: str, table: str, encoding: Encoding, kind: str = "official") -> Any:
    def case(variant: str, image: str, label: str, **more: Any) -> Case:
        return Case(f"{domain}-{variant}", domain, kind, encoding, table, image, label, **more)

    return case


def _converted(domain: str) -> Any:
    return _cases(domain, "train_ids", TRAIN_IDS, "converted")


def _gta5() -> list[Case]:
    rows = {"names": ("00003", "00001", "24966"), "extra": "00100", "split": "full"}
    raw, mapped = _cases("gta5", "gta5_ids", GTA5), _converted("gta5")
    image = "images/{name}.png"
    return [
        raw("palette", image, "labels/{name}.png", **rows),
        mapped("converted", image, "labels/{name}_labelTrainIds.png", **rows),
    ]


def _synthia() -> list[Case]:
    rows = {"names": ("0000002", "0000000", "0009399"), "extra": "0004711", "split": "full"}
    raw, mapped = _cases("synthia", "synthia_ids", SYNTHIA), _converted("synthia")
    image, labels, twice = "RGB/{name}.png", "GT/LABELS/{name}", "GT/LABELS/LABELS/{name}"
    return [
        raw("16bit", image, f"{labels}.png", **rows),
        raw("16bit-doubled", image, f"{twice}.png", **rows),
        mapped("converted", image, f"{labels}_labelTrainIds.png", **rows),
        mapped("converted-doubled", image, f"{twice}_labelTrainIds.png", **rows),
    ]


def _cityscapes() -> list[Case]:
    rows = {
        "names": (
            "zurich/zurich_000001_000019",
            "aachen/aachen_000000_000019",
            "aachen/aachen_000002_000019",
        ),
        "extra": "bremen/bremen_000000_000019",
    }
    place = "leftImg8bit/train/{name}_leftImg8bit.png"
    label = "gtFine/train/{name}_gtFine_"
    return [
        _cases("cityscapes", "cityscapes_ids", CITYSCAPES)(
            "ids", place, f"{label}labelIds.png", **rows
        ),
        _converted("cityscapes")("converted", place, f"{label}labelTrainIds.png", **rows),
    ]


def _bdd100k() -> list[Case]:
    rows = {
        "names": ("7d06fefd-f7be05a6", "0004a4c0-d4dff0ad", "ffffffff-00000000"),
        "extra": "12345678-9abcdef0",
    }
    official, mapped = _cases("bdd100k", "train_ids", TRAIN_IDS), _converted("bdd100k")
    new, old = "images/10k/train/{name}.jpg", "images/train/{name}.jpg"
    old_label = "labels/train/{name}_train_id.png"
    return [
        official("new", new, "labels/sem_seg/masks/train/{name}.png", **rows),
        official("old", f"seg/{old}", f"seg/{old_label}", **rows),
        mapped("old-unwrapped", old, old_label, **rows),
        mapped("shade", new, "labels/semseg/masks/train/{name}.png", **rows),
        mapped("plain", old, "labels/train/{name}.png", **rows),
    ]


def _mapillary(version: str, encoding: Encoding) -> list[Case]:
    rows: dict[str, Any] = {
        "names": ("_3Vs2Mz4Hw0bFSkUYOvzTA", "-0BFGyA4XtNNVgOkXgvbSg", "zZ09-_aAbBcCdDeEfFgGhH"),
        "extra": "00qclUcInksIYnm19b1Xfw",
        "config": version,
    }
    raw = _cases("mapillary", f"mapillary_{version}/dg_standard@1", encoding)
    mapped = _converted("mapillary")
    place = "training/images/{name}.jpg"
    cases = [raw(version, place, f"training/{version}/labels/{{name}}.png", **rows)]
    if version == "v1.2":
        cases.append(raw("v1.2-own-archive", place, "training/labels/{name}.png", **rows))
    return [
        *cases,
        mapped(f"{version}-beside", place, "training/labels/{name}_labelTrainIds.png", **rows),
        mapped(f"{version}-rein", place, "cityscapes_trainIdLabel/train/label/{name}.png", **rows),
        mapped(
            f"{version}-rein-val",
            "validation/images/{name}.jpg",
            "cityscapes_trainIdLabel/val/label/{name}.png",
            split="val",
            **rows,
        ),
        mapped(
            f"{version}-ifn",
            "validation/ColorImage/{name}.jpg",
            "segmentation_trainid/validation/Segmentation/{name}.png",
            split="val",
            **rows,
        ),
        mapped(
            f"{version}-rein-half",
            "half/val_img/{name}.jpg",
            "half/val_label/{name}.png",
            split="val",
            **rows,
        ),
    ]


def _acdc(config: str) -> list[Case]:
    def frame(condition: str, sequence: str, number: int) -> str:
        return f"{condition}/{sequence}/{sequence}_frame_{number:06d}"

    everything = (
        frame("fog", "GOPR0476", 854),
        frame("snow", "GP010122", 7),
        frame("night", "GOPR0351", 159),
        frame("rain", "GOPR0400", 8),
        frame("fog", "GOPR0475", 41),
        frame("night", "GOPR0356", 3),
        frame("rain", "GP010400", 588),
        frame("snow", "GOPR0122", 690),
    )
    names = tuple(n for n in everything if config in ("all", n.partition("/")[0]))
    first = names[0].partition("/")[0]
    rows: dict[str, Any] = {
        "names": names,
        "extra": frame(first, "GP010376", 12),
        "config": config,
    }
    shipped = _cases("acdc", "train_ids", TRAIN_IDS)
    raw = _cases("acdc", "cityscapes_ids", ACDC)
    mapped = _converted("acdc")
    image = "rgb_anon/{part}/train/{rest}_rgb_anon.png"
    label = "gt/{part}/train/{rest}_gt_"
    cases = [
        shipped(f"{config}-train-ids", image, f"{label}labelTrainIds.png", **rows),
        raw(f"{config}-ids", image, f"{label}labelIds.png", **rows),
        mapped(
            f"{config}-turned",
            "rgb_anon/train/{part}/{rest}_rgb_anon.png",
            "gt/train/{part}/{rest}_gt_labelTrainIds.png",
            **rows,
        ),
    ]
    if config == "all":
        flat = {
            "names": tuple(name.rpartition("/")[2] for name in names),
            "extra": "GP010376_frame_000012",
        }
        cases.append(
            mapped(
                "all-flat",
                "rgb_anon/train/{name}_rgb_anon.png",
                "gt/train/{name}_gt_labelTrainIds.png",
                **{**rows, **flat},
            )
        )
    return cases


def _kitti2015() -> list[Case]:
    rows = {"names": ("000001_10", "000000_10", "000199_10"), "extra": "000050_10", "split": "val"}
    return [
        _cases("kitti2015", "cityscapes_ids", KITTI)(
            "ids", "training/image_2/{name}.png", "training/semantic/{name}.png", **rows
        ),
        _converted("kitti2015")(
            "converted",
            "images/validation/{name}.png",
            "labels/validation/{name}_labelTrainIds.png",
            **rows,
        ),
    ]


def _camvid() -> list[Case]:
    rows: dict[str, Any] = {
        "names": ("0016E5_00390", "0001TP_006690", "0006R0_f00930"),
        "extra": "0016E5_00901",
    }
    segnet, full = {**rows, "config": "segnet"}, {**rows, "config": "full"}
    eleven = ("camvid", "camvid_11", CAMVID_11)
    stills = "701_StillsRaw_full/{name}.png"
    return [
        _cases(*eleven)("segnet", "train/{name}.png", "trainannot/{name}.png", **segnet),
        _cases(*eleven, "converted")(
            "segnet-folders", "img_dir/train/{name}.png", "ann_dir/train/{name}.png", **segnet
        ),
        _cases("camvid", "camvid_32", CAMVID_32)(
            "full", stills, "LabeledApproved_full/{name}_L.png", **full
        ),
        _converted("camvid")(
            "full-converted", stills, "LabeledApproved_full/{name}_labelTrainIds.png", **full
        ),
    ]


def _wilddash() -> list[Case]:
    rows = {"names": ("pl0001", "ad0000", "za0003"), "extra": "cn0000", "split": "val"}
    place = "wd_val_01/{name}_100000"
    return [
        _cases("wilddash", "cityscapes_ids", WILDDASH)(
            "ids", f"{place}.png", f"{place}_labelIds.png", **rows
        ),
        _converted("wilddash")("converted", f"{place}.png", f"{place}_labelTrainIds.png", **rows),
    ]


def _idd() -> list[Case]:
    rows = {"names": ("7/000212", "0/000005", "119/983127"), "extra": "42/024541"}
    place, label = "leftImg8bit/train/{name}_leftImg8bit", "gtFine/train/{name}_gtFine_"
    polygons, ids = (_cases("idd", "idd_ids", e) for e in (IDD_POLYGONS, IDD_IDS))
    return [
        case(f"{variant}-{suffix}", f"{place}.{suffix}", f"{label}{end}", **rows)
        for case, variant, end in (
            (polygons, "polygons", "polygons.json"),
            (ids, "ids", "labelids.png"),
            (_converted("idd"), "converted", "labelTrainIds.png"),
        )
        for suffix in ("png", "jpg")
    ]


def _folder() -> list[Case]:
    rows = {"names": ("night drive/b", "a", "city/é c"), "extra": "city/d"}
    own = {
        "image_dir": "images",
        "label_dir": "masks/{split}",
        "image_suffix": "_rgb.jpg",
        "label_suffix": "_ids.png",
        "encoding": "cityscapes_ids",
    }
    return [
        _converted("folder")(
            "default", "img_dir/train/{name}.png", "ann_dir/train/{name}.png", **rows
        ),
        _cases("folder", "cityscapes_ids", CITYSCAPES, "converted")(
            "own", "images/{name}_rgb.jpg", "masks/train/{name}_ids.png", options=own, **rows
        ),
    ]


CASES: list[Case] = [
    *_gta5(),
    *_synthia(),
    *_cityscapes(),
    *_bdd100k(),
    *_mapillary("v1.2", MAPILLARY_V1_2),
    *_mapillary("v2.0", MAPILLARY_V2_0),
    *(case for config in ("all", "fog", "night", "rain", "snow") for case in _acdc(config)),
    *_kitti2015(),
    *_camvid(),
    *_wilddash(),
    *_idd(),
    *_folder(),
]
CASE: dict[str, Case] = {case.id: case for case in CASES}
assert len(CASE) == len(CASES)
