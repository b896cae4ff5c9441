"""The true house as cells: what stands where and how high. The robot never reads it but through its senses.

Everything outside of the rooms is solid, so nobody sees or leaves through a gap. Cells are `RESOLUTION` wide; arrays
are (H, W) with row = y and column = x, and padded on all sides so that a ray may end beyond the house unchecked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from smallplan_training.simulators.house.house import Furniture, House, Point2

RESOLUTION = 0.075
"""m, the width of a cell."""
SOLID = 3.0
"""m, the height of walls and closed doors."""
PAD = 160
"""Cells around the house: the range of the robot's senses and the margin of its map."""
WALL_HALF = RESOLUTION * 1.01
"""m: cells whose centre is this near to a wall's line belong to the wall."""
LOW = 0.05
"""m: what is lower (a rug) is no obstacle."""
ROBOT_RADIUS = 0.25

NO_OWNER = -1


@dataclass(frozen=True)
class HouseRaster:
    """A house's cells with its interior doors as they are at first.

    height: float32 (H, W), m above the floor of what fills the cell, `SOLID` for walls, closed doors and outside.
    owner: int16 (H, W), index of the furniture in the cell, or -1.
    room: int16 (H, W), index of the room that the cell lies in, or -1 outside.
    door_cells: for each door the flat indices of its opening.
    """

    height: NDArray[np.float32]
    owner: NDArray[np.int16]
    room: NDArray[np.int16]
    door_cells: tuple[NDArray[np.int64], ...]
    corner: Point2  # m, house frame: the outer corner of cell (0, 0)
    interior: tuple[bool, ...]  # for each door: it joins two rooms and is not locked

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) of this point of the house's frame."""
        return math.floor((y - self.corner[1]) / RESOLUTION), math.floor((x - self.corner[0]) / RESOLUTION)

    def centre(self, row: int, column: int) -> Point2:
        """The cell's centre in the house's frame."""
        return self.corner[0] + (column + 0.5) * RESOLUTION, self.corner[1] + (row + 0.5) * RESOLUTION

    @cached_property
    def open_height(self) -> NDArray[np.float32]:
        """`height` with every interior door open."""
        flat = self.height.copy().ravel()
        for cells, interior in zip(self.door_cells, self.interior):
            if interior:
                flat[cells] = 0.0
        return flat.reshape(self.height.shape)

    @cached_property
    def robot_fits(self) -> NDArray[np.bool_]:
        """(H, W): the robot's centre may be here, with interior doors open."""
        return fits(self.open_height)


