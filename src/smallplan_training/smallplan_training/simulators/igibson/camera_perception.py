"""What the robot in iGibson has seen so far: from depth and instance frames to an occupancy grid and detections.

The grid has the cells of the embedded simulator's, the same range, field of view and distances of recognition hold,
and detections are the same kind of thing: only where they come from differs. A cell is free when floor was seen in
it, occupied when something stands up from it. A thing is recognised by its pixels, a door by what the depth frame
shows before its opening. What is in a closed container is never recognised, whatever gap it shows through.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, UNKNOWN
from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.perception import Cell, HouseState, Perception
from smallplan_training.simulators.house.raster import LOW, RESOLUTION, ROBOT_RADIUS
from smallplan_training.simulators.igibson.client import Frames

ROBOT_HEIGHT = 1.3
"""m: what hangs higher is no obstacle."""
MIN_PIXELS = 2
"""Of a thing that is recognised in a frame."""
_INTO = 0.02  # m by which a point on a surface is moved into what it belongs to
_GAP = 0.6  # m between two pixels, one above the other, that is filled
_LEVEL = 0.02  # m by which the heights of a level surface may differ
_LEAF = 0.1  # m around a closed thing beyond which its points belong to a leaf that stands open
_DEEP_ENOUGH = 0.1  # m by which a depth frame may fall short of a point that is seen

_Floats = NDArray[np.float64]


class CameraPerception(Perception):
    """The memory of a robot with a camera.

    Args:
        state, start: see `Perception`.
        thing_of: which thing of the house an object of the scene is, by its name; furniture first, then objects.
        door_of: which door of the house it is.
    """

    def __init__(self, state: HouseState, start: Cell, thing_of: dict[str, int], door_of: dict[str, int]) -> None:
        super().__init__(state, start)
        self._thing_of, self._door_of = thing_of, door_of
        self._reach = np.zeros(len(self._lines.container))
        self._reach[self._lines.thing] = self._lines.reach

    def look_at(self, frames: Frames, yaws: list[float]) -> None:
        """Take in frames that were made from one place; `yaws`: where each looks, rad."""
        for index, yaw in enumerate(yaws):
            self._take_in(_View(frames, index, yaw), frames)
        column, row = self._to_cells(frames.cameras[:1, :2, 3])[0]
        self._stand_on(row, column)

    def door_moved(self, door: int, is_open: bool) -> None:
        """See `Perception`. Where the closed leaf was seen beside the opening's cells, it is gone too."""
        super().door_moved(door, is_open)
        if is_open:
            known, cells = self.known.ravel(), self._flat(self._opening(door))
            known[cells[known[cells] == OCCUPIED]] = FREE

    def _take_in(self, view: _View, frames: Frames) -> None:
        origin = tuple(self._to_cells(view.position[None, :2])[0])
        self._map_cells(view, frames)
        seen = self._recognised(view, frames)
        self._remember(seen, (float(origin[0]), float(origin[1])))
        self._show_doors(view, (float(origin[0]), float(origin[1])))

    def _map_cells(self, view: _View, frames: Frames) -> None:
        z = view.points[..., 2]
        floor = view.valid & (z <= LOW)
        standing = view.valid & (z > LOW) & (z < ROBOT_HEIGHT) & ~self._open_leaves(view, frames)
        known = self.known.ravel()
        free = np.concatenate([view.points[floor][:, :2], view.between(floor, floor | standing)])
        cells = self._flat(free)
        known[cells[known[cells] == UNKNOWN]] = FREE
        surfaces = view.points[standing][:, :2]
        known[self._flat(surfaces + _INTO * _directions(surfaces - view.position[:2]))] = OCCUPIED
        known[self._flat(view.between(standing, standing, level=True))] = OCCUPIED

    def _open_leaves(self, view: _View, frames: Frames) -> NDArray[np.bool_]:
        """(H, W) pixels of leaves that stand open: the robot pushes them aside."""
        found = np.zeros(view.ids.shape, dtype=bool)
        for number in np.unique(view.ids[view.valid]):
            name = frames.names.get(int(number), "")
            thing, door = self._thing_of.get(name), self._door_of.get(name)
            if door is None and (thing is None or not self._opens(thing)):
                continue
            pixels = (view.ids == number) & view.valid
            centre, size, yaw = self._outline(thing, door)
            c, s = math.cos(yaw), math.sin(yaw)
            dx, dy = (view.points[pixels][:, axis] - centre[axis] for axis in (0, 1))
            outside = np.maximum(np.abs(c * dx + s * dy) - size[0] / 2, np.abs(c * dy - s * dx) - size[1] / 2) > _LEAF
            found[pixels] = outside
        return found

    def _recognised(self, view: _View, frames: Frames) -> NDArray[np.int32]:
        """The things that are new in this view, ascending."""
        numbers = view.ids.astype(np.int64)
        things = np.full(int(numbers.max(initial=0)) + 1, -1, dtype=np.int32)
        for number, name in frames.names.items():
            if number < len(things):
                things[number] = self._thing_of.get(name, -1)
        shown = things[numbers]
        wanted = view.valid & (shown >= 0)
        wanted[wanted] = view.away[wanted] <= self._reach[shown[wanted]]
        found, counts = np.unique(shown[wanted], return_counts=True)
        found = found[counts >= MIN_PIXELS]
        return found[self._unseen[found] & ~self._closed_in[found]].astype(np.int32)

    def _show_doors(self, view: _View, origin: tuple[float, float]) -> None:
        unseen, points = self._door_views(origin)
        if not len(unseen):
            return
        corner = np.array(self._raster.corner)
        places = np.full((points.shape[0] * 3, 3), sensing.CAMERA_HEIGHT)
        places[:, :2] = points.reshape(-1, 2) * RESOLUTION + corner
        seen = view.sees(places).reshape(-1, 3).any(axis=1)
        self._remember_doors(unseen[seen], origin)

    def _stand_on(self, row: float, column: float) -> None:
        """The floor under the robot, which its camera doesn't see."""
        reach = ROBOT_RADIUS / RESOLUTION
        rows = np.arange(int(row - reach), int(row + reach) + 1)
        columns = np.arange(int(column - reach), int(column + reach) + 1)
        under = np.hypot(rows[:, None] + 0.5 - row, columns[None, :] + 0.5 - column) <= reach
        window = self.known[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        window[under & (window == UNKNOWN)] = FREE

    def _opens(self, thing: int) -> bool:
        return thing < len(self._house.furniture) and self._house.furniture[thing].openable

    def _outline(self, thing: int | None, door: int | None) -> tuple[tuple[float, float], tuple[float, float], float]:
        """Centre, size and yaw on the floor of a thing or a door, closed, in the house's frame."""
        if door is not None:
            a, b = self._house.door_segments[door]
            middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
            return middle, (math.dist(a, b), 2 * RESOLUTION), math.atan2(b[1] - a[1], b[0] - a[0])
        assert thing is not None
        piece = self._house.furniture[thing]
        return piece.position, piece.size, piece.yaw

    def _opening(self, door: int) -> _Floats:
        """(N, 2) points where the closed leaf of a door may be, all cells of it; not at the jambs."""
        (x, y), (length, width), yaw = self._outline(None, door)
        reach = (max(length / 2 - RESOLUTION, 0.0), width / 2 + _LEAF)
        along, across = (np.linspace(-r, r, math.ceil(4 * r / RESOLUTION) + 1) for r in reach)
        u, v = (axis.ravel() for axis in np.meshgrid(along, across))
        c, s = math.cos(yaw), math.sin(yaw)
        return np.column_stack([x + c * u - s * v, y + s * u + c * v])

    def _to_cells(self, points: _Floats) -> _Floats:
        """Points (N, 2) of the house's frame to (column, row), fractional."""
        return np.asarray((points - np.array(self._raster.corner)) / RESOLUTION)

    def _flat(self, points: _Floats) -> NDArray[np.int64]:
        """Flat indices of the cells of points (N, 2), house's frame, that lie in the arrays."""
        cells = np.floor(self._to_cells(points)).astype(np.int64)
        height, width = self.known.shape
        inside = (cells >= 0).all(axis=1) & (cells[:, 0] < width) & (cells[:, 1] < height)
        return np.unique(cells[inside, 1] * width + cells[inside, 0])


class _View:
    """One frame as points: `points` (H, W, 3) in the house's frame, `away` (H, W) m over the floor, and `valid`."""

    def __init__(self, frames: Frames, index: int, yaw: float) -> None:
        self._depth, self.ids = frames.depth[index].astype(float), frames.ids[index]
        self._camera, self._yaw = frames.cameras[index], yaw
        self._fx, self._fy, self._cx, self._cy = (float(value) for value in frames.intrinsics)
        self.position: _Floats = self._camera[:3, 3]
        height, width = self._depth.shape
        rays = np.empty((height, width, 3))
        rays[..., 0] = (np.arange(width) + 0.5 - self._cx) / self._fx
        rays[..., 1] = ((np.arange(height) + 0.5 - self._cy) / self._fy)[:, None]
        rays[..., 2] = 1.0
        self.points: _Floats = (rays * self._depth[..., None]) @ self._camera[:3, :3].T + self.position
        dx, dy = self.points[..., 0] - self.position[0], self.points[..., 1] - self.position[1]
        self.away: _Floats = np.hypot(dx, dy)
        self.valid = (self._depth > 0) & (self.away <= sensing.RANGE)
        self.valid &= sensing.in_view(dx, dy, yaw, sensing.FIELD_OF_VIEW)

    def between(self, lower: NDArray[np.bool_], upper: NDArray[np.bool_], level: bool = False) -> _Floats:
        """(N, 2) points between two pixels, one above the other, that belong to these masks (H, W).

        Far away two such pixels are several cells apart, and what stood between them would be seen in the upper one.
        `level`: only where both show the same surface, at one height.
        """
        near, far = self.points[1:, :, :2], self.points[:-1, :, :2]
        length = np.hypot(far[..., 0] - near[..., 0], far[..., 1] - near[..., 1])
        wanted = lower[1:] & upper[:-1] & (length < _GAP) & (self.away[:-1] > self.away[1:])
        wanted &= length > RESOLUTION / 2
        if level:
            wanted &= self.ids[1:] == self.ids[:-1]
            wanted &= np.abs(self.points[1:, :, 2] - self.points[:-1, :, 2]) < _LEVEL
        near, far, length = near[wanted], far[wanted], length[wanted]
        parts = np.ceil(length / (RESOLUTION / 2)).astype(int)
        found: list[_Floats] = [np.zeros((0, 2))]
        for part in range(1, int(parts.max(initial=0))):
            some = parts > part
            found.append(near[some] + (far[some] - near[some]) * (part / parts[some])[:, None])
        return np.concatenate(found)

    def sees(self, places: _Floats) -> NDArray[np.bool_]:
        """(N,) whether places (N, 3) are in range, in view, and before what the frame shows there."""
        local = (places - self.position) @ self._camera[:3, :3]
        dx, dy = places[:, 0] - self.position[0], places[:, 1] - self.position[1]
        z = np.maximum(local[:, 2], 1e-6)
        columns = np.floor(local[:, 0] / z * self._fx + self._cx).astype(int)
        rows = np.floor(local[:, 1] / z * self._fy + self._cy).astype(int)
        height, width = self._depth.shape
        seen = (local[:, 2] > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        seen &= (np.hypot(dx, dy) <= sensing.RANGE) & sensing.in_view(dx, dy, self._yaw, sensing.FIELD_OF_VIEW)
        depth = self._depth[rows[seen], columns[seen]]
        seen[seen] = (depth == 0) | (depth >= local[seen, 2] - _DEEP_ENOUGH)
        return np.asarray(seen)


def _directions(vectors: _Floats) -> _Floats:
    return np.asarray(vectors / np.maximum(np.hypot(vectors[:, 0], vectors[:, 1]), 1e-9)[:, None])
