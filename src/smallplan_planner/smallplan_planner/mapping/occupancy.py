"""The occupancy grid, and geodesic distances over it.

`OccupancyGrid` is what a simulator or a SLAM system has sensed so far; `DistanceField` answers how far it
is for the robot to everywhere else, and along which path. Neither knows rooms or objects.
Arrays are (H, W): row = y, column = x. Lengths are metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from smallplan_planner.mapping.bits import BitMasks

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""The values of a cell, as in nav_msgs/OccupancyGrid."""

SNAP_REACH = 0.5  # m around a start that is not traversable within which a larger part of the floor is preferred
MIN_POCKET_AREA = 0.25  # m2 of traversable floor that is worth starting from

_WINDOW_STEP = 64  # cells by which a searched window grows, so that its shape seldom changes
_STEPS = tuple((row, col) for row in (-1, 0, 1) for col in (-1, 0, 1) if row or col)  # to the 8 neighbours of a cell

_HUGE = 50.0  # m of footprint; no house holds such a thing
_QUARTER = math.pi / 2  # rad
_SAME_PHASE = 1e-6  # cells by which the origins of one map may differ from whole cells

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int_]
CellArray = NDArray[np.intp]
"""Flat indices (row * W + col) of cells."""


@dataclass
class OccupancyGrid:
    """What has been sensed of the floor: each cell is UNKNOWN, FREE or OCCUPIED."""

    data: NDArray[np.int8]  # (H, W)
    resolution: float = 0.075  # m per cell
    origin: tuple[float, float] = (0.0, 0.0)  # world (x, y) of the outer corner of cell [0, 0]
    frame_id: str = "map"

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.size == 0:
            raise ValueError(f"an occupancy grid needs data of shape (H, W) with H, W >= 1, got {self.data.shape}")
        if not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ValueError(f"the resolution of an occupancy grid must be > 0 m, got {self.resolution}")
        if not all(math.isfinite(value) for value in self.origin):
            raise ValueError(f"the origin of an occupancy grid must be finite, got {self.origin}")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.data.shape[0], self.data.shape[1])

    def to_cell(self, x: float, y: float) -> tuple[int, int]:
        """The (row, col) of the cell that holds a point; it may lie outside of the grid."""
        return _to_cell(x, y, self.resolution, self.origin)

    def to_world(self, row: int, col: int) -> tuple[float, float]:
        """The (x, y) of a cell's centre."""
        return _to_world(row, col, self.resolution, self.origin)

    def to_cells(self, points: ArrayLike) -> IntArray:
        """Points (N, 2) as (x, y) -> cells (N, 2) as (row, col); they may lie outside of the grid."""
        xy = np.asarray(points, dtype=float).reshape(-1, 2)
        cells = np.floor((xy - np.asarray(self.origin)) / self.resolution)
        flipped: IntArray = cells[:, ::-1].astype(np.int_)
        return flipped

    def to_worlds(self, cells: ArrayLike) -> FloatArray:
        """Cells (N, 2) as (row, col) -> their centres (N, 2) as (x, y)."""
        return _to_worlds(cells, self.resolution, self.origin)

    def has_cells_of(self, other: OccupancyGrid) -> bool:
        """Whether its cells are in the same places as those of another grid."""
        return self.shape == other.shape and self.origin == other.origin and self.resolution == other.resolution

    def contains(self, row: int, col: int) -> bool:
        return 0 <= row < self.data.shape[0] and 0 <= col < self.data.shape[1]

    def cells_within(
        self, x: float, y: float, radius: float, footprint: tuple[float, float, float] | None = None
    ) -> CellArray:
        """Flat indices of the cells within `radius` m of a point or a footprint, see `cells_within`."""
        return cells_within(self.shape, self.resolution, self.origin, x, y, radius, footprint)

    def traversable(self, robot_radius: float) -> BoolArray:
        """(H, W): known free cells whose centre is at least `robot_radius` metres from that of any occupied cell."""

        def near(rows: int, cols: int) -> bool:
            return math.hypot(rows, cols) * self.resolution < robot_radius - 1e-9

        # A disc is a stack of rows: a few shifts of whole rows are much cheaper than a distance transform of the grid.
        reach = min(math.ceil(robot_radius / self.resolution), max(self.shape))
        masks = BitMasks(self.shape, margin=reach)
        blocked = beside = occupied = masks.pack(self.data == OCCUPIED)
        width = 0
        for rows in range(reach, -1, -1):
            while width < reach and near(rows, width + 1):
                width += 1
                beside |= masks.shifted(occupied, 0, width) | masks.shifted(occupied, 0, -width)
            if near(rows, 0):
                blocked |= masks.shifted(beside, rows, 0) | masks.shifted(beside, -rows, 0)
        return (self.data == FREE) & ~masks.unpack(blocked)


