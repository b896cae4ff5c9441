"""Segmentation of known free space into rooms whose identity survives the growth of the map.

Free space is cut along the openings that perception has reported (doors and passages); what hangs together
after that is a room. Rooms are matched to those of the previous segmentation by overlap, so a room keeps
its number while it grows, when it is split (the larger part keeps it) and when two merge (the older stays).
Labels are (H, W) arrays of room numbers, 0 = no room. Nothing here knows objects or frontiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from smallplan_planner.mapping.detections import DoorDetection
from smallplan_planner.mapping.occupancy import (
    FREE,
    BoolArray,
    CellArray,
    DistanceField,
    OccupancyGrid,
    window_of,
)
from smallplan_planner.scene_graph import OpenState

MIN_ROOM_AREA = 0.6  # m2; a smaller glimpse beyond an opening is not a room yet
CUT_HALF_WIDTH = 0.75  # cells to each side of an opening's segment: no 4-connected path slips through
JAMB_MARGIN = 1.5  # cells by which a cut reaches into the jambs, whose cells may not be known yet
SIDE_REACH = 0.5  # m from an opening's segment within which its two sides are looked for
DOORWAY_DEPTH = 0.3  # m from an opening's segment that count as standing in it
ROBOT_REACH = 0.5  # m around the robot in which a free cell is taken as the one that it stands on

FOUR = ndimage.generate_binary_structure(2, 1)

LabelArray = NDArray[np.int32]
_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class Opening:
    """One opening on the grid: the rooms on its two sides, numbers, 0 = not a known room."""

    door: DoorDetection
    sides: tuple[int, int]

    @property
    def rooms(self) -> tuple[int, ...]:
        """The known rooms that it joins, the one seen first in front."""
        return tuple(sorted({room for room in self.sides if room}))


@dataclass(frozen=True)
class Segmentation:
    """Rooms on one grid."""

    labels: LabelArray  # (H, W) number of the room that a free cell belongs to, 0 for all other cells
    leads_out: BoolArray  # (H, W) free cells in, just before or beyond an opening to space that is no room yet
    openings: tuple[Opening, ...]  # in the order of the doors given
    robot_room: int  # number of the room that the robot is in
    numbers: tuple[int, ...]  # of the rooms, ascending, which is the order of first sight

    @cached_property
    def nearest(self) -> LabelArray:
        """(H, W): number of the room whose floor is nearest to each cell, never 0."""
        return _spread(self.labels)

    def room_at(self, row: int, col: int) -> int:
        """The room that a cell belongs to, or is nearest to when it is no floor of a room."""
        return self.labels.item(row, col) or self.nearest.item(row, col)

    def cells(self) -> dict[int, CellArray]:
        """Room number -> flat indices of its cells, in the order of `numbers`.

        The openings of a room to no room yet are left out, unless all that is known of it lies in them.
        """
        flat = np.flatnonzero((self.labels > 0) & ~self.leads_out)
        labels = self.labels.ravel().take(flat)
        found = {}
        for number in self.numbers:
            cells = flat[labels == number]
            found[number] = cells if cells.size else np.flatnonzero(self.labels == number)
        return found


class RoomSegmenter:
    """Segments one map after the other; its state is the previous segmentation and the last number given."""

    def __init__(self) -> None:
        self._last_number = 0
        self._memory: LabelArray | None = None  # (H, W) the last room that each cell was in, 0 = none
        self._memory_grid: OccupancyGrid | None = None

    def update(
        self, grid: OccupancyGrid, doors: Sequence[DoorDetection], robot_xy: tuple[float, float], field: DistanceField
    ) -> Segmentation:
        """Segment a grid. `field` holds path distances from the robot; new rooms are numbered nearest first.

        Raises ValueError when the robot is outside of the grid.
        """
        free = grid.data == FREE
        robot = _standing_cell(free, grid, robot_xy)
        free[robot] = True
        uncut = free.copy()
        for door in doors:
            cells = segment_cells(grid, door, CUT_HALF_WIDTH * grid.resolution, JAMB_MARGIN * grid.resolution)
            uncut.ravel()[cells] = False
        if not uncut.any():
            uncut[robot] = True

        parts, count = _parts(uncut)
        sides = [_sides(grid, door, parts) for door in doors]
        groups = _merge_across(sides, count)
        sides_of = [(_group_of(groups, one), _group_of(groups, other)) for one, other in sides]
        # What follows looks at the free cells alone, in one row: they are few beside those of the grid.
        floor = np.flatnonzero(free)
        group_of = groups.take(parts.ravel().take(floor))

        numbers = self._inherited(grid, floor, group_of)
        areas = np.bincount(group_of, minlength=count + 1) * grid.resolution**2
        large = {group for pair in sides_of for group in pair if group and areas[group] >= MIN_ROOM_AREA}
        robot_group = int(groups[parts[robot]]) or _nearest_label(floor, group_of, robot, grid.shape[1])
        new = (large | {robot_group}) - set(numbers)
        for group in sorted(new, key=lambda group: _sight_order(grid, floor[group_of == group], field, robot_xy)):
            self._last_number += 1
            numbers[group] = self._last_number
        return self._assemble(grid, floor, group_of, numbers, numbers[robot_group], doors, sides_of)

    def _inherited(self, grid: OccupancyGrid, floor: CellArray, group_of: LabelArray) -> dict[int, int]:
        """Group -> room number, for the groups that hold the larger part of a room known before.

        Where several such rooms have become one group, it is the oldest.
        """
        previous = self._remembered(grid).ravel().take(floor)
        width = int(previous.max()) + 1
        height = int(group_of.max()) + 1
        overlap = np.bincount(group_of * width + previous, minlength=height * width).reshape(height, width)
        numbers: dict[int, int] = {}
        for number in range(1, width):
            group = int(overlap[1:, number].argmax()) + 1
            if overlap[group, number]:
                numbers.setdefault(group, number)
        return numbers

    def _assemble(
        self,
        grid: OccupancyGrid,
        floor: CellArray,
        group_of: LabelArray,
        numbers: dict[int, int],
        robot_room: int,
        doors: Sequence[DoorDetection],
        sides_of: list[tuple[int, int]],
    ) -> Segmentation:
        """Labels from numbered groups. Groups without a number beyond an opening are annexes of its near side."""
        table, annexes = np.zeros((2, int(group_of.max()) + 1), dtype=np.int32)
        for group, number in numbers.items():
            table[group] = number
        for one, other in sides_of:
            for annex, home in ((one, other), (other, one)):
                if annex and home in numbers and annex not in numbers and not annexes[annex]:
                    annexes[annex] = numbers[home]
        labels_of = (table + annexes).take(group_of)  # no group has a number and is an annex
        labels: LabelArray = np.zeros(grid.shape, dtype=np.int32)
        labels.ravel()[floor] = labels_of
        _fill(labels, floor[labels_of == 0])
        leads_out = np.zeros(grid.shape, dtype=bool)
        leads_out.ravel()[floor[(annexes > 0).take(group_of)]] = True
        openings = []
        for door, (one, other) in zip(doors, sides_of):
            opening = Opening(door, (int(table[one]), int(table[other])))
            openings.append(opening)
            if 0 in opening.sides and (door.is_passage or door.state is not OpenState.CLOSED):
                cells = segment_cells(grid, door, DOORWAY_DEPTH, 0.0)
                leads_out.ravel()[cells] = labels.ravel()[cells] > 0
        numbered = (table > 0).take(group_of)
        self._remembered(grid).ravel()[floor[numbered]] = labels_of[numbered]
        return Segmentation(labels, leads_out, tuple(openings), robot_room, tuple(sorted(numbers.values())))

    def _remembered(self, grid: OccupancyGrid) -> LabelArray:
        """The room that each cell was in last, on the cells of `grid`, which may have grown or moved since."""
        if self._memory is None or self._memory_grid is None:
            self._memory = np.zeros(grid.shape, dtype=np.int32)
        else:
            self._memory = resample(self._memory, self._memory_grid, grid)
        self._memory_grid = grid
        return self._memory


def _parts(mask: BoolArray) -> tuple[LabelArray, int]:
    """(H, W): the number of the connected part that each True cell belongs to, 0 for the others; how many there are."""
    window = window_of(mask)
    parts: LabelArray = np.zeros(mask.shape, dtype=np.int32)
    count = ndimage.label(mask[window], FOUR, output=parts[window])  # into the window itself, without a copy
    return parts, count


def segment_cells(grid: OccupancyGrid, door: DoorDetection, half_width: float, margin: float) -> CellArray:
    """Flat indices of the cells within `half_width` m of an opening's line, lengthened by `margin` m at each end."""
    (ax, ay), (bx, by) = door.a, door.b
    rectangle = (door.length + 2 * margin, 2 * half_width, math.atan2(by - ay, bx - ax))
    return grid.cells_within(*door.center, 0.0, rectangle)


