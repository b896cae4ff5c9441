"""Recorded episodes: everything that is needed to step through a search afterwards, as one JSON object each.

    watcher = EpisodeWatcher(env, policy)
    record = run_episode(env, episode, watcher, config)
    recording = watcher.recording("slm", episode, record)

A recording has `policy`, `scene`, `seed`, `target`, `shortest_m`, `result`; `house`, the truth as drawn (rooms, walls,
doors, furniture, where the target really is); `start`; `steps`, one for each decision: `system` and `user` (the
prompt), `analysis`, `reasoning`, `command`, `outcome`, `text`, `robot` (x, y, yaw), `path` (driven by this step),
`dist_m`, `low_level_steps`, `ms`, and `picture` where the robot has a camera (what it showed before the decision, a
JPEG as a data URL); `seen`, a coarse grid of the first step before which each cell was known, as
run lengths; and `things`, the discovered scene graph: `kind`, `at`, and `spans` of (since step, name, state), in which
the name None means that it is gone. Metres and radians, in the house's frame. It is meant for `smallplan report`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smallplan_planner.mapping.occupancy import UNKNOWN
from smallplan_planner.names import matches_target
from smallplan_planner.policies import Policy
from smallplan_planner.prompt import render
from smallplan_planner.search import Answer, Situation
from smallplan_training.errors import UserError
from smallplan_training.rollout import DecisionRecord, EpisodeRecord
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import RESOLUTION

FORMAT = "smallplan-episode/1"
_COARSE = 2  # cells of the simulator's grid along one side of a recorded cell
_NEVER = np.iinfo(np.int16).max
_STRAIGHT = 1e-3  # m a point of a path may lie off the line between its neighbours to be left out

Recording = dict[str, Any]


class EpisodeWatcher:
    """A policy that asks another one, and notes before each of its decisions what the robot knows."""

    def __init__(self, env: HouseSearchEnv, policy: Policy) -> None:
        self._env, self._policy = env, policy
        self._decisions = 0
        self._robots: list[list[float]] = []
        self._pictures: list[str] = []
        self._first_known: NDArray[np.int16] | None = None
        self._things: dict[str, dict[str, Any]] = {}

    def decide(self, situation: Situation) -> Answer:
        self._note_grid()
        self._note_graph(situation)
        pose = situation.graph.robot_pose
        self._robots.append([*_place(pose.position, self._origin), round(pose.yaw, 2)])
        self._pictures.append("" if self._env.picture is None else _data_url(self._env.picture))
        self._decisions += 1
        return self._policy.decide(situation)

    def classify_room(self, labels: Iterable[str]) -> str:
        return self._policy.classify_room(labels)

    def recording(self, policy: str, episode: Episode, record: EpisodeRecord) -> Recording:
        """The episode that has just ended, as JSON-able data; `policy` is what the tables call it."""
        self._note_grid()
        result = record.result
        return {
            "format": FORMAT,
            "policy": policy,
            "scene": episode.house.name,
            "seed": record.seed,
            "target": record.target,
            "shortest_m": round(record.shortest_path, 2),
            "result": {
                "code": result.code.name,
                "success": result.success,
                "message": result.message,
                "steps": result.steps,
                "retries": result.retries,
                "dist_m": round(result.distance, 2),
                "low_level_steps": record.low_level_steps,
            },
            "house": describe_house(episode.house, record.target),
            "start": [round(value, 2) for value in self._origin],
            "seen": self._seen(),
            "things": list(self._things.values()),
            "steps": [
                self._step(number, decision) for number, decision in enumerate(record.decisions[: len(self._robots)])
            ],
        }

    @property
    def _origin(self) -> tuple[float, float]:
        """Where in the house's frame the world frame has its origin, m."""
        episode = self._env.episode
        return episode.raster.centre(*episode.raster.cell(episode.start.x, episode.start.y))

    def _note_grid(self) -> None:
        known = self._env.robot.perception.known != UNKNOWN
        if self._first_known is None:
            self._first_known = np.full(known.shape, _NEVER, dtype=np.int16)
        self._first_known[known & (self._first_known == _NEVER)] = self._decisions

    def _note_graph(self, situation: Situation) -> None:
        graph, names = situation.graph, situation.names
        now: dict[str, tuple[str, str, str, Any]] = {}
        for room in graph.rooms:
            now[room.id] = ("room", names.name(room.id), "", room.center)
        for obj in graph.objects:
            now[obj.id] = ("object", names.name(obj.id), obj.state.name.lower(), obj.position)
        for door in graph.doors:
            state = door.state.name.lower() if door.openable else "locked"
            now[door.id] = ("door", names.name(door.id), state, door.position)
        for frontier in graph.frontiers:
            now[frontier.id] = ("frontier", "", "leads out" if frontier.leads_out else "", frontier.position)
        for identity, (kind, name, state, position) in now.items():
            thing = self._things.setdefault(identity, {"kind": kind, "at": [], "spans": []})
            thing["at"] = _place(position, self._origin)
            _extend(thing["spans"], self._decisions, name, "" if state == "none" else state)
        for identity in self._things.keys() - now.keys():
            _extend(self._things[identity]["spans"], self._decisions, None, "")

    def _seen(self) -> dict[str, Any]:
        """When which part of the house was known first: min over blocks of cells, -1 = never, as run lengths."""
        assert self._first_known is not None
        rows, columns = (math.ceil(size / _COARSE) for size in self._first_known.shape)
        padded = np.full((rows * _COARSE, columns * _COARSE), _NEVER, dtype=np.int16)
        padded[: self._first_known.shape[0], : self._first_known.shape[1]] = self._first_known
        blocks = padded.reshape(rows, _COARSE, columns, _COARSE).min(axis=(1, 3)).ravel()
        begins = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 1 if blocks[0] else 1))
        lengths = np.diff(begins, append=len(blocks))
        runs = [[int(blocks[at]) if blocks[at] != _NEVER else -1, int(n)] for at, n in zip(begins, lengths)]
        corner = [round(value, 3) for value in self._env.episode.raster.corner]
        return {"corner": corner, "cell": RESOLUTION * _COARSE, "rows": rows, "columns": columns, "runs": runs}

    def _step(self, number: int, decision: DecisionRecord) -> dict[str, Any]:
        system, user = (message.content for message in render(decision.view))
        answer = decision.answer
        outcome, text = _outcome(decision)
        picture = {"picture": self._pictures[number]} if self._pictures[number] else {}
        driven = [] if decision.info is None else [_place(point, self._origin) for point in decision.info["path"]]
        return {
            "system": system,
            "user": user,
            "analysis": answer.analysis,
            "reasoning": answer.reasoning,
            "command": answer.command,
            "outcome": outcome,
            "text": text,
            "robot": self._robots[number],
            "path": _without_straight(driven),
            "dist_m": round(decision.distance, 2),
            "low_level_steps": decision.low_level_steps,
            "ms": round(decision.latency * 1000, 1),
            **picture,
        }


