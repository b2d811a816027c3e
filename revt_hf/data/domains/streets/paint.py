"""Styles, and painting a street's layout in one: colours, textures, light, weather, camera."""

from importlib.resources import files

import cv2
import numpy as np
import yaml
from numpy.random import Generator
from numpy.typing import NDArray

from revt_hf.config.yaml_files import Section
from revt_hf.data.domains.streets.canvas import (
    GROUND,
    MATERIALS,
    OVERSAMPLING,
    SIDEWAYS,
    STRAIGHT_FROM,
    TEXTURES,
    Canvas,
    Colours,
)

_FARTHEST = 400.0
_TILE = 128

Image = NDArray[np.float32]
Span = tuple[float, float]

_AMPLITUDE = np.array([m.amplitude for m in MATERIALS.values()], dtype=np.float32)
_TEXTURE = np.array([m.texture for m in MATERIALS.values()])
_LAMP = np.array([m.lamp for m in MATERIALS.values()], dtype=np.float32)
_LUMA = np.tile(np.array([0.299, 0.587, 0.114], dtype=np.float32), (3, 1))
# The sky is no surface: it keeps its smooth gradient in every style.
_SMOOTH = np.array([name in ("air", "cloud") for name in MATERIALS])


class Style(Section):
    """One appearance. Spans are (low, high), drawn once per image."""

    palette: tuple[str, float]  # of the materials, and the share of the game's that it replaces
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

    @property
    def palettes(self) -> list[Colours]:
        """The colours (N, 3) of each material; the game's are repeated where it has fewer."""
        name, share = self.palette
        mixed = []
        for material in MATERIALS.values():
            colours = material.palettes[name]
            game = np.resize(material.palettes["game"], colours.shape)
            mixed.append(np.rint(game + share * (colours - game)))
        return mixed


_TABLE = files("revt_hf.data.domains.streets").joinpath("styles.yaml").read_text(encoding="utf-8")
STYLES = {name: Style(**values) for name, values in yaml.safe_load(_TABLE).items()}
UNSEEN_STYLES: tuple[str, ...] = ("overcast", "night", "fog", "noise")


def paint(street: Canvas, style: Style, rng: Generator) -> NDArray[np.uint8]:
    geometry = _Geometry(street)
    image = _averaged(_base_colours(street, style, rng), street)
    image *= _surface_detail(street, geometry, style, rng)[..., None]
    image *= _light(street, geometry, style)[..., None]
    image = _toned(image, style, rng)
    density = rng.uniform(*style.haze)
    if density > 0:
        clear = np.exp(-density * geometry.depth)[..., None]
        veil = np.array(style.haze_colour) * rng.uniform(0.92, 1.06)
        image = image * clear + (1 - clear) * veil
    if style.night > 0:
        image = _after_dark(image, street, geometry, style, rng)
    return _photographed(image.astype(np.float32), style, rng)


class _Geometry:
    """Where the surface at each pixel (H, W) lies: depth and two coordinates on it, in metres."""

    def __init__(self, street: Canvas) -> None:
        surface = street.coarse
        high, wide = surface.shape
        camera = street.camera
        column = np.arange(wide, dtype=np.float32)[None] * OVERSAMPLING + 1
        row = np.arange(high, dtype=np.float32)[:, None] * OVERSAMPLING + 1
        slope_x, slope_y, offset = (part.take(surface) for part in street.surfaces.plane.T)
        inverse = slope_x * column + slope_y * row + offset
        self.depth: Image = 1.0 / np.maximum(inverse, 1.0 / _FARTHEST)
        self.facet = street.surfaces.facet.take(surface)
        bent = camera.centre + camera.bend * np.minimum(self.depth, STRAIGHT_FROM)
        across = (column - bent) * self.depth / camera.focal
        up = camera.height - (row - camera.horizon) * self.depth / camera.focal
        self.u: Image = np.where(self.facet == SIDEWAYS, self.depth, across)
        self.v: Image = np.where(self.facet == GROUND, self.depth, up)
        self.pixels_per_metre: Image = camera.focal / OVERSAMPLING / self.depth
        self.row, self.column = row / row[-1, 0], column / column[0, -1]


