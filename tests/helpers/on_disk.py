"""Small datasets on disk, in every layout and label encoding of the domains.

Encodings are written from the collected facts (``golden/label_maps.json``), never from
``revt_hf.data.labels``, so that the two can be compared.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from PIL import Image

from tests.helpers.golden import golden_file

FACTS: dict[str, Any] = json.loads(golden_file("label_maps.json").read_text())
CLASSES: list[str] = FACTS["cityscapes19"]["names"]
IGNORED = 255

# Images are grids of cells, one raw value each; polygons need cells of several pixels.
_ROWS, _COLUMNS = 9, 14
_POLYGON_CELL = 4


@dataclass(frozen=True)
class Encoding:
    table: str  # the name of the table to read them with
    train_ids: Mapping[int, int | None]  # of every raw value; None where the facts do not give it
    write: Callable[[Path, np.ndarray], None]  # writes raw values (H, W) to a path
    unknown: int  # a raw value outside the encoding
    shown: str = ""  # how messages show it; default: as a number
    cell: int = 1  # pixels that a raw value covers in each direction

    def raw(self, number: int) -> np.ndarray:
        """All raw values, in an order and a width that depend on the image's number."""
        values, count = np.array(list(self.train_ids)), _ROWS * (_COLUMNS + number)
        assert values.size <= count
        grid = values[(np.arange(count) + 5 * number) % values.size].reshape(_ROWS, -1)
        return grid.repeat(self.cell, axis=0).repeat(self.cell, axis=1)


class Written(NamedTuple):
    """An image (H, W, 3) RGB and the raw values (H, W) of its label, as they were written."""

    image: np.ndarray
    raw: np.ndarray


@dataclass(frozen=True)
class Case:
    """A dataset in one layout; paths hold ``{name}``, or ``{part}`` and ``{rest}`` of it.

    Or ``{bare}``, which is what follows its last ``_``.
    """

    id: str  # its domain, and a name for the layout
    kind: str  # of the layout
    encoding: Encoding
    image: str  # path of an image
    label: str  # path of its label
    names: tuple[str, ...]  # of the rows
    extra: str  # a valid name that is not written at first
    split: str = "train"
    config: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # where the layout needs them

    @property
    def domain(self) -> str:
        return self.id.partition("-")[0]

    @property
    def lossy(self) -> bool:
        return self.image.endswith(".jpg")

    @property
    def looked_for(self) -> str:
        part = self.names[0].partition("/")[0]
        wild = {"name": "*", "part": part, "rest": "*", "bare": "*"}
        return f"{self.image.format(**wild)} with {self.label.format(**wild)}"

    def paths(self, root: Path, name: str) -> tuple[Path, Path]:
        part, _, rest = name.partition("/")
        filled = {"name": name, "part": part, "rest": rest, "bare": name.rpartition("_")[2]}
        return root / self.image.format(**filled), root / self.label.format(**filled)

    def write_one(self, root: Path, name: str, number: int) -> Written:
        self.touch(root, [name])
        (image, label), raw = self.paths(root, name), self.encoding.raw(number)
        written = Written(random_image(raw.shape, number, self.lossy), raw)
        save_image(image, written.image)
        self.encoding.write(label, raw)
        return written

    def write(self, root: Path) -> dict[str, Written]:
        return {name: self.write_one(root, name, i) for i, name in enumerate(self.names)}

    def touch(self, root: Path, names: Any = None) -> None:
        """Empty files: enough for everything but decoding."""
        for name in self.names if names is None else names:
            for path in self.paths(root, name):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def random_image(shape: tuple[int, ...], number: int, lossy: bool = False) -> np.ndarray:
    """An image (H, W, 3), uint8; a smooth one if the file's compression is lossy."""
    height, width = shape
    if not lossy:
        return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 40, width, dtype=np.float64)[None].repeat(height, axis=0)
    channels = (200 - ramp, 40 + 30 * number + ramp, np.full_like(ramp, 10 + 20 * number))
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def save_image(path: Path, rgb: np.ndarray) -> None:
    quality = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(rgb).save(path, **quality)


