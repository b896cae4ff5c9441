"""What furniture, objects and doors look like as bodies: boxes, with doors that turn and drawers that slide.

A body's frame has its origin in the centre of its bounding box while it is closed; its front looks along +y. Joints
are closed at 0 and open at their upper limit. A container is hollow, and says where in it things can stand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smallplan_planner.scene_graph import Point
from smallplan_training.simulators.house.house import Point2
from smallplan_training.simulators.igibson.meshes import Block, block_between

OPEN_ANGLE = math.pi / 2
DOOR_HEIGHT = 2.05
JAMB = 0.03
PANEL = 0.04
BOARD = 0.02
"""m, what furniture is made of; thinner where a piece is small."""
GAP = 0.35
"""Around doors and drawers, in thicknesses of a board."""
SINGLE_DOOR = 0.6
"""m: wider furniture has two doors."""
SHELF_SPACING = 0.5
UNDIVIDED = ("closet", "wardrobe", "dishwasher", "oven", "washing machine", "dryer", "basket", "box", "freezer")
"""Containers whose kind ends in one of these words have no shelves."""
DRAWER_HEIGHT = 0.25
DRAWER_TRAVEL = 0.85
TALLEST_DRAWERS = 0.7
"""m: the robot looks into a drawer from above; higher pieces have doors."""
DRAWERS = ("drawer", "nightstand", "side table", "console table", "coffee table", "dressing table", "desk", "chest")
"""Containers whose kind ends in one of these words have a drawer, all others have doors."""


@dataclass(frozen=True)
class Part:
    """A link that moves against the body. `blocks` are in the joint's frame, `origin` is in the body's."""

    name: str
    joint: str
    sliding: bool
    origin: Point
    axis: Point
    upper: float  # rad or m
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Spot:
    """A level place to put things, in the body's frame."""

    z: float
    low: Point2
    high: Point2
    headroom: float = math.inf


@dataclass(frozen=True)
class Body:
    size: Point
    base: tuple[Block, ...]
    parts: tuple[Part, ...] = ()
    inside: tuple[Spot, ...] = ()

    @property
    def top(self) -> Spot:
        """The place on top of it."""
        w, d, h = self.size
        return Spot(h / 2, (-w / 2, -d / 2), (w / 2, d / 2))


def solid(size: Point) -> Body:
    """One box."""
    return Body(size, (Block((0.0, 0.0, 0.0), size),))


def container(size: Point, kind: str) -> tuple[Body, ...]:
    """A hollow piece with a drawer or with doors, whichever suits its kind and height, as it can be built.

    Returns: one body for each way it can open; they have the same room inside.
    """
    if kind.endswith(DRAWERS) and size[2] <= TALLEST_DRAWERS:
        return (_with_drawer(size),)
    shelves = not kind.endswith(UNDIVIDED)
    if size[0] > SINGLE_DOOR:
        return (_with_doors(size, shelves, ("left", "right")),)
    return (_with_doors(size, shelves, ("left",)), _with_doors(size, shelves, ("right",)))


def _with_doors(size: Point, shelves: bool, hinges: Sequence[str]) -> Body:
    w, d, h = size
    t = _board(size)
    x, z = w / 2, h / 2
    back, front = -d / 2, d / 2 - t
    count = max(1, round((h - 2 * t) / SHELF_SPACING)) if shelves else 1
    step = (h - t) / count
    levels = [-z + index * step for index in range(count)]  # the underside of each shelf, the bottom included
    boards = [
        block_between((-x, back, -z), (-x + t, front, z)),
        block_between((x - t, back, -z), (x, front, z)),
        block_between((-x + t, back, -z), (x - t, back + t, z)),
        block_between((-x + t, back + t, z - t), (x - t, front, z)),
        *(block_between((-x + t, back + t, level), (x - t, front, level + t)) for level in levels),
    ]
    inside = tuple(
        Spot(level + t, (-x + 1.5 * t, back + 1.5 * t), (x - 1.5 * t, front - 0.5 * t), step - t) for level in levels
    )
    return Body(size, tuple(boards), tuple(_leaf(size, hinge, len(hinges)) for hinge in hinges), inside)