def _base_colours(street: Canvas, style: Style, rng: Generator) -> Image:
    """(S, 3) colour of each surface, 0..255."""
    items, kinds = int(street.surfaces.owner.max()) + 1, len(MATERIALS)
    pick = rng.random((items, kinds))
    of_object = rng.normal(0.0, 1.0, (items, kinds, 4))
    of_scene = rng.normal(0.0, style.scene_jitter, (kinds, 3))
    palettes = style.palettes
    if style.recolour > 0:
        fresh = rng.random(kinds) < style.recolour
        counts, drawn = rng.integers(1, 5, kinds), rng.uniform(5, 250, (kinds, 4, 3))
        for index in np.flatnonzero(fresh):
            palettes[index] = drawn[index, : counts[index]]
    size = np.array([len(palette) for palette in palettes])
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    item, material = street.surfaces.owner, street.surfaces.material
    chosen = first[material] + pick[item, material] * size[material]
    colours = np.concatenate(palettes)[chosen.astype(np.intp)].astype(np.float64)
    jitter = of_object[item, material]
    # Three quarters of an object's deviation is brightness, as it is in photographs.
    deviation = style.object_jitter * (0.5 * jitter[:, :3] + jitter[:, 3:])
    colours += deviation + of_scene[material]
    return np.clip(colours * street.surfaces.shade[:, None], 0, 255).astype(np.float32)


