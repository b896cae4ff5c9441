"""Which room an object is in, and where the robot stands to use it.

An object's room is that of an anchor: the point of free floor found nearest to its footprint when it was
first seen, without crossing a wall. The anchor stays, so the object does not flip between rooms as the map
around it fills in, yet it follows when a room is split or merged. What is on or in furniture shares the
furniture's room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smallplan_planner.mapping.bits import BitMasks
from smallplan_planner.mapping.detections import Detection
from smallplan_planner.mapping.occupancy import (
    OCCUPIED,
    BoolArray,
    CellArray,
    DistanceField,
    OccupancyGrid,
    nearest_of,
    nearest_to,
)
from smallplan_planner.mapping.rooms import Segmentation

REACH = 1.0  # m from an object within which `navigate` ends
ANCHOR_REACH = 1.5  # m around a footprint in which its floor is looked for
OVERLAP = 0.1  # m by which a footprint may reach into a wall
MOVED = 0.3  # m after which an object has to be put into a room anew
MIN_FURNITURE_AREA = 0.05  # m2 of footprint; what is smaller hides no floor worth exploring

_NO_CELLS: CellArray = np.zeros(0, dtype=np.intp)


class Placement(NamedTuple):
    """Where one object is."""

    room: int  # number of its room
    parent: str  # key of what it is on or in, '' = none that is known
    approach: tuple[int, int] | None  # (row, col) to go to, None when it can't be reached


@dataclass(frozen=True)
class _Anchor:
    """Where an object's room was decided, and where the object was then."""

    floor: tuple[float, float]
    position: tuple[float, float]


@dataclass(frozen=True)
class _Outline:
    """The cells of one grid that a detection is about."""

    detection: Detection
    under: CellArray  # that its footprint covers, none for what hides no floor worth exploring
    near: CellArray  # within REACH of its footprint


