"""Mapillary Vistas to train ids: the maps in use, by name, for both versions of the labels.

Papers map Mapillary's classes in different ways, which moves mIoU; ReVT's own map was never
published. So every map has a name with a revision, and results carry it.

- ``dg_standard``: RobustNet and HRDA (equal), and what SegFormer's ``MaillaryHack`` intends.
- ``segformer_as_run``: ``MaillaryHack`` as it runs; it remaps in place, and wall becomes fence.
- ``rein``: ``mapillary2cityscape.py`` of Rein. Its rules miss v2.0's traffic lights.
- ``ifn``: IFN_Dataloader's label definitions, matched by name.
- ``ifn_as_run``: the colour script of IFN_Dataloader, where colours without a match become road.

All but ``rein`` were made for v1.2. For v2.0 they are applied to the v1.2 class that a v2.0 class
was split from; v2.0 classes without a clear origin are ignored.
"""

from revt_hf.data.labels.classes import IGNORE_INDEX, TRAIN_ID
from revt_hf.data.labels.tables import LabelTable

# A change of a map gets a new revision, so that old results keep their meaning.
_REVISION = 1

# The position is the raw value.
_V1_2_NAMES = (
    "Bird|Ground Animal|Curb|Fence|Guard Rail|Barrier|Wall|Bike Lane|Crosswalk - Plain|Curb Cut|"
    "Parking|Pedestrian Area|Rail Track|Road|Service Lane|Sidewalk|Bridge|Building|Tunnel|Person|"
    "Bicyclist|Motorcyclist|Other Rider|Lane Marking - Crosswalk|Lane Marking - General|Mountain|"
    "Sand|Sky|Snow|Terrain|Vegetation|Water|Banner|Bench|Bike Rack|Billboard|Catch Basin|"
    "CCTV Camera|Fire Hydrant|Junction Box|Mailbox|Manhole|Phone Booth|Pothole|Street Light|Pole|"
    "Traffic Sign Frame|Utility Pole|Traffic Light|Traffic Sign (Back)|Traffic Sign (Front)|"
    "Trash Can|Bicycle|Boat|Bus|Car|Caravan|Motorcycle|On Rails|Other Vehicle|Trailer|Truck|"
    "Wheeled Slow|Car Mount|Ego Vehicle|Unlabeled"
)
_V2_0_NAMES = (
    "Bird|Ground Animal|Ambiguous Barrier|Concrete Block|Curb|Fence|Guard Rail|Barrier|Road Median|"
    "Road Side|Lane Separator|Temporary Barrier|Wall|Bike Lane|Crosswalk - Plain|Curb Cut|Driveway|"
    "Parking|Parking Aisle|Pedestrian Area|Rail Track|Road|Road Shoulder|Service Lane|Sidewalk|"
    "Traffic Island|Bridge|Building|Garage|Tunnel|Person|Person Group|Bicyclist|Motorcyclist|"
    "Other Rider|Lane Marking - Dashed Line|Lane Marking - Straight Line|"
    "Lane Marking - Zigzag Line|Lane Marking - Ambiguous|Lane Marking - Arrow (Left)|"
    "Lane Marking - Arrow (Other)|Lane Marking - Arrow (Right)|"
    "Lane Marking - Arrow (Split Left or Straight)|Lane Marking - Arrow (Split Right or Straight)|"
    "Lane Marking - Arrow (Straight)|Lane Marking - Crosswalk|Lane Marking - Give Way (Row)|"
    "Lane Marking - Give Way (Single)|Lane Marking - Hatched (Chevron)|"
    "Lane Marking - Hatched (Diagonal)|Lane Marking - Other|Lane Marking - Stop Line|"
    "Lane Marking - Symbol (Bicycle)|Lane Marking - Symbol (Other)|Lane Marking - Text|"
    "Lane Marking (only) - Dashed Line|Lane Marking (only) - Crosswalk|"
    "Lane Marking (only) - Other|Lane Marking (only) - Test|Mountain|Sand|Sky|Snow|Terrain|"
    "Vegetation|Water|Banner|Bench|Bike Rack|Catch Basin|CCTV Camera|Fire Hydrant|Junction Box|"
    "Mailbox|Manhole|Parking Meter|Phone Booth|Pothole|Signage - Advertisement|"
    "Signage - Ambiguous|Signage - Back|Signage - Information|Signage - Other|Signage - Store|"
    "Street Light|Pole|Pole Group|Traffic Sign Frame|Utility Pole|Traffic Cone|"
    "Traffic Light - General (Single)|Traffic Light - Pedestrians|"
    "Traffic Light - General (Upright)|Traffic Light - General (Horizontal)|"
    "Traffic Light - Cyclists|Traffic Light - Other|Traffic Sign - Ambiguous|"
    "Traffic Sign (Back)|Traffic Sign - Direction (Back)|Traffic Sign - Direction (Front)|"
    "Traffic Sign (Front)|Traffic Sign - Parking|Traffic Sign - Temporary (Back)|"
    "Traffic Sign - Temporary (Front)|Trash Can|Bicycle|Boat|Bus|Car|Caravan|Motorcycle|On Rails|"
    "Other Vehicle|Trailer|Truck|Vehicle Group|Wheeled Slow|Water Valve|Car Mount|Dynamic|"
    "Ego Vehicle|Ground|Static|Unlabeled"
)
_V1_2, _V2_0 = _V1_2_NAMES.split("|"), _V2_0_NAMES.split("|")

