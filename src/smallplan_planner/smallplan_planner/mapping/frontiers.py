"""Frontiers: where known free space ends at unknown space that the robot could go and look at.

Frontier cells are clustered per room, specks and what can't be reached are dropped, and a frontier keeps
its number while it moves with the edge of the known map. Nothing here knows objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from smallplan_planner.mapping.occupancy import (
    FREE,
    UNKNOWN,
    BoolArray,
    CellArray,
    DistanceField,
    IntArray,
    OccupancyGrid,
    nearest_to,
    window_of,
)
from smallplan_planner.mapping.rooms import FOUR, Segmentation, resample

MIN_LENGTH = 0.4  # m of edge; shorter ones are gaps between rays, not something to explore
MIN_OPENING_LENGTH = 0.2  # m, in an opening, which may be seen at a sharp angle
MIN_POCKET_AREA = 0.15  # m2 of hidden floor; a smaller shadow behind a leg or a corner is not worth a trip
APPROACH = 0.8  # m around a frontier's middle in which a cell to stand on is looked for
ARRIVED = 0.2  # m from a frontier's point at which the robot is there
SAME_FRONTIER = 1.0  # m that a frontier's point may move between updates and still be the same one

Cells = tuple[CellArray, CellArray]
"""Rows (N,) and columns (N,)."""
EIGHT = np.ones((3, 3), dtype=bool)


class FrontierCluster(NamedTuple):
    """One frontier: a stretch of the edge between known free and unknown space."""

    number: int  # stable across updates, never reused
    room: int  # number of the room that it is seen from
    cell: tuple[int, int]  # (row, col) of a reachable cell near its middle
    position: tuple[float, float]  # world (x, y) of that cell
    leads_out: bool  # beyond an opening of the room; False: within the room
    length: float  # m of edge
    distance: float  # m of path from the robot to `cell`


class FrontierTracker:
    """Finds the frontiers of one map after the other; its state is the previous frontiers and the last number."""

    def __init__(self) -> None:
        self._last_number = 0
        self._previous: tuple[FrontierCluster, ...] = ()
        self._exhausted: BoolArray | None = None  # (H, W) edge cells that going there did not resolve
        self._exhausted_grid: OccupancyGrid | None = None

    def update(
        self,
        grid: OccupancyGrid,
        rooms: Segmentation,
        field: DistanceField,
        covered: BoolArray | None = None,  # (H, W) cells under known furniture: not seen, yet nothing to explore
        scanned_from: tuple[float, float] | None = None,  # where the robot has just looked all around
    ) -> tuple[FrontierCluster, ...]:
        """The frontiers of this map, by number.

        A frontier that is still there after the robot has looked all around from its very point can't be
        resolved by going there: its cells are ignored from then on.
        """
        edge = frontier_cells(grid, covered)
        if self._exhausted is not None and self._exhausted_grid is not None:
            self._exhausted = resample(self._exhausted, self._exhausted_grid, grid)
            edge &= ~self._exhausted
        candidates = []
        for cluster, stretch in _clusters(grid, rooms, field, edge):
            if scanned_from is not None and math.dist(cluster.position, scanned_from) <= ARRIVED:
                if self._exhausted is None:
                    self._exhausted = np.zeros(grid.shape, dtype=bool)
                self._exhausted[stretch] = True
            else:
                candidates.append(cluster)
        self._exhausted_grid = grid
        numbers = self._match(candidates)
        found = []
        for index in sorted(range(len(candidates)), key=lambda i: (candidates[i].distance, candidates[i].position)):
            number = numbers.get(index)
            if number is None:
                self._last_number += 1
                number = self._last_number
            found.append(candidates[index]._replace(number=number))
        self._previous = tuple(sorted(found, key=lambda frontier: frontier.number))
        return self._previous

    def _match(self, candidates: Sequence[FrontierCluster]) -> dict[int, int]:
        """Index of a candidate -> number of the previous frontier that it continues: same room, nearest first."""
        pairs = []
        for index, new in enumerate(candidates):
            for old in self._previous:
                gap = math.dist(new.position, old.position)
                if new.room == old.room and gap <= SAME_FRONTIER:
                    pairs.append((gap, old.number, index))
        numbers: dict[int, int] = {}
        for _, number, index in sorted(pairs):
            if index not in numbers and number not in numbers.values():
                numbers[index] = number
        return numbers


def frontier_cells(grid: OccupancyGrid, covered: BoolArray | None = None) -> BoolArray:
    """(H, W): known free cells beside (4-neighbours) a pocket of unknown floor that is worth seeing.

    Beyond the edge of the grid everything is unknown: maps are often cropped to what has been seen.
    """
    unknown = grid.data == UNKNOWN
    if covered is not None:
        unknown &= ~covered
    window = window_of(~unknown)  # all around it is one pocket, however much of it the grid covers
    inside = unknown[window]
    around = np.ones((inside.shape[0] + 2, inside.shape[1] + 2), dtype=bool)
    around[1:-1, 1:-1] = inside
    pockets, _ = ndimage.label(around, FOUR, output=np.intp)  # as numpy counts and takes
    large = np.bincount(pockets.ravel()) * grid.resolution**2 >= MIN_POCKET_AREA
    large[0] = False
    large[pockets[0, 0]] = True
    worth = large.take(pockets)
    beside = worth[:-2, 1:-1] | worth[2:, 1:-1] | worth[1:-1, :-2] | worth[1:-1, 2:]
    edge = np.zeros(grid.shape, dtype=bool)
    edge[window] = beside & (grid.data[window] == FREE)
    return edge


def _clusters(
    grid: OccupancyGrid, rooms: Segmentation, field: DistanceField, edge: BoolArray
) -> list[tuple[FrontierCluster, Cells]]:
    """The frontiers along an edge (H, W), without numbers yet (0), each with its edge cells."""
    flat = np.flatnonzero(edge)
    if flat.size == 0:
        return []
    rows, cols = np.divmod(flat, edge.shape[1])
    top, left = int(rows[0]), int(cols.min())
    window = edge[top : rows[-1] + 1, left : cols.max() + 1]
    stretches, _ = ndimage.label(window, EIGHT, output=np.intp)
    room_of, out = rooms.labels.ravel().take(flat), rooms.leads_out.ravel().take(flat)
    # One cluster per connected stretch, room and side of an opening.
    codes = (stretches[rows - top, cols - left] * (int(room_of.max()) + 1) + room_of) * 2 + out
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(order)]
    found = []
    for start, end in pairwise(starts):
        first = order[start]
        leads_out, room = bool(out[first]), int(room_of[first])
        length = (end - start) * grid.resolution
        if room == 0 or length < (MIN_OPENING_LENGTH if leads_out else MIN_LENGTH) - 1e-9:
            continue
        members = order[start:end]
        stretch = (rows[members], cols[members])
        cell = _standing_point(grid, rooms, field, stretch, room)
        if cell is not None:
            distance = field.distances.item(cell)
            found.append((FrontierCluster(0, room, cell, grid.to_world(*cell), leads_out, length, distance), stretch))
    return found


def _standing_point(
    grid: OccupancyGrid, rooms: Segmentation, field: DistanceField, stretch: Cells, room: int
) -> tuple[int, int] | None:
    """The reachable cell nearest to the middle of a stretch of edge cells, None if it can't be gone to.

    Where the stretch itself is too close to an obstacle to stand on, it is the nearest cell of the room from
    which its middle is in sight.
    """
    rows, cols = stretch
    middle = nearest_to(stretch, (rows.sum() / rows.size, cols.sum() / cols.size))
    if field.distances[middle] < np.inf:
        return middle
    reachable = field.distances[stretch] < np.inf
    near = (rows[reachable], cols[reachable])
    if near[0].size == 0:
        flat = grid.cells_within(*grid.to_world(*middle), APPROACH)
        flat = flat[np.isfinite(field.distances.ravel()[flat]) & (rooms.labels.ravel()[flat] == room)]
        flat = flat[_in_sight(grid, np.stack(np.divmod(flat, grid.shape[1]), axis=1), np.array(middle))]
        if flat.size == 0:
            return None
        near = np.divmod(flat, grid.shape[1])
    return nearest_to(near, middle)


def _in_sight(grid: OccupancyGrid, cells: IntArray, target: IntArray) -> BoolArray:
    """(N,): whether the straight line from each cell (N, 2) to the target crosses known free cells alone."""
    steps = np.linspace(0.0, 1.0, int(APPROACH / grid.resolution * 2) + 1)[:, None, None]
    between = np.rint(cells + steps * (target - cells)).astype(np.int_)
    seen: BoolArray = (grid.data[between[..., 0], between[..., 1]] == FREE).all(axis=0)
    return seen