def _sides(grid: OccupancyGrid, door: DoorDetection, parts: LabelArray) -> tuple[list[int], list[int]]:
    """The parts of cut free space that begin on the left and on the right of an opening's segment.

    Rays walk away from the middle stretch of the segment until they meet free space, so that what lies
    behind the jambs or behind a wall further on is not taken for a side.
    """
    rays = parts.ravel().take(_side_rays(grid.shape, grid.resolution, grid.origin, door.a, door.b))
    first = (rays > 0).argmax(axis=1)
    met = rays[np.arange(len(rays)), first].tolist()
    middle = len(met) // 2
    return (sorted({*met[:middle]} - {0}), sorted({*met[middle:]} - {0}))


@lru_cache(maxsize=1024)  # doors stay where they are
def _side_rays(
    shape: tuple[int, int],
    resolution: float,
    origin: tuple[float, float],
    a: tuple[float, float],
    b: tuple[float, float],
) -> CellArray:
    """Flat indices of the cells along rays that leave a segment, one ray a row: first those to its left.

    Rays stop at the edge of the grid, where they repeat the last cell.
    """
    start, end = np.asarray(a), np.asarray(b)
    length = max(math.dist(a, b), 1e-6)
    normal = np.array([start[1] - end[1], end[0] - start[0]]) / length
    count = max(3, int(length / resolution) + 1)
    along = start + np.linspace(0.15, 0.85, count)[:, None] * (end - start)
    steps = np.arange(0.5, SIDE_REACH / resolution, 0.5) * resolution
    both_ways = np.array([steps, -steps])[:, None, :, None]
    points = along[:, None, :] + both_ways * normal
    cells = np.floor((points - np.asarray(origin)) / resolution).astype(np.intp)
    cells = np.minimum(np.maximum(cells, 0), (shape[1] - 1, shape[0] - 1))  # faster than np.clip
    rays: CellArray = (cells[..., 1] * shape[1] + cells[..., 0]).reshape(-1, len(steps))
    return rays


