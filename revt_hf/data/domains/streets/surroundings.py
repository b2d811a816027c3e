"""Sky, ground, plants, and the buildings, walls and fences at the sides of a street."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from revt_hf.data.domains.streets.canvas import FACING, GROUND, Canvas, Floats, Item, box

SIDES = (-1, 1)


@dataclass(frozen=True)
class GroundPlan:
    """Edges of the ground in metres: x of the (left, right) side, widths, z of a cross street."""

    road: tuple[float, float]
    verge: Floats  # widths (2,)
    paving: Floats
    front: tuple[float, float]  # where buildings, walls and fences stand
    crossing: tuple[float, float] | None
    lanes: tuple[float, ...]  # the lines between lanes


def tree(canvas: Canvas, rng: Generator, x: float, z: float, size: float = 1.0) -> None:
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
    crown = (("dark leaf", 4, -0.35), ("leaf", 5, 0.15), ("light leaf", 3, 0.5))
    for material, most, drop in crown:
        count = most if full else 1
        spots = rng.normal(0.0, 1.0, (count, 2)) * (0.45 * wide, 0.45)
        shrink, x0 = (0.7, -0.3 * wide) if material == "light leaf" else (1.0, 0.0)
        for (dx, dy), radius in zip(spots, rng.uniform(0.55, 0.9, count) * wide, strict=True):
            item.disc(material, x0 + dx, tall + drop + dy, radius * shrink, radius * 0.8 * shrink)


def bush(canvas: Canvas, rng: Generator, x: float, z: float) -> None:
    item = Item(canvas, x, z, size=rng.uniform(0.6, 1.3))
    if not item.in_view(2.0):
        return
    for material, y in (("dark leaf", 0.4), ("leaf", 0.55), ("light leaf", 0.8)):
        for dx in rng.uniform(-0.6, 0.6, 2):
            item.disc(material, dx, y, 0.55 - 0.3 * (y - 0.4), 0.5 - 0.4 * (y - 0.4))
    item.cast(-0.8, 1.1, -0.3, 0.6)


def sky(canvas: Canvas, rng: Generator) -> None:
    """Sky with clouds over the whole image; the ground is drawn over it."""
    high, wide = canvas.shape
    surface = canvas.add("air", canvas.items, 1.0, FACING, (0.0, 0.0, 0.0))
    canvas.fill(box(0, wide, 0, high), surface)
    canvas.items += 1
    for _ in range(int(rng.integers(0, 6))):
        cloud = Item(canvas, rng.uniform(-150, 150), 160.0, size=rng.uniform(0.5, 1.6))
        cloud.x += 0.4 * cloud.x
        y = rng.uniform(20, 90)
        for dx in rng.uniform(-14, 14, 5):
            cloud.disc("cloud", dx, y + rng.uniform(-1.5, 1.5), rng.uniform(6, 13), 3.2)


def skyline(canvas: Canvas, rng: Generator, city: float) -> None:
    for z in (170.0, 130.0):
        for x in np.arange(-190.0, 190.0, 20.0):
            if rng.random() < city:
                block = Item(canvas, x + rng.uniform(-5, 5), z)
                half, tall = rng.uniform(6, 13), rng.uniform(6, 26)
                block.rect("gable", -half, half, 0, tall)
                grid = np.mgrid[-half + 1.5 : half - 2 : 3.5, 2.0 : tall - 2 : 4.0]
                low = grid.reshape(2, -1).T[:, None]
                if low.size and z < 150:
                    block.face("window", low + box(0, 1.6, 0, 2.0))
            else:
                wood = Item(canvas, x, z)
                wood.disc("dark leaf", 0.0, 2.0, rng.uniform(11, 17), rng.uniform(4, 9))


def ground(canvas: Canvas, plan: GroundPlan, rng: Generator) -> None:
    """Grass to the horizon, then road, pavements, the cross street and the markings."""
    camera = canvas.camera
    land = Item(canvas, 0.0, 0.0)
    surface = canvas.add("grass", land.number, 1.0, GROUND, camera.ground)
    top = camera.horizon + camera.focal * camera.height / 400.0
    canvas.fill(box(0, canvas.shape[1], top, canvas.shape[0]), surface)
    for _ in range(14):
        x, z = rng.uniform(-30, 30), rng.uniform(5, 40)
        patch = np.array([(0, 0), (1.6, 0.4), (2.0, 1.6), (0.4, 1.4)]) * rng.uniform(0.6, 2.0)
        land.flat("tuft", patch + np.array([x, z]))
    street = Item(canvas, 0.0, 0.0)

    def strip(material: str, x0: float, x1: float) -> None:
        street.flat(material, [(x0, 0.8), (x0, 100.0), (x1, 100.0), (x1, 0.8)])

    for side, sign in enumerate(SIDES):
        edge = plan.road[side]
        inner = edge + sign * plan.verge[side]
        strip("paving", inner, inner + sign * plan.paving[side])
        strip("kerb", edge, edge + sign * 0.18)
    strip("asphalt", *plan.road)
    if plan.crossing is not None:
        near, far = plan.crossing
        for material, z0, z1 in (("paving", near - 2, far + 2), ("asphalt", near, far)):
            for sign, edge in zip(SIDES, plan.road, strict=True):
                street.flat(material, box(edge, 70 * sign, z0, z1))
    _markings(street, plan, rng)


def _markings(street: Item, plan: GroundPlan, rng: Generator) -> None:
    dash, gap = rng.uniform(2.0, 4.0), rng.uniform(2.0, 5.0)
    starts = np.arange(rng.uniform(1.0, 4.0), 80.0, dash + gap)
    if plan.crossing is not None:
        starts = starts[(starts + dash < plan.crossing[0] - 4) | (starts > plan.crossing[1] + 4)]
    for x in plan.lanes:
        dashes = np.stack([0 * starts, starts], axis=1)[:, None]
        street.flat("marking", box(x - 0.09, x + 0.09, 0, dash) + dashes)
    if rng.random() < 0.5:
        for x in (plan.road[0] + 0.35, plan.road[1] - 0.35):
            street.flat("marking", [(x, 0.8), (x + 0.14, 0.8), (x + 0.14, 80), (x, 80)])
    if plan.crossing is not None and rng.random() < 0.75:
        bars = np.arange(plan.road[0] + 0.5, plan.road[1] - 0.6, 1.1)
        offset = np.stack([bars, np.full_like(bars, plan.crossing[0] - 3.0)], axis=1)
        street.flat("marking", box(0, 0.55, 0, 2.6) + offset[:, None])


def frontage(canvas: Canvas, plan: GroundPlan, side: int, city: float, rng: Generator) -> None:
    """One side of the street, from far to near; ``city`` is the share of it that is built up."""
    stretches = []
    z = rng.uniform(-6.0, 1.0)
    while z < 75:
        built = rng.random() < city
        length = rng.uniform(8.0, 18.0) if built else rng.uniform(9.0, 17.0)
        stretches.append((z, z + length, built))
        z += length + (rng.uniform(2.0, 6.0) if rng.random() < 0.25 else 0.0)
    for near, far, built in reversed(stretches):
        cross = plan.crossing
        if cross is None or near >= cross[1] + 2 or far <= cross[0] - 2:
            draw = _building if built else _green
            draw(canvas, rng, SIDES[side], plan.front[side], near, far)


def _windows(z0: float, z1: float, tall: float, rng: Generator) -> Floats:
    """Window corners (M, 4, 2) as (along, y) on a wall from z0 to z1."""
    storey, pitch = rng.uniform(2.8, 3.6), rng.uniform(2.0, 3.4)
    wide, high = pitch * rng.uniform(0.4, 0.68), storey * rng.uniform(0.45, 0.62)
    along = np.arange(z0 + 0.5 * (pitch - wide) + 0.2, z1 - wide - 0.2, pitch)
    up = np.arange(storey + 0.7, tall - high - 0.5, storey)
    if rng.random() < 0.4:
        up = np.append(up, 1.0)
    corner = np.stack(np.meshgrid(along, up), axis=-1).reshape(-1, 1, 2)
    return np.asarray(corner + box(0, wide, 0, high), dtype=np.float64)


def _building(
    canvas: Canvas, rng: Generator, sign: int, front: float, near: float, far: float
) -> None:
    item = Item(canvas, front + sign * rng.uniform(0.0, 1.2), 0.0)
    tall = rng.uniform(5.0, 9.0) if rng.random() < 0.45 else rng.uniform(9.0, 24.0)
    deep = sign * rng.uniform(8.0, 14.0)
    gable = [(0.0, 0.0), (deep, 0.0), (deep, tall), (0.0, tall)]
    pitched = tall < 12 and rng.random() < 0.7
    near = max(near, 0.9)
    if pitched:
        ridge = tall + rng.uniform(1.8, 3.5)
        item.side("roof", 0.0, box(near, far, tall, ridge), 0.85)
        gable = [*gable[:3], (deep / 2, ridge + 0.5), gable[3]]
    item.face("gable", gable, 0.95, near)
    if rng.random() < 0.6:
        panes = _windows(1.0, abs(deep) - 1, tall, rng) * (sign, 1)
        if panes.size:
            item.face("window", panes, 0.9, near)
    item.side("facade", 0.0, box(near, far, 0, tall), 0.82)
    panes = _windows(near, far, tall, rng)
    lit = rng.random(len(panes)) < 0.3
    for material, chosen in (("window", panes[~lit]), ("lit window", panes[lit])):
        if chosen.size:
            item.side(material, 0.0, chosen, 0.9)
    if not pitched:
        item.side("roof", 0.0, box(near, far, tall - 0.5, tall), 0.8)
    if rng.random() < 0.35 and far - near > 5:
        item.side("shopfront", 0.0, box(near + 0.8, far - 0.8, 0.3, 2.5), 0.9)
        item.side("awning", -sign * 0.5, box(near + 0.8, far - 0.8, 2.4, 3.1), 1.0)


def _green(
    canvas: Canvas, rng: Generator, sign: int, front: float, near: float, far: float
) -> None:
    kind = rng.random()
    for z in np.sort(rng.uniform(near, far, int(rng.integers(1, 3))))[::-1]:
        tree(canvas, rng, front + sign * rng.uniform(2.5, 9.0), max(z, 3.0), 1.3)
    near = max(near, 0.9)
    item = Item(canvas, front, 0.0)
    if kind < 0.42:
        tall = rng.uniform(1.6, 3.0)
        item.face("masonry", box(0, 0.6 * sign, 0, tall), 1, near)
        item.side("masonry", 0.0, box(near, far, 0, tall), 0.88)
        item.side("coping", 0.0, box(near, far, tall, tall + 0.16), 1.0)
    elif kind < 0.84:
        tall, pitch = rng.uniform(1.2, 2.0), rng.uniform(0.5, 0.8)
        item.side("gap", 0.0, box(near, far, 0, tall - 0.1))
        posts = np.arange(near, far - 0.3, pitch)
        picket = np.array([(0, 0), (0.28, 0), (0.28, tall), (0.14, tall + 0.2), (0, tall)])
        item.side("picket", 0.0, picket + np.stack([posts, 0 * posts], axis=1)[:, None], 0.9)
        for y in (0.25 * tall, 0.75 * tall):
            item.side("picket", 0.0, box(near, far, y, y + 0.16), 0.8)
    else:
        for z in np.arange(far, near, -2.0):
            bush(canvas, rng, front, z)
