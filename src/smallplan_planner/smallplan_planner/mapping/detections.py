"""What perception tells the mapper: instances of objects, and openings with or without a door leaf.

Everything here is in the frame of the occupancy grid, in metres and radians. A detection's `key` is
perception's own, stable identity of the instance; the mapper only compares keys, it never sorts by them
and never shows them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from smallplan_planner.scene_graph import OpenState, Point

FARTHEST = 1e6  # m from the origin; no house is that large, so it is a mistake of perception
WIDEST = 50.0  # m between the jambs of an opening; likewise


@dataclass(frozen=True)
class Detection:
    """One object instance that has been recognised, in its latest state."""

    key: str  # perception's stable identity of the instance
    label: str
    position: Point  # centre
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)  # extent along its own x, y, z in m
    yaw: float = 0.0  # rad, of its x axis from the grid's
    state: OpenState = OpenState.NONE
    openable: bool = False
    parent: str = ""  # key of the furniture that it is on or in, '' = none
    relation: str = ""  # "on" | "in" | ''

    @property
    def footprint(self) -> tuple[float, float, float]:
        """The rectangle that it covers on the floor, centred on its position: (length, width, yaw)."""
        return (self.size[0], self.size[1], self.yaw)

    def is_usable(self) -> bool:
        """Whether its numbers are finite and on this map; what is not can't be put on it."""
        return _on_map(*self.position, *self.size, self.yaw)


@dataclass(frozen=True)
class DoorDetection:
    """One opening between two spaces, given by its jambs: the end points of the segment that it spans."""

    key: str  # perception's stable identity of the instance
    a: tuple[float, float]  # one jamb
    b: tuple[float, float]  # the other jamb
    state: OpenState = OpenState.CLOSED  # OPEN | CLOSED; a passage is always open
    openable: bool = True  # False: locked
    is_passage: bool = False  # without a leaf: it separates rooms, but is no Door of the scene graph

    @property
    def center(self) -> tuple[float, float]:
        return ((self.a[0] + self.b[0]) / 2, (self.a[1] + self.b[1]) / 2)

    @property
    def length(self) -> float:
        return math.hypot(self.b[0] - self.a[0], self.b[1] - self.a[1])

    def is_usable(self) -> bool:
        """Whether its numbers are finite and on this map; what is not can't be put on it."""
        return _on_map(*self.a, *self.b) and self.length <= WIDEST


def _on_map(*values: float) -> bool:
    return all(-FARTHEST < value < FARTHEST for value in values)  # False for NaN
