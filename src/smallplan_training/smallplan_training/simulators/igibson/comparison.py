"""The embedded simulator beside iGibson: the same house, start and actions in both, and how far they agree.

A policy leads the search in the embedded simulator, and every action is carried out in iGibson too, where it means
the same thing: the same object or door, or the frontier nearest to it. Compared is what was known in the end.

    python -m smallplan_training.simulators.igibson.comparison --scenes test --max-scenes 2 --episodes 2
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from smallplan_planner.actions import Action, ActionKind, Outcome
from smallplan_planner.policies import Policy
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import ResultCode, SearchConfig
from smallplan_training.errors import UserError
from smallplan_training.evaluate import episode_seed
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.rollout import run_episode
from smallplan_training.simulators.factory import IGIBSON, load_scene, make_env, resolve_scenes
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode, NoEpisode, draw_episode
from smallplan_training.teachers.expert import ExpertPolicy

log = logging.getLogger(__name__)

NEAR = 3.0
"""m that the same frontier may be away in the other simulator."""


_NOTHING = Action(ActionKind.EXPLORE)
"""Refused without motion: what can't be done in both is done in neither, so that the actions stay the same."""


@dataclass(frozen=True)
class Agreement:
    """How far the two agree after the same actions; shares are 0 to 1."""

    actions: int
    carried_out: float  # share of the actions that ended alike, successfully or not
    cells: float  # of the floor and what stands on it, where both know it: free or occupied in both
    rooms: float  # of the free cells that both know: in rooms that are each other's
    objects: float  # discovered by both, of those discovered by one of them at least
    doors: float
    embedded_m: float
    igibson_m: float

    @property
    def path(self) -> float:
        """How much longer iGibson's path is, as a share of the embedded one's."""
        return self.igibson_m / self.embedded_m - 1 if self.embedded_m else 0.0


class _Follower:
    """A `SearchEnv` for a rollout in the embedded simulator, which leads the other one along."""

    def __init__(self, leader: HouseSearchEnv, other: HouseSearchEnv) -> None:
        self._leader, self._other = leader, other
        self.outcomes: list[tuple[Outcome, Outcome]] = []
        self.distances = [0.0, 0.0]

    def reset(self, **arguments: Any) -> tuple[SceneGraph, dict[str, Any]]:
        self._graph, _ = self._other.reset(**arguments)
        return self._leader.reset(**arguments)

    def step(self, action: Action) -> tuple[SceneGraph, float, bool, bool, dict[str, Any]]:
        same = _translated(action, self._leader, self._other, self._graph)
        answer = self._leader.step(action if same is not None else _NOTHING)
        if same is not None:
            self._graph, *_, info = self._other.step(same)
            self.outcomes.append((answer[4]["outcome"], info["outcome"]))
            self.distances[0] += answer[4]["distance"]
            self.distances[1] += info["distance"]
        else:
            self.outcomes.append((Outcome(True), Outcome(False, message="its target is not discovered there")))
        one, other = self.outcomes[-1]
        if one.success != other.success:
            log.info("%s ended differently: %s, in iGibson %s", action, one, other)
        return answer


def compare(episode: Episode, embedded: HouseSearchEnv, igibson: HouseSearchEnv, policy: Policy) -> Agreement | None:
    """Search in both; what they know in the end, None where iGibson loses the episode. The policy sees the embedded
    one alone."""
    both = _Follower(embedded, igibson)
    record = run_episode(both, episode, policy, SearchConfig())  # type: ignore[arg-type]
    if record.result.code is ResultCode.EXECUTOR_UNAVAILABLE:
        return None
    alike = [one.success == other.success for one, other in both.outcomes]
    ours, theirs = embedded.robot.perception, igibson.robot.perception
    known = (ours.known >= 0) & (theirs.known >= 0)
    return Agreement(
        actions=len(alike),
        carried_out=float(np.mean(alike)) if alike else 1.0,
        cells=float((ours.known == theirs.known)[known].mean()),
        rooms=_same_rooms(embedded, igibson),
        objects=_overlap(_things(embedded), _things(igibson)),
        doors=_overlap(_doors(embedded), _doors(igibson)),
        embedded_m=both.distances[0],
        igibson_m=both.distances[1],
    )


def _translated(action: Action, leader: HouseSearchEnv, other: HouseSearchEnv, graph: SceneGraph) -> Action | None:
    """What an action of the leader is in the other's graph; None where that has not discovered it."""
    if action.kind is ActionKind.EXPLORE:
        cell = leader.builder.approach(action.target_id)
        if cell is None:
            return None
        x, y = leader.builder.grid.to_world(*cell)
        near = min(graph.frontiers, key=lambda f: math.dist(f.position[:2], (x, y)), default=None)
        if near is None or math.dist(near.position[:2], (x, y)) > NEAR:
            return None
        return Action(action.kind, near.room, near.id)
    key = leader.builder.key_of[action.target_id]
    thing, door = leader.robot.perception.thing_index(key), leader.robot.perception.door_index(key)
    same = other.robot.perception.key_of(thing, door)
    target = other.builder.id_of.get(same or "")
    if target in graph.object_by_id:
        return Action(action.kind, graph.object_by_id[target].room, target)
    if target in graph.door_by_id:
        return Action(action.kind, graph.door_by_id[target].rooms[0], target)
    return None


