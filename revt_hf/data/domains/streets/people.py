"""People on foot, cyclists, and the bicycles they leave."""

import numpy as np

from revt_hf.data.domains.streets.canvas import Canvas, Thing


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone who stands or walks, an adult or a child."""
    size = rng.uniform(0.92, 1.1) if rng.random() < 0.85 else rng.uniform(0.65, 0.8)
    thing = Thing(canvas, x, z, bool(rng.random() < 0.5), size)
    stride, wide = rng.uniform(0.04, 0.32), rng.uniform(0.2, 0.27)
    swing = rng.uniform(0.0, 0.6) * stride
    thing.face("trousers", [(-0.14, 0.9), (0.03, 0.9), (-stride + 0.09, 0), (-stride - 0.09, 0)])
    thing.face(
        "trousers", [(-0.03, 0.9), (0.14, 0.9), (stride + 0.09, 0), (stride - 0.09, 0)], 0.85
    )
    thing.face("jacket", [(-0.17, 0.8), (0.17, 0.8), (wide, 1.42), (0.1, 1.5), (-0.1, 1.5)])
    thing.face("jacket", [(-0.17, 0.8), (-0.1, 1.5), (-wide, 1.42)])
    for sign in (-1, 1):
        hand = (sign * (wide + 0.04) + swing, 0.78)
        thing.stroke("jacket", [(sign * wide, 1.38), hand], 0.11, 0.5, 0.85)
    thing.disc("skin", 0.0, 1.62, 0.11, 0.14)
    thing.disc("hair", -0.02, 1.70, 0.12, 0.08)
    thing.cast(-0.2, 0.7, -0.05, 0.5)


def bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, ridden: bool) -> None:
    """A bicycle from the side or from behind, with its rider where there is one."""
    thing = Thing(canvas, x, z, bool(rng.random() < 0.5))
    if rng.random() < 0.6:
        for wheel in (-0.52, 0.52):
            thing.disc("rim", wheel, 0.35, 0.37, 0.37)
            thing.disc("spokes", wheel, 0.35, 0.27, 0.27)
        thing.stroke("frame", [(-0.52, 0.35), (-0.15, 0.8), (0.4, 0.82), (0.52, 0.35)], 0.08)
        thing.stroke("frame", [(-0.52, 0.35), (0.0, 0.32), (0.4, 0.82), (0.36, 1.0)], 0.08)
        thing.stroke("frame", [(0.0, 0.32), (-0.18, 0.95)], 0.08)
        if ridden:
            _seated(thing, lean=0.28, seat=(-0.18, 0.95))
    else:
        thing.disc("rim", 0.0, 0.36, 0.09, 0.36)
        thing.stroke("frame", [(0.0, 0.6), (0.0, 1.0)], 0.12)
        thing.stroke("frame", [(-0.3, 1.02), (0.3, 1.02)], 0.08)
        if ridden:
            _from_behind(thing, 0.92)
    thing.cast(-0.7, 0.8, -0.1, 0.3)


def _seated(thing: Thing, lean: float, seat: tuple[float, float]) -> None:
    x, y = seat
    hip, neck = (x, y), (x + lean, y + 0.58)
    thing.stroke("rider legs", [hip, (x + 0.38, y - 0.22), (x + 0.2, y - 0.62)], 0.17)
    thing.stroke("jersey", [hip, neck], 0.32)
    thing.stroke(
        "jersey", [neck, (x + lean + 0.16, y + 0.22), (x + 0.58, y + 0.12)], 0.11, 0.5, 0.8
    )
    thing.disc("rider skin", x + lean + 0.08, y + 0.74, 0.1, 0.13)
    thing.disc("helmet", x + lean + 0.05, y + 0.83, 0.15, 0.11)


def _from_behind(thing: Thing, seat: float) -> None:
    for sign in (-1, 1):
        thing.stroke("rider legs", [(sign * 0.1, seat), (sign * 0.2, seat - 0.5)], 0.16, 0.5)
        arm = [(sign * 0.22, seat + 0.5), (sign * 0.36, seat + 0.14)]
        thing.stroke("jersey", arm, 0.12, 0.5, 0.8)
    back = [(-0.17, seat - 0.05), (0.17, seat - 0.05), (0.25, seat + 0.5), (-0.25, seat + 0.5)]
    thing.face("jersey", back)
    thing.disc("rider skin", 0.0, seat + 0.64, 0.1, 0.1)
    thing.disc("helmet", 0.0, seat + 0.73, 0.14, 0.15)