def as_they_are(rows: list[Any]) -> list[Any]:
    """Collates nothing; spawned workers have to find it by name."""
    return rows


def save_palette(path: Path, indices: np.ndarray, colours: list[list[int]], **how: Any) -> None:
    label = Image.fromarray(indices.astype(np.uint8), mode="P")
    label.putpalette([value for colour in colours for value in colour])
    label.save(path, **how)


def _palette(colours: list[list[int]]) -> Callable[[Path, np.ndarray], None]:
    return lambda path, raw: save_palette(path, raw, colours)


def _grey(path: Path, raw: np.ndarray) -> None:
    Image.fromarray(raw.astype(np.uint8)).save(path)


def _equal_channels(path: Path, raw: np.ndarray) -> None:
    """With an alpha channel that has nothing to say."""
    grey = raw.astype(np.uint8)
    cv2.imwrite(str(path), np.dstack([grey, grey, grey, 255 - grey]))


def _sixteen_bits(path: Path, raw: np.ndarray) -> None:
    instances = 4_000 + np.arange(raw.size).reshape(raw.shape)
    blue_green_red = np.stack([np.zeros_like(raw), instances, raw], axis=-1)
    cv2.imwrite(str(path), blue_green_red.astype(np.uint16))


def _colours(path: Path, raw: np.ndarray) -> None:
    save_image(path, np.stack([raw >> 16, raw >> 8 & 255, raw & 255], axis=-1).astype(np.uint8))


def _polygons(path: Path, raw: np.ndarray) -> None:
    """A square for every cell, over a sky that covers everything and under a deleted wall."""
    height, width = raw.shape
    names = [*FACTS["idd40"]["names"], "spaceship"]

    def shape(label: str, left: int, top: int, right: int, bottom: int, deleted: int = 0) -> Any:
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        return {"label": label, "polygon": corners, "deleted": deleted, "draw": True}

    shapes, last = [shape("sky", 0, 0, width, height)], _POLYGON_CELL - 1
    for top, left in product(range(0, height, _POLYGON_CELL), range(0, width, _POLYGON_CELL)):
        name = names[raw[top, left]]
        group = name == "car" and top % (2 * _POLYGON_CELL)
        name = "cargroup" if group else name
        shapes.append(shape(name, left, top, left + last, top + last))
    shapes.append(shape("wall", 0, 0, width, height, 1))
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": shapes}))


def by_raw_id(mapping: Mapping[str, int]) -> dict[int, int | None]:
    """A map of ``label_maps.json``, without the id -1 that no file can hold."""
    return {int(raw): train_id for raw, train_id in mapping.items() if int(raw) >= 0}


def _obvious_classes(names: list[str]) -> dict[int, int | None]:
    """Train ids of names that Cityscapes has too, by position; None for all others."""
    same = {**{name: i for i, name in enumerate(CLASSES)}, "void": IGNORED, "unlabeled": IGNORED}
    same |= {"pedestrian": same["person"], "tree": same["vegetation"]}
    return {i: same.get(name.lower()) for i, name in enumerate(names)}


_V1_2, _V2_0, _CAMVID = (FACTS[key] for key in ("mapillary_v1_2", "mapillary_v2_0", "camvid32"))
_GTA5_COLOURS = [row["color"] for row in FACTS["cityscapes"]["labels"] if row["id"] >= 0]
_CAMVID_VALUES = [red << 16 | green << 8 | blue for red, green, blue in _CAMVID["colors"]]
_IDD = by_raw_id(FACTS["idd40"]["id_to_trainid_by_equal_name"])

_TRAIN_IDS: dict[int, int | None] = {**{i: i for i in range(len(CLASSES))}, IGNORED: IGNORED}
_GTA5 = {**by_raw_id(FACTS["gta"]["id_to_trainid"]), 34: IGNORED}
_SYNTHIA = by_raw_id(FACTS["synthia_rand_cityscapes"]["id_to_trainid"])
_URBANSYN = {**by_raw_id(FACTS["urbansyn"]["id_to_trainid"]), IGNORED: IGNORED}
_V1_2_IDS = by_raw_id(_V1_2["id_to_trainid_dg_standard"])
_V2_0_IDS = _obvious_classes(_V2_0["names"])
_DG_STANDARD = "mapillary_v{}/dg_standard@1"
_CAMVID_11 = by_raw_id(FACTS["camvid11_segnet"]["id_to_cityscapes_trainid_suggested"])
_CAMVID_32 = dict(zip(_CAMVID_VALUES, _obvious_classes(_CAMVID["names"]).values(), strict=True))
_CITYSCAPES = {
    "CITYSCAPES": FACTS["cityscapes"]["id_to_trainid"],
    "ACDC": FACTS["acdc"]["labelIds_to_trainid"],
    "DARK_ZURICH": FACTS["dark_zurich"]["labelIds_to_trainid"],
    "SYNSCAPES": FACTS["synscapes"]["id_to_trainid"],
    "WILDDASH": FACTS["wilddash1"]["id_to_trainid"],
    # The id -1 comes as 255.
    "KITTI": {**FACTS["kitti2015_semantic"]["id_to_trainid"], "255": IGNORED},
}
ENCODINGS = {
    **{n: Encoding("cityscapes_ids", by_raw_id(m), _grey, 100) for n, m in _CITYSCAPES.items()},
    "TRAIN_IDS": Encoding("train_ids", _TRAIN_IDS, _grey, 19),
    "GTA5": Encoding("gta5_ids", _GTA5, _palette([*_GTA5_COLOURS, [0, 0, 142]]), 77),
    "URBANSYN": Encoding("urbansyn_ids", _URBANSYN, _equal_channels, 20),
    "URBANSYN_GREY": Encoding("urbansyn_ids", _URBANSYN, _grey, 20),
    "SYNTHIA": Encoding("synthia_ids", _SYNTHIA, _sixteen_bits, 259),
    "MAPILLARY_V1_2": Encoding(
        _DG_STANDARD.format("1.2"), _V1_2_IDS, _palette(_V1_2["palette"]), 66
    ),
    "MAPILLARY_V2_0": Encoding(
        _DG_STANDARD.format("2.0"), _V2_0_IDS, _palette(_V2_0["palette"]), 124
    ),
    "CAMVID_11": Encoding("camvid_11", _CAMVID_11, _grey, 12),
    "CAMVID_32": Encoding("camvid_32", _CAMVID_32, _colours, 0x010203, "(1, 2, 3)"),
    "IDD_POLYGONS": Encoding("idd_ids", _IDD, _polygons, 40, "'spaceship'", _POLYGON_CELL),
    "IDD_IDS": Encoding("idd_ids", _IDD, _grey, 40),
}


def _cases() -> Iterator[Case]:
    """The cases of ``on_disk.yaml``: one for each layout, config and suffix of images."""
    for group in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()):
        layouts, configs = group["layouts"].items(), group.get("configs", [None])
        for config, (variant, layout) in product(configs, layouts):
            kind, encoding, image, label = layout.split()
            parts = [name.partition("/")[0] for name in group["names"]]
            # A config that is a part of the dataset, or parts, has only their names.
            own = {part for part in parts if f"{part}_".startswith(f"{config}_")}
            wanted = own or set(parts)
            names = [n for n, part in zip(group["names"], parts, strict=True) if part in wanted]
            for suffix in group.get("suffixes", [""]):
                words = (group["domain"], config, variant, suffix)
                yield Case(
                    "-".join(word for word in words if word not in (None, "", "official")),
                    kind,
                    ENCODINGS[encoding],
                    image.replace("SUFFIX", suffix),
                    label,
                    tuple(names),
                    group["extra"].format(part=names[0].partition("/")[0]),
                    group.get("split", "train"),
                    config,
                    group.get("options", {}),
                )


CASES: list[Case] = list(_cases())
CASE: dict[str, Case] = {case.id: case for case in CASES}
assert len(CASE) == len(CASES)
