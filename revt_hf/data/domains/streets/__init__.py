"""The ``streets`` domain: a toy benchmark for domain generalisation, drawn by this package.

A seed alone decides which objects there are and where; a style decides on the rest.
"""

import zlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from revt_hf.config.yaml_files import Section, Seed
from revt_hf.core.errors import UserError
from revt_hf.data.decoding import encode_png
from revt_hf.data.domains.base import (
    Domain,
    Facts,
    Given,
    Opened,
    RowsBuilder,
    Sharing,
    fingerprint,
)
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.streets import objects, surroundings
from revt_hf.data.domains.streets.canvas import FACING, OVERSAMPLING, Camera, Canvas, Item
from revt_hf.data.domains.streets.paint import STYLES, paint
from revt_hf.data.labels import TRAIN_IDS
from revt_hf.data.reading import Decode

# Part of the fingerprint of drawn images: raise it when a change moves pixels or labels.
STREETS_VERSION = 1

# Seed of each split's first scene: far enough apart never to meet.
_FIRST_SCENE = {"train": 0, "val": 1_000_000}
_SCENES_PER_SEED = 10_000_000
_LAYOUT_STREAM, _PAINT_STREAM = 1, 2
# Depth, how to draw it, x, and further arguments.
_Placed: TypeAlias = tuple[Any, ...]

Count = Annotated[int, Field(gt=0, le=1_000_000)]
Height = Annotated[int, Field(ge=64, le=4096)]
Width = Annotated[int, Field(ge=128, le=8192)]


class StreetsOptions(Section):
    images: Count = 100
    val_images: Count = 40
    size: tuple[Height, Width] = (128, 256)  # in pixels
    seed: Seed = 0


def _row(style: str, size: tuple[int, int], scene: int) -> dict[str, Any]:
    drawn = (encode_png(one) for one in render(scene, style, *size))
    image, label = ({"path": None, "bytes": data} for data in drawn)
    return {"image": image, "label": label, "name": f"{style}-{scene:08d}"}


@register_domain
class StreetsDomain(Domain):
    """Drawn streets; a scene has the same layout and label in every style, which is a config."""

    name = "streets"
    facts = Facts(
        kind="synthetic",
        license="Apache-2.0",
        download="no download: this package draws it",
        sharing=Sharing("yes", "it is drawn by this package", "apache-2.0"),
        images={"train": StreetsOptions().images, "val": StreetsOptions().val_images},
    )
    options_model = StreetsOptions
    needs_data_dir = False
    configs = tuple(STYLES)

    def open(self, split: str, data_dir: Path | None, config: str | None, options: Any) -> Opened:
        style, images = str(self.chosen_config(config)), self.expected(split, config, options)
        if images is None:
            raise UserError(f"unknown split '{split}' of streets: use train or val")
        identity = fingerprint([style, split, options.model_dump(), STREETS_VERSION])
        known = {"dataset_name": self.name, "hash": identity}
        first = _FIRST_SCENE[split] + options.seed * _SCENES_PER_SEED
        scenes, draw = list(range(first, first + images)), partial(_row, style, options.size)
        return Opened(
            builder=partial(RowsBuilder, scenes, draw, split, **known),
            decode=Decode(TRAIN_IDS),
            layout="built-in",
            found=f"drawn by this package, style '{style}'",
            images=images,
            content=identity,
        )

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        return {"train": options.images, "val": options.val_images}.get(split)

    def splits(self, data_dir: Path | None, config: str | None, options: Any) -> tuple[str, ...]:
        return tuple(_FIRST_SCENE)

    def label(self, split: str, data_dir: Path | None, config: str | None, options: Given) -> str:
        return f"{self.chosen_config(config)}/{split}"


