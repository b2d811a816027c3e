"""Trees, bushes and street furniture: lamps, traffic lights, signs, bins."""

import numpy as np
from numpy.random import Generator

from revt_hf.data.domains.streets.canvas import Canvas, Item


def tree(canvas: Canvas, rng: Generator, x: float, z: float, size: float = 1.0) -> None:
    """A broad-leaved tree or a conifer."""
    size *= rng.uniform(0.75, 1.25)
    item = Item(canvas, x, z, bool(rng.random() < 0.5), size)
    if not item.in_view(4.0 * size):
        return
    item.face("trunk", [(-0.2, 0), (0.2, 0), (0.12, 2.8), (-0.12, 2.8)])
    item.cast(-1.4, 2.2, -0.6, 1.6)
    if rng.random() < 0.25:
        for level, material in enumerate(("dark leaf", "leaf", "dark leaf", "leaf")):
            y, half = 1.1 + 1.25 * level, 1.7 - 0.36 * level
            item.face(material, [(-half, y), (half, y), (0.0, y + 2.3)])
        return
    full = z < 40  # far away three discs look like twelve
    tall, wide = rng.uniform(3.6, 4.8), rng.uniform(1.2, 1.8)
    for material, count, drop in (
        ("dark leaf", 4, -0.35),
        ("leaf", 5, 0.15),
        ("light leaf", 3, 0.5),
    ):
        count = count if full else 1
        spots = rng.normal(0.0, 1.0, (count, 2)) * (0.45 * wide, 0.45)
        shrink, x0 = (0.7, -0.3 * wide) if material == "light leaf" else (1.0, 0.0)
        for (dx, dy), radius in zip(spots, rng.uniform(0.55, 0.9, count) * wide, strict=True):
            item.disc(material, x0 + dx, tall + drop + dy, radius * shrink, radius * 0.8 * shrink)


def bush(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A low round bush."""
    item = Item(canvas, x, z, size=rng.uniform(0.6, 1.3))
    if not item.in_view(2.0):
        return
    for material, y in (("dark leaf", 0.4), ("leaf", 0.55), ("light leaf", 0.8)):
        for dx in rng.uniform(-0.6, 0.6, 2):
            item.disc(material, dx, y, 0.55 - 0.3 * (y - 0.4), 0.5 - 0.4 * (y - 0.4))
    item.cast(-0.8, 1.1, -0.3, 0.6)


def street_lamp(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    """A lamp post whose arm reaches over the road."""
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
    """One or two signs on a post: round, triangular, square, diamond or octagonal."""
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
    """A large board on two posts."""
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
    """A litter bin; it is labelled 255 like every object outside the 19 classes."""
    item = Item(canvas, x, z)
    tall = rng.uniform(0.9, 1.2)
    item.face("bin", [(-0.25, 0), (0.25, 0), (0.32, tall), (-0.32, tall)])
    item.rect("bin", -0.36, 0.36, tall, tall + 0.12, 0.6)
    item.cast(-0.3, 0.5, -0.1, 0.4)
