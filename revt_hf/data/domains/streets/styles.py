"""What streets are made of, and the styles they are painted in.

A material belongs to exactly one class and has one kind of surface texture; styles decide on its
colours only, so the label of an image cannot depend on its style.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from revt_hf.data.labels import IGNORE_INDEX, TRAIN_ID

RGB = tuple[int, int, int]
Palette = tuple[RGB, ...]
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
    """One kind of surface.

    Attributes:
        train_id: its class, 0..18, or 255.
        texture: index into ``TEXTURES``.
        amplitude: strength of the texture as a share of the brightness, 0..1.
        lamp: colour of the light it emits after dark, black for none.
        palettes: the colours that objects made of it take, by the name of the palette: ``game`` is
            bright and clean, ``dull`` northern brick and slate, ``stone`` pale limestone and dust.
    """

    train_id: int
    texture: int
    amplitude: float
    lamp: RGB
    palettes: Mapping[str, Palette]


def _colours(codes: str) -> Palette:
    return tuple((r, g, b) for r, g, b in map(bytes.fromhex, codes.split()))


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


def _mixed(palette: str, share: float) -> dict[str, Palette]:
    """A palette's colours, of which ``share`` (0..1) replaces the game's."""
    return {
        name: tuple(
            _blend(material.palettes["game"][index % len(material.palettes["game"])], colour, share)
            for index, colour in enumerate(material.palettes[palette])
        )
        for name, material in MATERIALS.items()
    }


def _blend(first: RGB, second: RGB, share: float) -> RGB:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Style:
    """One appearance. Spans are (low, high), drawn once per image.

    Attributes:
        palette: colours per material.
        object_jitter: spread of an object's colours around the palette, in grey levels.
        scene_jitter: the same, per material and image.
        recolour: share of the materials that get any colour at all in an image; the objects
            made of such a material then differ among themselves as well.
        texture: strength of the surfaces' textures (1: as in the table of materials).
        retexture: share of the materials that get another texture in an image.
        weathering: strength of irregular stains and patches on everything.
        shadow: darkness of the shadows on the ground, 0..1.
        contrast, gain, saturation: tone of the whole image (1: unchanged).
        tint: spread of the colour balance, as a share.
        balance: colour balance of the image.
        haze: density of the fog per metre.
        haze_colour: colour that far objects fade to.
        night: 0 is day, 1 a moonless night, where only lamps help.
        vignette: darkening towards the corners, 0..1.
        sensor_noise: standard deviation of the noise, in grey levels.
        blur: standard deviation of the blur, in pixels at height 128.
        jpeg: quality of a JPEG pass, 0 for none.
    """

    palette: Mapping[str, Palette]
    object_jitter: float = 5.0
    scene_jitter: float = 4.0
    recolour: float = 0.0
    texture: float = 1.0
    retexture: float = 0.0
    weathering: float = 0.0
    shadow: float = 0.45
    contrast: Span = (1.0, 1.0)
    gain: Span = (1.0, 1.0)
    saturation: Span = (1.0, 1.0)
    tint: float = 0.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: Span = (0.0, 0.0)
    haze_colour: RGB = (190, 194, 198)
    night: float = 0.0
    vignette: float = 0.0
    sensor_noise: Span = (0.0, 0.0)
    blur: Span = (0.0, 0.0)
    jpeg: int = 0


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
