"""Cars and buses: boxes along the street, or seen from the side where they cross."""

import numpy as np

from revt_hf.data.domains.streets.canvas import Canvas, Thing

_CORNERS = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
_WHEEL = np.stack([np.cos(_CORNERS), np.sin(_CORNERS)], axis=1)


def _visible_side(thing: Thing, half: float) -> float | None:
    """The x of the side that the camera sees, None for a vehicle straight ahead."""
    bend = thing.canvas.camera.bend * thing.z / thing.canvas.camera.focal * thing.z
    x = thing.x + 0.5 * bend
    if abs(x) <= half:
        return None
    return -half if x > 0 else half


def _box(thing: Thing, body: str, half: float, y0: float, y1: float, length: float) -> None:
    x = _visible_side(thing, half)
    if x is not None:
        thing.side(body, x, [(0, y0), (length, y0), (length, y1), (0, y1)], 0.72)
    thing.rect(body, -half, half, y0, y1)


def _side_wheels(thing: Thing, tyre: str, half: float, radius: float, places: list[float]) -> None:
    x = _visible_side(thing, half)
    if x is not None:
        wheels = _WHEEL * radius + np.array([[(z, radius)] for z in places])
        thing.side(tyre, x, wheels)


def _rear_wheels(thing: Thing, tyre: str, half: float, top: float) -> None:
    width = 0.22 * half
    for x in (-half, half - width):
        thing.rect(tyre, x, x + width, 0.0, top)


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> None:
    """A car along the street, seen from behind or (oncoming) from the front."""
    thing = Thing(canvas, x, z)
    half, length = rng.uniform(0.84, 0.96), rng.uniform(3.7, 4.7)
    waist, roof = rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.75)
    start, stop = (rng.uniform(0.1, 0.6), length - 1.1) if not oncoming else (1.1, length - 0.4)
    inner = half * rng.uniform(0.74, 0.84)
    _rear_wheels(thing, "car tyre", half, 0.45)
    _side_wheels(thing, "car tyre", half, 0.33, [0.8, length - 0.8])
    _box(thing, "car body", half, 0.28, waist, length)
    _side_wheels(thing, "car tyre", half, 0.31, [0.8, length - 0.8])
    if waist < canvas.camera.height:
        deck = [(-half, waist, 0), (half, waist, 0), (half, waist, length), (-half, waist, length)]
        thing.hull("car body", deck, 1.1)
    base = [(sx * half * 0.96, waist, z) for sx in (-1, 1) for z in (start, stop)]
    top = [(sx * inner, roof, z) for sx in (-1, 1) for z in (start + 0.45, stop - 0.7)]
    thing.hull("car body", base + top, 0.92)
    shoulder, lintel = waist + 0.06, roof - 0.12
    side = _visible_side(thing, half)
    if side is not None:
        pane = [
            (start + 0.25, shoulder),
            (stop - 0.35, shoulder),
            (stop - 0.8, lintel),
            (start + 0.6, lintel),
        ]
        thing.side("car glass", side * 0.5 * (0.96 + inner / half), pane, 0.75)
    low, high = half * 0.82, inner * 0.86
    screen = [(-low, shoulder), (low, shoulder), (high, lintel), (-high, lintel)]
    thing.face("car glass", screen, 1.0, start + 0.2)
    light = "headlight" if oncoming else "tail light"
    for sign in (-1, 1):
        span = sorted((sign * half * 0.95, sign * (half * 0.95 - 0.34)))
        thing.rect(light, span[0], span[1], waist - 0.28, waist - 0.09)
    thing.rect("car tyre", -half, half, 0.26, 0.36)
    thing.rect("plate", -0.25, 0.25, 0.45, 0.58)
    thing.cast(-half * 1.1, half * 1.25, -0.25, length)


def crossing_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A car that crosses the street, seen from its side."""
    thing = Thing(canvas, x, z, bool(rng.random() < 0.5))
    length, waist = rng.uniform(3.8, 4.6), rng.uniform(0.85, 1.0)
    roof, tail = rng.uniform(1.4, 1.65), rng.uniform(0.2, 0.9)
    half = length / 2
    outline = [(-half, 0.3), (half, 0.3), (half, waist - 0.2), (half - 0.9, waist)]
    outline += [(half - 1.6, roof), (-half + tail + 0.3, roof), (-half + tail * 0.6, waist)]
    thing.face("car body", [*outline, (-half, waist - 0.05)], 0.95)
    glass = [(-half + tail + 0.15, waist), (half - 1.2, waist), (half - 1.7, roof - 0.12)]
    thing.face("car glass", [*glass, (-half + tail + 0.4, roof - 0.12)])
    thing.rect("car body", -0.25, -0.12, waist, roof, 0.9)
    thing.rect("headlight", half - 0.22, half, waist - 0.38, waist - 0.22)
    thing.rect("tail light", -half, -half + 0.2, waist - 0.35, waist - 0.15)
    for wheel in (-half + 0.8, half - 0.8):
        thing.disc("car tyre", wheel, 0.33, 0.34, 0.34)
        thing.disc("plate", wheel, 0.33, 0.16, 0.16, 0.8)
    thing.cast(-half, half, -0.3, 1.7)


def bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> None:
    """A bus: rounded, with a band of windows all along and a lit destination board."""
    thing = Thing(canvas, x, z)
    half, top, length = rng.uniform(1.2, 1.3), rng.uniform(2.8, 3.2), rng.uniform(9.0, 12.0)
    if rng.random() < 0.2:
        top += 1.2  # a double-decker
    _rear_wheels(thing, "bus tyre", half, 0.6)
    _box(thing, "bus body", half, 0.35, top, length)
    _side_wheels(thing, "bus tyre", half, 0.45, [2.2, length - 2.4])
    side = _visible_side(thing, half)
    if side is not None:
        thing.side("bus stripe", side, [(0, 0.8), (length, 0.8), (length, 1.1), (0, 1.1)])
        starts = np.arange(0.5, length - 1.2, 1.35)
        for low in np.arange(1.4, top - 0.9, 1.35):
            pane = np.array([(0, low), (1.15, low), (1.15, low + 0.9), (0, low + 0.9)])
            panes = pane + np.stack([starts, 0 * starts], axis=1)[:, None]
            thing.side("bus glass", side, panes, 0.85)
    thing.rect("bus stripe", -half, half, 0.75, 1.1)
    sill = 1.15 if oncoming else 1.5
    thing.rect("bus glass", -half * 0.88, half * 0.88, sill, 2.35)
    if top > 3.6:
        thing.rect("bus glass", -half * 0.88, half * 0.88, 2.75, 3.65)
    thing.rect("bus light", -half * 0.6, half * 0.6, top - 0.38, top - 0.14)
    for sign in (-1, 1):
        span = sorted((sign * half * 0.96, sign * half * 0.74))
        thing.rect("bus light", span[0], span[1], 0.5, 0.68)
    thing.cast(-half * 1.05, half * 1.3, -0.2, length)