class PathSearch:
    """Shortest paths over one mask after the other; what depends on the shape of a mask alone is kept for the next."""

    def __init__(self) -> None:
        self._costs: FloatArray = np.zeros((0, 0))
        self._search: Any = None

    def paths(self, mask: BoolArray, start: tuple[int, int]) -> tuple[FloatArray, NDArray[np.int16]]:
        """From a True cell of a mask (H, W) to each cell: the path's length in cells, and its last step, in `_STEPS`.

        Where there is no way the length is inf and the index negative. Both arrays hold until the next call.
        """
        height, width = mask.shape
        if self._costs.shape != (shape := (_rounded_up(height), _rounded_up(width))):
            # The search reads these costs themselves, not a copy. Were it otherwise, nothing would be reachable.
            self._costs = np.full(shape, np.inf)
            self._search = MCP_Geometric(self._costs.T, offsets=[step[::-1] for step in _STEPS])
        self._costs.fill(np.inf)
        self._costs[:height, :width][mask] = 1.0
        lengths, last_steps = self._search.find_costs([start[::-1]])  # of columns and rows: its arrays are Fortran's
        return lengths.T[:height, :width], last_steps.T[:height, :width]


class DistanceField:
    """Geodesic distances from one start over a traversable mask: 8-connected, diagonals count sqrt(2) cells.

    A start that is not traversable (the robot may stand closer to a wall than the mask allows) is moved to
    the traversable cell nearest to it. Without any traversable cell, everything is unreachable.
    """

    def __init__(
        self,
        mask: BoolArray,  # (H, W) traversable cells
        resolution: float,
        origin: tuple[float, float],
        start_xy: tuple[float, float],
        search: PathSearch | None = None,  # to find the paths with; one that is kept saves time
    ) -> None:
        self.resolution = resolution
        self.origin = origin
        self.distances: FloatArray = np.full(mask.shape, np.inf)
        """(H, W) metres of path from the start to each cell, inf where unreachable."""
        self.start: tuple[int, int] | None = _nearest_cell(mask, _to_cell(*start_xy, resolution, origin), resolution)
        """The (row, col) that distances are counted from, None without any traversable cell."""
        if self.start is None:
            return
        window = window_of(mask)
        self._corner = (window[0].start, window[1].start)
        lengths, last_steps = (search or PathSearch()).paths(mask[window], self._local(*self.start))
        np.multiply(lengths, resolution, out=self.distances[window])
        self._last_steps = last_steps.copy()

    def distance(self, x: float, y: float) -> float:
        """Metres of path to the cell that holds a point, NaN when it can't be reached."""
        row, col = _to_cell(x, y, self.resolution, self.origin)
        if not (0 <= row < self.distances.shape[0] and 0 <= col < self.distances.shape[1]):
            return math.nan
        value = float(self.distances[row, col])
        return value if math.isfinite(value) else math.nan

    def path_to(self, row: int, col: int) -> FloatArray:
        """The shortest path to a cell as world points (N, 2), from the start's cell to that cell's centre.

        Raises ValueError when the cell can't be reached.
        """
        height, width = self.distances.shape
        if not (0 <= row < height and 0 <= col < width) or not math.isfinite(self.distances[row, col]):
            raise ValueError(f"cell ({row}, {col}) can't be reached from {self.start}; ask for `distances` first")
        cells, cell = [(row, col)], self._local(row, col)
        while (step := self._last_steps.item(cell)) >= 0:
            cell = (cell[0] - _STEPS[step][0], cell[1] - _STEPS[step][1])
            cells.append((cell[0] + self._corner[0], cell[1] + self._corner[1]))
        return _to_worlds(cells[::-1], self.resolution, self.origin)

    def nearest_of(self, flat_cells: CellArray) -> tuple[int, int] | None:
        """The reachable cell of least path distance among flat indices (row * W + col), None if there is none."""
        return nearest_of(self.distances, flat_cells)

    def _local(self, row: int, col: int) -> tuple[int, int]:
        return (row - self._corner[0], col - self._corner[1])


