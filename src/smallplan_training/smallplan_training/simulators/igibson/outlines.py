"""Rooms as polygons out of a map of rooms: they meet in the middle of walls, right-angled where they nearly are.

Works in metres on cells of `CELL`; knows nothing of iGibson's files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours
from skimage.segmentation import expand_labels

from smallplan_training.simulators.house.house import Point2, Wall

CELL = 0.02
"""m"""
MOST_HALF_WALL = 0.25
"""m: rooms that are further apart than twice this have no wall in common."""
USUAL_HALF_WALL = 0.075
"""m: of a house with one room, whose walls can't be measured."""
TOLERANCE = 0.06
"""m: how far an outline may leave the cells."""
SNAP = 0.12
"""m: parallel lines of outlines that are nearer than this become one."""
CHAMFER = 0.3
"""m: slanting sides that cut a right-angled corner and are no longer than this are ragged edges of the map."""
NEARLY = math.tan(math.radians(12))
"""Slope up to which a line counts as parallel to an axis."""
LEAST_AREA = 0.5
"""m²: smaller rooms are left out."""
WRONG_AREA = 0.15
"""An outline whose area is wrong by this share is not made right-angled."""


@dataclass(frozen=True)
class RoomCells:
    """Which room each place belongs to, walls shared out among the rooms beside them."""

    labels: NDArray[np.uint8]  # (H, W), 0 = outside, row along +y
    corner: Point2  # m: the outer corner of cell (0, 0)

    def at(self, x: float, y: float) -> int:
        """The room's value at this place, 0 outside of all rooms."""
        row, column = math.floor((y - self.corner[1]) / CELL), math.floor((x - self.corner[0]) / CELL)
        height, width = self.labels.shape
        return int(self.labels[row, column]) if 0 <= row < height and 0 <= column < width else 0


@dataclass(frozen=True)
class _Edge:
    """A side of an outline: `x` or `y` constant ('x', 'y'), or neither ('')."""

    fixed: str
    value: float
    a: Point2
    b: Point2

    @property
    def length(self) -> float:
        return math.dist(self.a, self.b)