def _merge_across(sides: list[tuple[list[int], list[int]]], count: int) -> LabelArray:
    """Part -> group: parts on the same side of the same opening belong together (one hides the other's middle)."""
    parent = list(range(count + 1))

    def root(part: int) -> int:
        while parent[part] != part:
            parent[part] = parent[parent[part]]
            part = parent[part]
        return part

    for pair in sides:
        for side in pair:
            for part in side[1:]:
                first, second = sorted((root(side[0]), root(part)))
                parent[second] = first
    return np.array([root(part) for part in range(count + 1)], dtype=np.int32)


def _sight_order(
    grid: OccupancyGrid, cells: CellArray, field: DistanceField, robot_xy: tuple[float, float]
) -> tuple[float, float, float, float]:
    """What new rooms are sorted by: path distance, straight distance, then position."""
    xy = grid.to_worlds(np.column_stack(np.divmod(cells, grid.shape[1])))
    straight = float(np.hypot(xy[:, 0] - robot_xy[0], xy[:, 1] - robot_xy[1]).min())
    return (float(field.distances.ravel()[cells].min()), straight, float(xy[:, 0].mean()), float(xy[:, 1].mean()))


def _group_of(groups: LabelArray, parts: list[int]) -> int:
    """The one group that a side's parts have been merged into, 0 when nothing is known there."""
    return int(groups[parts[0]]) if parts else 0


def _standing_cell(free: BoolArray, grid: OccupancyGrid, robot_xy: tuple[float, float]) -> tuple[int, int]:
    """The free cell that the robot stands on, or its own cell when none is near; raises when outside of the grid."""
    cell = grid.to_cell(*robot_xy)
    if not grid.contains(*cell):
        raise ValueError(
            f"the robot at ({robot_xy[0]:.2f}, {robot_xy[1]:.2f}) m is outside of the occupancy grid, which starts at "
            f"{grid.origin} and has {grid.shape[1]} x {grid.shape[0]} cells of {grid.resolution} m; check the frames"
        )
    if free[cell]:
        return cell
    near = grid.cells_within(*robot_xy, ROBOT_REACH)
    near = near[free.ravel()[near]]
    if near.size == 0:
        return cell
    rows, cols = np.unravel_index(near, free.shape)
    best = int(np.argmin((rows - cell[0]) ** 2 + (cols - cell[1]) ** 2))
    return (int(rows[best]), int(cols[best]))


