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

# License plates have the id -1 in Cityscapes; GTA5 stores 34, 8-bit files 255.
_LICENSE_PLATE, _MINUS_ONE = {34: IGNORE_INDEX}, {255: IGNORE_INDEX}
_IDS = {
    **dict.fromkeys(range(34), IGNORE_INDEX),
    **{raw: train_id for train_id, raw in CITYSCAPES_ID.items()},
}
# In these lists the position is the raw value; names that Cityscapes does not have are ignored.
_SYNTHIA = (
    "void|sky|building|road|sidewalk|fence|vegetation|pole|car|traffic sign|person|bicycle|"
    "motorcycle|parking slot|road work|traffic light|terrain|rider|truck|bus|train|wall|"
    "lane marking"
)
# Rider is "Bicyclist", which covers riders and bicycles.
_CAMVID_11 = "sky|building|pole|road|sidewalk|vegetation|traffic sign|fence|car|person|rider|void"
_IDD = (
    "road|parking|drivable fallback|sidewalk|rail track|non-drivable fallback|person|animal|rider|"
    "motorcycle|bicycle|autorickshaw|car|truck|bus|caravan|trailer|train|vehicle fallback|curb|"
    "wall|fence|guard rail|billboard|traffic sign|traffic light|pole|polegroup|"
    "obs-str-bar-fallback|building|bridge|tunnel|vegetation|sky|fallback background|unlabeled|"
    "ego vehicle|rectification border|out of roi|license plate"
)
# CamVid's 32 classes and their colours, by the Cityscapes class of the same meaning.
_CAMVID_32 = {
    "road": {"Road": 0x804080, "LaneMkgsDriv": 0x8000C0, "LaneMkgsNonDriv": 0xC00040},
    "sidewalk": {"Sidewalk": 0x0000C0},
    "building": {"Building": 0x800000, "Archway": 0xC00080},
    "wall": {"Wall": 0x40C000},
    "fence": {"Fence": 0x404080},
    "pole": {"Column_Pole": 0xC0C080},
    "traffic light": {"TrafficLight": 0x004040},
    "traffic sign": {"SignSymbol": 0xC08080},
    "vegetation": {"Tree": 0x808000, "VegetationMisc": 0xC0C000},
    "sky": {"Sky": 0x808080},
    "person": {"Pedestrian": 0x404000, "Child": 0xC08040},
    "rider": {"Bicyclist": 0x0080C0},
    "car": {"Car": 0x400080, "SUVPickupTruck": 0x4080C0},
    "train": {"Train": 0xC04080},
    "motorcycle": {"MotorcycleScooter": 0xC000C0},
    "ignored": {
        "Animal": 0x408040,
        "Bridge": 0x008040,
        "CartLuggagePram": 0x4000C0,
        "Misc_Text": 0x808040,
        "OtherMoving": 0x804040,
        "ParkingBlock": 0x40C080,
        "RoadShoulder": 0x8080C0,
        "TrafficCone": 0x000040,
        "Truck_Bus": 0xC080C0,  # trucks and buses cannot be told apart
        "Tunnel": 0x400040,
        "Void": 0x000000,
    },
}


def _by_position(names: str) -> dict[int, int]:
    return {raw: TRAIN_ID.get(name, IGNORE_INDEX) for raw, name in enumerate(names.split("|"))}


TRAIN_IDS = LabelTable(
    {**{i: i for i in range(NUM_CLASSES)}, IGNORE_INDEX: IGNORE_INDEX}, "train_ids"
)
CITYSCAPES_IDS = LabelTable({**_IDS, **_LICENSE_PLATE, **_MINUS_ONE}, "cityscapes_ids")
_TABLES = (
    TRAIN_IDS,
    CITYSCAPES_IDS,
    LabelTable({**_IDS, **_LICENSE_PLATE}, "gta5_ids"),
    LabelTable(_by_position(_SYNTHIA), "synthia_ids", Reading.RED),
    LabelTable(_by_position(_CAMVID_11), "camvid_11"),
    LabelTable(
        {
            colour: TRAIN_ID.get(same, IGNORE_INDEX)
            for same, classes in _CAMVID_32.items()
            for colour in classes.values()
        },
        "camvid_32",
        Reading.COLOUR,
    ),
    LabelTable(
        {**_by_position(_IDD), **_MINUS_ONE},
        "idd_ids",
        polygons={name: raw for raw, name in enumerate(_IDD.split("|"))},
    ),
    *MAPILLARY_TABLES.values(),
)
ENCODINGS: dict[str, LabelTable] = {table.name: table for table in _TABLES}


def label_table(encoding: str | Mapping[int, int]) -> LabelTable:
    """The look-up table of a named encoding, or of a user's own mapping.

    Raises:
        UserError: the name is unknown, or the mapping has values out of range.
    """
    if not isinstance(encoding, str):
        return LabelTable(encoding, "custom table")
    if encoding not in ENCODINGS:
        raise UserError(
            f"unknown label encoding '{encoding}': use one of {', '.join(sorted(ENCODINGS))}, "
            "or a table of raw value: train id"
        )
    return ENCODINGS[encoding]
