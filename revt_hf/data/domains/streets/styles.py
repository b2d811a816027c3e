"""The styles a street can be painted in: colours, surfaces, light, weather and camera."""

from collections.abc import Mapping
from dataclasses import dataclass

from revt_hf.data.domains.streets.palettes import DULL, GAME, STONE, Palette, mixed

Span = tuple[float, float]


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
        haze_colour: what far things fade to.
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
    haze_colour: tuple[int, int, int] = (190, 194, 198)
    night: float = 0.0
    vignette: float = 0.0
    sensor_noise: Span = (0.0, 0.0)
    blur: Span = (0.0, 0.0)
    jpeg: int = 0


STYLES: dict[str, Style] = {
    "source": Style(GAME, weathering=0.02),
    "pretext": Style(
        GAME,
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
        mixed(GAME, DULL, 0.45),
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
        mixed(GAME, DULL, 0.3),
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
        mixed(GAME, STONE, 0.45),
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
        mixed(GAME, STONE, 0.55),
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
