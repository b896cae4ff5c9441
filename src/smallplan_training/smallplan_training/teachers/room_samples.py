"""Samples of the question which room this is: what was seen in a room, and its type by the teacher's rule.

The rule (`Priors.classify_room`) ignores words that it does not know, and so is the model to learn: made-up names
stand among the known ones. Contents are imagined from the priors, or those of rooms that a policy met.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from smallplan_planner.names import UNCERTAIN_ROOM, without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import PromptView
from smallplan_planner.room_prompt import render_room, room_words
from smallplan_planner.synonyms import words_for
from smallplan_training.samples import Sample
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import made_up_word

MAX_THINGS = 25
AT_A_GLANCE = 5  # things, at most
UNCERTAIN_SHARE = 0.22
"""Share of samples that are `other room`."""

_KEPT = 64  # contents of a label that wait for their turn; older ones are dropped
_STRUCTURE = ("wall", "floor", "ceiling", "window", "door", "doorway", "light switch", "ceiling lamp", "unknown thing")
_QUALIFIERS = ("blue", "red", "old", "small", "large", "wooden", "metal", "glass", "round", "black", "white", "folding")


def room_samples(priors: Priors, seed: int) -> Iterator[Sample]:
    """Endless samples of imagined rooms: `UNCERTAIN_SHARE` of them uncertain, the room types equally often."""
    rng = random.Random(seed)
    waiting: dict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=_KEPT))
    contents = _imagined_contents(priors, rng)
    while True:
        label = UNCERTAIN_ROOM if rng.random() < UNCERTAIN_SHARE else rng.choice(priors.rooms)
        while not waiting[label]:
            sample = _sample(next(contents), priors)
            if sample is not None:
                waiting[sample.answer].append(sample)
        yield waiting[label].popleft()


def room_samples_of(views: Iterable[PromptView], priors: Priors, seed: int) -> Iterator[Sample]:
    """The rooms of situations that were met, each distinct content once, not balanced.

    Each as it is, and as it looked at first: a robot names a room by the few things that it sees through a door, and
    the name stays.
    """
    rng = random.Random(seed)
    asked: set[frozenset[str]] = set()
    for view in views:
        for room in view.rooms:
            labels = [without_counter(obj.name) for obj in room.objects]  # in the order of first sight
            for seen in (labels, labels[: rng.randint(1, AT_A_GLANCE)]):
                words = frozenset(room_words(seen))
                sample = _sample(seen, priors) if words not in asked else None
                asked.add(words)
                if sample is not None:
                    yield sample


def _sample(labels: Sequence[str], priors: Priors) -> Sample | None:
    """The question about these labels and the rule's answer; None when nothing is left to ask about.

    The rule reads what the question lists, not more.
    """
    words = room_words(labels)
    if not words:
        return None
    return Sample(tuple(render_room(words, priors.rooms)), priors.classify_room(words), {"kind": "room"})


def _imagined_contents(priors: Priors, rng: random.Random) -> Iterator[list[str]]:
    everything = sorted({*priors.objects, *priors.furniture})
    while True:
        rooms = [[without_counter(obj.name) for obj in room.objects] for room in imagine(priors, rng).rooms]
        for labels in rooms:
            share = rng.choice((0.15, 0.4, 0.7, 1.0, 1.0))  # some rooms were only glanced at
            labels = [label for label in labels if rng.random() < share]
            labels += rng.choices(everything, k=rng.choices((0, 1, 2, 4), (10, 5, 2, 1))[0])  # things go astray
            if rng.random() < 0.08:
                labels += rng.choice(rooms)[:4]  # two rooms that the mapper took for one
            labels = _renamed(labels, rng)
            if rng.random() < 0.3:
                labels += rng.choices(_STRUCTURE, k=rng.randint(1, 3))
            rng.shuffle(labels)
            yield labels[:MAX_THINGS]


def _renamed(labels: Sequence[str], rng: random.Random) -> list[str]:
    """Some called otherwise: synonyms, qualifiers, names that nobody knows; in some rooms most, in others none."""
    made_up = rng.choice((0.0, 0.0, 0.1, 0.3, 0.6, 0.9))
    otherwise = rng.choice((0.0, 0.2, 0.5))
    named = []
    for label in labels:
        if rng.random() < made_up:
            named.append(made_up_word(rng))
            if rng.random() < 0.5:
                continue  # in its place
        if rng.random() < otherwise:
            label = rng.choice(words_for(label))
        if rng.random() < 0.05:
            label = f"{rng.choice(_QUALIFIERS)} {label}"
        named.append(label)
    return named