def _same_rooms(embedded: HouseSearchEnv, igibson: HouseSearchEnv) -> float:
    """Each room of the one is paired with that of the other which it shares most cells with."""
    ours, theirs = (_room_cells(env) for env in (embedded, igibson))
    both = (ours > 0) & (theirs > 0)
    if not both.any():
        return 0.0
    table = np.zeros((int(ours.max()) + 1, int(theirs.max()) + 1), dtype=int)
    np.add.at(table, (ours[both], theirs[both]), 1)
    mutual = [
        table[room, other]
        for room in range(1, table.shape[0])
        for other in [int(table[room].argmax())]
        if int(table[:, other].argmax()) == room
    ]
    return float(sum(mutual) / both.sum())


def _room_cells(env: HouseSearchEnv) -> np.ndarray:
    """(H, W) the number of the room of each cell of the house's arrays, 0 = none."""
    labels, grid = env.builder.segmentation.labels, env.builder.grid
    whole = np.zeros(env.robot.perception.known.shape, dtype=int)
    x, y = grid.to_world(0, 0)
    row, column = env.robot.perception.to_cell(x, y)
    whole[row : row + labels.shape[0], column : column + labels.shape[1]] = labels
    return whole


def _things(env: HouseSearchEnv) -> set[int]:
    perception = env.robot.perception
    return {
        thing for item in perception.detections for thing in [perception.thing_index(item.key)] if thing is not None
    }


def _doors(env: HouseSearchEnv) -> set[int]:
    perception = env.robot.perception
    return {door for item in perception.doors for door in [perception.door_index(item.key)] if door is not None}


def _overlap(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0


def compare_scenes(
    scenes: Sequence[Path], episodes: int, seed: int, console: Console | None = None
) -> dict[str, list[Agreement]]:
    """The agreement of the expert's episodes in each of these scenes, by the scene's name."""
    found: dict[str, list[Agreement]] = {}
    embedded, igibson = make_env(), make_env(IGIBSON)
    try:
        for path in scenes:
            house = load_scene(IGIBSON, path)
            for index in range(episodes):
                try:
                    episode = draw_episode(house, episode_seed(house.name, index, seed))
                except NoEpisode as error:
                    raise UserError(str(error)) from error
                made = compare(episode, embedded, igibson, ExpertPolicy())
                if made is None:
                    log.warning("%s %d is left out: iGibson lost the episode", house.name, index)
                    continue
                found.setdefault(house.name, []).append(made)
                if console is not None:
                    console.print(f"{house.name} {index}: {_in_words(made)}", highlight=False)
    finally:
        igibson.close()
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", nargs="+", default=["test"], metavar="SPLIT|PATH", help="default: test")
    parser.add_argument("--max-scenes", type=int, help="take the first N scenes only")
    parser.add_argument("--episodes", type=int, default=1, help="per scene (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    check_writable(args.json)
    if args.episodes < 1:
        raise UserError(f"--episodes is {args.episodes}; expected at least 1")
    scenes = resolve_scenes(IGIBSON, args.scenes, args.max_scenes)
    found = compare_scenes(scenes, args.episodes, args.seed, Console(stderr=True))
    rows = [item for items in found.values() for item in items]
    embedded_m = sum(row.embedded_m for row in rows)
    if not embedded_m:
        raise UserError(f"nothing to compare: of {len(rows)} episodes none has an action that both could do")
    report = {
        "episodes": len(rows),
        **{name: round(100 * float(np.mean([getattr(row, name) for row in rows])), 2) for name in _SHARES},
        "path": round(100 * (sum(row.igibson_m for row in rows) / embedded_m - 1), 2),
        "per_scene": {name: [asdict(item) for item in items] for name, items in found.items()},
    }
    write_figures(args.json, report)
    table = Table("", *(_SHARES[name] for name in _SHARES), "path")
    table.add_row("mean", *(f"{report[name]:.1f} %" for name in _SHARES), f"{report['path']:+.1f} %")
    Console().print(table)
    return 0


_SHARES = {
    "carried_out": "actions alike",
    "cells": "cells alike",
    "rooms": "rooms alike",
    "objects": "objects in both",
    "doors": "doors in both",
}


def _in_words(made: Agreement) -> str:
    shares = ", ".join(f"{words} {100 * getattr(made, name):.1f} %" for name, words in _SHARES.items())
    return f"{made.actions} actions, {shares}, {made.embedded_m:.1f} m and {made.igibson_m:.1f} m"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        raise SystemExit(run(parser.parse_args()))
    except UserError as user_error:
        raise SystemExit(f"comparison: {user_error}") from user_error
