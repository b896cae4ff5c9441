"""How well rooms were named: the labels of an episode against the house's true room types, beside the rule's.

The truth is read from the house afterwards; no simulator tells it. A discovered room is where most of its objects
are (its centre where none is), so that one that the mapper cut in two, or joined, counts as what it mostly is.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.scene_graph import Room, SceneGraph
from smallplan_planner.search import ROOM_CLASSIFIERS, SearchConfig
from smallplan_training.rollout import EpisodeRecord
from smallplan_training.simulators.house.episodes import Episode


@dataclass(frozen=True)
class RoomAccuracy:
    """Counts of discovered rooms; add them up over episodes, then ask for shares (0 to 1, 0 where there is none)."""

    rooms: int = 0
    right: int = 0
    uncertain: int = 0  # `other room`
    rule_right: int = 0  # the rule's, on the same contents
    rule_uncertain: int = 0
    agreed: int = 0  # with the rule, `other room` included

    def __add__(self, other: RoomAccuracy) -> RoomAccuracy:
        return RoomAccuracy(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    def shares(self) -> dict[str, float]:
        """Accuracy over all rooms and among those with a type, share of `other room`, the same of the rule."""
        return {
            "accuracy": _share(self.right, self.rooms),
            "uncertain": _share(self.uncertain, self.rooms),
            "accuracy_of_named": _share(self.right, self.rooms - self.uncertain),
            "rule_accuracy": _share(self.rule_right, self.rooms),
            "rule_uncertain": _share(self.rule_uncertain, self.rooms),
            "rule_accuracy_of_named": _share(self.rule_right, self.rooms - self.rule_uncertain),
            "agreement_with_rule": _share(self.agreed, self.rooms),
        }

    def report(self) -> dict[str, Any]:
        """For a JSON file: the number of rooms, and the shares in percent."""
        return {"rooms": self.rooms, **{name: round(100 * share, 2) for name, share in self.shares().items()}}


NO_ROOMS = RoomAccuracy()


def room_accuracy(record: EpisodeRecord, episode: Episode, priors: Priors | None = None) -> RoomAccuracy:
    """The rooms as they were labelled when the episode ended.

    Left out: rooms that were discovered by the last action of all, which nobody named any more, and rooms whose true
    type the priors don't know, for which no answer could be right.
    """
    priors = priors or load_priors()
    labels = dict(record.room_labels)
    counted = RoomAccuracy()
    for room in record.graph.rooms:
        truth = priors.room_type(true_type(room, record.graph, episode))
        given = labels.get(room.id)
        if not truth or given is None:
            continue
        rule = priors.classify_room(obj.label for obj in record.graph.objects_in(room.id))
        counted += RoomAccuracy(
            rooms=1,
            right=int(given == truth),
            uncertain=int(given == UNCERTAIN_ROOM),
            rule_right=int(rule == truth),
            rule_uncertain=int(rule == UNCERTAIN_ROOM),
            agreed=int(given == rule),
        )
    return counted


def true_type(room: Room, graph: SceneGraph, episode: Episode) -> str:
    """The type of the house's room in which a discovered room lies, '' where it lies in none."""
    x, y = episode.raster.centre(*episode.raster.cell(episode.start.x, episode.start.y))  # the graph's origin
    in_objects = _types_at((obj.position for obj in graph.objects_in(room.id)), (x, y), episode)
    types = in_objects or _types_at([room.center], (x, y), episode)
    return types.most_common(1)[0][0] if types else ""


def add_room_labels_argument(parser: argparse.ArgumentParser) -> None:
    """`--room-labels model|rule`; by default what a search does."""
    parser.add_argument(
        "--room-labels",
        choices=ROOM_CLASSIFIERS,
        default=SearchConfig.classify_rooms,
        help="who says which room a room is (default: %(default)s)",
    )


def _types_at(
    positions: Iterable[tuple[float, float, float]], origin: tuple[float, float], episode: Episode
) -> Counter[str]:
    found = (episode.house.room_at(x + origin[0], y + origin[1]) for x, y, _ in positions)
    return Counter(room.type for room in found if room is not None)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