class ObjectPlacer:
    """Places the objects of one map after the other; its state is the anchors, by detection key."""

    def __init__(self) -> None:
        self._anchors: dict[str, _Anchor] = {}
        self._outlines: dict[str, _Outline] = {}
        self._floor_cells: dict[str, tuple[int, int]] = {}  # of the anchors, on the grid of the outlines
        self._outlined: OccupancyGrid | None = None
        self._by_key: dict[str, Detection] = {}
        self._parents: dict[str, str] = {}

    def update(
        self, grid: OccupancyGrid, rooms: Segmentation, field: DistanceField, detections: Sequence[Detection]
    ) -> list[Placement]:
        """The placement of each detection on this map."""
        self._grid, self._rooms, self._field = grid, rooms, field
        self._by_key = {detection.key: detection for detection in detections}
        self._parents = _parents(self._by_key)
        self._room_cache: dict[str, int] = {}
        outlines = self._outlines_on(grid)
        self.covered: BoolArray = np.zeros(grid.shape, dtype=bool)
        """(H, W): cells under known furniture."""
        for outline in outlines:
            if outline.under.size:
                self.covered.ravel()[outline.under] = True

        numbers = {detection.key: self._room(detection) for detection in detections}
        approaches = self._approaches(outlines, numbers)
        found = []
        for key, number in numbers.items():
            parent = self._parents.get(key, "")  # in the same room
            found.append(Placement(number, parent, approaches[key] or approaches.get(parent)))
        return found

    def _outlines_on(self, grid: OccupancyGrid) -> list[_Outline]:
        """The outline of each detection, kept while the detection and the place of the grid's cells are the same."""
        if self._outlined is None or not grid.has_cells_of(self._outlined):
            self._outlines, self._floor_cells, self._outlined = {}, {}, grid
        for key, detection in self._by_key.items():
            kept = self._outlines.get(key)
            if kept is None or kept.detection is not detection:
                x, y, _ = detection.position
                hides = detection.size[0] * detection.size[1] >= MIN_FURNITURE_AREA
                under = grid.cells_within(x, y, grid.resolution / 2, detection.footprint) if hides else _NO_CELLS
                near = grid.cells_within(x, y, REACH, detection.footprint)
                self._outlines[key] = _Outline(detection, under, near)
        return [self._outlines[key] for key in self._by_key]

    def _approaches(self, outlines: Sequence[_Outline], rooms: Mapping[str, int]) -> dict[str, tuple[int, int] | None]:
        """For each detection, by key, the reachable cell near it that the robot is at soonest.

        Cells of another room than its own do not count: they are near through a wall.
        """
        labels, distances = self._rooms.labels, self._field.distances
        within = {number: np.full(distances.shape, np.inf) for number in set(rooms.values())}
        for number, paths in within.items():
            np.copyto(paths, distances, where=labels == number)  # faster than np.where
        return {
            key: nearest_of(within[number], outline.near) for outline, (key, number) in zip(outlines, rooms.items())
        }

    def _room(self, detection: Detection) -> int:
        """The number of a detection's room: that of the outermost thing that it is on or in."""
        while parent := self._parents.get(detection.key, ""):
            detection = self._by_key[parent]
        known = self._room_cache.get(detection.key)
        if known is None:
            known = self._room_cache[detection.key] = self._anchored_room(detection)
        return known

    def _anchored_room(self, detection: Detection) -> int:
        x, y, _ = detection.position
        anchor = self._anchors.get(detection.key)
        if anchor is None or math.dist(anchor.position, (x, y)) > MOVED:
            floor = self._floor_beside(detection)
            if floor is None:
                return self._rooms.room_at(*self._clamped(x, y))
            anchor = self._anchors[detection.key] = _Anchor(floor, (x, y))
            self._floor_cells.pop(detection.key, None)
        cell = self._floor_cells.get(detection.key)
        if cell is None:
            cell = self._floor_cells[detection.key] = self._clamped(*anchor.floor)
        return self._rooms.room_at(*cell)

    def _floor_beside(self, detection: Detection) -> tuple[float, float] | None:
        """The free floor nearest to a detection's footprint that no wall separates from it, None if there is none."""
        grid = self._grid
        x, y, _ = detection.position
        own = self._clamped(x, y)
        if self._rooms.labels[own]:
            return grid.to_world(*own)
        margin = int((math.hypot(*detection.size[:2]) / 2 + ANCHOR_REACH) / grid.resolution) + 1
        corner = (max(own[0] - margin, 0), max(own[1] - margin, 0))
        window = np.s_[corner[0] : own[0] + margin + 1, corner[1] : own[1] + margin + 1]
        floor = self._rooms.labels[window] > 0
        wall = (grid.data[window] == OCCUPIED) & ~self.covered[window]
        # A footprint may reach a little into the wall behind it: start from what is surely on this side.
        shrunk = [side - min(2 * OVERLAP, side / 2) for side in detection.size[:2]]
        start = grid.cells_within(x, y, 0.0, (shrunk[0], shrunk[1], detection.yaw))
        region = np.zeros(floor.shape, dtype=bool)
        region[own[0] - corner[0], own[1] - corner[1]] = True
        rows, cols = np.divmod(start, grid.shape[1])
        region[rows - corner[0], cols - corner[1]] = True
        rows, cols = _first_reached(region, floor, ~wall).nonzero()
        if not rows.size:
            return None
        return grid.to_world(*self._best_floor(rows + corner[0], cols + corner[1], own))

    def _best_floor(self, rows: CellArray, cols: CellArray, middle: tuple[int, int]) -> tuple[int, int]:
        """One of some floor cells equally near to a footprint: in the room that has most of them.

        Of rooms with about as many it is the robot's, else the one that it is at soonest.
        """
        numbers = self._rooms.labels[rows, cols]
        votes = np.bincount(numbers)
        rivals = (votes * 2 >= votes.max()).nonzero()[0].tolist()
        chosen = rivals[0]
        if len(rivals) > 1:
            paths = self._field.distances[rows, cols]
            chosen = min(rivals, key=lambda n: (n != self._rooms.robot_room, float(paths[numbers == n].min()), n))
        mine = numbers == chosen
        return nearest_to((rows[mine], cols[mine]), middle)

    def _clamped(self, x: float, y: float) -> tuple[int, int]:
        """The cell of a point, or the nearest cell of the grid when it lies outside."""
        row, col = self._grid.to_cell(x, y)
        height, width = self._grid.shape
        return (min(max(row, 0), height - 1), min(max(col, 0), width - 1))


def _first_reached(region: BoolArray, goal: BoolArray, open_cells: BoolArray) -> BoolArray:
    """The cells of a goal that a region reaches first as it grows over open cells from neighbour to neighbour.

    All are (H, W); none is True where the goal is out of reach.
    """
    masks = BitMasks((region.shape[0], region.shape[1]))
    reached, goals, way = masks.pack(region), masks.pack(goal), masks.pack(open_cells)
    before = 0
    while not reached & goals and reached != before:
        before, reached = reached, reached | masks.grown(reached) & way
    return masks.unpack(reached & goals)


def _parents(by_key: dict[str, Detection]) -> dict[str, str]:
    """Key -> key of the parent, for those whose parent is known; things on each other in a circle have none."""
    parents = {key: item.parent for key, item in by_key.items() if item.parent in by_key and item.parent}
    circular = set()
    for key in parents:
        seen = []
        step = key
        while step in parents and step not in seen:
            seen.append(step)
            step = parents[step]
        if step in seen:
            circular.update(seen[seen.index(step) :])
    return {key: parent for key, parent in parents.items() if key not in circular}