def render(
    seed: int, style: str, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The image (H, W, 3), uint8, RGB, of a street in a style, and its label (H, W), uint8."""
    if style not in STYLES:
        raise UserError(f"unknown street style '{style}': use one of {', '.join(STYLES)}")
    street = build_street(seed, height, width)
    rng = np.random.default_rng([_PAINT_STREAM, seed, zlib.crc32(style.encode())])
    return paint(street, STYLES[style], rng), street.label


def build_street(seed: int, height: int, width: int) -> Canvas:
    """Lay out the street of a seed (from 0) for an image of at least 64x128 pixels."""
    if seed < 0:
        raise UserError(f"street seed {seed} is negative: use an integer from 0 upwards")
    if height < 64 or width < 128:
        least = "use at least 64x128 (height x width)"
        raise UserError(f"street size {height}x{width} is too small: {least}")
    rng = np.random.default_rng([_LAYOUT_STREAM, seed])
    high, wide = height * OVERSAMPLING, width * OVERSAMPLING
    camera = Camera(
        focal=high * rng.uniform(1.6, 2.1),
        centre=wide * rng.uniform(0.36, 0.64),
        horizon=high * rng.uniform(0.4, 0.56),
        height=rng.uniform(1.3, 1.9),
        bend=high * rng.uniform(-0.0035, 0.0035),
    )
    canvas = Canvas(camera, height, width)
    plan = _plan(rng)
    city = float(rng.choice([0.85, 0.6, 0.3, 0.1], p=[0.35, 0.35, 0.2, 0.1]))
    surroundings.sky(canvas, rng)
    surroundings.skyline(canvas, rng, city)
    surroundings.ground(canvas, plan, rng)
    for side in (0, 1):
        share = float(np.clip(city + rng.normal(0, 0.2), 0.05, 0.95))
        surroundings.frontage(canvas, plan, side, share, rng)
    near, far = plan.crossing or (0.0, 0.0)  # nothing stands nearer than 5 m
    placed = [one for one in _roadside(plan, rng) if not near - 1 < one[0] < far + 1]
    placed += _traffic(plan, rng)
    for z, draw, x, *more in sorted(placed, key=lambda one: -one[0]):
        draw(canvas, rng, x, z, *more)
    _bonnet(canvas, rng)
    return canvas


def _plan(rng: Generator) -> surroundings.GroundPlan:
    lane = rng.uniform(2.9, 3.6)
    left, right = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    shoulder = rng.uniform(0.3, 2.4, 2)
    offset = lane * rng.uniform(0.4, 0.6)
    # The camera drives in the lane next to the centre line.
    road = (-offset - lane * left - shoulder[0], lane * right - offset + shoulder[1])
    lanes = tuple(-offset + lane * step for step in range(1 - left, right))
    verge = np.where(rng.random(2) < 0.4, rng.uniform(1.0, 3.0, 2), 0.0)
    paving, garden = rng.uniform(1.6, 4.0, 2), rng.uniform(0.0, 1.0, 2) ** 2 * 5.0
    near = rng.uniform(10.0, 30.0)
    crossing = (near, near + rng.uniform(6.0, 9.0)) if rng.random() < 0.4 else None
    outer = verge + paving + garden + 0.3
    front = (road[0] - outer[0], road[1] + outer[1])
    return surroundings.GroundPlan(road, verge, paving, front, crossing, lanes)


def _roadside(plan: surroundings.GroundPlan, rng: Generator) -> Iterator[_Placed]:
    red = bool(rng.random() < 0.5)
    for side, sign in enumerate(surroundings.SIDES):
        kerb = plan.road[side]
        paved = kerb + sign * plan.verge[side]
        walk = (paved + sign * 0.5, paved + sign * (plan.paving[side] - 0.3))  # kerb, front
        if rng.random() < 0.75:
            for z in np.arange(rng.uniform(5, 14), 55, rng.uniform(12, 20)):
                yield z, objects.street_lamp, kerb + sign * 0.5
        if rng.random() < 0.55 or plan.verge[side] > 0:
            green = kerb + sign * max(plan.verge[side] / 2, 0.7)
            for z in np.arange(rng.uniform(6, 18), 50, rng.uniform(8, 17)):
                yield z, surroundings.tree, green, 0.85
        for _ in range(int(rng.integers(0, 3))):
            yield rng.uniform(6, 20), objects.traffic_sign, kerb + sign * 0.6
        stop = plan.crossing[0] - 2.0 if plan.crossing else rng.uniform(9, 24)
        if rng.random() < (0.9 if plan.crossing else 0.3):
            yield stop, objects.traffic_light, kerb + sign * 0.45, red
        if rng.random() < 0.15:
            yield rng.uniform(14, 32), objects.direction_board, kerb + sign * 1.2
        for _ in range(int(rng.integers(0, 5))):
            z, x = rng.uniform(6, 26), rng.uniform(min(walk), max(walk))
            yield z, objects.person, x
            if rng.random() < 0.35:
                yield z + 0.2, objects.person, x + 0.6
        if rng.random() < 0.35:
            first = rng.uniform(6, 16)
            for step in range(int(rng.integers(1, 4))):
                yield first + 0.9 * step, objects.bicycle, kerb + sign * 0.8, False
        for draw, share in ((objects.litter_bin, 0.3), (surroundings.bush, 0.3)):
            if rng.random() < share:
                yield rng.uniform(6, 22), draw, walk[1]


def _traffic(plan: surroundings.GroundPlan, rng: Generator) -> Iterator[_Placed]:
    borders = [plan.road[0], *plan.lanes, plan.road[1]]
    centre = max(x for x in plan.lanes if x < 0)
    for left, right in pairwise(borders):
        oncoming = right <= centre + 0.01
        x = (left + right) / 2
        ahead = left <= 0 < right
        z = rng.uniform(9, 22) if ahead else rng.uniform(5, 24)
        while z < 50 and rng.random() < 0.62:
            kind = rng.choice(3, p=[0.55, 0.25, 0.2])
            drift = x + rng.normal(0, 0.2)
            if kind == 0:
                yield z, objects.car, drift, bool(oncoming)
            elif kind == 1:
                yield z + 2.0, objects.bus, drift, bool(oncoming)
                z += 12.0
            else:
                yield z, objects.bicycle, drift, True
            z += rng.uniform(6, 20)
    for sign, edge in zip(surroundings.SIDES, plan.road, strict=True):
        if rng.random() < 0.4:  # a row of parked cars
            for z in np.arange(rng.uniform(4, 14), rng.uniform(14, 45), rng.uniform(5.4, 7.5)):
                clear = plan.crossing is None or not plan.crossing[0] - 6 < z < plan.crossing[1]
                if rng.random() < 0.8 and clear:
                    yield z, objects.car, edge - sign * 1.0, sign < 0
        if rng.random() < 0.4:
            yield rng.uniform(6, 15), objects.bicycle, edge - sign * 0.9, True
    if plan.crossing is not None:
        middle = sum(plan.crossing) / 2
        for z in (middle - 1.6, middle + 1.6):
            if rng.random() < 0.45:
                yield z, objects.crossing_car, rng.uniform(-12, 12)
        for _ in range(int(rng.integers(0, 4))):
            yield plan.crossing[0] - rng.uniform(1, 2.8), objects.person, rng.uniform(*plan.road)


def _bonnet(canvas: Canvas, rng: Generator) -> None:
    """The own car's bonnet at the lower edge, in most images."""
    if rng.random() < 0.25:
        return
    high, wide = canvas.shape
    item = Item(canvas, 0.0, 1.0)
    middle, top = wide * rng.uniform(0.45, 0.55), high * rng.uniform(0.035, 0.09)
    half = wide * rng.uniform(0.42, 0.65)
    angle = np.linspace(0.0, np.pi, 24)
    arch = np.stack([middle - half * np.cos(angle), high - top * np.sin(angle) ** 0.6], axis=1)
    surface = canvas.add("bonnet", item.number, 1.0, FACING, (0.0, 0.0, 1.0))
    lower = [(middle + half, high + 9), (middle - half, high + 9)]
    canvas.fill(np.concatenate([arch, lower]), surface)
