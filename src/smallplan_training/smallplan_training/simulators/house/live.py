"""A simulated robot in real time: actions take as long as they would and can be stopped and observed midway.

Knows no ROS; `sim_node.py` puts it behind topics and actions. One action runs at a time, on the thread that calls
`execute`; `observe` and `cancel` may be called from other threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.mapping.builder import SceneGraphBuilder
from smallplan_planner.mapping.occupancy import OccupancyGrid
from smallplan_planner.priors import Priors
from smallplan_planner.scene_graph import Pose, SceneGraph
from smallplan_training.simulators.house.episodes import Episode, draw_episode, shortest_path
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import ROBOT_RADIUS, rasterise
from smallplan_training.simulators.house.robot import SimulatedRobot

Progress = Callable[[float], None]
"""Is told the metres of path that remain."""


def choose_episode(
    house: House, seed: int, target: str = "", start: Pose | None = None, priors: Priors | None = None
) -> Episode:
    """The episode to live through: drawn by the rules, or with a given target or start (house frame, needs a target).

    Raises: NoEpisode: the house has none; ValueError: a start without a target.
    """
    raster = rasterise(house)
    if start is None:
        return draw_episode(house, seed, raster, priors, target or None)
    if not target:
        raise ValueError("start is given without target; expected both, or no start")
    length = shortest_path(house, start, target, raster)
    return Episode(house, start, target, math.nan if length is None else length, seed, raster)


class LiveRobot:
    """The robot of one episode. `speed` is simulated seconds per second; 0: motion takes no time.

    Raises: ValueError: a negative speed, or a start in an obstacle.
    """

    def __init__(self, episode: Episode, speed: float = 1.0, seed: int = 0, failure_rate: float = 0.0) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed is {speed}; expected 0 (as fast as possible) or more")
        self.episode = episode
        self._speed = speed
        self._robot = SimulatedRobot(episode.house, episode.start, seed, failure_rate, episode.raster, self._pace)
        self._builder = SceneGraphBuilder(robot_radius=ROBOT_RADIUS)
        self._state = threading.Lock()  # held whenever robot or builder compute, released while time passes
        self._turn = threading.Lock()  # held by the action under way
        self._cancel = threading.Event()
        self._progress: Progress | None = None
        self._moved = True
        self._graph = SceneGraph()
        self.driven: list[tuple[float, float]] = [(0.0, 0.0)]
        """Points driven so far, in the frame of the observations."""
        self._robot.look_around()

    @property
    def busy(self) -> bool:
        """Whether an action is under way."""
        return self._turn.locked()

    @property
    def distance(self) -> float:
        """m travelled so far."""
        return self._robot.distance

    @property
    def grid(self) -> OccupancyGrid:
        """The map of the last observation."""
        return self._builder.grid

    def execute(
        self,
        action: Action,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        patience: float = 5.0,
    ) -> Outcome:
        """Carry out an action until its end or until `cancel` is set.

        One that is under way is cancelled first, and given `patience` seconds to end.
        """
        if action.kind is ActionKind.DONE:
            return Outcome(False, OutcomeCode.FAILED, "done() is for the planner, it is not executed")
        while not self._turn.acquire(timeout=0.05):
            self._cancel.set()
            patience -= 0.05
            if patience <= 0:
                return Outcome(False, OutcomeCode.FAILED, "the action before this one did not end")
        try:
            self._cancel = cancel or threading.Event()
            self._progress = progress
            with self._state:
                if self._moved:
                    self._update(time.time(), scanned=True)
                if action.target_id not in self._known_targets():
                    return Outcome(False, OutcomeCode.STALE_GOAL, f"{action.target_id!r} is not in the scene graph")
                motion = self._robot.execute(action, self._builder)
                self._moved = True
                self.driven += [(float(x), float(y)) for x, y in motion.path[1:]]
            return motion.outcome
        finally:
            self._progress = None
            self._turn.release()

    def cancel(self) -> None:
        """Stop the action under way; returns at once."""
        self._cancel.set()

    def observe(self, stamp: float) -> SceneGraph:
        """What is known at `stamp` (s); also while an action is under way."""
        with self._state:
            if self._moved or self.busy:
                self._update(stamp, scanned=not self.busy)
            else:
                self._graph = replace(self._graph, stamp=stamp)
            return self._graph

    def _update(self, stamp: float, scanned: bool) -> None:
        perception = self._robot.perception
        self._graph = self._builder.update(
            perception.grid(), perception.detections, perception.doors, self._robot.pose, stamp, scanned
        )
        self._moved = False

    def _known_targets(self) -> set[str]:
        graph = self._graph
        return {*graph.object_by_id, *graph.door_by_id, *graph.frontier_by_id}

    def _pace(self, seconds: float, remaining: float) -> float:
        """Let a piece of motion take its time; called with the state locked, which is free meanwhile."""
        if self._progress is not None:
            self._progress(remaining)
        if self._speed == 0.0 or seconds <= 0.0:
            return 0.0 if self._cancel.is_set() else 1.0
        duration, began = seconds / self._speed, time.monotonic()
        self._state.release()
        try:
            stopped = self._cancel.wait(duration)
        finally:
            self._state.acquire()
        return min(1.0, (time.monotonic() - began) / duration) if stopped else 1.0
