"""Labels and names: how things from perception are called in prompts and commands.

Labels are untrusted: they may hold chat-template tokens, quotes, newlines, parentheses or 10 kB of text.
`sanitise` reduces them to words of letters and digits, so that no label can break the structure of a prompt
or a grammar; `NameBook` keeps one bijection between names and ids per episode. A label never yields a hyphen,
so the counter in `mug-2` can't be mistaken for a label's own number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from smallplan_planner.scene_graph import SceneGraph, SceneObject, distance_key
from smallplan_planner.synonyms import canonical

MAX_NAME_LENGTH = 40
UNCERTAIN_ROOM = "other room"
"""The label of a room whose type can't be told; such a room keeps the name `room-n`."""

_MAX_LABEL_LENGTH = 400  # more of a label is never read: nobody calls a thing by more words
_KNOWN = 1 << 16  # labels of which the words are kept: the same few come at every observation
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COUNTER = re.compile(r"-\d+$")
_TRAILING_NUMBER = re.compile(r"(?:(?<=\w{3})|(?<=\s))\d+$")


@lru_cache(maxsize=_KNOWN)
def normalise(label: str) -> str:
    """Words of a label, for comparing: lower case, CamelCase and underscores split, a trailing number dropped.

    Each word has a letter or a digit: an emoji's invisible mark alone is none.
    """
    text = unicodedata.normalize("NFKC", label[:_MAX_LABEL_LENGTH])
    text = _CAMEL_CASE.sub(" ", text)
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    words = " ".join(word for word in "".join(kept).lower().split() if any(map(str.isalnum, word)))
    while (shorter := _TRAILING_NUMBER.sub("", words).strip()) and shorter != words:
        words = shorter
    return words


@lru_cache(maxsize=_KNOWN)
def shorten(label: str) -> str:
    """At most 40 characters of a label's words, '' when it has no letter or digit."""
    return normalise(label)[:MAX_NAME_LENGTH].strip()


def sanitise(label: str, fallback: str = "object") -> str:
    """The label as a name's stem: at most 40 characters of words; `fallback` when no letter or digit is left."""
    return shorten(label) or fallback


@lru_cache(maxsize=_KNOWN)
def without_counter(name: str) -> str:
    """A name without its counter: `mug` of `mug-2`."""
    return _COUNTER.sub("", name)


def matches_target(label: str, target: str) -> bool:
    """Whether a thing labelled `label` is what somebody asks for with `target`, synonyms included."""
    wanted = meaning(target)
    return bool(wanted) and meaning(label) == wanted


def find_matches(graph: SceneGraph, target: str) -> list[SceneObject]:
    """The discovered objects that are the target (a category or an object id), nearest first, ties by id."""
    if target in graph.object_by_id:
        return [graph.object_by_id[target]]
    found = [obj for obj in graph.objects if matches_target(obj.label, target)]
    return sorted(found, key=lambda obj: (distance_key(obj.distance), obj.id))


@lru_cache(maxsize=_KNOWN)
def meaning(label: str) -> str:
    """The word that labels for the same thing have in common, '' for none."""
    return canonical(normalise(label))


class NameBook:
    """The bijection between display names and ids of one episode; names are given once and never reused.

    Names are handed out in the order in which things stand in the graphs that come in, so they tell nothing
    that the graphs don't. A room is `room-n` until it has a label; then its name changes once.
    """

    def __init__(self) -> None:
        self.name_of: dict[str, str] = {}
        """The names by id, to be read: of many, that is quicker than a call for each."""
        self._id_of: dict[str, str] = {}
        self._count: dict[str, int] = {}
        self._labelled_rooms: set[str] = set()

    def update(self, graph: SceneGraph, room_labels: Mapping[str, str] | None = None) -> None:
        """Name what is new in `graph`; `room_labels` (room id to label) serves rooms whose own label is empty."""
        labels = room_labels or {}
        for room in graph.rooms:
            self._name_room(room.id, room.label or labels.get(room.id, ""))
        for obj in graph.objects:
            if obj.id not in self.name_of:
                self._give(obj.id, sanitise(obj.label))
        for door in graph.doors:
            if door.id not in self.name_of:
                self._give(door.id, sanitise(door.label, "door"))

    def name(self, element_id: str) -> str:
        """The name of a room, object or door; raises KeyError for an id that was never in a graph."""
        return self.name_of[element_id]

    def find(self, name: str) -> str | None:
        """The id behind a name, None when nothing is called that."""
        return self._id_of.get(name)

    def _name_room(self, room_id: str, label: str) -> None:
        if label == UNCERTAIN_ROOM:
            label = ""
        if room_id not in self.name_of:
            self._give(room_id, sanitise(label, "room") if label else "room", numbered=not label)
        elif label and room_id not in self._labelled_rooms:
            del self._id_of[self.name_of[room_id]]
            self._give(room_id, sanitise(label, "room"))
        if label:
            self._labelled_rooms.add(room_id)

    def _give(self, element_id: str, stem: str, numbered: bool = False) -> None:
        count = self._count.get(stem, 0) + 1
        self._count[stem] = count
        name = stem if count == 1 and not numbered else f"{stem}-{count}"
        self.name_of[element_id] = name
        self._id_of[name] = element_id
