"""The materials of a street, a pinhole camera, and a buffer of the surface that each pixel shows.

Positions are in metres: x to the right and y up from the point on the road below the camera, z
ahead. The buffer is twice as fine as the image, which gives smooth edges.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from revt_hf.data.label_space import IGNORE_INDEX, TRAIN_ID

OVERSAMPLING = 2
FACING, SIDEWAYS, GROUND = 0, 1, 2

_NEAR = 0.8
# Metres ahead at which the street stops bending.
STRAIGHT_FROM = 110.0

Colours = NDArray[Any]
Floats = NDArray[np.float64]

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

    It has one class and one texture; styles decide on its colours only, so the label of an image
    cannot depend on its style. The palette ``game`` is bright and clean, ``dull`` northern brick
    and slate, ``stone`` limestone and dust.
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
    return {
        row["material"]: Material(
            TRAIN_ID.get(row["class"], IGNORE_INDEX),
            list(TEXTURES).index(row["texture"]),
            float(row["amplitude"]),
            _colours(row["lamp"] or "000000")[0],
            {name: _colours(row[name] or row["game"]) for name in ("game", "dull", "stone")},
        )
        for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    }


# The order counts: styles draw colours and textures by a material's index.
MATERIALS = _read_materials()
_MATERIAL_ID = {name: index for index, name in enumerate(MATERIALS)}
_SURFACE = [
    ("material", np.intp),  # index into MATERIALS
    ("owner", np.intp),  # number of the object it belongs to
    ("shade", np.float32),  # brightness factor, from its orientation
    ("facet", np.intp),  # FACING, SIDEWAYS or GROUND
    ("plane", np.float32, 3),  # 1/depth as a function of (column, row, 1)
]


def box(x0: float, x1: float, y0: float, y1: float) -> Floats:
    """The corners (4, 2) of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


@dataclass(frozen=True)
class Camera:
    """Projects metres to (oversampled) pixels."""

    focal: float  # in pixels
    centre: float  # column of the vanishing point
    horizon: float  # row
    height: float  # metres above the road
    bend: float  # columns by which the street drifts to the right with every metre ahead

    def at(self, z: float) -> tuple[float, float, float]:
        """Pixels per metre at depth z, and the (column, row) of the point x = y = 0 there."""
        scale = self.focal / max(z, _NEAR)
        column = self.centre + self.bend * min(max(z, _NEAR), STRAIGHT_FROM)
        return scale, column, self.horizon + self.height * scale

    def project(self, x: Floats | float, y: Floats | float, z: Floats) -> Floats:
        """Points in metres, x and y shaped like z or scalar -> (*z.shape, 2) columns and rows."""
        ahead = np.maximum(z, _NEAR)
        scale = self.focal / ahead
        columns = self.centre + x * scale + self.bend * np.minimum(ahead, STRAIGHT_FROM)
        return np.stack([columns, self.horizon + (self.height - y) * scale], axis=-1)

    @property
    def ground(self) -> tuple[float, float, float]:
        """1/depth of the ground as a function of (column, row, 1)."""
        slope = 1.0 / (self.focal * self.height)
        return 0.0, slope, -self.horizon * slope


class Canvas:
    """The layout of one street, free of any appearance: surfaces, later ones over earlier ones."""

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera = camera
        self.shape = (height * OVERSAMPLING, width * OVERSAMPLING)
        # Index of the surface that each fine pixel shows; 255 where something shades the ground.
        self.surface: NDArray[np.uint16] = np.zeros(self.shape, dtype=np.uint16)
        self.shadow: NDArray[np.uint8] = np.zeros(self.shape, dtype=np.uint8)
        self.items = 0
        self._rows: list[tuple[int, int, float, int, tuple[float, float, float]]] = []

    def add(
        self, material: str, item: int, shade: float, facet: int, plane: tuple[float, float, float]
    ) -> int:
        """Register a surface and return its index."""
        self._rows.append((_MATERIAL_ID[material], item, shade, facet, plane))
        return len(self._rows) - 1

    def fill(self, corners: Floats, surface: int) -> None:
        """Fill one polygon (N, 2), or many of N corners each (M, N, 2), with a surface."""
        points = np.rint(corners).astype(np.int32, order="C")
        cv2.fillPoly(self.surface, [points] if points.ndim == 2 else list(points), surface)

    @cached_property
    def surfaces(self) -> Any:
        """A record of each surface drawn so far, with the fields of ``_SURFACE``."""
        return np.array(self._rows, dtype=_SURFACE).view(np.recarray)

    @property
    def coarse(self) -> NDArray[np.uint16]:
        """(H, W) uint16, the surface at each pixel of the image."""
        return self.surface[1::OVERSAMPLING, 1::OVERSAMPLING]

    @property
    def label(self) -> NDArray[np.uint8]:
        """(H, W) uint8 train ids, 255 where ignored."""
        of_material = np.array([m.train_id for m in MATERIALS.values()], dtype=np.uint8)
        return of_material[self.surfaces.material][self.coarse]


