"""The simulated robot: it drives over the map that it has made itself, looks around, and opens things.

Every action ends with an `Outcome`, the points that were driven, and the low-level steps that it took (MoMa-LLM's
measure: 0.1 m of travel or a turn of up to 0.35 rad is one step, opening something counts 30). Positions are in the
world frame: metres from where the robot started, axes along those of the house.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.mapping.builder import SceneGraphBuilder
from smallplan_planner.mapping.detections import Detection, DoorDetection
from smallplan_planner.scene_graph import OpenState, Pose
from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.perception import Cell, HouseState, Perception
from smallplan_training.simulators.house.raster import RESOLUTION, ROBOT_RADIUS, SOLID, HouseRaster, rasterise

LOOK_EVERY = 0.5
"""m of travel between two looks ahead."""
REACH = 1.0
"""m from which the robot opens things."""
STEP_LENGTH = 0.1
STEP_TURN = 0.35
FULL_TURN_STEPS = math.ceil(sensing.FULL_TURN / STEP_TURN)
OPEN_STEPS = 30
SPEED = 0.5
"""m/s"""
TURN_SPEED = 1.0
"""rad/s"""
OPEN_SECONDS = 6.0
DOOR_DEPTH = 0.15
"""m before the middle of a door at which the arm meets its leaf."""
CLEAR_OF_DOOR = 0.4
"""m from a door at which its leaf can swing past the robot."""
_WALL, _NOBODY = np.array([SOLID - 0.01]), np.array([sensing.NOBODY], dtype=np.int16)
"""What is in the arm's way, and whose."""


Pacer = Callable[[float, float], float]
"""Called for each piece of motion with the seconds that it takes and the metres that remain after it; returns the
part of it that was done, from 0 to 1. Less than 1 stops the robot there, and the action ends as CANCELED."""


def at_once(seconds: float, remaining: float) -> float:
    """The pacer of training: motion takes no time."""
    return 1.0


@dataclass(frozen=True)
class Motion:
    """What one action did: outcome, the driven polyline (N, 2) in world m, low-level steps."""

    outcome: Outcome
    path: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    low_level_steps: int = 0


