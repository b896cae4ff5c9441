"""Where objects come to rest: near where the house says, but standing on something and clear of each other.

A house only says what an object is on or in and roughly where; physics pushes apart what overlaps. All lengths are in
the frame of the piece (origin in the centre of its bounding box), objects stand parallel to it. Nothing is drawn at
random: the same things come to rest in the same places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smallplan_planner.scene_graph import Point
from smallplan_training.simulators.igibson.bodies import Spot

GAP = 0.008
"""m kept between two things."""
GRID = 0.03
"""m between the places that are tried."""
LIFT = 0.004
"""m: things start this high above what they stand on, and settle."""
SMALLER = (1.0, 0.75, 0.5, 0.35, 0.2)
"""How much an object is shrunk until it finds room in a container; never on top of something."""


@dataclass(frozen=True)
class Wanted:
    position: Point  # centre, in the piece's frame
    size: Point


@dataclass(frozen=True)
class Placed:
    position: Point  # centre, in the piece's frame
    size: Point
    turned: bool = False  # by a quarter turn: its width lies along y


@dataclass(frozen=True)
class _Taken:
    spot: Spot
    x: float
    y: float
    half: tuple[float, float]
    top: float


def stow(things: Sequence[Wanted], spots: Sequence[Spot]) -> list[Placed]:
    """A place for each thing: the nearest free one to where it is wanted, large things first.

    On an open surface that is full, things are put on others; in a container that is full they are shrunk.
    """
    taken: list[_Taken] = []
    order = sorted(range(len(things)), key=lambda index: -things[index].size[0] * things[index].size[1])
    placed = {index: _stow(things[index], spots, taken) for index in order}
    return [placed[index] for index in range(len(things))]


def _stow(thing: Wanted, spots: Sequence[Spot], taken: list[_Taken]) -> Placed:
    by_height = sorted(spots, key=lambda spot: abs(spot.z + thing.size[2] / 2 - thing.position[2]))
    enclosed = all(math.isfinite(spot.headroom) for spot in spots)
    for factor in SMALLER if enclosed else SMALLER[:1]:
        for spot in by_height:
            size, turned = _fitted(thing.size, spot, factor) if enclosed else (thing.size, False)
            extent = (size[1], size[0]) if turned else (size[0], size[1])
            free = _nearest_free(thing, extent, spot, taken)
            if free is not None:
                return _put(taken, spot, free, size, turned, spot.z)
    spot = by_height[0]
    size, turned = _fitted(thing.size, spot, SMALLER[-1]) if enclosed else (thing.size, False)
    extent = (size[1], size[0]) if turned else (size[0], size[1])
    x, y = _clamped(thing, extent, spot)
    under = [item.top for item in taken if item.spot == spot and _overlap(item, x, y, extent)]
    level = min(max(under, default=spot.z), spot.z + spot.headroom - size[2])
    return _put(taken, spot, (x, y), size, turned, level)


def _put(taken: list[_Taken], spot: Spot, at: tuple[float, float], size: Point, turned: bool, level: float) -> Placed:
    extent = (size[1], size[0]) if turned else (size[0], size[1])
    taken.append(_Taken(spot, at[0], at[1], (extent[0] / 2, extent[1] / 2), level + size[2]))
    return Placed((at[0], at[1], level + size[2] / 2 + LIFT), size, turned)


def _fitted(size: Point, spot: Spot, factor: float) -> tuple[Point, bool]:
    """The size, shrunk to what the spot has room for, and whether it fits better with a quarter turn."""
    room = (spot.high[0] - spot.low[0], spot.high[1] - spot.low[1])
    w, d = size[0] * factor, size[1] * factor
    h = min(size[2] * factor, spot.headroom - 2 * LIFT)

    def lost(a: float, b: float) -> float:
        return max(0.0, a - room[0]) + max(0.0, b - room[1])

    if lost(d, w) < lost(w, d):
        return (min(w, room[1]), min(d, room[0]), h), True
    return (min(w, room[0]), min(d, room[1]), h), False


def _clamped(thing: Wanted, extent: tuple[float, float], spot: Spot) -> tuple[float, float]:
    """Where it is wanted, moved so that it lies within the spot, or in its middle when it is too large."""
    found = []
    for axis in (0, 1):
        low, high = spot.low[axis] + extent[axis] / 2, spot.high[axis] - extent[axis] / 2
        middle = (spot.low[axis] + spot.high[axis]) / 2
        found.append(min(max(thing.position[axis], low), high) if low <= high else middle)
    return found[0], found[1]


def _nearest_free(
    thing: Wanted, extent: tuple[float, float], spot: Spot, taken: Sequence[_Taken]
) -> tuple[float, float] | None:
    """The free place that is nearest to the one wanted, None when the spot is full."""
    x, y = _clamped(thing, extent, spot)
    others = [item for item in taken if item.spot == spot]
    if not any(_overlap(item, x, y, extent) for item in others):
        return x, y
    axes = []
    for axis in (0, 1):
        low, high = spot.low[axis] + extent[axis] / 2, spot.high[axis] - extent[axis] / 2
        axes.append(np.arange(low, high + 1e-9, GRID) if low <= high else np.array([(low + high) / 2]))
    xs, ys = (values.ravel() for values in np.meshgrid(*axes))
    free = np.ones(len(xs), dtype=bool)
    for item in others:
        near_x = np.abs(xs - item.x) < item.half[0] + extent[0] / 2 + GAP
        free &= ~(near_x & (np.abs(ys - item.y) < item.half[1] + extent[1] / 2 + GAP))
    if not free.any():
        return None
    distance = np.where(free, np.hypot(xs - x, ys - y), np.inf)
    best = int(distance.argmin())
    return float(xs[best]), float(ys[best])


def _overlap(item: _Taken, x: float, y: float, extent: tuple[float, float]) -> bool:
    return abs(x - item.x) < item.half[0] + extent[0] / 2 + GAP and abs(y - item.y) < item.half[1] + extent[1] / 2 + GAP
