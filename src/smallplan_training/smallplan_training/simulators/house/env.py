"""The search environment over the embedded simulator: an episode in a house, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.actions import Action, ActionKind, ActionRules, Outcome, OutcomeCode, refusal
from smallplan_planner.mapping.builder import SceneGraphBuilder
from smallplan_planner.names import matches_target
from smallplan_planner.priors import Priors
from smallplan_planner.scene_graph import SceneGraph
from smallplan_training.memory import keep_freed_memory
from smallplan_training.simulators.house.episodes import Episode, draw_episode, shortest_path
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import HouseRaster, rasterise
from smallplan_training.simulators.house.robot import Motion, SimulatedRobot
from smallplan_training.simulators.search_env import (
    ActionSpace,
    Reward,
    SceneGraphSpace,
    SearchEnv,
    StepInfo,
    sparse_reward,
)

SECONDS_PER_STEP = 0.2
"""s of simulated time for one low-level step: 0.5 m/s."""
NO_LIMIT = 10**9
"""High-level steps, for whoever lets the search end by its own rules."""
KEPT_HOUSES = 16
DEFAULT_RULES = ActionRules()


class HouseSearchEnv(SearchEnv):
    """A simulated robot searches a house.

    Args:
        houses: houses or paths of house files to draw from; without, a house is generated for each episode.
        max_steps: high-level steps after which an episode is truncated.
        failure_rate: how often an execution fails for no fault of the action.
        voronoi: fill in `info["voronoi"]`, which costs time.
        rules: which actions there are.
        reward: of a step; sparse by default.
        matches: whether a label is the target.
        priors: for generated houses and spawned objects; those of the project by default.
    """

    def __init__(
        self,
        houses: Sequence[House | str | Path] = (),
        max_steps: int = 50,
        failure_rate: float = 0.0,
        voronoi: bool = False,
        rules: ActionRules = DEFAULT_RULES,
        reward: Reward = sparse_reward,
        matches: Callable[[str, str], bool] = matches_target,
        priors: Priors | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}; expected at least 1")
        keep_freed_memory()
        self._houses = tuple(houses)
        self._max_steps, self._failure_rate, self._voronoi = max_steps, failure_rate, voronoi
        self._rules, self._reward, self._matches, self._priors = rules, reward, matches, priors
        self._rasters: dict[int, tuple[House, HouseRaster]] = {}
        self._loaded: dict[str, House] = {}
        self.observation_space = SceneGraphSpace()
        self._actions = ActionSpace(rules)
        self.action_space = self._actions
        self._episode: Episode | None = None
        self._ended = True

    @property
    def episode(self) -> Episode:
        """The episode under way: house, start, target, shortest path."""
        if self._episode is None:
            raise RuntimeError("no episode yet: call reset() first")
        return self._episode

    @property
    def robot(self) -> SimulatedRobot:
        """The simulated robot, for drawing and analysis; a policy sees the observation alone."""
        self.episode  # noqa: B018
        return self._robot

    @property
    def builder(self) -> SceneGraphBuilder:
        """The mapper of this episode."""
        self.episode  # noqa: B018
        return self._builder

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB: what the robot's camera has shown last; None, since this one has none."""
        return None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[SceneGraph, dict[str, Any]]:  # type: ignore[override]
        """Start an episode with a full turn.

        Args:
            seed: seeds everything that is drawn from here on.
            options: `episode` (an `Episode`), or any of `house` (a `House` or a path), `target`, and `start` (a
                `Pose` in the house's frame, only with `target`: such an episode keeps no rules and spawns nothing).
        Raises: NoEpisode: the house has none that meets the rules; HouseError: the file is no house.
        """
        super().reset(seed=seed)
        draw = int(self.np_random.integers(2**31))
        self._episode = self._choose(dict(options or {}), draw)
        self._robot = self._new_robot(self._episode, draw)
        self._builder = SceneGraphBuilder(robot_radius=self._robot.radius)
        self._steps, self._ended = 0, False
        self._graph = SceneGraph()
        motion = self._robot.look_around()
        info = self._observe(motion)
        return self._graph, dict(info)

    def step(self, action: Action) -> tuple[SceneGraph, float, bool, bool, dict[str, Any]]:
        """Carry out one action; an invalid one fails without motion and counts as a step."""
        if self._ended:
            raise RuntimeError("the episode has ended: call reset() first")
        self._steps += 1
        if action.kind is ActionKind.DONE:
            info = self._observe(Motion(Outcome(True)), success=self._target_found())
        else:
            reason = refusal(action, self._graph, self._rules)
            info = self._observe(self._robot.execute(action, self._builder) if reason is None else _refused(reason))
        terminated = action.kind is ActionKind.DONE
        truncated = not terminated and self._steps >= self._max_steps
        self._ended = terminated or truncated
        return self._graph, self._reward(action, info), terminated, truncated, dict(info)

    def _new_robot(self, episode: Episode, seed: int) -> SimulatedRobot:
        return SimulatedRobot(episode.house, episode.start, seed, self._failure_rate, episode.raster)

    def _choose(self, options: dict[str, Any], seed: int) -> Episode:
        unknown = set(options) - {"episode", "house", "target", "start"}
        if unknown:
            raise ValueError(f"options hold {sorted(unknown)}; expected 'episode', 'house', 'target' or 'start'")
        if "episode" in options:
            return options["episode"]  # type: ignore[no-any-return]
        house = self._house(options.get("house"), seed)
        raster, target, start = self._raster(house), options.get("target"), options.get("start")
        if start is None:
            return draw_episode(house, seed, raster, self._priors, target)
        if target is None:
            raise ValueError("options hold 'start' without 'target'; expected both")
        length = shortest_path(house, start, target, raster)
        return Episode(house, start, target, math.nan if length is None else length, seed, raster)

    def _house(self, given: House | str | Path | None, seed: int) -> House:
        if given is None:
            if not self._houses:
                return generate_house(seed, priors=self._priors)
            given = self._houses[seed % len(self._houses)]
        if isinstance(given, House):
            return given
        if str(given) not in self._loaded:
            self._loaded[str(given)] = House.load(given)
        return self._loaded[str(given)]

    def _raster(self, house: House) -> HouseRaster:
        """The house's cells; those of the last few houses are kept (with the house: its id must stay taken)."""
        if id(house) not in self._rasters:
            if len(self._rasters) >= KEPT_HOUSES:
                self._rasters.pop(next(iter(self._rasters)))
            self._rasters[id(house)] = (house, rasterise(house))
        return self._rasters[id(house)][1]

    def _observe(self, motion: Motion, success: bool = False) -> StepInfo:
        """Update the scene graph and tell what came of a motion."""
        before, robot = self._graph, self._robot
        self._graph = self._builder.update(
            robot.perception.grid(),
            robot.perception.detections,
            robot.perception.doors,
            robot.pose,
            stamp=robot.low_level_steps * SECONDS_PER_STEP,
        )
        self._actions.update(self._graph)
        new_nodes = _nodes(self._graph, besides=before)
        return StepInfo(
            outcome=motion.outcome,
            feedback=_sentence(motion.outcome, len(new_nodes)),
            distance=motion.outcome.distance,
            total_distance=robot.distance,
            low_level_steps=motion.low_level_steps,
            total_low_level_steps=robot.low_level_steps,
            path=motion.path,
            new_nodes=new_nodes,
            voronoi=self._builder.voronoi if self._voronoi else None,
            target=self.episode.target,
            shortest_path=self.episode.shortest_path,
            success=success,
        )

    def _target_found(self) -> bool:
        return any(self._matches(obj.label, self.episode.target) for obj in self._graph.objects)


def _refused(reason: str) -> Motion:
    return Motion(Outcome(False, OutcomeCode.STALE_GOAL, reason), np.zeros((0, 2)), 0)


def _nodes(graph: SceneGraph, besides: SceneGraph) -> tuple[str, ...]:
    known = {*besides.room_by_id, *besides.object_by_id, *besides.door_by_id}
    return tuple(
        item.id for items in (graph.rooms, graph.objects, graph.doors) for item in items if item.id not in known
    )  # type: ignore[attr-defined]


def _sentence(outcome: Outcome, found: int) -> str:
    if not outcome.success:
        return f"It failed: {outcome.message}."
    return f"It worked; {found} new things were seen." if found != 1 else "It worked; 1 new thing was seen."
