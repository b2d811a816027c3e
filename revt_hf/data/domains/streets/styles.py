"""What streets are made of, and the styles they are painted in.

A material belongs to exactly one class and has one kind of surface texture; styles decide on its
colours only, so the label of an image cannot depend on its style.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revt_hf.data.labels import IGNORE_INDEX, TRAIN_ID

Colours = NDArray[Any]
Span = tuple[float, float]

# Size in metres of each one's smallest detail, 0 without any. The order counts: styles draw by it.
TEXTURES = {
    "flat": 0.0,
    "grain": 0.12,
    "blotch": 0.5,
    "courses": 0.4,
    "tiles": 0.8,
    "leaves": 0.4,
    "blades": 0.3,
    "planks": 0.5,
}


@dataclass(frozen=True)
class Material:
    """One kind of surface, with the colours (N, 3) of objects by the name of the palette.

    ``game`` is bright and clean, ``dull`` northern brick and slate, ``stone`` limestone and dust.
    """

    train_id: int
    texture: int  # index into TEXTURES
    amplitude: float  # strength of the texture as a share of the brightness
    lamp: Colours  # of the light it emits after dark, black for none
    palettes: Mapping[str, Colours]


def _colours(codes: str) -> Colours:
    return np.array([list(bytes.fromhex(code)) for code in codes.split()])


def _read_materials() -> dict[str, Material]:
    table = files("revt_hf.data.domains.streets").joinpath("materials.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    return {
        row["material"]: Material(
            TRAIN_ID.get(row["class"], IGNORE_INDEX),
            list(TEXTURES).index(row["texture"]),
            float(row["amplitude"]),
            _colours(row["lamp"] or "000000")[0],
            {name: _colours(row[name] or row["game"]) for name in ("game", "dull", "stone")},
        )
        for row in rows
    }


# The order counts: styles draw colours and textures by a material's index.
MATERIALS = _read_materials()
MATERIAL_ID = {name: index for index, name in enumerate(MATERIALS)}


def _mixed(palette: str, share: float) -> dict[str, Colours]:
    """A palette's colours, of which ``share`` (0..1) replaces the game's."""
    mixed = {}
    for name, material in MATERIALS.items():
        colours = material.palettes[palette]
        # Repeats the game's colours where there are fewer.
        game = np.resize(material.palettes["game"], colours.shape)
        mixed[name] = np.rint(game + share * (colours - game))
    return mixed


@dataclass(frozen=True)
class Style:
    """One appearance. Spans are (low, high), drawn once per image."""

    palette: Mapping[str, Colours]  # per material
    object_jitter: float = 5.0  # spread of an object's colours around the palette, in grey levels
    scene_jitter: float = 4.0  # the same, per material and image
    recolour: float = 0.0  # share of the materials whose objects get any colours in an image
    texture: float = 1.0  # strength of the surfaces' textures
    retexture: float = 0.0  # share of the materials that get another texture in an image
    weathering: float = 0.0  # strength of irregular stains and patches on everything
    shadow: float = 0.45  # darkness of the shadows on the ground, 0..1
    contrast: Span = (1.0, 1.0)
    gain: Span = (1.0, 1.0)
    saturation: Span = (1.0, 1.0)
    tint: float = 0.0  # spread of the colour balance, as a share
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the image's channels
    haze: Span = (0.0, 0.0)  # density of the fog per metre
    haze_colour: tuple[int, int, int] = (190, 194, 198)
    night: float = 0.0  # 0 is day, 1 a moonless night, where only lamps help
    vignette: float = 0.0  # darkening towards the corners, 0..1
    sensor_noise: Span = (0.0, 0.0)  # standard deviation, in grey levels
    blur: Span = (0.0, 0.0)  # standard deviation, in pixels at height 128
    jpeg: int = 0  # quality of a JPEG pass, 0 for none


STYLES: dict[str, Style] = {
    "source": Style(_mixed("game", 1.0), weathering=0.02),
    "pretext": Style(
        _mixed("game", 1.0),
        object_jitter=18.0,
        scene_jitter=24.0,
        recolour=0.2,
        texture=1.2,
        retexture=0.25,
        weathering=0.08,
        shadow=0.35,
        contrast=(0.6, 1.3),
        gain=(0.6, 1.3),
        saturation=(0.5, 1.5),
        tint=0.12,
    ),
    "overcast": Style(
        _mixed("dull", 0.45),
        object_jitter=8.0,
        scene_jitter=6.0,
        texture=1.2,
        weathering=0.07,
        shadow=0.12,
        contrast=(0.78, 0.9),
        gain=(0.95, 1.1),
        saturation=(0.6, 0.8),
        balance=(0.97, 1.0, 1.03),
        blur=(0.3, 0.6),
    ),
    "night": Style(
        _mixed("dull", 0.3),
        object_jitter=7.0,
        scene_jitter=5.0,
        weathering=0.05,
        shadow=0.1,
        gain=(1.0, 1.15),
        night=0.72,
        vignette=0.3,
        sensor_noise=(1.5, 4.0),
    ),
    "fog": Style(
        _mixed("stone", 0.45),
        object_jitter=7.0,
        scene_jitter=5.0,
        weathering=0.05,
        shadow=0.1,
        contrast=(0.85, 0.95),
        saturation=(0.8, 1.0),
        haze=(0.008, 0.022),
        blur=(0.2, 0.5),
    ),
    "noise": Style(
        _mixed("stone", 0.55),
        object_jitter=8.0,
        scene_jitter=7.0,
        texture=1.2,
        weathering=0.07,
        contrast=(0.9, 1.15),
        gain=(0.8, 1.05),
        balance=(1.1, 0.99, 0.86),
        tint=0.04,
        sensor_noise=(12.0, 24.0),
        blur=(0.4, 0.8),
        jpeg=45,
    ),
}

UNSEEN_STYLES: tuple[str, ...] = ("overcast", "night", "fog", "noise")
