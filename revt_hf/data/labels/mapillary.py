"""Mapillary Vistas to train ids: the maps in use, by name, for both versions of the labels.

Papers map Mapillary's classes in different ways, which changes mIoU; ReVT's own map was never
published. So every map has a name with a revision, which results carry.

- ``dg_standard``: RobustNet and HRDA (equal), and what SegFormer's ``MaillaryHack`` intends.
- ``segformer_as_run``: ``MaillaryHack`` as it runs: it remaps in place, so wall becomes fence.
- ``rein``: ``mapillary2cityscape.py`` of Rein; its rules miss v2.0's traffic lights.
- ``ifn``: IFN_Dataloader's label definitions, matched by name.
- ``ifn_as_run``: the colour script of IFN_Dataloader, where colours without a match become road.

All but ``rein`` were made for v1.2. For v2.0 they apply to the v1.2 class from which a v2.0 class
was split; v2.0 classes without a clear origin are ignored.
"""

from revt_hf.data.labels.classes import IGNORE_INDEX, TRAIN_ID
from revt_hf.data.labels.tables import LabelTable

VERSIONS = ("v1.2", "v2.0")
# Changing a map needs a new revision, so that old results keep their meaning.
_REVISION = 1
_IGNORED = "ignored"

# A name's position is its raw value.
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
_NAMES = {"v1.2": _V1_2_NAMES.split("|"), "v2.0": _V2_0_NAMES.split("|")}

# Each map lists v1.2 classes by Cityscapes class. Equal names need no mention.
_DG_STANDARD = {
    "road": "Lane Marking - General|Manhole",
    "sidewalk": "Curb",
    "pole": "Utility Pole",
    "traffic sign": "Traffic Sign (Front)",
    "rider": "Bicyclist|Motorcyclist|Other Rider",
    "train": "On Rails",
}
# The other maps list how they differ from it.
_MAPS: dict[str, dict[str, str]] = {
    "dg_standard": {},
    "segformer_as_run": {"fence": "Wall"},
    "rein": {
        "road": "Bike Lane|Crosswalk - Plain|Parking|Service Lane|Lane Marking - Crosswalk",
        "sidewalk": "Curb Cut|Pedestrian Area",
        "pole": "Street Light",
        "traffic sign": "Traffic Sign Frame|Traffic Sign (Back)",
        _IGNORED: "Manhole",
    },
    "ifn": {
        "road": "Bike Lane|Crosswalk - Plain|Lane Marking - Crosswalk",
        _IGNORED: "Curb|Manhole|Utility Pole",
    },
    "ifn_as_run": {
        "road": (
            "Curb|Bike Lane|Crosswalk - Plain|Curb Cut|Service Lane|Motorcyclist|Other Rider|"
            "Lane Marking - Crosswalk|Pothole"
        ),
        _IGNORED: "Utility Pole",
    },
}
# Rein's own rules for v2.0, where they differ from those for the class it was split from.
_REIN_V2_0 = {
    "road": "Parking Meter",
    "traffic sign": "Signage - Back|Traffic Sign - Ambiguous",
    "rider": "Traffic Light - Cyclists",
    _IGNORED: (
        "Garage|Person Group|Traffic Light - General (Single)|Traffic Light - Pedestrians|"
        "Traffic Light - General (Upright)|Traffic Light - General (Horizontal)|"
        "Traffic Light - Other"
    ),
}
# v2.0 classes by the v1.2 class that they were split from, where the names differ, by prefix.
_ORIGINS = {
    "Parking Aisle": "Parking",
    "Garage": "Building",
    "Person Group": "Person",
    "Pole Group": "Pole",
    "Traffic Light - ": "Traffic Light",
    "Lane Marking (only) - Crosswalk": "Lane Marking - Crosswalk",
    "Lane Marking (only) - ": "Lane Marking - General",
    "Lane Marking - ": "Lane Marking - General",
    "Traffic Sign - Direction (Front)": "Traffic Sign (Front)",
    "Traffic Sign - Parking": "Traffic Sign (Front)",
    "Traffic Sign - Temporary (Front)": "Traffic Sign (Front)",
    "Traffic Sign - Direction (Back)": "Traffic Sign (Back)",
    "Traffic Sign - Temporary (Back)": "Traffic Sign (Back)",
}


def _origin(name: str) -> str:
    if name in _NAMES["v1.2"]:
        return name
    return next((v1_2 for prefix, v1_2 in _ORIGINS.items() if name.startswith(prefix)), name)


def _by_class(classes: dict[str, str]) -> dict[str, str]:
    return {name: same for same, names in classes.items() for name in names.split("|")}


def _table(version: str, map_name: str) -> LabelTable:
    classes = _by_class(_DG_STANDARD) | _by_class(_MAPS[map_name])
    own = _by_class(_REIN_V2_0) if (version, map_name) == ("v2.0", "rein") else {}
    mapping = {}
    for raw, name in enumerate(_NAMES[version]):
        origin = _origin(name)
        same = own.get(name) or classes.get(origin, origin.lower())
        mapping[raw] = TRAIN_ID.get(same, IGNORE_INDEX)
    return LabelTable(mapping, f"mapillary_{version}/{map_name}@{_REVISION}")


MAPILLARY_TABLES = {
    (version, map_name): _table(version, map_name) for version in VERSIONS for map_name in _MAPS
}