def _fill(labels: LabelArray, cells: CellArray) -> None:
    """Give these free cells, which have no label, that of the free cells beside them, else the nearest one.

    Nearly all of these are the few cells of openings, which touch the rooms to both sides: looking around each
    of them is much cheaper than a distance transform of the whole grid.
    """
    width = labels.shape[1] + 2
    padded = np.zeros((labels.shape[0] + 2, width), dtype=labels.dtype)
    padded[1:-1, 1:-1] = labels
    flat = padded.ravel()
    rows, cols = np.divmod(cells, labels.shape[1])
    places = left = (rows + 1) * width + cols + 1
    around = np.array([-width, -1, 1, width])[:, None]
    while left.size:
        beside = flat[left + around].max(axis=0)
        if not beside.any():
            break
        flat[left] = beside
        left = left[beside == 0]
    flat[left] = _nearest_labels(padded, left)
    labels.ravel()[cells] = flat[places]


def _nearest_labels(labels: LabelArray, cells: CellArray) -> LabelArray:
    """(N,): the label that is nearest to each of these cells (flat indices, N), as `_spread` tells it."""
    if not cells.size:
        return np.zeros(0, dtype=np.int32)
    border = _border(labels > 0)
    rows, cols = np.divmod(border.astype(np.int32), labels.shape[1])  # small numbers: there are many pairs of them
    order = np.argsort(cols, kind="stable")  # as the distance transform decides between equally near ones
    rows, cols = rows[order], cols[order]
    if cells.size * rows.size > 4 * labels.size:  # so many pairs take longer
        return _spread(labels).ravel()[cells]
    at_row, at_col = np.divmod(cells.astype(np.int32), labels.shape[1])
    nearest = ((rows - at_row[:, None]) ** 2 + (cols - at_col[:, None]) ** 2).argmin(axis=1)
    return labels[rows[nearest], cols[nearest]]


def _border(mask: BoolArray) -> CellArray:
    """The True cells (flat indices) without those all of whose neighbours are, which nothing else is nearest to."""
    flat, width = mask.ravel(), mask.shape[1]
    end = max(flat.size - width, width)
    border = flat.copy()
    border[width:end] &= ~(
        flat[: end - width] & flat[2 * width :] & flat[width - 1 : end - 1] & flat[width + 1 : end + 1]
    )
    return np.flatnonzero(border)


def _spread(labels: LabelArray) -> LabelArray:
    """(H, W): the label that is nearest to each cell, in a straight line. There must be one."""
    rows, cols = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    spread: LabelArray = labels[rows, cols]
    return spread


def _nearest_label(cells: CellArray, labels: LabelArray, cell: tuple[int, int], width: int) -> int:
    """The label of the nearest one of some cells (flat indices, N) that has a label (N,), not 0."""
    cells, labels = cells[labels > 0], labels[labels > 0]
    rows, cols = np.divmod(cells, width)
    return int(labels[int(np.argmin((rows - cell[0]) ** 2 + (cols - cell[1]) ** 2))])


def resample(values: NDArray[_Value], old: OccupancyGrid, new: OccupancyGrid) -> NDArray[_Value]:
    """Values (H, W) on the cells of another grid, 0 where the old one did not reach; as they are if nothing moved."""
    if new.has_cells_of(old):
        return values
    rows = np.floor(((np.arange(new.shape[0]) + 0.5) * new.resolution + new.origin[1] - old.origin[1]) / old.resolution)
    cols = np.floor(((np.arange(new.shape[1]) + 0.5) * new.resolution + new.origin[0] - old.origin[0]) / old.resolution)
    row_in, col_in = (rows >= 0) & (rows < old.shape[0]), (cols >= 0) & (cols < old.shape[1])
    moved = np.zeros(new.shape, dtype=values.dtype)
    moved[np.ix_(row_in, col_in)] = values[np.ix_(rows[row_in].astype(int), cols[col_in].astype(int))]
    return moved