def nearest_of(distances: FloatArray, flat_cells: CellArray) -> tuple[int, int] | None:
    """The first cell of least distance (H, W) among flat indices (row * W + col), None if all are out of reach."""
    if flat_cells.size == 0:
        return None
    values = distances.ravel().take(flat_cells)
    best = int(values.argmin())
    if values[best] == np.inf:
        return None
    row, col = divmod(int(flat_cells[best]), distances.shape[1])
    return (row, col)


def nearest_to(cells: tuple[CellArray, CellArray], point: tuple[float, float]) -> tuple[int, int]:
    """The (row, col) of the first of some cells (rows, columns) that are nearest to a point (row, col)."""
    rows, cols = cells
    best = int(((rows - point[0]) ** 2 + (cols - point[1]) ** 2).argmin())
    return (int(rows[best]), int(cols[best]))


def _rounded_up(cells: int) -> int:
    return math.ceil(cells / _WINDOW_STEP) * _WINDOW_STEP


def window_of(mask: BoolArray) -> tuple[slice, slice]:
    """The smallest window (rows, columns) that holds all True cells of a mask (H, W), empty when there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return (slice(0, 0), slice(0, 0))
    window = slice(int(rows[0]), int(rows[-1]) + 1)
    cols = np.flatnonzero(mask[window].any(axis=0))
    return (window, slice(int(cols[0]), int(cols[-1]) + 1))


@lru_cache(maxsize=4096)  # the same furniture and doors are asked for at every update
def cells_within(
    shape: tuple[int, int],
    resolution: float,
    origin: tuple[float, float],
    x: float,
    y: float,
    radius: float,
    footprint: tuple[float, float, float] | None = None,
) -> CellArray:
    """Flat indices (row * W + col, ascending, read-only) of the cells whose centre is within `radius` m of a rectangle.

    The rectangle is (length, width, yaw) centred on (x, y), or the point itself without one. The part of it
    that lies outside of the grid is left out.
    """
    # A growing grid moves its origin by whole cells. What is worked out is kept by where the cells lie, not by that.
    left, bottom, phase = _place(resolution, origin)
    window = (bottom, bottom + shape[0], left, left + shape[1])
    huge = footprint is not None and max(footprint[:2]) > _HUGE
    first_row, first_col, inside = _lattice_within(resolution, phase, x, y, radius, footprint, window if huge else None)
    row, col = max(first_row, bottom), max(first_col, left)
    inside = inside[row - first_row : max(window[1] - first_row, 0), col - first_col : max(window[3] - first_col, 0)]
    row, col = row - bottom, col - left
    flat = _flat_indices(shape)[row : row + inside.shape[0], col : col + inside.shape[1]][inside]
    flat.flags.writeable = False
    return flat


@lru_cache(maxsize=64)
def _place(resolution: float, origin: tuple[float, float]) -> tuple[int, int, tuple[float, float]]:
    """Where a grid begins on one without an edge: the column and the row there, and the phase of that grid's cells."""
    left, bottom = (math.floor(value / resolution + _SAME_PHASE) for value in origin)
    return left, bottom, (round(origin[0] / resolution - left, 9), round(origin[1] / resolution - bottom, 9))


@lru_cache(maxsize=16)
def _flat_indices(shape: tuple[int, int]) -> CellArray:
    """(H, W): to pick from these is much faster than to work them out from rows and columns."""
    return np.arange(shape[0] * shape[1]).reshape(shape)


