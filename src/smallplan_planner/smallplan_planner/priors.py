"""Which object lives where: the typed form of `config/priors.yaml`, which also says how large things are.

The planner takes the prompt's line of common knowledge and the rule for room types from it, the house
generator (perturbed) the contents of houses, and the expert what a person knows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import yaml

from smallplan_planner.names import UNCERTAIN_ROOM, meaning, normalise
from smallplan_planner.resources import read_yaml, resource
from smallplan_planner.synonyms import canonical, load_synonyms

_SMOOTHING = 0.02  # probability of a known thing in a room where it does not belong

Size = tuple[float, float, float]
"""Width, depth and height in metres."""


@dataclass(frozen=True)
class Place:
    """One place where an object is kept, with its probability among the object's places."""

    room: str
    furniture: str
    relation: str  # "on" | "in"
    p: float


@dataclass(frozen=True)
class ObjectPrior:
    size: Size
    places: tuple[Place, ...]  # most likely first


@dataclass(frozen=True)
class FurniturePrior:
    size: Size
    openable: bool
    surface: bool
    rooms: dict[str, tuple[int, int]]  # room type to (fewest, most) pieces


@dataclass(frozen=True)
class Priors:
    rooms: tuple[str, ...]
    furniture: dict[str, FurniturePrior]
    objects: dict[str, ObjectPrior]

    def places(self, label: str) -> tuple[Place, ...]:
        """Where a thing of this label is kept, most likely first; empty when nothing is known about it."""
        prior = self.objects.get(_known_word(label, self.objects))
        return prior.places if prior is not None else ()

    def size(self, label: str) -> Size | None:
        """How large a thing of this label usually is; None when nothing is known about it."""
        prior = self.objects.get(_known_word(label, self.objects))
        return prior.size if prior is not None else None

    def room_type(self, label: str) -> str:
        """The room type that a room's label means, '' when it is none that is known here."""
        word = meaning(label)
        return word if word in self.rooms else ""

    def furniture_type(self, label: str) -> str:
        """The kind of furniture that a label means, '' when it is none that is known here."""
        word = meaning(label)
        return word if word in self.furniture else ""

    def is_surface(self, label: str) -> bool:
        """Whether things are usually put on furniture of this label."""
        furniture = self.furniture.get(meaning(label))
        return furniture is not None and furniture.surface

    def classify_room(self, labels: Iterable[str], certainty: float = 0.6) -> str:
        """The most likely type of a room in which things with these labels were seen.

        Naive Bayes over furniture and objects with a uniform prior; words that are not known count for nothing,
        `old sofa` counts as a sofa. `other room` when no type reaches `certainty` or nothing is known.
        """
        score = dict.fromkeys(self.rooms, 0.0)
        known = {_known_word(label, self._room_likelihood) for label in labels} - {""}
        for word in sorted(known):
            for room in self.rooms:
                score[room] += math.log(self._room_likelihood[word].get(room, 0.0) + _SMOOTHING)
        if not known:
            return UNCERTAIN_ROOM
        top = max(score.values())
        total = sum(math.exp(value - top) for value in score.values())
        best = max(self.rooms, key=lambda room: score[room])
        return best if 1.0 / total >= certainty else UNCERTAIN_ROOM

    def room_evidence(self, label: str) -> float:
        """How much a thing of this label tells about the type of its room: 0 when it is unknown, or equally likely
        in all of them; else by how much (a logarithm) the likeliest type stands out from the average."""
        return self._evidence.get(_known_word(label, self._evidence), 0.0)

    @cached_property
    def _evidence(self) -> dict[str, float]:
        """Word to `room_evidence`."""
        scores = {
            word: [math.log(likelihood.get(room, 0.0) + _SMOOTHING) for room in self.rooms]
            for word, likelihood in self._room_likelihood.items()
        }
        return {word: max(values) - sum(values) / len(values) for word, values in scores.items()}

    @cached_property
    def _room_likelihood(self) -> dict[str, dict[str, float]]:
        """Word to room type to how probable it is that a room of that type holds such a thing."""
        table: dict[str, dict[str, float]] = defaultdict(dict)
        for name, furniture in self.furniture.items():
            for room, (fewest, most) in furniture.rooms.items():
                table[name][room] = min(1.0, 0.5 * (fewest + most))
        for name, obj in self.objects.items():
            for place in obj.places:
                table[name][place.room] = table[name].get(place.room, 0.0) + 0.5 * place.p
        return dict(table)


def _known_word(label: str, known: Container[str]) -> str:
    """The known word for a label: the label's own, or its last words (`blue mug` is a mug); '' when there is none."""
    words = normalise(label).split()
    for start in range(len(words)):
        word = canonical(" ".join(words[start:]))
        if word in known:
            return word
    return ""


def parse_priors(path: Path) -> Priors:
    """Read a priors file; raises ValueError that names file and entry when a field is missing or wrong."""
    try:
        data = read_yaml(path)
        return Priors(
            rooms=tuple(data["rooms"]),
            furniture={
                name: FurniturePrior(
                    _size(entry["size"]),
                    bool(entry["openable"]),
                    bool(entry["surface"]),
                    {room: (int(low), int(high)) for room, (low, high) in entry["rooms"].items()},
                )
                for name, entry in data["furniture"].items()
            },
            objects={
                name: ObjectPrior(
                    _size(entry["size"]),
                    tuple(
                        sorted(
                            (Place(p["room"], p["furniture"], p["relation"], float(p["p"])) for p in entry["places"]),
                            key=lambda place: -place.p,
                        )
                    ),
                )
                for name, entry in data["objects"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a priors file ({type(error).__name__}: {error}); see its header") from error


@lru_cache(maxsize=1)
def load_priors() -> Priors:
    """The project's priors, read once, and the synonyms with them: nothing is left to be read in the first search."""
    load_synonyms()
    return parse_priors(resource("config", "priors.yaml"))


def _size(values: Iterable[float]) -> Size:
    width, depth, height = (float(value) for value in values)
    return width, depth, height
