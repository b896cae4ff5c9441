"""What is undiscovered decides nothing: not what is observed, not the map, not what a policy answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallplan_planner.actions import DONE, ActionKind, format_command
from smallplan_planner.policies import Policy, SlmPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.scene_graph import Pose, SceneGraph
from smallplan_planner.search import Answer, SearchConfig, SearchEpisode, Situation
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House
from smallplan_training.teachers.expert import ExpertPolicy

STEPS = 8
TARGETS = ("mug", "key", "book", "towel")  # one for each seed; some get discovered, some do not


def scrambled(house: House, env: HouseSearchEnv, rng: random.Random) -> House:
    """The house with everything that this search has not seen changed, and every list in another order."""
    perception, raster = env.robot.perception, env.episode.raster
    seen = {env.episode.house.furniture[i].id for i in range(len(house.furniture)) if i in perception._key_of_thing}
    first = len(house.furniture)
    seen |= {item.id for i, item in enumerate(house.objects, start=first) if i in perception._key_of_thing}
    known = perception.known >= 0
    touched = {house.furniture[int(i)].id for i in np.unique(raster.owner[known]) if i >= 0}
    renamed = {
        room.id: room.id if (known & (raster.room == index)).any() else f"elsewhere-{index}"
        for index, room in enumerate(house.rooms)
    }
    rooms = [
        room if renamed[room.id] == room.id else replace(room, id=renamed[room.id], type="observatory")
        for room in house.rooms
    ]
    kept = [piece for piece in house.furniture if piece.id in seen | touched]
    kept = [piece if piece.id in seen else replace(piece, category="mystery") for piece in kept]
    kept = [replace(piece, room=renamed[piece.room]) for piece in kept]
    closed = [piece for piece in kept if piece.openable and piece.id not in opened(env)]
    objects = []
    for number, item in enumerate(house.objects):
        if item.id not in seen:
            parent = rng.choice(closed)
            item = replace(
                item, id=f"other-{number}", category=rng.choice(["spoon", "ghost", "key"]), parent=parent.id,
                position=(*parent.position, 0.2), size=(0.5, 0.1, 0.1), relation="in",
            )  # fmt: skip
        objects.append(item)
    doors = [replace(door, rooms=tuple(renamed[room] for room in door.rooms)) for door in house.doors]
    lists: tuple[list[Any], ...] = (rooms, kept, objects, doors)
    for items in lists:
        rng.shuffle(items)
    changed = House(house.name, tuple(rooms), house.walls, tuple(doors), tuple(kept), tuple(objects))
    changed.check()
    return changed


def opened(env: HouseSearchEnv) -> set[str]:
    return {piece.id for piece, is_open in zip(env.episode.house.furniture, env.robot.state.container_open) if is_open}


@dataclass
class Trace:
    """What a search has observed, mapped and answered."""

    graphs: list[SceneGraph] = field(default_factory=list)
    grids: list[bytes] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


def search(env: HouseSearchEnv, house: House, start: Pose, seed: int, policy: Policy) -> Trace:
    """The first steps of a search; `env` is left as they end."""
    trace, episode = Trace(), SearchEpisode(TARGETS[seed], SearchConfig(), load_priors())
    graph, _ = env.reset(seed=seed, options={"house": house, "start": start, "target": TARGETS[seed]})
    while True:
        trace.graphs.append(graph)
        trace.grids.append(env.robot.perception.grid().data.tobytes())
        episode.observe(graph)
        if episode.result is not None or len(trace.answers) == STEPS:
            return trace
        answer = policy.decide(episode.situation())
        trace.answers.append(replace(answer, latency=0.0))
        action = episode.choose(answer)
        if action is not None and episode.result is None:
            graph, _, _, _, info = env.step(action)
            episode.report(info["outcome"])


class Wanderer:
    """Explores and opens at random, whatever the target."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def decide(self, situation: Situation) -> Answer:
        options = [a for a in situation.options if a.kind in (ActionKind.EXPLORE, ActionKind.GO_TO_AND_OPEN)]
        return Answer(format_command(self._random.choice(options or [DONE]), situation.names))


@contextmanager
def policy_of(kind: str, seed: int, model: Path) -> Iterator[Policy]:
    """A policy as if it were the first search that it makes."""
    if kind == "slm":
        from smallplan_planner.slm import AnswerLimits, Slm

        with Slm(model, n_threads=1, limits=AnswerLimits(12, 12)) as slm:
            yield SlmPolicy(slm)
    else:
        yield Wanderer(seed) if kind == "wanderer" else ExpertPolicy()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with random weights: what it answers hangs on every token of its prompt."""
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: run `make setup`")
    from fixtures.tiny_gguf import write_tiny_gguf

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("wanderer", 0), ("wanderer", 3), *(("expert", seed) for seed in range(4)), ("slm", 0), ("slm", 1)],
)
def test_nothing_that_is_undiscovered_shows(kind: str, seed: int, model: Path) -> None:
    """Observations, maps and answers are the same to the bit in a house whose undiscovered part is another."""
    house = replace(generate_house(seed, 5 + seed), generated=False)
    env = HouseSearchEnv(failure_rate=0.1)
    env.reset(seed=seed, options={"house": house})
    start = env.episode.start
    with policy_of(kind, seed, model) as policy:
        trace = search(env, house, start, seed, policy)
    assert len(trace.answers) > 3
    other = scrambled(house, env, random.Random(seed))
    assert sum(item.id.startswith("other-") for item in other.objects) > 3
    with policy_of(kind, seed, model) as policy:
        other_trace = search(env, other, start, seed, policy)
    assert other_trace.answers == trace.answers
    assert other_trace.graphs == trace.graphs
    assert other_trace.grids == trace.grids