def describe_house(house: House, target: str) -> dict[str, Any]:
    """The truth that a plan shows: floor, walls, doors, furniture, and every instance of the target."""
    labels = {piece.id: house.label_of(piece.category) for piece in house.furniture}
    instances = [
        (item, f"{item.relation} {labels[item.parent]}" if item.parent in labels else "")
        for item in house.objects
        if matches_target(house.label_of(item.category), target)
    ]
    return {
        "name": house.name,
        "rooms": [{"type": room.type, "polygon": [_place(point) for point in room.polygon]} for room in house.rooms],
        "walls": [[*_place(wall.a), *_place(wall.b)] for wall in house.walls],
        "doors": [
            {"a": _place(a), "b": _place(b), "openable": door.openable, "passage": door.is_passage, "open": door.open}
            for door, (a, b) in zip(house.doors, house.door_segments)
        ],
        "furniture": [
            {
                "label": labels[piece.id],
                "corners": [_place(corner) for corner in piece.corners],
                "openable": piece.openable,
            }
            for piece in house.furniture
        ],
        "targets": [
            {"at": _place(item.position), "label": house.label_of(item.category), "where": where}
            for item, where in instances
        ]
        + [
            {"at": _place(piece.position), "label": labels[piece.id], "where": ""}
            for piece in house.furniture
            if matches_target(labels[piece.id], target)
        ],
    }


def write_recordings(path: Path, recordings: Iterable[Recording]) -> None:
    """One JSON line each; compressed when the file's name ends in .gz."""
    lines = "".join(json.dumps(recording, separators=(",", ":"), ensure_ascii=False) + "\n" for recording in recordings)
    data = lines.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_recordings(path: Path) -> list[Recording]:
    """What `write_recordings` wrote; raises `UserError` that names the file and the line."""
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as recorded episodes: {error}") from error
    recordings = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            recording = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(recording, dict) or recording.get("format") != FORMAT:
            raise UserError(
                f"{path}, line {number}: not an episode of the format {FORMAT}; "
                "expected a file that `smallplan evaluate --episodes-out` wrote"
            )
        recordings.append(recording)
    return recordings


def _outcome(decision: DecisionRecord) -> tuple[str, str]:
    """A word for what came of a decision, and a sentence."""
    if decision.answer.parse_error:
        return "unparsable", decision.answer.parse_error
    if decision.action is None:
        return "refused", decision.refusal
    if decision.outcome is None:
        return "done", "the search ends"
    if decision.outcome.success:
        return "executed", decision.info["feedback"] if decision.info is not None else ""
    reason = decision.outcome.code.name.lower().replace("_", " ")
    return "failed", f"{reason}: {decision.outcome.message}" if decision.outcome.message else reason


def _data_url(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) as a JPEG that a page can hold."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _extend(spans: list[list[Any]], since: int, name: str | None, state: str) -> None:
    if not spans or spans[-1][1:] != [name, state]:
        spans.append([since, name, state])


def _place(point: Sequence[float], origin: tuple[float, float] = (0.0, 0.0)) -> list[float]:
    return [round(float(point[0]) + origin[0], 2), round(float(point[1]) + origin[1], 2)]


def _without_straight(points: list[list[float]]) -> list[list[float]]:
    """A polyline without the points that lie on the line between their neighbours."""
    kept: list[list[float]] = []
    for at, point in enumerate(points):
        if kept and point == kept[-1]:
            continue
        if kept and at + 1 < len(points):
            (x0, y0), (x1, y1) = kept[-1], points[at + 1]
            length = math.hypot(x1 - x0, y1 - y0)
            if length and abs((x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0)) / length < _STRAIGHT:
                continue
        kept.append(point)
    return kept
