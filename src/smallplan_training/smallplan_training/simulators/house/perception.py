"""What the simulated robot has seen so far: its occupancy grid and its detections, and nothing else.

`HouseState` is the truth of one episode (which doors and containers are open now); `Perception` looks at it from the
robot's pose and remembers what can be seen. Its world frame has its origin where the robot started, its grid covers
no more than what it has seen and a margin, and its keys count in the order of first sight: nothing of
what is undiscovered shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.mapping.detections import Detection, DoorDetection
from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyGrid, window_of
from smallplan_planner.scene_graph import OpenState
from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.house import House, Point2
from smallplan_training.simulators.house.raster import LOW, NO_OWNER, RESOLUTION, SOLID, HouseRaster

GRID_STEP = 16
"""Cells: the grid grows by this much, so that its origin seldom moves."""
GRID_MARGIN = 8
"""Cells of unknown around what is known."""
DOOR_OFFSET = 0.15
"""m: a door is seen when a point this far in front of it is."""

_SIDES = np.array([-1.0, 0.0, 1.0])
"""Of a door, for one who stands behind it, in line with it, or before it."""

Cell = tuple[int, int]


class HouseState:
    """The truth of one episode: the house, and which of its doors and containers are open."""

    def __init__(self, house: House, raster: HouseRaster) -> None:
        self.house, self.raster = house, raster
        self.height = raster.height.copy()
        self.tall = self.height > sensing.CAMERA_HEIGHT
        self.occupancy = np.where(self.height > LOW, np.int8(OCCUPIED), np.int8(FREE))
        self.door_open = [door.open for door in house.doors]
        self.container_open = [False] * len(house.furniture)

    def set_door(self, index: int, is_open: bool) -> None:
        cells = self.raster.door_cells[index]
        self.door_open[index] = is_open
        self.height.ravel()[cells] = 0.0 if is_open else SOLID
        self.tall.ravel()[cells] = not is_open
        self.occupancy.ravel()[cells] = FREE if is_open else OCCUPIED


@dataclass(frozen=True)
class SightLines:
    """Where a house's things may be seen, as arrays; furniture comes first, then objects.

    Points are in cells, fractional. A piece of furniture has five, an object one.
    """

    points: NDArray[np.float64]  # (2, P) columns and rows
    thing: NDArray[np.int32]  # (P,) which thing a point belongs to
    top: NDArray[np.float64]  # (P,) m
    excused: NDArray[np.int16]  # (P,) furniture that doesn't block the line to this point, or `sensing.NOBODY`
    reach: NDArray[np.float64]  # (P,) m, from how far it is recognised
    container: NDArray[np.int32]  # (T,) for each thing the furniture that it is in, or -1

    @staticmethod
    def of(house: House, raster: HouseRaster) -> SightLines:
        index_of = {piece.id: index for index, piece in enumerate(house.furniture)}
        points, thing, top, excused, reach, container = [], [], [], [], [], []

        def add(x: float, y: float, number: int, height: float, owner: int, size: float) -> None:
            points.append(((x - raster.corner[0]) / RESOLUTION, (y - raster.corner[1]) / RESOLUTION))
            thing.append(number)
            top.append(height)
            excused.append(sensing.NOBODY if owner == NO_OWNER else owner)
            reach.append(sensing.SMALL_RANGE if size < sensing.SMALL else sensing.RANGE)

        for index, piece in enumerate(house.furniture):
            container.append(NO_OWNER)
            (x, y), (w, d) = piece.position, piece.size
            c, s = math.cos(piece.yaw), math.sin(piece.yaw)
            for u, v in ((0, 0), (0.4 * w, 0), (-0.4 * w, 0), (0, 0.4 * d), (0, -0.4 * d)):
                add(x + c * u - s * v, y + s * u + c * v, index, piece.height, index, max(*piece.size, piece.height))
        for number, item in enumerate(house.objects, start=len(house.furniture)):
            owner = index_of.get(item.parent, NO_OWNER)
            container.append(owner if item.relation == "in" else NO_OWNER)
            add(item.position[0], item.position[1], number, item.top, owner, max(item.size))
        return SightLines(
            np.array(points, dtype=float).reshape(-1, 2).T.copy(),
            np.array(thing, dtype=np.int32),
            np.array(top, dtype=float),
            np.array(excused, dtype=np.int16),
            np.array(reach, dtype=float),
            np.array(container, dtype=np.int32),
        )

    def and_doors(self, fronts: NDArray[np.float64]) -> SightLines:
        """These and, as further things, each side of each door; `fronts`: (D, 3 sides, 3 points, 2)."""
        sides, count = fronts.shape[0] * 3, fronts.shape[0] * 9
        further = len(self.container) + np.arange(count) // 3
        return SightLines(
            np.concatenate([self.points, fronts.reshape(-1, 2).T], axis=1),
            np.concatenate([self.thing, further.astype(np.int32)]),
            np.pad(self.top, (0, count), constant_values=sensing.CAMERA_HEIGHT),
            np.pad(self.excused, (0, count), constant_values=sensing.NOBODY),
            np.pad(self.reach, (0, count), constant_values=sensing.RANGE),
            np.pad(self.container, (0, sides), constant_values=NO_OWNER),
        )

    def seen_from(
        self,
        origin: Point2,
        yaw: float,
        angle: float,
        height: NDArray[np.float32],
        owner: NDArray[np.int16],
        wanted: NDArray[np.bool_],
    ) -> NDArray[np.intp]:
        """The wanted things (a mask over things) that are recognised from here, ascending.

        Args: origin: (column, row) of the camera, fractional; yaw, angle: the view in rad.
        """
        dx, dy = (self.points - np.array([origin]).T) * RESOLUTION
        near = dx * dx + dy * dy <= self.reach**2
        picked = (wanted.take(self.thing) & near & sensing.in_view(dx, dy, yaw, angle)).nonzero()[0]
        seen = sensing.lines_of_sight(
            height, owner, origin, self.points.take(picked, axis=1), self.top.take(picked), self.excused.take(picked)
        )
        found = np.zeros(len(self.container), dtype=bool)
        found[self.thing[picked[seen]]] = True
        return found.nonzero()[0]


class Perception:
    """The robot's memory of what it has seen; positions are in the world frame (the start is its origin)."""

    def __init__(self, state: HouseState, start: Cell) -> None:
        self._state = state
        self._house = state.house
        self._raster = state.raster
        self._start = start
        self._centre = state.raster.centre(*start)
        self.known: NDArray[np.int8] = np.full(state.height.shape, UNKNOWN, dtype=np.int8)
        self._lines = SightLines.of(self._house, self._raster)
        self._unseen = np.ones(len(self._lines.container), dtype=bool)
        self._closed_in = self._lines.container >= 0  # things in a closed container
        self._door_unseen = np.ones(len(self._house.doors), dtype=bool)
        self._door_points = self._doors_in_cells()
        self._door_normals = self._normals_of_doors()
        # As one row of columns and one of rows, which is faster to reckon with.
        self._door_middles, self._door_across = self._door_points[:, 1].T.copy(), self._door_normals.T.copy()
        shifts = self._door_normals[:, None] * _SIDES[:, None] * (DOOR_OFFSET / RESOLUTION)
        self._door_fronts = self._door_points[:, None] + shifts[:, :, None]  # (D, 3, 3, 2): the points on each side
        self._sights = self._lines.and_doors(self._door_fronts)
        self._last_look: tuple[int, int, float, float] | None = None  # row, column, yaw, angle; None: a door has moved
        self._detections: dict[str, Detection] = {}
        self._doors: dict[str, DoorDetection] = {}
        self._key_of_thing: dict[int, str] = {}
        self._thing_of_key: dict[str, int] = {}
        self._door_of_key: dict[str, int] = {}
        index_of = {piece.id: index for index, piece in enumerate(self._house.furniture)}
        self._parent_of = {
            thing: index_of[item.parent]
            for thing, item in enumerate(self._house.objects, start=len(self._house.furniture))
            if item.parent
        }  # of the objects whose detections don't tell it yet

    @property
    def detections(self) -> list[Detection]:
        """Everything recognised so far, in the order of first sight."""
        return list(self._detections.values())

    @property
    def doors(self) -> list[DoorDetection]:
        return list(self._doors.values())

    def detection(self, key: str) -> Detection | DoorDetection | None:
        return self._detections.get(key) or self._doors.get(key)

    def door_index(self, key: str) -> int | None:
        """Which door of the house this is; None when the key is no door's."""
        return self._door_of_key.get(key)

    def thing_index(self, key: str) -> int | None:
        """Which thing of the house this is, furniture first, then objects; None when the key is none's."""
        return self._thing_of_key.get(key)

    def key_of(self, thing: int | None, door: int | None) -> str | None:
        """The key of a thing or a door of the house; None when it has not been recognised."""
        if thing is not None:
            return self._key_of_thing.get(thing)
        return next((key for key, index in self._door_of_key.items() if index == door), None)

    def furniture_index(self, key: str) -> int | None:
        """Which furniture of the house this is; None when the key is none's."""
        thing = self.thing_index(key)
        return thing if thing is not None and thing < len(self._house.furniture) else None

    def to_cell(self, x: float, y: float) -> Cell:
        """World point to the cell of the house's arrays."""
        return self._start[0] + math.floor(y / RESOLUTION + 0.5), self._start[1] + math.floor(x / RESOLUTION + 0.5)

    def to_world(self, row: int, column: int) -> Point2:
        """Cell of the house's arrays to the world point of its centre."""
        return (column - self._start[1]) * RESOLUTION, (row - self._start[0]) * RESOLUTION

    def grid(self) -> OccupancyGrid:
        """What is known of the floor, with a margin of unknown cells around it."""
        first, last = [], []
        for start, known in zip(self._start, window_of(self.known >= 0)):
            first.append(start - _round_up(start - known.start + GRID_MARGIN))
            last.append(start + _round_up(known.stop - start + GRID_MARGIN))
        data = self.known[first[0] : last[0], first[1] : last[1]].copy()
        x, y = self.to_world(first[0], first[1])
        return OccupancyGrid(data, RESOLUTION, (x - RESOLUTION / 2, y - RESOLUTION / 2))

    def look(self, row: int, column: int, yaw: float, angle: float) -> None:
        """Take in what can be seen from this cell, in this direction."""
        before, self._last_look = self._last_look, (row, column, yaw, angle)
        if before is not None and before[:2] == (row, column) and angle == sensing.FULL_TURN:
            # What has been looked at from here can show nothing more.
            if before[3] == sensing.FULL_TURN:
                return
            if before[3] == sensing.FIELD_OF_VIEW:
                yaw, angle = before[2] + math.pi, sensing.REST_OF_TURN
        state = self._state
        window, seen = sensing.visible_cells(state.tall, row, column, yaw, angle)
        np.copyto(self.known[window], state.occupancy[window], where=seen)
        self._recognise((column + 0.5, row + 0.5), yaw, angle)

    def _recognise(self, origin: Point2, yaw: float, angle: float) -> None:
        """Remember the things and the doors that show from here for the first time."""
        things = len(self._unseen)
        wanted = np.concatenate([self._unseen & ~self._closed_in, self._unseen_sides(origin).ravel()])
        # One search for both: most of its cost is that of calling numpy.
        seen = self._sights.seen_from(origin, yaw, angle, self._state.height, self._raster.owner, wanted)
        if seen.size:
            self._remember(seen[seen < things], origin)
            self._remember_doors((seen[seen >= things] - things) // 3, origin)

    def opened(self, furniture: int, row: int, column: int) -> None:
        """The robot, in this cell, has opened a container: it sees what is inside."""
        self._state.container_open[furniture] = True
        inside = self._lines.container == furniture
        self._closed_in[inside] = False
        self._remember(np.flatnonzero(inside & self._unseen), (column + 0.5, row + 0.5))
        self._set_state(furniture, OpenState.OPEN)

    def closed(self, furniture: int) -> None:
        """The robot has closed a container. What it saw inside it remembers."""
        self._state.container_open[furniture] = False
        self._closed_in[self._lines.container == furniture] = True
        self._set_state(furniture, OpenState.CLOSED)

    def door_moved(self, door: int, is_open: bool) -> None:
        """The robot has opened or closed a door, so it knows where its leaf is."""
        self._state.set_door(door, is_open)
        self._last_look = None
        cells = self._raster.door_cells[door]
        self.known.ravel()[cells] = FREE if is_open else OCCUPIED
        key = next(key for key, index in self._door_of_key.items() if index == door)
        self._doors[key] = replace(self._doors[key], state=OpenState.OPEN if is_open else OpenState.CLOSED)

    def _set_state(self, furniture: int, state: OpenState) -> None:
        key = self._key_of_thing[furniture]
        self._detections[key] = replace(self._detections[key], state=state)

    def _remember(self, things: NDArray[np.integer], origin: Point2) -> None:
        """First sight: the nearest get their keys first, whatever their order in the house's file."""
        if not len(things):
            return
        self._unseen[things] = False
        found = [(self._distance_key(int(thing), origin), int(thing)) for thing in things]
        for _, thing in sorted(found):
            key = f"thing-{len(self._detections) + 1}"
            self._key_of_thing[thing], self._thing_of_key[key] = key, thing
            self._detections[key] = self._detect(thing, key)
        self._complete_parents()

    def _distance_key(self, thing: int, origin: Point2) -> tuple[float, str, tuple[float, ...]]:
        pieces = self._house.furniture
        item = pieces[thing] if thing < len(pieces) else self._house.objects[thing - len(pieces)]
        row, column = self._raster.cell(item.position[0], item.position[1])
        return math.hypot(row + 0.5 - origin[1], column + 0.5 - origin[0]), item.category, tuple(item.position)

    def _detect(self, thing: int, key: str) -> Detection:
        pieces, centre = self._house.furniture, self._centre
        if thing < len(pieces):
            piece = pieces[thing]
            position = (piece.position[0] - centre[0], piece.position[1] - centre[1], piece.height / 2)
            state = OpenState.CLOSED if piece.openable else OpenState.NONE
            if piece.openable and self._state.container_open[thing]:
                state = OpenState.OPEN
            size = (piece.size[0], piece.size[1], piece.height)
            return Detection(
                key, self._house.label_of(piece.category), position, size, piece.yaw, state, piece.openable, "", ""
            )
        item = self._house.objects[thing - len(pieces)]
        position = (item.position[0] - centre[0], item.position[1] - centre[1], item.position[2])
        return Detection(
            key, self._house.label_of(item.category), position, item.size, 0.0, OpenState.NONE, False, "", ""
        )

    def _complete_parents(self) -> None:
        """An object's parent is told once both have been recognised."""
        keys = self._key_of_thing
        told = [(thing, on) for thing, on in self._parent_of.items() if thing in keys and on in keys]
        for thing, parent in told:
            del self._parent_of[thing]
            relation = self._house.objects[thing - len(self._house.furniture)].relation
            self._detections[keys[thing]] = replace(
                self._detections[keys[thing]], parent=keys[parent], relation=relation
            )

    def _doors_in_cells(self) -> NDArray[np.float64]:
        """(D, 3, 2) both jambs and the middle of each door, (column, row) in cells, fractional."""
        corner = np.array(self._raster.corner)
        segments = [(a, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), b) for a, b in self._house.door_segments]
        return (np.array(segments, dtype=float).reshape(-1, 3, 2) - corner) / RESOLUTION

    def _normals_of_doors(self) -> NDArray[np.float64]:
        """(D, 2) unit vectors across each door, (column, row)."""
        span = self._door_points[:, 2] - self._door_points[:, 0]
        return np.column_stack([-span[:, 1], span[:, 0]]) / np.hypot(span[:, 0], span[:, 1])[:, None]

    def _door_views(self, origin: Point2) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The doors (D,) not seen yet, and (D, 3, 2) the points before them, on the robot's side, that show them."""
        return np.flatnonzero(self._door_unseen), self._door_fronts[self._unseen_sides(origin)]

    def _unseen_sides(self, origin: Point2) -> NDArray[np.bool_]:
        """(D, 3): whether the robot stands on this one of `_SIDES` of each door, and has not seen the door yet."""
        (x, y), (normal_x, normal_y) = self._door_middles, self._door_across
        away = (origin[0] - x) * normal_x + (origin[1] - y) * normal_y
        return (np.sign(away)[:, None] == _SIDES) & self._door_unseen[:, None]

    def _remember_doors(self, seen: NDArray[np.integer], origin: Point2) -> None:
        """First sight of doors, the nearest first."""
        middles = self._door_points[:, 1]
        doors = [int(door) for door in seen]
        doors.sort(key=lambda door: (float(np.hypot(*(middles[door] - origin))), tuple(middles[door])))
        for door in doors:
            self._door_unseen[door] = False
            key = f"door-{len(self._doors) + 1}"
            self._door_of_key[key] = door
            item, (a, b) = self._house.doors[door], self._house.door_segments[door]
            jambs = sorted((p[0] - self._centre[0], p[1] - self._centre[1]) for p in (a, b))
            state = OpenState.OPEN if self._state.door_open[door] else OpenState.CLOSED
            self._doors[key] = DoorDetection(key, jambs[0], jambs[1], state, item.openable, item.is_passage)


def _round_up(cells: int) -> int:
    return math.ceil(cells / GRID_STEP) * GRID_STEP