def room_cells(rooms: NDArray[np.uint8], pixel: float) -> RoomCells:
    """The map of rooms (square, its centre the origin, 0 = no room) with walls shared out and in coarser cells."""
    step = max(1, round(CELL / pixel))
    rows, columns = np.nonzero(rooms)
    margin = 2 * math.ceil(MOST_HALF_WALL / pixel)
    r0, c0 = ((int(values.min()) - margin) // step * step for values in (rows, columns))
    r1, c1 = int(rows.max()) + margin, int(columns.max()) + margin
    padded = np.pad(rooms[max(r0, 0) : r1, max(c0, 0) : c1], ((max(-r0, 0), 0), (max(-c0, 0), 0)))
    coarse = np.pad(padded[step // 2 :: step, step // 2 :: step], ((0, margin // step), (0, margin // step)))
    reach = round(MOST_HALF_WALL / CELL)
    # Distances are those of squares, not of circles: the corners of rooms stay corners.
    distance = ndimage.distance_transform_cdt(coarse == 0, metric="chessboard")
    grown = expand_labels(coarse, distance=reach * math.sqrt(2))
    between = ndimage.distance_transform_cdt(distance <= reach, metric="chessboard") > reach  # gaps, closed
    keep = between | (distance <= _half_wall(grown, distance))
    half = len(rooms) / 2
    return RoomCells(np.where(keep, grown, 0).astype(np.uint8), ((c0 - half) * pixel, (r0 - half) * pixel))


def outlines(cells: RoomCells) -> dict[int, tuple[Point2, ...]]:
    """The polygon of each room by its value; rooms under `LEAST_AREA` are missing."""
    masks = {int(value): _main_part(cells.labels == value) for value in np.unique(cells.labels) if value}
    rough = {value: _contour(mask, cells.corner) for value, mask in masks.items() if mask.sum() * CELL**2 >= LEAST_AREA}
    sides = {value: _sides(points) for value, points in rough.items()}
    lines = {fixed: _lines(sides.values(), fixed) for fixed in "xy"}
    found = {}
    for value, points in rough.items():
        straight = _corners(_joined([_snapped(side, lines) for side in sides[value]]))
        area = masks[value].sum() * CELL**2
        good = len(straight) >= 4 and abs(_area(straight) - area) <= WRONG_AREA * area
        found[value] = tuple((round(float(x), 3), round(float(y), 3)) for x, y in (straight if good else points))
    return found


def walls_around(polygons: Sequence[Sequence[Point2]]) -> tuple[Wall, ...]:
    """The rooms' outlines as walls; what two rooms have in common, or what continues in one line, is one wall."""
    spans: dict[tuple[str, float], list[tuple[float, float]]] = {}
    walls = []
    for polygon in polygons:
        for a, b in zip(polygon, [*polygon[1:], polygon[0]]):
            if a[0] == b[0]:
                spans.setdefault(("x", a[0]), []).append((min(a[1], b[1]), max(a[1], b[1])))
            elif a[1] == b[1]:
                spans.setdefault(("y", a[1]), []).append((min(a[0], b[0]), max(a[0], b[0])))
            else:
                walls.append(Wall(*sorted((a, b))))
    for (fixed, value), intervals in sorted(spans.items()):
        for low, high in _union(intervals):
            ends = ((value, low), (value, high)) if fixed == "x" else ((low, value), (high, value))
            walls.append(Wall(*ends))
    return tuple(dict.fromkeys(walls))


def _half_wall(grown: NDArray[np.uint8], distance: NDArray[np.int32]) -> int:
    """Half of the thickness of the walls between rooms, in cells."""
    found = []
    for first, second in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        border = (grown[first] != grown[second]) & (grown[first] > 0) & (grown[second] > 0)
        found.append((distance[first] + distance[second])[border])
    thickness = np.concatenate(found)
    return math.floor(float(np.median(thickness)) / 2 + 0.5) if len(thickness) else round(USUAL_HALF_WALL / CELL)


def _main_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, its holes filled."""
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == int(np.bincount(parts.ravel())[1:].argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(mask))


def _contour(mask: NDArray[np.bool_], corner: Point2) -> list[Point2]:
    """The outline of the cells, simplified, in metres."""
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    points = max(contours, key=len)
    points = np.roll(points[:-1], -_corner_index(points[:-1]), axis=0)  # start in a corner: it is kept
    points = approximate_polygon(np.vstack([points, points[:1]]), TOLERANCE / CELL)[:-1]
    return [(corner[0] + (c - 0.5) * CELL, corner[1] + (r - 0.5) * CELL) for r, c in points]


def _corner_index(points: NDArray[np.float64]) -> int:
    return int((points @ np.array([1.0, 1.0])).argmin())


def _sides(points: Sequence[Point2]) -> list[_Edge]:
    sides = []
    for a, b in zip(points, [*points[1:], points[0]]):
        dx, dy = abs(b[0] - a[0]), abs(b[1] - a[1])
        if dx <= NEARLY * dy:
            sides.append(_Edge("x", (a[0] + b[0]) / 2, a, b))
        elif dy <= NEARLY * dx:
            sides.append(_Edge("y", (a[1] + b[1]) / 2, a, b))
        else:
            sides.append(_Edge("", 0.0, a, b))
    around = zip([sides[-1], *sides[:-1]], sides, [*sides[1:], sides[0]])
    return [side for before, side, after in around if not _cuts_corner(before, side, after)]


def _cuts_corner(before: _Edge, side: _Edge, after: _Edge) -> bool:
    """Whether a side only cuts off the corner between its neighbours."""
    return not side.fixed and side.length <= CHAMFER and {before.fixed, after.fixed} == {"x", "y"}


def _lines(rooms: Iterable[Sequence[_Edge]], fixed: str) -> list[float]:
    """The values of all sides with this coordinate constant, near ones put together, weighted by their lengths."""
    sides = sorted((side.value, side.length) for room in rooms for side in room if side.fixed == fixed)
    groups: list[list[tuple[float, float]]] = []
    for side in sides:
        if groups and side[0] - groups[-1][0][0] <= SNAP:
            groups[-1].append(side)
        else:
            groups.append([side])
    return [sum(value * length for value, length in group) / sum(length for _, length in group) for group in groups]


def _snapped(side: _Edge, lines: dict[str, list[float]]) -> _Edge:
    if not side.fixed:
        return side
    value = min(lines[side.fixed], key=lambda line: abs(line - side.value))
    return _Edge(side.fixed, value, side.a, side.b)


def _joined(sides: list[_Edge]) -> list[_Edge]:
    """Sides that follow each other on one line become one side."""
    joined: list[_Edge] = []
    for side in sides:
        if joined and side.fixed and (joined[-1].fixed, joined[-1].value) == (side.fixed, side.value):
            joined[-1] = _Edge(side.fixed, side.value, joined[-1].a, side.b)
        else:
            joined.append(side)
    if (
        len(joined) > 1
        and joined[0].fixed
        and (joined[0].fixed, joined[0].value) == (joined[-1].fixed, joined[-1].value)
    ):
        joined[0] = _Edge(joined[0].fixed, joined[0].value, joined.pop().a, joined[0].b)
    return joined


def _corners(sides: Sequence[_Edge]) -> list[Point2]:
    """Where each side meets the next one; two parallel ones are joined by a step."""
    points: list[Point2] = []
    for side, following in zip(sides, [*sides[1:], *sides[:1]]):
        x, y = side.b
        values = {item.fixed: item.value for item in (side, following) if item.fixed}
        if side.fixed and side.fixed == following.fixed:
            points += (
                [(side.value, y), (following.value, y)]
                if side.fixed == "x"
                else [(x, side.value), (x, following.value)]
            )
        else:
            points.append((values.get("x", x), values.get("y", y)))
    return points


def _area(points: Sequence[Point2]) -> float:
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]]))) / 2


def _union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for low, high in sorted(intervals):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined
