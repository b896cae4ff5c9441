"""Ways through a house that tests take."""

from __future__ import annotations

from smallplan_planner.actions import DONE, Action, ActionKind
from smallplan_planner.scene_graph import SceneGraph
from smallplan_training.simulators.house.env import HouseSearchEnv


def random_walk(env: HouseSearchEnv, steps: int) -> list[SceneGraph]:
    """What is seen on a search of at most so many actions, always the same ones in the same house."""
    graph, _ = env.reset(seed=11)
    env.action_space.seed(11)
    graphs = [graph]
    for _ in range(steps):
        action = env.action_space.sample()
        if action is not DONE:
            graphs.append(env.step(action)[0])
    return graphs


def open_(graph: SceneGraph, label: str) -> Action:
    """Open the thing of this label, or the door that opens."""
    if label == "door":
        door = next(door for door in graph.doors if door.openable)
        return Action(ActionKind.GO_TO_AND_OPEN, door.rooms[0], door.id)
    obj = next(obj for obj in graph.objects if obj.label == label)
    return Action(ActionKind.GO_TO_AND_OPEN, obj.room, obj.id)
