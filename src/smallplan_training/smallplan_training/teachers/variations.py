"""Many prompts out of one: the same situation asked for another target, or named in other words.

A view says everything that a prompt shows, so a varied view is an honest prompt of its own, which the expert
can answer. This is how a few thousand simulated situations become hundreds of thousands of samples, and how
the model meets names that nobody listed before.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import MAX_NAME_LENGTH, normalise, shorten, without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import (
    Hint,
    ObjectView,
    Option,
    PastAction,
    PromptView,
    RoomView,
    known_places,
    listed_matches,
)
from smallplan_planner.synonyms import canonical, words_for

_ARGUMENTS = re.compile(r"\(([^()]*)\)")
_ONSETS = (
    *("b", "br", "ch", "d", "dr", "f", "fl", "g", "gl", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "qu", "r"),
    *("s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z", ""),
)
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou", "y")
_CODAS = ("", "", "", "b", "ck", "d", "l", "ll", "m", "n", "nd", "ng", "p", "r", "rk", "s", "st", "t", "x")
_QUALIFIERS = ("blue", "red", "green", "old", "small", "large", "wooden", "metal", "glass", "round", "black", "white")


def made_up_word(rng: random.Random) -> str:
    """A name that no vocabulary holds: one to three words of invented syllables, now and then with a number."""
    words = []
    for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
        syllables = rng.choices((1, 2, 3), (2, 5, 2))[0]
        parts = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables))
        words.append("".join(parts))
    if rng.random() < 0.15:
        at, number = rng.randrange(len(words)), str(rng.randrange(100))
        words[at] = rng.choice((words[at] + number, f"{words[at]} {number}"))
    return " ".join(words)[:MAX_NAME_LENGTH].strip()


def retarget(view: PromptView, target: str, priors: Priors) -> PromptView:
    """The same situation when `target` is asked for; matches and common knowledge follow."""
    name = normalise(target)
    return replace(
        view,
        target=name,
        matches=None if view.matches is None else listed_matches(view, name),
        hints=None if view.hints is None else known_places(priors, name),
    )


def random_target(view: PromptView, priors: Priors, rng: random.Random, found: float = 0.12) -> str:
    """A target to ask for: with probability `found` something that is listed, else mostly known things."""
    listed = sorted({without_counter(obj.name) for room in view.rooms for obj in room.objects})
    if listed and rng.random() < found:
        return rng.choice(listed)
    word = rng.choice(sorted(priors.objects)) if rng.random() < 0.85 else made_up_word(rng)
    if rng.random() < 0.2:
        word = rng.choice(words_for(word))
    if rng.random() < 0.1:
        word = f"{rng.choice(_QUALIFIERS)} {word}"
    return word


def rename(view: PromptView, rng: random.Random, priors: Priors, share: float = 0.4) -> PromptView:
    """The same situation with a share of the things called otherwise: synonyms for furniture, any word for the rest.

    Rooms are called otherwise in half of the situations.
    """
    stems = sorted({without_counter(obj.name) for room in view.rooms for obj in room.objects})
    taken = set(stems) | {without_counter(room.name) for room in view.rooms} | {"door", "room"}
    new: dict[str, str] = {}
    for stem in stems:
        if rng.random() >= share:
            continue
        known_furniture = bool(priors.furniture_type(stem))
        if known_furniture and rng.random() < 0.7:
            word = rng.choice(words_for(canonical(stem)))
        elif rng.random() < 0.15:
            word = f"{rng.choice(_QUALIFIERS)} {stem}"
        else:
            word = made_up_word(rng)
        word = shorten(word)
        if word and word not in taken:
            taken.add(word)
            new[stem] = word
    if rng.random() < 0.5:
        for stem in sorted({without_counter(room.name) for room in view.rooms} - {"room"}):
            if rng.random() < share and (word := normalise(made_up_word(rng))) not in taken:
                taken.add(word)
                new[stem] = word
    return _with_names(view, new)


def mislead(view: PromptView, priors: Priors, rng: random.Random) -> PromptView:
    """The same situation, asked for a thing that nobody knows, with the usual places of another."""
    known = known_places(priors, rng.choice(sorted(priors.objects)))
    return replace(retarget(view, made_up_word(rng), priors), hints=known)


def remove(view: PromptView, target: str) -> PromptView:
    """The same situation without the things that are the target."""
    names = {name for _, name in listed_matches(view, normalise(target))}

    def others(options: tuple[Option, ...]) -> tuple[Option, ...]:
        return tuple(option for option in options if option.name not in names)

    return replace(
        view,
        rooms=tuple(replace(r, objects=tuple(o for o in r.objects if o.name not in names)) for r in view.rooms),
        near=tuple(name for name in view.near if name not in names),
        containers=others(view.containers),
        surfaces=others(view.surfaces),
        matches=None if view.matches is None else (),
    )


def refuse(view: PromptView, rng: random.Random) -> PromptView:
    """The same situation after one to three answers that were refused: what was open, explored or not there."""
    can_explore = {option.room for option in view.spaces}
    opened = [(room.name, obj.name) for room in view.rooms for obj in room.objects if obj.state == "opened"]
    explored = [room.name for room in view.rooms if room.name not in can_explore]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        draw = rng.random()
        if opened and draw < 0.6:
            room, name = rng.choice(opened)
            view = view.after(f"go_to_and_open({room}, {name})", "invalid, it is open already")
        elif explored and draw < 0.9:
            view = view.after(f"explore({rng.choice(explored)})", "invalid, the room has no unexplored space")
        else:
            word = made_up_word(rng)
            command = f"go_to_and_open({rng.choice(view.rooms).name}, {word})"
            view = view.after(command, f"invalid, there is no object called  {word}")
    return view


def to_record(view: PromptView) -> dict[str, Any]:
    """The view as plain JSON data: its parts by their names, things and options as lists of their values."""
    return asdict(view)


def from_record(data: Mapping[str, Any]) -> PromptView:
    """The view out of `to_record`'s data."""
    return PromptView(
        target=data["target"],
        mode=data["mode"],
        kinds=tuple(ActionKind(kind) for kind in data["kinds"]),
        rooms=tuple(
            RoomView(room["name"], tuple(map(_object_from_record, room["objects"])), room["since"], room["left_out"])
            for room in data["rooms"]
        ),
        robot_room=data["robot_room"],
        near=tuple(data["near"]),
        history=tuple(PastAction(**past) for past in data["history"]),
        spaces=tuple(Option(*option) for option in data["spaces"]),
        doors=tuple(Option(*option) for option in data["doors"]),
        containers=tuple(Option(*option) for option in data["containers"]),
        surfaces=tuple(Option(*option) for option in data["surfaces"]),
        matches=None if data["matches"] is None else tuple((room, name) for room, name in data["matches"]),
        hints=None if data["hints"] is None else tuple(Hint(h["room"], tuple(h["furniture"])) for h in data["hints"]),
    )


