"""The label encodings of driving datasets, by name.

Sources: Cityscapes, cityscapesScripts ``labels.py``; SYNTHIA, DAFormer and RobustNet (equal);
CamVid-11, SegNet-Tutorial ``test_segmentation_camvid.py``; CamVid-32 and IDD names, mseg-api. The
maps of CamVid and IDD to train ids are ours: by meaning, and by equal name.
"""

from collections.abc import Mapping

from revt_hf.core.errors import UserError
from revt_hf.data.labels.classes import CITYSCAPES_ID, IGNORE_INDEX, NUM_CLASSES, TRAIN_ID
from revt_hf.data.labels.mapillary import MAPILLARY_TABLES
from revt_hf.data.labels.tables import LabelTable, Reading

_TRAIN_IDS = {
    **{train_id: train_id for train_id in range(NUM_CLASSES)},
    IGNORE_INDEX: IGNORE_INDEX,
}

_CITYSCAPES_IDS = {
    **dict.fromkeys(range(34), IGNORE_INDEX),
    **{raw: train_id for train_id, raw in CITYSCAPES_ID.items()},
}
_LICENSE_PLATE = 34
# How an 8-bit file holds the id -1, which Cityscapes gives license plates.
_MINUS_ONE = 255


def _by_name(names: tuple[str | None, ...]) -> dict[int, int]:
    """Raw ids by position; None is ignored."""
    return {raw: TRAIN_ID[name] if name else IGNORE_INDEX for raw, name in enumerate(names)}


_SYNTHIA = _by_name(
    (
        None,
        "sky",
        "building",
        "road",
        "sidewalk",
        "fence",
        "vegetation",
        "pole",
        "car",
        "traffic sign",
        "person",
        "bicycle",
        "motorcycle",
        None,  # parking slot
        None,  # road work
        "traffic light",
        "terrain",
        "rider",
        "truck",
        "bus",
        "train",
        "wall",
        None,  # lane marking
    )
)

_CAMVID_11 = _by_name(
    (
        "sky",
        "building",
        "pole",
        "road",
        "sidewalk",
        "vegetation",
        "traffic sign",
        "fence",
        "car",
        "person",
        "rider",  # "Bicyclist" covers rider and bicycle
        None,
    )
)

# CamVid's 32 classes: name, colour, Cityscapes class of the same meaning.
_CAMVID_32: tuple[tuple[str, int, str | None], ...] = (
    ("Animal", 0x408040, None),
    ("Archway", 0xC00080, "building"),
    ("Bicyclist", 0x0080C0, "rider"),
    ("Bridge", 0x008040, None),
    ("Building", 0x800000, "building"),
    ("Car", 0x400080, "car"),
    ("CartLuggagePram", 0x4000C0, None),
    ("Child", 0xC08040, "person"),
    ("Column_Pole", 0xC0C080, "pole"),
    ("Fence", 0x404080, "fence"),
    ("LaneMkgsDriv", 0x8000C0, "road"),
    ("LaneMkgsNonDriv", 0xC00040, "road"),
    ("Misc_Text", 0x808040, None),
    ("MotorcycleScooter", 0xC000C0, "motorcycle"),
    ("OtherMoving", 0x804040, None),
    ("ParkingBlock", 0x40C080, None),
    ("Pedestrian", 0x404000, "person"),
    ("Road", 0x804080, "road"),
    ("RoadShoulder", 0x8080C0, None),
    ("Sidewalk", 0x0000C0, "sidewalk"),
    ("SignSymbol", 0xC08080, "traffic sign"),
    ("Sky", 0x808080, "sky"),
    ("SUVPickupTruck", 0x4080C0, "car"),
    ("TrafficCone", 0x000040, None),
    ("TrafficLight", 0x004040, "traffic light"),
    ("Train", 0xC04080, "train"),
    ("Tree", 0x808000, "vegetation"),
    ("Truck_Bus", 0xC080C0, None),  # cannot be told apart
    ("Tunnel", 0x400040, None),
    ("VegetationMisc", 0xC0C000, "vegetation"),
    ("Void", 0x000000, None),
    ("Wall", 0x40C000, "wall"),
)

# IDD's 40 classes; names that Cityscapes has too are mapped, all others ignored.
IDD_NAMES = (
    "road",
    "parking",
    "drivable fallback",
    "sidewalk",
    "rail track",
    "non-drivable fallback",
    "person",
    "animal",
    "rider",
    "motorcycle",
    "bicycle",
    "autorickshaw",
    "car",
    "truck",
    "bus",
    "caravan",
    "trailer",
    "train",
    "vehicle fallback",
    "curb",
    "wall",
    "fence",
    "guard rail",
    "billboard",
    "traffic sign",
    "traffic light",
    "pole",
    "polegroup",
    "obs-str-bar-fallback",
    "building",
    "bridge",
    "tunnel",
    "vegetation",
    "sky",
    "fallback background",
    "unlabeled",
    "ego vehicle",
    "rectification border",
    "out of roi",
    "license plate",
)

ENCODINGS: dict[str, LabelTable] = {
    table.name: table
    for table in (
        LabelTable(_TRAIN_IDS, "train_ids"),
        LabelTable(
            {**_CITYSCAPES_IDS, _LICENSE_PLATE: IGNORE_INDEX, _MINUS_ONE: IGNORE_INDEX},
            "cityscapes_ids",
        ),
        LabelTable({**_CITYSCAPES_IDS, _LICENSE_PLATE: IGNORE_INDEX}, "gta5_ids"),
        LabelTable(_SYNTHIA, "synthia_ids", Reading.RED),
        LabelTable(_CAMVID_11, "camvid_11"),
        LabelTable(
            {colour: TRAIN_ID[same] if same else IGNORE_INDEX for _, colour, same in _CAMVID_32},
            "camvid_32",
            Reading.COLOUR,
        ),
        LabelTable(
            {
                **{raw: TRAIN_ID.get(name, IGNORE_INDEX) for raw, name in enumerate(IDD_NAMES)},
                _MINUS_ONE: IGNORE_INDEX,
            },
            "idd_ids",
            polygons={name: raw for raw, name in enumerate(IDD_NAMES)},
        ),
        *MAPILLARY_TABLES.values(),
    )
}


def label_table(encoding: str | Mapping[int, int]) -> LabelTable:
    """The look-up table of a named encoding, or of a user's own mapping.

    Raises:
        UserError: an unknown name, or a mapping with values out of range.
    """
    if not isinstance(encoding, str):
        return LabelTable(encoding, "custom table")
    if encoding not in ENCODINGS:
        raise UserError(
            f"unknown label encoding '{encoding}': use one of {', '.join(sorted(ENCODINGS))}, "
            "or a table of raw value: train id"
        )
    return ENCODINGS[encoding]