def fits(height: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(H, W): cells at least the robot's radius away from everything that stands up from the floor."""
    distance = ndimage.distance_transform_edt(height <= LOW, sampling=RESOLUTION)
    return np.asarray(distance >= ROBOT_RADIUS)


def rasterise(house: House) -> HouseRaster:
    """The house's cells. Furniture is cut off at walls, doorways are kept free of it."""
    xs = [x for room in house.rooms for x, _ in room.polygon]
    ys = [y for room in house.rooms for _, y in room.polygon]
    corner = (min(xs) - PAD * RESOLUTION, min(ys) - PAD * RESOLUTION)
    shape = (
        int(np.ceil((max(ys) - min(ys)) / RESOLUTION)) + 2 * PAD,
        int(np.ceil((max(xs) - min(xs)) / RESOLUTION)) + 2 * PAD,
    )
    canvas = _Canvas(shape, corner)
    room = np.full(shape, NO_OWNER, dtype=np.int16)
    for index, item in enumerate(house.rooms):
        canvas.paint(room, canvas.in_polygon(item.polygon), index)
    height = np.where(room >= 0, np.float32(0.0), np.float32(SOLID))
    owner = np.full(shape, NO_OWNER, dtype=np.int16)
    for index in sorted(range(len(house.furniture)), key=lambda i: house.furniture[i].height):
        piece = house.furniture[index]
        cells = canvas.in_footprint(piece)
        canvas.paint(owner, cells, index)
        canvas.paint(height, cells, piece.height)
    for wall in house.walls:
        cells = canvas.near_segment(wall.a, wall.b, WALL_HALF, overhang=WALL_HALF)
        canvas.paint(height, cells, SOLID)
        canvas.paint(owner, cells, NO_OWNER)
    door_cells = []
    for door, (a, b) in zip(house.doors, house.door_segments):
        cells = canvas.near_segment(a, b, WALL_HALF + RESOLUTION, overhang=0.0)
        flat = canvas.flat(cells)
        flat = flat[(height.ravel()[flat] >= SOLID)]
        height.ravel()[flat] = 0.0 if door.open else SOLID
        door_cells.append(flat)
    interior = tuple(len(door.rooms) == 2 and (door.open or door.openable) for door in house.doors)
    return HouseRaster(height, owner, room, tuple(door_cells), corner, interior)


Cells = tuple[slice, slice, NDArray[np.bool_]]
"""A window of the canvas and which of its cells are meant."""


class _Canvas:
    """Paints shapes of the house's frame into arrays of one size."""

    def __init__(self, shape: tuple[int, int], corner: Point2) -> None:
        self.shape, self.corner = shape, corner

    def paint(self, array: NDArray, cells: Cells, value: float) -> None:  # type: ignore[type-arg]
        rows, columns, mask = cells
        array[rows, columns][mask] = value

    def flat(self, cells: Cells) -> NDArray[np.int64]:
        rows, columns, mask = cells
        r, c = np.nonzero(mask)
        return np.asarray((r + rows.start) * self.shape[1] + c + columns.start, dtype=np.int64)

    def in_polygon(self, polygon: tuple[Point2, ...]) -> Cells:
        rows, columns, x, y = self._window(polygon, 0.0)
        inside = np.zeros(x.shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1]):
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        return rows, columns, inside

    def in_footprint(self, piece: Furniture) -> Cells:
        rows, columns, x, y = self._window(piece.corners, RESOLUTION)
        c, s = np.cos(piece.yaw), np.sin(piece.yaw)
        u = (x - piece.position[0]) * c + (y - piece.position[1]) * s
        v = (y - piece.position[1]) * c - (x - piece.position[0]) * s
        # At least one cell, however thin the piece is.
        half = [max(extent / 2, RESOLUTION * 0.51) for extent in piece.size]
        return rows, columns, (np.abs(u) <= half[0]) & (np.abs(v) <= half[1])

    def near_segment(self, a: Point2, b: Point2, width: float, overhang: float) -> Cells:
        rows, columns, x, y = self._window((a, b), width + overhang + RESOLUTION)
        length = max(float(np.hypot(b[0] - a[0], b[1] - a[1])), 1e-9)
        ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
        along = (x - a[0]) * ux + (y - a[1]) * uy
        off = np.abs((x - a[0]) * uy - (y - a[1]) * ux)
        return rows, columns, (off <= width) & (along >= -overhang) & (along <= length + overhang)

    def _window(
        self, points: tuple[Point2, ...], margin: float
    ) -> tuple[slice, slice, NDArray[np.float64], NDArray[np.float64]]:
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        c0, c1 = self._range(min(xs) - margin, max(xs) + margin, self.corner[0], self.shape[1])
        r0, r1 = self._range(min(ys) - margin, max(ys) + margin, self.corner[1], self.shape[0])
        x = self.corner[0] + (np.arange(c0, c1) + 0.5) * RESOLUTION
        y = self.corner[1] + (np.arange(r0, r1) + 0.5) * RESOLUTION
        gx, gy = np.meshgrid(x, y)
        return slice(r0, r1), slice(c0, c1), gx, gy

    @staticmethod
    def _range(low: float, high: float, corner: float, size: int) -> tuple[int, int]:
        first = int(np.floor((low - corner) / RESOLUTION))
        last = int(np.ceil((high - corner) / RESOLUTION)) + 1
        return min(max(first, 0), size), min(max(last, 0), size)
