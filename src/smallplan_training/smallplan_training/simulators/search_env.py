"""What every simulator offers: `SearchEnv`, a Gymnasium environment over scene graphs and actions.

An observation is the `SceneGraph` of what has been discovered, an action an `Action` on its ids. Room labels are
empty: a simulator never tells room types. The keys of `info` are those of `StepInfo`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import gymnasium
import networkx as nx
import numpy as np
from numpy.typing import NDArray

from smallplan_planner.actions import Action, ActionRules, Outcome, valid_actions
from smallplan_planner.scene_graph import Room, SceneGraph, SceneGraphError

SUCCESS_REWARD = 5.0


class EpisodeLost(RuntimeError):
    """The simulator broke down in `reset` or `step`: this episode can't go on. The next `reset` starts it anew."""


class StepInfo(TypedDict):
    """What `reset` and `step` tell beside the observation; lengths in metres."""

    outcome: Outcome  # of this step; that of `reset` is a success
    feedback: str  # the outcome in a sentence
    distance: float  # travelled in this step
    total_distance: float  # travelled in this episode
    low_level_steps: int  # of this step: 0.1 m or up to 0.35 rad each, opening counts 30
    total_low_level_steps: int
    path: NDArray[np.float64]  # (N, 2) points driven in this step, in the frame of the observation
    new_nodes: tuple[str, ...]  # ids of rooms, objects and doors that were not in the last observation
    voronoi: nx.Graph | None  # the navigation Voronoi graph; None unless the environment was asked for it
    target: str
    shortest_path: float  # of the episode, from the start; NaN = unknown
    success: bool


Reward = Callable[[Action, StepInfo], float]
"""The reward of a step, a pure function of the action and what came of it."""


def sparse_reward(action: Action, info: StepInfo) -> float:
    """5 when the search succeeds, else 0."""
    return SUCCESS_REWARD if info["success"] else 0.0


class SearchEnv(gymnasium.Env[SceneGraph, Action]):
    """The contract of `reset` and `step`; see `StepInfo` for what they tell.

    An episode terminates with DONE, which succeeds while a discovered object matches the target, and is truncated
    after a number of steps. `reset` takes `options`: what they may hold depends on the simulator, `target` always.
    """

    metadata: dict[str, Any] = {"render_modes": []}


class SceneGraphSpace(gymnasium.Space[SceneGraph]):
    """All scene graphs that can be planned on. Samples are the smallest such graph: one empty room."""

    def sample(self, mask: Any = None, probability: Any = None) -> SceneGraph:
        return SceneGraph(rooms=(Room("room_1"),), robot_room="room_1")

    def contains(self, x: Any) -> bool:
        if not isinstance(x, SceneGraph):
            return False
        try:
            x.validate()
        except SceneGraphError:
            return False
        return True

    @property
    def is_np_flattenable(self) -> bool:
        return False


class ActionSpace(gymnasium.Space[Action]):
    """All actions. Samples are valid ones on the latest observation, which the environment tells by `update`."""

    def __init__(self, rules: ActionRules, seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._rules = rules
        self._graph = SceneGraph()

    def update(self, graph: SceneGraph) -> None:
        self._graph = graph

    def sample(self, mask: Any = None, probability: Any = None) -> Action:
        valid = valid_actions(self._graph, self._rules)  # not in `update`: hardly anybody samples
        return valid[int(self.np_random.integers(len(valid)))]

    def contains(self, x: Any) -> bool:
        return isinstance(x, Action)

    @property
    def is_np_flattenable(self) -> bool:
        return False