# v1.2 class -> Cityscapes class; what is not listed is ignored.
_DG_STANDARD = {
    "Road": "road",
    "Lane Marking - General": "road",
    "Manhole": "road",
    "Curb": "sidewalk",
    "Sidewalk": "sidewalk",
    "Building": "building",
    "Wall": "wall",
    "Fence": "fence",
    "Pole": "pole",
    "Utility Pole": "pole",
    "Traffic Light": "traffic light",
    "Traffic Sign (Front)": "traffic sign",
    "Vegetation": "vegetation",
    "Terrain": "terrain",
    "Sky": "sky",
    "Person": "person",
    "Bicyclist": "rider",
    "Motorcyclist": "rider",
    "Other Rider": "rider",
    "Car": "car",
    "Truck": "truck",
    "Bus": "bus",
    "On Rails": "train",
    "Motorcycle": "motorcycle",
    "Bicycle": "bicycle",
}
# How the others differ from it; None is ignored.
_DIFFERENCES: dict[str, dict[str, str | None]] = {
    "dg_standard": {},
    "segformer_as_run": {"Wall": "fence"},
    "rein": {
        "Bike Lane": "road",
        "Crosswalk - Plain": "road",
        "Curb Cut": "sidewalk",
        "Parking": "road",
        "Pedestrian Area": "sidewalk",
        "Service Lane": "road",
        "Lane Marking - Crosswalk": "road",
        "Manhole": None,
        "Street Light": "pole",
        "Traffic Sign Frame": "traffic sign",
        "Traffic Sign (Back)": "traffic sign",
    },
    "ifn": {
        "Curb": None,
        "Bike Lane": "road",
        "Crosswalk - Plain": "road",
        "Lane Marking - Crosswalk": "road",
        "Manhole": None,
        "Utility Pole": None,
    },
    "ifn_as_run": {
        "Curb": "road",
        "Bike Lane": "road",
        "Crosswalk - Plain": "road",
        "Curb Cut": "road",
        "Service Lane": "road",
        "Motorcyclist": "road",
        "Other Rider": "road",
        "Lane Marking - Crosswalk": "road",
        "Pothole": "road",
        "Utility Pole": None,
    },
}

# The v1.2 class that a v2.0 class was split from, where the names differ.
_ORIGIN = {
    "Parking Aisle": "Parking",
    "Garage": "Building",
    "Person Group": "Person",
    "Pole Group": "Pole",
    "Lane Marking (only) - Crosswalk": "Lane Marking - Crosswalk",
    "Traffic Sign - Direction (Front)": "Traffic Sign (Front)",
    "Traffic Sign - Parking": "Traffic Sign (Front)",
    "Traffic Sign - Temporary (Front)": "Traffic Sign (Front)",
    "Traffic Sign - Direction (Back)": "Traffic Sign (Back)",
    "Traffic Sign - Temporary (Back)": "Traffic Sign (Back)",
}
_ORIGIN_OF_KIND = {
    "Lane Marking - ": "Lane Marking - General",
    "Lane Marking (only) - ": "Lane Marking - General",
    "Traffic Light - ": "Traffic Light",
}
# Rein's own rules on v2.0, where they differ from those on the origin.
_REIN_V2_0: dict[str, str | None] = {
    "Garage": None,
    "Person Group": None,
    "Parking Meter": "road",
    "Signage - Back": "traffic sign",
    "Traffic Sign - Ambiguous": "traffic sign",
    **{name: None for name in _V2_0 if name.startswith("Traffic Light - ")},
    "Traffic Light - Cyclists": "rider",
}

MAPS = tuple(_DIFFERENCES)
VERSIONS = ("v1.2", "v2.0")


def _origin(name: str) -> str:
    if name in _V1_2:
        return name
    kinds = (origin for kind, origin in _ORIGIN_OF_KIND.items() if name.startswith(kind))
    return _ORIGIN.get(name) or next(kinds, name)


def _table(version: str, map_name: str) -> LabelTable:
    classes: dict[str, str | None] = {**_DG_STANDARD, **_DIFFERENCES[map_name]}
    if version == "v2.0":
        classes = {name: classes.get(_origin(name)) for name in _V2_0}
        if map_name == "rein":
            classes |= _REIN_V2_0
    names = _V1_2 if version == "v1.2" else _V2_0
    mapping = {}
    for raw, name in enumerate(names):
        same = classes.get(name)
        mapping[raw] = TRAIN_ID[same] if same else IGNORE_INDEX
    return LabelTable(mapping, f"mapillary_{version}/{map_name}@{_REVISION}")


MAPILLARY_TABLES = {
    (version, map_name): _table(version, map_name) for version in VERSIONS for map_name in MAPS
}