def _object_from_record(data: Sequence[Any]) -> ObjectView:
    name, state, since, before = data
    return ObjectView(name, state, since, tuple((earlier, word) for earlier, word in before))


def _with_names(view: PromptView, new: Mapping[str, str]) -> PromptView:
    def name(old: str) -> str:
        stem = without_counter(old)
        return new.get(stem, stem) + old[len(stem) :]

    def past(item: PastAction) -> PastAction:
        command = _ARGUMENTS.sub(lambda m: "(" + ", ".join(name(part) for part in m[1].split(", ")) + ")", item.command)
        return replace(item, command=command)

    def options(items: tuple[Option, ...]) -> tuple[Option, ...]:
        return tuple(item._replace(room=name(item.room), name=name(item.name) if item.name else "") for item in items)

    return replace(
        view,
        rooms=tuple(
            replace(r, name=name(r.name), objects=tuple(o._replace(name=name(o.name)) for o in r.objects))
            for r in view.rooms
        ),
        robot_room=name(view.robot_room),
        near=tuple(name(item) for item in view.near),
        history=tuple(past(item) for item in view.history),
        spaces=options(view.spaces),
        doors=options(view.doors),
        containers=options(view.containers),
        surfaces=options(view.surfaces),
        matches=None if view.matches is None else tuple((name(room), name(item)) for room, item in view.matches),
    )