def _averaged(colours: Image, street: Canvas) -> Image:
    """Colours (S, 3) at each pixel (H, W, 3), averaged over its fine pixels."""
    packed = np.zeros((len(colours), 4), dtype=np.uint8)
    packed[:, :3] = colours
    fine = packed.view(np.uint32)[:, 0].take(street.surface).view(np.uint8)
    high, wide = street.surface.shape
    size = (wide // OVERSAMPLING, high // OVERSAMPLING)
    small = cv2.resize(fine.reshape(high, wide, 4), size, interpolation=cv2.INTER_AREA)
    return np.asarray(small[..., :3], dtype=np.float32)


def _smoothed(tile: Image, blur: float) -> Image:
    """The tile without its fine detail, mean about 0 and deviation about 1."""
    around = np.pad(tile, 8, mode="wrap")  # so that the tile repeats without a seam
    smooth = cv2.GaussianBlur(around, (0, 0), blur)[8:-8, 8:-8]
    return np.asarray(smooth * (1.0 / smooth.std()), dtype=np.float32)


def _at(tile: Image, u: Image, v: Image) -> Image:
    row, column = v.astype(np.int32) & (_TILE - 1), u.astype(np.int32) & (_TILE - 1)
    return tile.take(row * _TILE + column)


def _pattern(name: str, u: Image, v: Image, tiles: tuple[Image, Image, Image]) -> Image:
    """A texture at surface coordinates u, v (metres): mean about 0, deviation up to about 1."""

    def joints(value: Image, share: float) -> NDArray[np.bool_]:
        return value - np.floor(value) < share

    fine, soft, broad = tiles
    if name == "grain":
        return _at(fine, u * 22, v * 9)
    if name == "blotch":
        return _at(broad, u * 3, v * 3)
    if name == "leaves":
        return _at(soft, u * 9, v * 9)
    if name == "blades":
        return _at(soft, u * 14, v * 3)
    if name == "courses":
        row = v * 2.5
        joint = joints(row, 0.25) | joints(u * 1.25 + 0.5 * np.floor(row), 0.14)
    elif name == "tiles":
        joint = joints(u, 0.12) | joints(v, 0.14)
    else:
        joint = joints(u * 2, 0.3)
    return np.where(joint, np.float32(-1.0), np.float32(0.35))


def _surface_detail(street: Canvas, at: _Geometry, style: Style, rng: Generator) -> Image:
    """Brightness factor (H, W) of texture and stains."""
    fine: Image = rng.standard_normal((_TILE, _TILE), dtype=np.float32)
    tiles = (fine, _smoothed(fine, 1.2), _smoothed(fine, 2.5))
    u, v = at.u + 512.0, at.v + 512.0
    kinds, strength = _TEXTURE, _AMPLITUDE
    if style.retexture > 0:
        fresh = (rng.random(len(MATERIALS)) < style.retexture) & ~_SMOOTH
        kinds = np.where(fresh, rng.integers(len(TEXTURES), size=len(MATERIALS)), kinds)
        drawn = rng.uniform(0.0, 0.3, len(MATERIALS)).astype(np.float32)
        strength = np.where(fresh, drawn, strength)
    material = street.surfaces.material.take(street.coarse)
    kind, detail = kinds[material], np.zeros_like(u)
    for index, (name, pitch) in enumerate(TEXTURES.items()):
        there = np.flatnonzero(kind == index)
        if pitch and len(there):
            # Detail finer than a pixel or two would only flicker.
            visible = np.minimum(at.pixels_per_metre.take(there) * (pitch / 2.5), 1.0)
            pattern = _pattern(name, u.take(there), v.take(there), tiles)
            np.put(detail, there, visible * pattern)
    factor = 1.0 + style.texture * strength.take(material) * detail
    if style.weathering > 0:
        stain = _at(tiles[2], u * 5, v * 4) + 0.6 * _at(tiles[1], u * 1.5, v * 11)
        factor += style.weathering * stain * ~_SMOOTH.take(material)
    return np.clip(factor, 0.2, 1.8).astype(np.float32)


def _light(street: Canvas, at: _Geometry, style: Style) -> Image:
    """Brightness factor (H, W) of shadows, and of a sky that is paler towards the horizon."""
    high, wide = at.depth.shape
    shadow = cv2.resize(street.shadow, (wide, high), interpolation=cv2.INTER_AREA)
    factor = 1.0 - style.shadow * (at.facet == GROUND) * shadow.astype(np.float32) / 255.0
    rise = np.clip(1.0 - at.row * street.surface.shape[0] / street.camera.horizon, 0.0, 1.0)
    factor *= np.where(at.depth >= _FARTHEST, 1.08 - 0.25 * rise, 1.0)
    return factor.astype(np.float32)


def _toned(image: Image, style: Style, rng: Generator) -> Image:
    if style.saturation != (1.0, 1.0):
        share = rng.uniform(*style.saturation)
        grey = cv2.transform(image, _LUMA)
        image = cv2.addWeighted(image, share, grey, 1.0 - share, 0.0)
    contrast = rng.uniform(*style.contrast)
    gain = rng.uniform(*style.gain) * np.array(style.balance)
    gain = gain * (1.0 + style.tint * rng.uniform(-1, 1, 3))
    scale, shift = gain * contrast, gain * 118.0 * (1.0 - contrast)
    return np.clip(image * scale.astype(np.float32) + shift.astype(np.float32), 0, 255)


def _after_dark(image: Image, street: Canvas, at: _Geometry, style: Style, rng: Generator) -> Image:
    """Dim blue light, the own headlights, and lamps with their glow."""
    high, wide = at.depth.shape
    ambient = np.array([0.30, 0.34, 0.46]) * rng.uniform(0.8, 1.2)
    sky = at.depth >= _FARTHEST
    ambient = np.where(sky[..., None], ambient * 0.5, ambient)
    beam = np.exp(-(((at.column - 0.5) / 0.33) ** 2)) * np.exp(-at.depth / 16.0) * ~sky
    lit = ambient + beam[..., None] * np.array([0.75, 0.68, 0.52])
    lamps = _averaged(_LAMP[street.surfaces.material], street)
    scale = high / 128
    near = cv2.GaussianBlur(lamps, (0, 0), 2.0 * scale)
    wider = cv2.resize(lamps, (wide // 4, high // 4), interpolation=cv2.INTER_AREA)
    wider = cv2.resize(cv2.GaussianBlur(wider, (0, 0), 3.0 * scale), (wide, high))
    glow = cv2.addWeighted(near, 0.6, wider, 1.0, 0.0) + 0.75 * lamps
    dimming = (1 + style.night * (lit - 1)).astype(np.float32)
    return np.clip(image * dimming + style.night * glow, 0, 255)


def _photographed(image: Image, style: Style, rng: Generator) -> NDArray[np.uint8]:
    high, wide = image.shape[:2]
    if style.vignette > 0:
        x, y = np.linspace(-1, 1, wide)[None], np.linspace(-1, 1, high)[:, None]
        dimming = 1 - style.vignette * (x * x + y * y) / 2
        image = image * dimming[..., None].astype(np.float32)
    blur = rng.uniform(*style.blur) * high / 128
    if blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), blur).astype(np.float32)
    noise = rng.uniform(*style.sensor_noise)
    if noise > 0:
        image = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if style.jpeg:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, style.jpeg])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return pixels