class Item:
    """One object at (x, z), drawn part by part in metres relative to where it stands."""

    def __init__(
        self, canvas: Canvas, x: float, z: float, mirror: bool = False, size: float = 1.0
    ) -> None:
        self.canvas, self.x, self.z = canvas, x, z
        self.sx, self.sy = (-size if mirror else size), size
        self.number = canvas.items
        canvas.items += 1

    def in_view(self, reach: float) -> bool:
        """Whether anything within ``reach`` metres of its foot can be seen."""
        scale, column, _ = self.canvas.camera.at(self.z)
        return -reach * scale < column + self.x * scale < self.canvas.shape[1] + reach * scale

    def _facing(self, points: Floats, z: float) -> Floats:
        scale, column, row = self.canvas.camera.at(z)
        stretch = np.array([self.sx * scale, -self.sy * scale])
        return points * stretch + np.array([column + self.x * scale, row])

    def _surface(self, material: str, shade: float, z: float) -> int:
        return self.canvas.add(material, self.number, shade, FACING, (0.0, 0.0, 1.0 / max(z, 0.5)))

    def face(self, material: str, corners: ArrayLike, shade: float = 1, ahead: float = 0) -> None:
        """Polygons of (x, y) corners that face the camera."""
        points = np.asarray(corners, dtype=np.float64)
        z = self.z + ahead
        self.canvas.fill(self._facing(points, z), self._surface(material, shade, z))

    def rect(
        self, material: str, x0: float, x1: float, y0: float, y1: float, shade: float = 1.0
    ) -> None:
        scale, column, row = self.canvas.camera.at(self.z)
        left, right = (round(column + (self.x + self.sx * x) * scale) for x in (x0, x1))
        low, high = (round(row - self.sy * y * scale) for y in (y0, y1))
        surface = self._surface(material, shade, self.z)
        cv2.rectangle(self.canvas.surface, (left, low), (right, high), surface, -1)

    def disc(
        self, material: str, x: float, y: float, rx: float, ry: float, shade: float = 1.0
    ) -> None:
        """Ellipse facing the camera, at least one pixel of the image wide."""
        scale, column, row = self.canvas.camera.at(self.z)
        centre = (round(column + (self.x + self.sx * x) * scale), round(row - self.sy * y * scale))
        axes = (max(round(rx * self.sy * scale), 1), max(round(ry * self.sy * scale), 1))
        if -axes[0] <= centre[0] <= self.canvas.shape[1] + axes[0]:
            surface = self._surface(material, shade, self.z)
            cv2.ellipse(self.canvas.surface, centre, axes, 0, 0, 360, surface, -1)

    def stroke(
        self, material: str, path: ArrayLike, width: float, least: float = 1.0, shade: float = 1.0
    ) -> None:
        """Line through (x, y) points, at least ``least`` pixels wide (at height 128)."""
        points = np.asarray(path, dtype=np.float64)
        thick = self.sy * width * self.canvas.camera.at(self.z)[0]
        thick = max(thick, least * self.canvas.shape[0] / 128)
        corners = np.rint(self._facing(points, self.z)).astype(np.int32)
        surface = self._surface(material, shade, self.z)
        cv2.polylines(self.canvas.surface, [corners], False, surface, max(round(thick), 1))

    def side(self, material: str, x: float, corners: ArrayLike, shade: float = 0.8) -> None:
        """Polygons of (z, y) corners in the plane along the street at x."""
        points = np.asarray(corners, dtype=np.float64)
        z, y = self.z + points[..., 0], self.sy * points[..., 1]
        pixels = self.canvas.camera.project(self.x + self.sx * x, y, z)
        near, far = int(np.argmin(z)), int(np.argmax(z))
        columns, depths = pixels[..., 0].ravel(), np.maximum(z.ravel(), _NEAR)
        slope = 0.0
        if abs(columns[far] - columns[near]) >= 1.0:
            slope = (1 / depths[far] - 1 / depths[near]) / (columns[far] - columns[near])
        plane = (slope, 0.0, float(1 / depths[near] - slope * columns[near]))
        self.canvas.fill(pixels, self.canvas.add(material, self.number, shade, SIDEWAYS, plane))

    def hull(self, material: str, corners: ArrayLike, shade: float = 0.9) -> None:
        """Outline of a solid with (x, y, z) corners (N, 3)."""
        x, y, z = np.asarray(corners, dtype=np.float64).T
        pixels = self.canvas.camera.project(self.x + self.sx * x, self.sy * y, self.z + z)
        outline = cv2.convexHull(pixels.astype(np.float32))[:, 0].astype(np.float64)
        self.canvas.fill(outline, self._surface(material, shade, self.z))

    def flat(self, material: str, corners: ArrayLike) -> None:
        """Polygons of (x, z) corners on the ground."""
        points = np.asarray(corners, dtype=np.float64)
        camera = self.canvas.camera
        pixels = camera.project(self.x + self.sx * points[..., 0], 0.0, self.z + points[..., 1])
        self.canvas.fill(pixels, self.canvas.add(material, self.number, 1.0, GROUND, camera.ground))

    def cast(self, x0: float, x1: float, z0: float, z1: float) -> None:
        """Shade a rectangle on the ground below it."""
        near, far = self.canvas.camera.at(self.z + z0), self.canvas.camera.at(self.z + z1)
        left, right = self.x + self.sx * x0, self.x + self.sx * x1
        corners = [
            (column + x * scale, row)
            for (scale, column, row), sides in ((near, (left, right)), (far, (right, left)))
            for x in sides
        ]
        cv2.fillConvexPoly(self.canvas.shadow, np.array(corners, dtype=np.int32), 255)
