"""What the parts of a street scene are made of, the same in every style.

A material belongs to exactly one class and has one kind of surface texture; styles decide on its
colours only, so the label of an image cannot depend on its style.
"""

from dataclasses import dataclass

from revt_hf.data.labels import IGNORE_INDEX, TRAIN_ID

TEXTURES: tuple[str, ...] = (
    "flat",
    "grain",
    "blotch",
    "courses",
    "tiles",
    "leaves",
    "blades",
    "planks",
)


@dataclass(frozen=True)
class Material:
    """One kind of surface.

    Attributes:
        train_id: the class it is labelled with, 0..18 or 255.
        texture: index into ``TEXTURES``.
        amplitude: strength of the texture as a share of the brightness, 0..1.
        lamp: RGB (0..255) of the light it sends out after dark, or None.
    """

    train_id: int
    texture: int
    amplitude: float
    lamp: tuple[int, int, int] | None = None


# class -> material -> texture and its amplitude
_TABLE: dict[str, dict[str, tuple[str, float]]] = {
    "road": {"asphalt": ("grain", 0.07), "marking": ("grain", 0.05)},
    "sidewalk": {"paving": ("tiles", 0.22), "kerb": ("flat", 0.0)},
    "building": {
        "facade": ("blotch", 0.06),
        "gable": ("courses", 0.14),
        "window": ("flat", 0.0),
        "lit window": ("flat", 0.0),
        "roof": ("courses", 0.12),
        "shopfront": ("flat", 0.0),
        "awning": ("planks", 0.25),
    },
    "wall": {"masonry": ("courses", 0.30), "coping": ("flat", 0.0)},
    "fence": {"picket": ("flat", 0.0), "gap": ("flat", 0.0)},
    "pole": {"mast": ("flat", 0.0), "lamp": ("flat", 0.0)},
    "traffic light": {
        "signal box": ("flat", 0.0),
        "red lamp": ("flat", 0.0),
        "green lamp": ("flat", 0.0),
        "dead lamp": ("flat", 0.0),
    },
    "traffic sign": {
        "sign red": ("flat", 0.0),
        "sign blue": ("flat", 0.0),
        "sign yellow": ("flat", 0.0),
        "sign white": ("flat", 0.0),
    },
    "vegetation": {
        "leaf": ("leaves", 0.26),
        "dark leaf": ("leaves", 0.30),
        "light leaf": ("leaves", 0.22),
        "trunk": ("grain", 0.15),
    },
    "terrain": {"grass": ("blades", 0.20), "tuft": ("blades", 0.25)},
    "sky": {"air": ("flat", 0.0), "cloud": ("flat", 0.0)},
    "person": {
        "skin": ("flat", 0.0),
        "hair": ("flat", 0.0),
        "jacket": ("flat", 0.0),
        "trousers": ("flat", 0.0),
    },
    "rider": {
        "rider skin": ("flat", 0.0),
        "helmet": ("flat", 0.0),
        "jersey": ("flat", 0.0),
        "rider legs": ("flat", 0.0),
    },
    "car": {
        "car body": ("flat", 0.0),
        "car glass": ("flat", 0.0),
        "car tyre": ("flat", 0.0),
        "headlight": ("flat", 0.0),
        "tail light": ("flat", 0.0),
        "plate": ("flat", 0.0),
    },
    "bus": {
        "bus body": ("flat", 0.0),
        "bus stripe": ("flat", 0.0),
        "bus glass": ("flat", 0.0),
        "bus tyre": ("flat", 0.0),
        "bus light": ("flat", 0.0),
    },
    "bicycle": {
        "frame": ("flat", 0.0),
        "rim": ("flat", 0.0),
        "spokes": ("flat", 0.0),
    },
    "ignored": {"bonnet": ("flat", 0.0), "bin": ("planks", 0.20)},
}

# RGB of the light that some materials send out after dark
_LAMPS = {
    "lit window": (255, 196, 110),
    "shopfront": (96, 82, 62),
    "lamp": (255, 214, 150),
    "red lamp": (255, 50, 30),
    "green lamp": (40, 255, 130),
    "headlight": (255, 244, 215),
    "tail light": (255, 30, 20),
    "bus glass": (64, 58, 44),
    "bus light": (255, 110, 30),
}

_TRAIN_IDS = {**TRAIN_ID, "ignored": IGNORE_INDEX}

MATERIALS: dict[str, Material] = {
    name: Material(_TRAIN_IDS[label], TEXTURES.index(texture), amplitude, _LAMPS.get(name))
    for label, parts in _TABLE.items()
    for name, (texture, amplitude) in parts.items()
}

MATERIAL_ID: dict[str, int] = {name: index for index, name in enumerate(MATERIALS)}