def _leaf(size: Point, hinge: str, leaves: int) -> Part:
    """A door of a container; there is a gap all around it, because physics keeps bodies a little apart."""
    w, d, h = size
    t = _board(size)
    gap = GAP * t
    side = -1 if hinge == "left" else 1
    far = -side * (w / leaves - 2 * gap)
    reach = (min(0.0, far), max(0.0, far))
    return Part(
        name=f"{hinge}_door",
        joint=hinge,
        sliding=False,
        origin=(side * (w / 2 - gap), d / 2, 0.0),
        axis=(0.0, 0.0, float(-side)),
        upper=OPEN_ANGLE,
        blocks=(block_between((reach[0], -t, gap - h / 2), (reach[1], 0.0, h / 2 - gap)),),
    )


def _with_drawer(size: Point) -> Body:
    """One drawer right under the top, so that it is looked into from above; the rest of the piece is solid."""
    w, d, h = size
    t = _board(size)
    x, back, front, top = w / 2, -d / 2, d / 2 - t, h / 2 - t
    height = min(DRAWER_HEIGHT, h - 2 * t)
    floor, gap = top - height, GAP * t
    housing = (
        block_between((-x, back, -h / 2), (x, d / 2, floor)),
        block_between((-x, back, top), (x, d / 2, h / 2)),
        block_between((-x, back, floor), (-x + t, front, top)),
        block_between((x - t, back, floor), (x, front, top)),
        block_between((-x + t, back, floor), (x - t, back + t, top)),
    )
    inner, rim = x - (1 + GAP) * t, floor + height / 2
    start = back + (1 + GAP) * t
    tray = (
        block_between((-x + gap, front, floor + gap), (x - gap, d / 2, top - gap)),
        block_between((-inner, start, floor + gap), (inner, front, floor + t)),
        block_between((-inner, start, floor + t), (-inner + t, front, rim)),
        block_between((inner - t, start, floor + t), (inner, front, rim)),
        block_between((-inner + t, start, floor + t), (inner - t, start + t, rim)),
    )
    drawer = Part("drawer", "drawer", True, (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), DRAWER_TRAVEL * d, tray)
    spot = Spot(
        floor + t, (-inner + 1.5 * t, start + 1.5 * t), (inner - 1.5 * t, front - 0.5 * t), height - t - 0.25 * t
    )
    return Body(size, housing, (drawer,), (spot,))


def _board(size: Point) -> float:
    return min(BOARD, 0.08 * min(size))


def locked_door(width: float, thickness: float) -> Body:
    """A door that fills its opening in a wall of this thickness and does not move."""
    return solid((width, thickness, DOOR_HEIGHT))


def hinged_door(width: float, thickness: float, hinge: int, side: int) -> Body:
    """A door leaf in its frame.

    Args:
        width: of the opening, along x.
        thickness: of the wall.
        hinge: -1 or 1, at which end the hinge is.
        side: -1 or 1, towards which side (y) it opens.
    """
    half, face, clear = width / 2, thickness / 2, width - 2 * JAMB
    panel = min(PANEL, 0.8 * thickness)
    bottom, top = -DOOR_HEIGHT / 2, DOOR_HEIGHT / 2
    frame = (
        block_between((-half, -face, bottom), (-half + JAMB, face, top)),
        block_between((half - JAMB, -face, bottom), (half, face, top)),
    )
    reach = (0.0, clear - 0.01) if hinge < 0 else (0.01 - clear, 0.0)
    depth = (-panel, 0.0) if side > 0 else (0.0, panel)
    leaf = Part(
        name="panel",
        joint="hinge",
        sliding=False,
        origin=(hinge * clear / 2, side * face, 0.0),
        axis=(0.0, 0.0, float(-hinge * side)),
        upper=OPEN_ANGLE,
        blocks=(block_between((reach[0], depth[0], bottom + 0.01), (reach[1], depth[1], top - 0.01)),),
    )
    return Body((width, thickness, DOOR_HEIGHT), frame, (leaf,))