class SimulatedRobot:
    """A robot in a house. `start` is (x, y, yaw) in the house's frame; x, y are moved to the cell's centre.

    Args:
        failure_rate: how often an action fails for no fault of its own, at once or on half the way.
        pace: lets time pass while the robot moves, and can stop it; motion takes no time by default.
        seed: of the failures alone; everything else is deterministic.
    Raises: ValueError: the robot doesn't fit where it is to start.
    """

    radius = ROBOT_RADIUS
    """m that its map keeps free around it."""

    def __init__(
        self,
        house: House,
        start: Pose,
        seed: int = 0,
        failure_rate: float = 0.0,
        raster: HouseRaster | None = None,
        pace: Pacer = at_once,
    ) -> None:
        if not 0.0 <= failure_rate <= 1.0:
            raise ValueError(f"failure_rate is {failure_rate}; expected 0 to 1")
        self._raster = raster or rasterise(house)
        self.state = HouseState(house, self._raster)
        row, column = self._raster.cell(start.x, start.y)
        if not self._is_free(row, column):
            raise ValueError(
                f"the robot can't start at ({start.x:.2f}, {start.y:.2f}): that is outside or in an obstacle"
            )
        self.perception = self._new_perception((row, column))
        self.pose = Pose(0.0, 0.0, start.yaw)
        self._failures = np.random.default_rng(seed)
        self._failure_rate = failure_rate
        self._pace = pace
        self.distance = 0.0
        """m travelled so far."""
        self.low_level_steps = 0

    def _new_perception(self, start: Cell) -> Perception:
        return Perception(self.state, start)

    def look_around(self) -> Motion:
        """A full turn on the spot."""
        self._look(sensing.FULL_TURN)
        return self._finish(Motion(Outcome(True), low_level_steps=FULL_TURN_STEPS))

    def execute(self, action: Action, builder: SceneGraphBuilder) -> Motion:
        """Carry out any action but DONE; `builder` made the graph that the action was chosen on."""
        failure, halfway = self._draw_failure()
        if failure and not halfway:
            return self._failed(OutcomeCode.FAILED, "the controller gave up before moving")
        try:
            cell = builder.approach(action.target_id)
        except KeyError:
            return self._failed(OutcomeCode.STALE_GOAL, f"{action.target_id!r} is not in the map")
        key = builder.key_of.get(action.target_id, "")
        if action.kind in (ActionKind.GO_TO_AND_OPEN, ActionKind.CLOSE):
            reason = self._not_openable(key, opening=action.kind is ActionKind.GO_TO_AND_OPEN)
            if reason:
                return self._failed(OutcomeCode.NOT_OPENABLE, reason)
        if cell is None:
            return self._failed(OutcomeCode.UNREACHABLE, "there is no free way to it on the map")
        free_arm = False
        if action.kind in (ActionKind.GO_TO_AND_OPEN, ActionKind.CLOSE):
            cell, free_arm = self._stand_to_reach(key, cell, builder)
        path = builder.field.path_to(*cell)
        if halfway:
            path = path[: max(1, len(path) // 2)]
        known = self._count_known() if action.kind is ActionKind.EXPLORE else 0
        motion = self._drive(path, self._facing(key))
        if motion.outcome.code is OutcomeCode.CANCELED:
            return self._finish(motion)
        if halfway:
            return self._finish(_ended(motion, OutcomeCode.BLOCKED, "something was in the way"))
        if action.kind is ActionKind.EXPLORE:
            return self._finish(self._looked_for_more(motion, known))
        if action.kind is ActionKind.NAVIGATE:
            return self._finish(motion)
        if self._pace(OPEN_SECONDS, 0.0) < 1.0:
            return self._finish(_ended(motion, OutcomeCode.CANCELED, "stopped before it was opened or closed"))
        return self._finish(self._move_leaf(key, motion, action.kind is ActionKind.GO_TO_AND_OPEN, free_arm))

    def _draw_failure(self) -> tuple[bool, bool]:
        """(whether this action fails, whether it does so halfway); two draws an action, whatever happens."""
        first, second = self._failures.random(2)
        failure = bool(first < self._failure_rate)
        return failure, failure and bool(second < 0.5)

    def _drive(self, path: NDArray[np.float64], facing: tuple[float, float] | None) -> Motion:
        """Along the path, looking ahead every `LOOK_EVERY`, then a turn to `facing` and a full turn."""
        points = np.concatenate([[[self.pose.x, self.pose.y]], path])
        travelled = np.concatenate([[0.0], np.cumsum(_lengths(points))])
        total, steps, here = float(travelled[-1]), 0, 0
        stops = np.searchsorted(travelled, np.arange(LOOK_EVERY, total, LOOK_EVERY))
        for stop in [*stops.tolist(), len(points) - 1]:
            x, y = points[stop].tolist()
            if math.hypot(x - self.pose.x, y - self.pose.y) < 1e-6:
                continue
            yaw = self.pose.yaw
            steps += self._turn(math.atan2(y - self.pose.y, x - self.pose.x))
            length = float(travelled[stop] - travelled[here])
            seconds = _turn_angle(yaw, self.pose.yaw) / TURN_SPEED + length / SPEED
            done = self._pace(seconds, total - float(travelled[stop]))
            if done < 1.0:
                reached = float(travelled[here]) + done * length
                return self._stopped(points[: int(np.searchsorted(travelled, reached, "right"))], steps)
            driven = self._travel(points[here : stop + 1])
            if driven < stop - here:
                return self._held_up(points[: here + driven + 1], steps)
            self.pose, here = Pose(x, y, self.pose.yaw), stop
            self._look(sensing.FIELD_OF_VIEW)
        steps += math.ceil(total / STEP_LENGTH - 1e-9)
        if facing is not None:
            steps += self._turn(math.atan2(facing[1] - self.pose.y, facing[0] - self.pose.x))
        if self._pace(sensing.FULL_TURN / TURN_SPEED, 0.0) < 1.0:
            return self._stopped(points, steps)
        self._look(sensing.FULL_TURN)
        return Motion(Outcome(True, distance=total), points, steps + FULL_TURN_STEPS)

    def _travel(self, points: NDArray[np.float64]) -> int:
        """Drive along points (N, 2), in world m, of which the first is where the robot is.

        Returns how many of the others were reached; fewer than all when something unknown stood in the way.
        """
        return len(points) - 1

    def _held_up(self, points: NDArray[np.float64], steps: int) -> Motion:
        """Stand at the end of the points that were driven, before what is in the way."""
        return _ended(self._stopped(points, steps), OutcomeCode.BLOCKED, "something was in the way")

    def _stopped(self, points: NDArray[np.float64], steps: int) -> Motion:
        """Stand at the end of the points that were driven, before the action was done."""
        x, y = points[-1].tolist()
        self.pose = Pose(x, y, self.pose.yaw)
        self._look(sensing.FIELD_OF_VIEW)
        distance = float(_lengths(points).sum())
        outcome = Outcome(False, OutcomeCode.CANCELED, "stopped on the way", distance)
        return Motion(outcome, points, steps + math.ceil(distance / STEP_LENGTH - 1e-9))

    def _turn(self, yaw: float) -> int:
        """Turn to this heading; returns the low-level steps."""
        difference = _turn_angle(self.pose.yaw, yaw)
        self.pose = Pose(self.pose.x, self.pose.y, yaw)
        return math.ceil(difference / STEP_TURN - 1e-9)

    def _looked_for_more(self, motion: Motion, known_before: int) -> Motion:
        if self._count_known() > known_before:
            return motion
        return _ended(motion, OutcomeCode.UNREACHABLE, "nothing more can be seen from there")

    def _count_known(self) -> int:
        return int(np.count_nonzero(self.perception.known >= 0))

    def _move_leaf(self, key: str, motion: Motion, opening: bool, free_arm: bool) -> Motion:
        """Open or close what the robot has driven to. `free_arm`: it is known that no wall is in the arm's way."""
        row, column = self.perception.to_cell(self.pose.x, self.pose.y)
        furniture, door = self.perception.furniture_index(key), self.perception.door_index(key)
        if not self._within_reach(key, free_arm):
            return _ended(motion, OutcomeCode.UNREACHABLE, "it is out of reach from there")
        if door is not None and not opening and self._in_the_doorway(door, row, column):
            return _ended(motion, OutcomeCode.BLOCKED, "the robot stands in the doorway")
        if not self._swing(furniture, door, opening):
            return _ended(motion, OutcomeCode.BLOCKED, "something is in the way of its leaf")
        if door is not None:
            self.perception.door_moved(door, opening)
            self._look(sensing.FIELD_OF_VIEW)
        elif furniture is not None and opening:
            self.perception.opened(furniture, row, column)
        elif furniture is not None:
            self.perception.closed(furniture)
        return Motion(motion.outcome, motion.path, motion.low_level_steps + OPEN_STEPS)

    def _swing(self, furniture: int | None, door: int | None, opening: bool) -> bool:
        """Move the leaves of a piece of furniture or of a door, by index; False where they get stuck."""
        return True

    def _not_openable(self, key: str, opening: bool) -> str:
        """Why this can't be opened (or closed), '' when it can."""
        item = self.perception.detection(key)
        if item is None or not item.openable:
            return "it is locked" if isinstance(item, DoorDetection) else "it has no door or drawer that opens"
        wanted = OpenState.CLOSED if opening else OpenState.OPEN
        return "" if item.state is wanted else f"it is {'open' if opening else 'closed'} already"

    def _stand_to_reach(
        self, key: str, cell: tuple[int, int], builder: SceneGraphBuilder
    ) -> tuple[tuple[int, int], bool]:
        """The map's cell to open a thing from: the mapper's, unless a wall that the robot knows is in the arm's way.

        And whether it is known that there is none.
        """
        item, grid, distances = self.perception.detection(key), builder.grid, builder.field.distances
        if item is None:
            return cell, False
        if self._arm_is_free(item, grid.to_worlds([cell]).T, self.state.height)[0]:
            return cell, True  # without any wall in the arm's way there is none that the robot knows
        (x, y), footprint = _outline(item)
        around = grid.cells_within(x, y, REACH, footprint)
        around = around[np.isfinite(distances.ravel()[around])]
        around = around[np.argsort(distances.ravel()[around], kind="stable")]
        cells = np.vstack([cell, np.column_stack(np.divmod(around, grid.shape[1]))])
        known = np.where(self.perception.known >= 0, self.state.height, np.float32(0.0))
        clear = np.flatnonzero(self._arm_is_free(item, grid.to_worlds(cells).T, known))
        row, column = cells[clear[0]] if len(clear) else cell
        return (int(row), int(column)), False

    def _within_reach(self, key: str, free_arm: bool) -> bool:
        """Whether the arm gets there: at most `REACH` away, and no wall in between."""
        item = self.perception.detection(key)
        if item is None:
            return False
        here = np.array([[self.pose.x], [self.pose.y]])
        away = float(np.hypot(*(_nearest_points(item, here) - here)[:, 0]))
        return away <= REACH + RESOLUTION and (free_arm or bool(self._arm_is_free(item, here, self.state.height)[0]))

    def _arm_is_free(
        self, item: Detection | DoorDetection, stands: NDArray[np.float64], height: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """(N,) whether no wall is between these points (2, N), in world m, and the nearest point of the thing."""
        ends = _nearest_points(item, stands)
        if isinstance(item, DoorDetection):  # its own leaf is what the line would meet
            span = stands - ends
            ends = ends + span * (DOOR_DEPTH / np.maximum(np.hypot(span[0], span[1]), DOOR_DEPTH))
        row, column = self.perception.to_cell(0.0, 0.0)
        shift = np.array([[column + 0.5], [row + 0.5]])
        return sensing.lines_between(
            height, self._raster.owner, stands / RESOLUTION + shift, ends / RESOLUTION + shift, _WALL, _NOBODY
        )

    def _in_the_doorway(self, door: int, row: int, column: int) -> bool:
        rows, columns = np.unravel_index(self._raster.door_cells[door], self.state.height.shape)
        return bool((np.hypot(rows - row, columns - column) * RESOLUTION).min(initial=math.inf) < CLEAR_OF_DOOR)

    def _facing(self, key: str) -> tuple[float, float] | None:
        item = self.perception.detection(key)
        if item is None:
            return None
        return item.center if isinstance(item, DoorDetection) else item.position[:2]

    def _look(self, angle: float) -> None:
        row, column = self.perception.to_cell(self.pose.x, self.pose.y)
        self.perception.look(row, column, self.pose.yaw, angle)

    def _is_free(self, row: int, column: int) -> bool:
        height, width = self.state.height.shape
        return 0 <= row < height and 0 <= column < width and bool(self._raster.robot_fits[row, column])

    def _failed(self, code: OutcomeCode, message: str) -> Motion:
        return self._finish(Motion(Outcome(False, code, message)))

    def _finish(self, motion: Motion) -> Motion:
        self.distance += motion.outcome.distance
        self.low_level_steps += motion.low_level_steps
        return motion


def _lengths(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N - 1,) m from each of these points (N, 2) to the next."""
    steps = points[1:] - points[:-1]
    return np.hypot(steps[:, 0], steps[:, 1])


def _turn_angle(before: float, after: float) -> float:
    """rad between two headings, 0 to pi."""
    return abs(math.remainder(after - before, 2 * math.pi))


def _outline(item: Detection | DoorDetection) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """The centre of a thing or an opening, and its (length, width, yaw) on the floor."""
    if isinstance(item, DoorDetection):
        return item.center, (item.length, 0.0, math.atan2(item.b[1] - item.a[1], item.b[0] - item.a[0]))
    return (item.position[0], item.position[1]), (item.size[0], item.size[1], item.yaw)


def _nearest_points(item: Detection | DoorDetection, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, N): the point of a thing's outline that is nearest to each of these points (2, N)."""
    (x, y), (length, width, yaw) = _outline(item)
    c, s = math.cos(yaw), math.sin(yaw)
    dx, dy = points[0] - x, points[1] - y
    u = np.minimum(np.maximum(c * dx + s * dy, -length / 2), length / 2)  # np.clip takes as long as all of this
    v = np.minimum(np.maximum(c * dy - s * dx, -width / 2), width / 2)
    return np.array([x + c * u - s * v, y + s * u + c * v])


def _ended(motion: Motion, code: OutcomeCode, message: str) -> Motion:
    """This motion, as one that did not lead to the end."""
    return Motion(Outcome(False, code, message, motion.outcome.distance), motion.path, motion.low_level_steps)
