"""The layout of a street: which objects there are and where, from a seed alone."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator

import revt_hf.data.domains.streets.objects as objects
import revt_hf.data.domains.streets.surroundings as surroundings
from revt_hf.core.errors import UserError
from revt_hf.data.domains.streets.canvas import FACING, OVERSAMPLING, Camera, Canvas, Item, Street

_LAYOUT_STREAM = 1
_SMALLEST = (64, 128)
# Depth, how to draw it, x, and further arguments.
_Placed = tuple[Any, ...]


def build_street(seed: int, height: int, width: int) -> Street:
    """Lay out the street of a seed (from 0) for an image of at least 64x128 pixels."""
    if seed < 0:
        raise UserError(f"street seed {seed} is negative: use an integer from 0 upwards")
    if height < _SMALLEST[0] or width < _SMALLEST[1]:
        raise UserError(
            f"street size {height}x{width} is too small: use at least "
            f"{_SMALLEST[0]}x{_SMALLEST[1]} (height x width)"
        )
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
    return canvas.street()


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
    return surroundings.GroundPlan(
        road=road,
        verge=(verge[0], verge[1]),
        paving=(paving[0], paving[1]),
        front=(road[0] - outer[0], road[1] + outer[1]),
        crossing=crossing,
        lanes=lanes,
    )


def _roadside(plan: surroundings.GroundPlan, rng: Generator) -> Iterator[_Placed]:
    """Objects on the pavements and verges."""
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
    """Vehicles and people on the road."""
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
    canvas.fill(
        np.concatenate([arch, [(middle + half, high + 9), (middle - half, high + 9)]]), surface
    )
