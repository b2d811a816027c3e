"""What stands on a street: lamps, signs, bins, people, bicycles, cars and buses."""

import numpy as np
from numpy.random import Generator

from revt_hf.data.domains.streets.canvas import Canvas, Floats, Item, box

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
_WHEEL = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def street_lamp(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    item = Item(canvas, x, z, mirror=x > 0)
    tall, reach = rng.uniform(5.0, 7.5), rng.uniform(0.9, 2.0)
    item.stroke("mast", [(0, 0), (0, tall - 0.4), (0.3, tall), (reach, tall + 0.1)], 0.15, 1.6)
    item.stroke("mast", [(0, 0), (0, 0.9)], 0.26, 1.6, 0.85)
    lamp = np.array([(-0.1, -0.12), (0.75, -0.1), (0.65, 0.16), (-0.1, 0.18)])
    item.face("lamp", lamp + np.array([reach, tall]))
    item.cast(-0.1, 0.1, -0.1, 0.2)


def _signal(item: Item, x: float, y: float, red: bool) -> None:
    item.rect("signal box", x - 0.3, x + 0.3, y, y + 1.35)
    lamps = ("dead lamp" if red else "green lamp", "dead lamp", "red lamp" if red else "dead lamp")
    for index, lamp in enumerate(lamps):
        item.disc(lamp, x, y + 0.26 + 0.42 * index, 0.17, 0.17)


def traffic_light(canvas: Canvas, rng: Generator, x: float, z: float, red: bool) -> None:
    """Signal heads on a post, sometimes with a second one on an arm over the road."""
    item = Item(canvas, x, z, mirror=x > 0)
    if rng.random() < 0.4:
        reach = rng.uniform(1.8, 3.5)
        item.stroke("mast", [(0, 0), (0, 5.4), (reach, 5.5)], 0.16, 1.6)
        _signal(item, reach, 4.5, red)
    else:
        item.stroke("mast", [(0, 0), (0, 3.2)], 0.15, 1.6)
    _signal(item, 0.0, 2.3, red)


def traffic_sign(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    item = Item(canvas, x, z, size=rng.uniform(1.0, 1.35))
    count = 1 + int(rng.random() < 0.35)
    item.stroke("mast", [(0, 0), (0, 1.75 + 0.8 * count)], 0.1, 1.4)
    for index in range(count):
        _plate(item, int(rng.integers(6)), 2.2 + 0.85 * index)


def _plate(item: Item, kind: int, y: float) -> None:
    r = 0.42
    if kind == 0:
        item.disc("sign red", 0, y, r, r)
        item.disc("sign white", 0, y, 0.6 * r, 0.6 * r)
    elif kind == 1:
        item.face("sign red", [(-0.5, y - 0.36), (0.5, y - 0.36), (0, y + 0.46)])
        item.face("sign white", [(-0.26, y - 0.22), (0.26, y - 0.22), (0, y + 0.2)])
    elif kind == 2:
        item.rect("sign blue", -r, r, y - r, y + r)
        item.face("sign white", [(-0.2, y - 0.25), (0.2, y - 0.25), (0, y + 0.28)])
    elif kind == 3:
        for material, half in (("sign white", 0.5), ("sign yellow", 0.34)):
            item.face(material, [(-half, y), (0, y - half), (half, y), (0, y + half)])
    elif kind == 4:
        angles = np.pi / 8 + np.arange(8) * np.pi / 4
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 0.45
        item.face("sign red", ring + np.array([0, y]))
        item.rect("sign white", -0.3, 0.3, y - 0.08, y + 0.08)
    else:
        item.disc("sign blue", 0, y, r, r)
        item.rect("sign white", -0.08, 0.08, y - 0.26, y + 0.26)


def direction_board(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    item = Item(canvas, x, z)
    half, low = rng.uniform(0.9, 1.5), rng.uniform(1.9, 2.6)
    for post in (-0.7 * half, 0.7 * half):
        item.stroke("mast", [(post, 0), (post, low)], 0.12, 1.4)
    face = "sign blue" if rng.random() < 0.6 else "sign yellow"
    item.rect("sign white", -half, half, low, low + 1.1)
    item.rect(face, -half + 0.07, half - 0.07, low + 0.07, low + 1.03)
    for y in (low + 0.3, low + 0.65):
        end = half * rng.uniform(0.1, 0.7)
        item.rect("sign white", -half * 0.75, end, y, y + 0.14)


def litter_bin(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A litter bin, labelled 255 like every object outside the 19 classes."""
    item = Item(canvas, x, z)
    tall = rng.uniform(0.9, 1.2)
    item.face("bin", [(-0.25, 0), (0.25, 0), (0.32, tall), (-0.32, tall)])
    item.rect("bin", -0.36, 0.36, tall, tall + 0.12, 0.6)
    item.cast(-0.3, 0.5, -0.1, 0.4)


def person(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    size = rng.uniform(0.92, 1.1) if rng.random() < 0.85 else rng.uniform(0.65, 0.8)
    item = Item(canvas, x, z, bool(rng.random() < 0.5), size)
    stride, wide = rng.uniform(0.04, 0.32), rng.uniform(0.2, 0.27)
    swing = rng.uniform(0.0, 0.6) * stride
    item.face("trousers", [(-0.14, 0.9), (0.03, 0.9), (-stride + 0.09, 0), (-stride - 0.09, 0)])
    leg = [(-0.03, 0.9), (0.14, 0.9), (stride + 0.09, 0), (stride - 0.09, 0)]
    item.face("trousers", leg, 0.85)
    item.face("jacket", [(-0.17, 0.8), (0.17, 0.8), (wide, 1.42), (0.1, 1.5), (-0.1, 1.5)])
    item.face("jacket", [(-0.17, 0.8), (-0.1, 1.5), (-wide, 1.42)])
    for sign in (-1, 1):
        hand = (sign * (wide + 0.04) + swing, 0.78)
        item.stroke("jacket", [(sign * wide, 1.38), hand], 0.11, 0.5, 0.85)
    item.disc("skin", 0.0, 1.62, 0.11, 0.14)
    item.disc("hair", -0.02, 1.70, 0.12, 0.08)
    item.cast(-0.2, 0.7, -0.05, 0.5)


def bicycle(canvas: Canvas, rng: Generator, x: float, z: float, ridden: bool) -> None:
    item = Item(canvas, x, z, bool(rng.random() < 0.5))
    if rng.random() < 0.6:
        for wheel in (-0.52, 0.52):
            item.disc("rim", wheel, 0.35, 0.37, 0.37)
            item.disc("spokes", wheel, 0.35, 0.27, 0.27)
        item.stroke("frame", [(-0.52, 0.35), (-0.15, 0.8), (0.4, 0.82), (0.52, 0.35)], 0.08)
        item.stroke("frame", [(-0.52, 0.35), (0.0, 0.32), (0.4, 0.82), (0.36, 1.0)], 0.08)
        item.stroke("frame", [(0.0, 0.32), (-0.18, 0.95)], 0.08)
        if ridden:
            x, y, lean = -0.18, 0.95, 0.28
            hip, neck = (x, y), (x + lean, y + 0.58)
            item.stroke("rider legs", [hip, (x + 0.38, y - 0.22), (x + 0.2, y - 0.62)], 0.17)
            item.stroke("jersey", [hip, neck], 0.32)
            arm = [neck, (x + lean + 0.16, y + 0.22), (x + 0.58, y + 0.12)]
            item.stroke("jersey", arm, 0.11, 0.5, 0.8)
            item.disc("rider skin", x + lean + 0.08, y + 0.74, 0.1, 0.13)
            item.disc("helmet", x + lean + 0.05, y + 0.83, 0.15, 0.11)
    else:
        item.disc("rim", 0.0, 0.36, 0.09, 0.36)
        item.stroke("frame", [(0.0, 0.6), (0.0, 1.0)], 0.12)
        item.stroke("frame", [(-0.3, 1.02), (0.3, 1.02)], 0.08)
        if ridden:
            seat = 0.92
            for sign in (-1, 1):
                item.stroke("rider legs", [(sign * 0.1, seat), (sign * 0.2, seat - 0.5)], 0.16, 0.5)
                arm = [(sign * 0.22, seat + 0.5), (sign * 0.36, seat + 0.14)]
                item.stroke("jersey", arm, 0.12, 0.5, 0.8)
            low, high = seat - 0.05, seat + 0.5
            item.face("jersey", [(-0.17, low), (0.17, low), (0.25, high), (-0.25, high)])
            item.disc("rider skin", 0.0, seat + 0.64, 0.1, 0.1)
            item.disc("helmet", 0.0, seat + 0.73, 0.14, 0.15)
    item.cast(-0.7, 0.8, -0.1, 0.3)


def _side(
    item: Item, half: float, material: str, corners: Floats, shade: float = 0.8, at: float = 1.0
) -> None:
    """Draw on the side that the camera sees; a vehicle straight ahead shows none."""
    bend = item.canvas.camera.bend * item.z / item.canvas.camera.focal * item.z
    x = item.x + 0.5 * bend
    if abs(x) > half:
        item.side(material, (-half if x > 0 else half) * at, corners, shade)


def _box(item: Item, body: str, half: float, y0: float, y1: float, length: float) -> None:
    _side(item, half, body, box(0, length, y0, y1), 0.72)
    item.rect(body, -half, half, y0, y1)


def _side_wheels(item: Item, tyre: str, half: float, radius: float, at: list[float]) -> None:
    _side(item, half, tyre, _WHEEL * radius + np.array([[(z, radius)] for z in at]))


def _rear_wheels(item: Item, tyre: str, half: float, top: float) -> None:
    for x in (-half, half - 0.22 * half):
        item.rect(tyre, x, x + 0.22 * half, 0.0, top)


def _lights(item: Item, material: str, x0: float, x1: float, y0: float, y1: float) -> None:
    """A pair of lights; mirrored, x0 and x1 stay in order."""
    for sign in (-1, 1):
        low, high = sorted((sign * x0, sign * x1))
        item.rect(material, low, high, y0, y1)


def car(canvas: Canvas, rng: Generator, x: float, z: float, oncoming: bool) -> None:
    """A car along the street, seen from behind or (oncoming) from the front."""
    item = Item(canvas, x, z)
    half, length = rng.uniform(0.84, 0.96), rng.uniform(3.7, 4.7)
    waist, roof = rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.75)
    start, stop = (rng.uniform(0.1, 0.6), length - 1.1) if not oncoming else (1.1, length - 0.4)
    inner = half * rng.uniform(0.74, 0.84)
    _rear_wheels(item, "car tyre", half, 0.45)
    _side_wheels(item, "car tyre", half, 0.33, [0.8, length - 0.8])
    _box(item, "car body", half, 0.28, waist, length)
    _side_wheels(item, "car tyre", half, 0.31, [0.8, length - 0.8])
    if waist < canvas.camera.height:
        deck = [(-half, waist, 0), (half, waist, 0), (half, waist, length), (-half, waist, length)]
        item.hull("car body", deck, 1.1)
    base = [(sx * half * 0.96, waist, z) for sx in (-1, 1) for z in (start, stop)]
    top = [(sx * inner, roof, z) for sx in (-1, 1) for z in (start + 0.45, stop - 0.7)]
    item.hull("car body", base + top, 0.92)
    shoulder, lintel = waist + 0.06, roof - 0.12
    pane = [(start + 0.25, shoulder), (stop - 0.35, shoulder)]
    pane += [(stop - 0.8, lintel), (start + 0.6, lintel)]
    _side(item, half, "car glass", np.array(pane), 0.75, 0.5 * (0.96 + inner / half))
    low, high = half * 0.82, inner * 0.86
    screen = [(-low, shoulder), (low, shoulder), (high, lintel), (-high, lintel)]
    item.face("car glass", screen, 1.0, start + 0.2)
    light = "headlight" if oncoming else "tail light"
    _lights(item, light, half * 0.95, half * 0.95 - 0.34, waist - 0.28, waist - 0.09)
    item.rect("car tyre", -half, half, 0.26, 0.36)
    item.rect("plate", -0.25, 0.25, 0.45, 0.58)
    item.cast(-half * 1.1, half * 1.25, -0.25, length)


def crossing_car(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    item = Item(canvas, x, z, bool(rng.random() < 0.5))
    length, waist = rng.uniform(3.8, 4.6), rng.uniform(0.85, 1.0)
    roof, tail = rng.uniform(1.4, 1.65), rng.uniform(0.2, 0.9)
    half = length / 2
    outline = [(-half, 0.3), (half, 0.3), (half, waist - 0.2), (half - 0.9, waist)]
    outline += [(half - 1.6, roof), (-half + tail + 0.3, roof), (-half + tail * 0.6, waist)]
    item.face("car body", [*outline, (-half, waist - 0.05)], 0.95)
    glass = [(-half + tail + 0.15, waist), (half - 1.2, waist), (half - 1.7, roof - 0.12)]
    item.face("car glass", [*glass, (-half + tail + 0.4, roof - 0.12)])
    item.rect("car body", -0.25, -0.12, waist, roof, 0.9)
    item.rect("headlight", half - 0.22, half, waist - 0.38, waist - 0.22)
    item.rect("tail light", -half, -half + 0.2, waist - 0.35, waist - 0.15)
    for wheel in (-half + 0.8, half - 0.8):
        item.disc("car tyre", wheel, 0.33, 0.34, 0.34)
        item.disc("plate", wheel, 0.33, 0.16, 0.16, 0.8)
    item.cast(-half, half, -0.3, 1.7)


def bus(canvas: Canvas, rng: Generator, x: float, z: float, oncoming: bool) -> None:
    item = Item(canvas, x, z)
    half, top, length = rng.uniform(1.2, 1.3), rng.uniform(2.8, 3.2), rng.uniform(9.0, 12.0)
    if rng.random() < 0.2:
        top += 1.2
    _rear_wheels(item, "bus tyre", half, 0.6)
    _box(item, "bus body", half, 0.35, top, length)
    _side_wheels(item, "bus tyre", half, 0.45, [2.2, length - 2.4])
    _side(item, half, "bus stripe", box(0, length, 0.8, 1.1))
    starts = np.arange(0.5, length - 1.2, 1.35)
    for low in np.arange(1.4, top - 0.9, 1.35):
        panes = box(0, 1.15, low, low + 0.9) + np.stack([starts, 0 * starts], axis=1)[:, None]
        _side(item, half, "bus glass", panes, 0.85)
    item.rect("bus stripe", -half, half, 0.75, 1.1)
    item.rect("bus glass", -half * 0.88, half * 0.88, 1.15 if oncoming else 1.5, 2.35)
    if top > 3.6:
        item.rect("bus glass", -half * 0.88, half * 0.88, 2.75, 3.65)
    item.rect("bus light", -half * 0.6, half * 0.6, top - 0.38, top - 0.14)
    _lights(item, "bus light", half * 0.96, half * 0.74, 0.5, 0.68)
    item.cast(-half * 1.05, half * 1.3, -0.2, length)
