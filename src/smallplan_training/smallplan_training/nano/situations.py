"""Where samples come from: imagined and simulated situations, varied, and answered by the expert.

A situation is a `PromptView`. Simulated ones are met by a policy in generated houses, the expert's own (disturbed,
so that it also stands where it would not have gone) or the model's; the expert labels all of them.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from smallplan_planner.actions import ActionKind, format_command
from smallplan_planner.policies import Policy
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import PromptView, render
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training.rollout import run_episode
from smallplan_training.samples import Sample
from smallplan_training.simulators.house.env import NO_LIMIT, HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode, draw_episode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.raster import rasterise
from smallplan_training.teachers.expert import ExpertTeacher
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.marks import mark
from smallplan_training.teachers.variations import (
    from_record,
    mislead,
    random_target,
    refuse,
    remove,
    rename,
    retarget,
    to_record,
)

FIRST_HOUSE_SEED = 10_000_000  # far from those of the splits
EPISODES_PER_HOUSE = 4
FAILURE_RATE = 0.03  # of executions, for no fault of the action
_RENAMED = 0.6  # share of situations in which things are called otherwise
_SAVER = 0.35  # share of situations in mode saver
_WITHOUT_HINTS = 0.12  # share of situations without the line of usual places
_WITHOUT_MATCHES = 0.3  # share of situations without the line that names the matches
_LISTED = 0.6  # share of those that ask for something that is listed, or was
_REMOVED = 0.5  # share of these in which it is taken off the list: that it is absent is all that differs
_MISLED = 0.06  # share of situations whose usual places are those of another thing: they must be read
_SPARSE = 0.25  # share of imagined situations with few rooms and things
_REFUSED = 0.15  # share of situations in which answers were refused


class DisturbedPolicy:
    """A policy that now and then is overruled by a random action that is open (never by `done()`)."""

    def __init__(self, policy: Policy, share: float, seed: int) -> None:
        self._policy, self._share, self._random = policy, share, random.Random(seed)

    def decide(self, situation: Situation) -> Answer:
        others = [action for action in situation.options if action.kind is not ActionKind.DONE]
        if others and not situation.matches and self._random.random() < self._share:
            return Answer(format_command(self._random.choice(others), situation.names), source="disturbed")
        return self._policy.decide(situation)

    def classify_room(self, labels: Iterable[str]) -> str:
        return self._policy.classify_room(labels)


def meet_situations(policy: Policy, seeds: Iterable[int], config: SearchConfig, keep: int = 14) -> list[PromptView]:
    """The situations that a policy meets in generated houses, one house for each seed, at most `keep` an episode."""
    env = HouseSearchEnv(max_steps=NO_LIMIT, failure_rate=FAILURE_RATE)
    views: list[PromptView] = []
    for seed in seeds:
        house = generate_house(FIRST_HOUSE_SEED + seed)
        raster = rasterise(house)
        for number in range(EPISODES_PER_HOUSE):
            try:
                episode = draw_episode(house, EPISODES_PER_HOUSE * seed + number, raster)
            except NoEpisode:
                continue
            met = [decision.view for decision in run_episode(env, episode, policy, config).decisions]
            views += met if len(met) <= keep else random.Random(seed).sample(met, keep)
    return views


def write_views(views: Sequence[PromptView], path: Path) -> None:
    """Views as JSON lines, gzipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with gzip.open(part, "wt", encoding="utf-8") as file:
        for view in views:
            file.write(json.dumps(to_record(view), separators=(",", ":")) + "\n")
    part.replace(path)


def read_views(path: Path) -> list[PromptView]:
    """What `write_views` wrote."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [from_record(json.loads(line)) for line in file]


def imagined_samples(priors: Priors, seed: int) -> Iterator[Sample]:
    """Endless samples of imagined situations."""
    rng = random.Random(seed)
    teacher = ExpertTeacher(priors)
    while True:
        view = imagine(priors, rng)
        if rng.random() < _SPARSE:
            view = shrink(view, rng)
        yield from _in_both_modes(_asked_otherwise(view, priors, rng), teacher)


def varied_samples(views: Iterable[PromptView], variations: int, priors: Priors, seed: int) -> Iterator[Sample]:
    """Each view as it is, and `variations` times asked for another target or in other words."""
    rng = random.Random(seed)
    teacher = ExpertTeacher(priors)
    for view in views:
        yield from _in_both_modes(view, teacher)
        for _ in range(variations):
            yield from _in_both_modes(_asked_otherwise(view, priors, rng), teacher)


def shrink(view: PromptView, rng: random.Random) -> PromptView:
    """A part of a situation: one to three of its rooms, some of their things, and what can be done with those."""
    chosen = rng.sample(view.rooms, min(len(view.rooms), rng.randint(1, 3)))
    rooms = tuple(
        replace(room, objects=tuple(rng.sample(room.objects, min(len(room.objects), rng.randint(1, 6)))))
        for room in chosen
    )
    names = {room.name for room in rooms}
    things = {obj.name for room in rooms for obj in room.objects}
    return replace(
        view,
        rooms=rooms,
        robot_room=rooms[0].name,
        near=tuple(name for name in view.near if name in things),
        history=tuple(past for past in view.history if past.command in {f"explore({name})" for name in names})[-2:],
        spaces=tuple(option for option in view.spaces if option.room in names),
        doors=tuple(option for option in view.doors if option.room in names),
        containers=tuple(option for option in view.containers if option.name in things),
        surfaces=tuple(option for option in view.surfaces if option.name in things),
    )


def _asked_otherwise(view: PromptView, priors: Priors, rng: random.Random) -> PromptView:
    """In other words, in another mode, with less help or after refusals now and then, and asked for another target."""
    if rng.random() < _RENAMED:
        view = rename(view, rng, priors)
    if rng.random() < _SAVER:
        view = replace(view, mode="saver")
    if rng.random() < _WITHOUT_HINTS:
        view = replace(view, hints=None)
    if rng.random() < _REFUSED:
        view = refuse(view, rng)
    if view.hints is not None and rng.random() < _MISLED:
        return mislead(view, priors, rng)
    if rng.random() >= _WITHOUT_MATCHES:
        return retarget(view, random_target(view, priors, rng), priors)
    target = random_target(view, priors, rng, found=_LISTED)
    view = retarget(replace(view, matches=None), target, priors)
    return remove(view, target) if rng.random() < _REMOVED else view


def _in_both_modes(view: PromptView, teacher: ExpertTeacher) -> Iterator[Sample]:
    """A sample, and its twin where the other mode decides otherwise: one word in the prompt is all that differs."""
    answer = teacher.answer(view)
    yield Sample(tuple(render(view)), answer.render(), marks=mark(view, teacher))
    twin = replace(view, mode="normal" if view.mode == "saver" else "saver")
    other = teacher.answer(twin)
    if other.command != answer.command:
        yield Sample(tuple(render(twin)), other.render(), marks=mark(twin, teacher))