@lru_cache(maxsize=2048)
def _lattice_within(
    resolution: float,
    phase: tuple[float, float],  # cells, of the corner of cell (0, 0) from the world's origin: x, y
    x: float,
    y: float,
    radius: float,
    footprint: tuple[float, float, float] | None,
    window: tuple[int, int, int, int] | None,  # first row, end of the rows, first column, end of the columns
) -> tuple[int, int, BoolArray]:
    """What `cells_within` tells of, on a grid without an edge: the first row and column of a mask (h, w), and the mask.

    What a mistake of perception makes larger than any house is told of within a window only.
    """
    length, width, yaw = footprint or (0.0, 0.0, 0.0)
    turns = round(yaw / _QUARTER)
    upright = abs(yaw - turns * _QUARTER) < 1e-9
    if upright:
        length, width, yaw = (width, length, 0.0) if turns % 2 else (length, width, 0.0)
    cos, sin = math.cos(yaw), math.sin(yaw)
    reach_x = (abs(cos) * length + abs(sin) * width) / 2 + radius
    reach_y = (abs(sin) * length + abs(cos) * width) / 2 + radius
    origin = (phase[0] * resolution, phase[1] * resolution)
    row_0, col_0 = _to_cell(x - reach_x, y - reach_y, resolution, origin)
    row_1, col_1 = _to_cell(x + reach_x, y + reach_y, resolution, origin)
    if window is not None:
        row_0, row_1 = max(row_0, window[0]), min(row_1, window[1] - 1)
        col_0, col_1 = max(col_0, window[2]), min(col_1, window[3] - 1)
    dx = (np.arange(col_0 + 0.5, col_1 + 1) * resolution + origin[0] - x)[None, :]
    dy = (np.arange(row_0 + 0.5, row_1 + 1) * resolution + origin[1] - y)[:, None]
    u, v = (dx, dy) if upright else (cos * dx + sin * dy, cos * dy - sin * dx)  # mostly a row and a column
    along = np.maximum(np.abs(u) - length / 2, 0.0)
    across = np.maximum(np.abs(v) - width / 2, 0.0)
    inside = along**2 + across**2 <= radius**2 + 1e-12  # the slack keeps cells on the border in
    return row_0, col_0, inside


def _to_cell(x: float, y: float, resolution: float, origin: tuple[float, float]) -> tuple[int, int]:
    return (math.floor((y - origin[1]) / resolution), math.floor((x - origin[0]) / resolution))


def _to_world(row: int, col: int, resolution: float, origin: tuple[float, float]) -> tuple[float, float]:
    return (origin[0] + (float(col) + 0.5) * resolution, origin[1] + (float(row) + 0.5) * resolution)


def _to_worlds(cells: ArrayLike, resolution: float, origin: tuple[float, float]) -> FloatArray:
    row_col = np.asarray(cells, dtype=float).reshape(-1, 2)
    worlds: FloatArray = (row_col[:, ::-1] + 0.5) * resolution + np.asarray(origin)
    return worlds


def _nearest_cell(mask: BoolArray, cell: tuple[int, int], resolution: float) -> tuple[int, int] | None:
    """The True cell nearest to `cell` (which may lie outside), None when the mask has none.

    When the cell itself is False, a pocket smaller than MIN_POCKET_AREA is passed over for a larger part of the
    mask within SNAP_REACH: a few cells between two chairs are nowhere to start from.
    """
    row, col = cell
    if 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1] and mask[row, col]:
        return cell
    rows, cols = np.nonzero(mask)
    if rows.size == 0:
        return None
    gaps = np.hypot(rows - row, cols - col)
    best = int(gaps.argmin())
    near = np.flatnonzero(gaps * resolution <= SNAP_REACH)
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    large = np.bincount(parts.ravel()) * resolution**2 >= MIN_POCKET_AREA
    near = near[large[parts[rows[near], cols[near]]]]
    if near.size and not large[parts[rows[best], cols[best]]]:
        best = int(near[gaps[near].argmin()])
    return (int(rows[best]), int(cols[best]))
