"""The suites: each makes pairs of prompts that differ in one decisive fact, which its docstring names.

A maker returns None where a draw of the generator does not yield a pair, and is called again. What an answer has
to be is either plain from the pair's making or the expert's answer at this moment; the expert is never copied here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from smallplan_planner.actions import ActionKind, ParseError
from smallplan_planner.names import MAX_NAME_LENGTH, UNCERTAIN_ROOM, matches_target, without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import LAST_ACTIONS, Hint, ObjectView, Option, PromptView, listed_matches
from smallplan_planner.room_prompt import parse_room, render_room
from smallplan_planner.synonyms import words_for
from smallplan_training.probes.pairs import Pair, Question, ask, listed_commands, listed_options
from smallplan_training.probes.scenery import (
    DISTANCES,
    QUALIFIERS,
    Kind,
    Spot,
    add_door,
    add_room,
    add_spot,
    ask_for,
    draw_scene,
    draw_target,
    fresh,
    insert,
    make_available,
    unseen_name,
    unseen_word,
    without_options,
)
from smallplan_training.teachers.expert import ExpertTeacher, option_command
from smallplan_training.teachers.variations import random_target, retarget

Maker = Callable[[Priors, random.Random], "Pair | None"]

_PARTS = ("rack", "holder", "stand", "bag", "cover", "box", "shelf", "tray")
_SYNONYM = 0.15  # share of present targets that are listed by another word
_COUNTED = 0.25  # share of names with a counter
_CERTAIN = 0.8  # probability from which on the rule's room type is beyond doubt
_TARGETS = 8  # tried in a scene until the modes differ


_KINDS, _KIND_WEIGHTS = (Kind.CONTAINER, Kind.SURFACE, Kind.ROOM), (5, 2, 4)
_EXHAUSTED = {Kind.CONTAINER: "it is open already", Kind.ROOM: "the room has no unexplored space"}
"""Why a command that takes an exhausted spot is refused; looking again is allowed."""


@dataclass(frozen=True)
class Suite:
    """How pairs are made, and in a line what passing them means."""

    make: Maker
    meaning: str


def membership(priors: Priors, rng: random.Random, helped: bool) -> Pair | None:
    """One name in the rooms' lists is the target (or a synonym), or in its place something else is listed.

    What stands there instead shares words with the target more often than not: `mug rack` or `coffee mug` for
    `mug`, `wine bottle` for `wine glass`. Without the line of matches, unless `helped`. First (present) `done()`,
    second (absent) any command but that.
    """
    target = draw_target(priors, rng, made_up=0.25)
    if rng.random() < 0.15:
        target = f"{rng.choice(QUALIFIERS)} {target}"
    absent = ask_for(draw_scene(priors, rng), target, priors)
    if absent is None or not listed_commands(absent):
        return None
    listed = rng.choice(words_for(absent.target)) if rng.random() < _SYNONYM else absent.target
    decoy = _decoy(absent.target, priors, rng)
    room = rng.choice(absent.rooms)
    index = rng.randrange(len(room.objects) + 1)
    counter = f"-{rng.randint(2, 4)}" if rng.random() < _COUNTED else ""
    views = []
    for stem in (listed, decoy):
        name = fresh(absent, stem) if not counter else stem + counter
        view = insert(absent, room.name, ObjectView(name), index)
        views.append(replace(view, matches=listed_matches(view, view.target) if helped else None))
    if listed_matches(views[1], absent.target) or _answer(views[0]) != "done()" or _answer(views[1]) == "done()":
        return None
    kind = "known target" if priors.places(target) else "unknown target"
    return Pair(kind, ask(views[0], {"done()"}), ask(views[1], {"done()"}, avoid=True))


def copying(priors: Priors, rng: random.Random) -> Pair | None:
    """The only option is called by a name of the vocabulary, or by one that it lacks.

    A closed container, a surface or a room with unexplored space, everything else being opened and explored; some
    are the second of their name. Unseen names are made up, rare words, or a simulator's labels with underscores and
    numbers. Both times the command must name it.
    """
    scene = ask_for(without_options(draw_scene(priors, rng)), draw_target(priors, rng), priors)
    if scene is None:
        return None
    kind, counted = _draw_kind(rng), rng.random() < _COUNTED
    known = [name for name, prior in priors.furniture.items() if kind.is_made_of(prior)]
    known = list(priors.rooms) if kind is Kind.ROOM else known
    distance, room, place = rng.choice(DISTANCES), rng.choice(scene.rooms), rng.random()
    questions = []
    for stem in (rng.choice(known), unseen_name(priors, rng, kind is Kind.ROOM)):
        view, spot = scene, Spot(kind, "")
        if fresh(scene, stem) != stem:
            return None
        for name in (stem, f"{stem}-2") if counted else (stem,):
            if kind is Kind.ROOM:
                view, spot = add_room(view, name, (), random.Random(place)), Spot(kind, name)
            else:
                obj = ObjectView(name, "opened" if kind is Kind.CONTAINER else "")
                view = insert(view, room.name, obj, int(place * (len(room.objects) + 1)))
                spot = Spot(kind, room.name, name)
        view = make_available(view, spot, distance)
        if _answer(view) != spot.command:
            return None
        questions.append(ask(view, {spot.command}))
    return Pair(kind.value + (", second of its name" if counted else ""), *questions)


def nearer(priors: Priors, rng: random.Random) -> Pair | None:
    """Two equal options (containers, surfaces, rooms), one of them nearer; in the second prompt the other one.

    Each time the expert's command, which takes the nearer.
    """
    twins = _twins(priors, rng)
    if twins is None:
        return None
    scene, one, other = twins
    near, far = sorted(rng.sample(range(len(DISTANCES)), 2))
    views = []
    for distances in ((near, far), (far, near)):
        view = make_available(scene, one, DISTANCES[distances[0]])
        views.append(make_available(view, other, DISTANCES[distances[1]]))
    if not _expert_takes(views, (one, other)):
        return None
    return Pair(_kind(one, other), *(ask(view, {spot.command}) for view, spot in zip(views, (one, other))))


def exhausted(priors: Priors, rng: random.Random) -> Pair | None:
    """Of two equal places one is open (explored, looked at) and the other is not; then the other way round.

    Each time a command that takes something listed as an option: what is open, explored or looked at is not.
    """
    twins = _twins(priors, rng)
    if twins is None:
        return None
    scene, one, other = twins
    distance = rng.choice(DISTANCES[:3])
    views = [make_available(scene, spot, distance) for spot in (one, other)]
    if not _expert_takes(views, (one, other)):
        return None
    return Pair(_kind(one, other), *(ask(view, listed_commands(view)) for view in views))


def refused(priors: Priors, rng: random.Random) -> Pair | None:
    """The history is as it is, or ends with an answer that was refused, or whose target can't be reached.

    Refused is something open or explored, or a name that isn't listed; what can't be reached is an option of the
    first prompt and none of the second. Each time a command that takes something listed as an option.
    """
    twins = _twins(priors, rng)
    if twins is None:
        return None
    scene, one, other = twins
    scene = replace(scene, history=scene.history[-(LAST_ACTIONS - 1) :])
    first = second = make_available(scene, other, rng.choice(DISTANCES[:3]))
    kind = rng.choice(("exhausted", "unlisted", "unreachable"))
    if kind == "exhausted" and one.kind in _EXHAUSTED:
        past = one.command, f"invalid, {_EXHAUSTED[one.kind]}"
    elif kind == "unlisted":
        name = fresh(scene, unseen_word(priors, rng))
        command = Spot(Kind.CONTAINER, one.room, name).command
        past = command, f"invalid, there is no object called  {name}"
    elif kind == "unreachable":
        first = make_available(first, one, "very close")
        past = one.command, "failed, unreachable"
        second = replace(second, rooms=first.rooms)
    else:
        return None
    second = second.after(*past)
    if _answer(second) not in listed_commands(second):
        return None
    return Pair(kind, *(ask(view, listed_commands(view)) for view in (first, second)))


def mode(priors: Priors, rng: random.Random) -> Pair | None:
    """Mode normal or saver, where the expert's answers differ. Each time the expert's command, or its equal."""
    scene = draw_scene(priors, rng)
    if not listed_commands(scene):
        return None
    for _ in range(_TARGETS):
        view = retarget(scene, random_target(scene, priors, rng, found=0.0), priors)
        normal, saver = (replace(view, mode=name) for name in ("normal", "saver"))
        if not view.matches and _answer(normal) != _answer(saver):
            kind = "give up" if "done()" in (_answer(normal), _answer(saver)) else "elsewhere"
            return Pair(kind, *(ask(each, _equals(each, _answer(each))) for each in (normal, saver)))
    return None


def room(priors: Priors, rng: random.Random) -> Pair | None:
    """What was seen in a room is typical of one type, or in its place of another, or nobody knows the words.

    The rest of the list, made-up names, stays. Right is the rule's type; for unknown words `other room`.
    """
    clutter = [unseen_word(priors, rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    one, other = rng.sample(priors.rooms, 2)
    typical = _typical(one, priors, rng)
    if rng.random() < 0.3:
        other = UNCERTAIN_ROOM
        instead = [unseen_word(priors, rng) for _ in typical]
    else:
        instead = _typical(other, priors, rng)
    questions = []
    for label, words in ((one, typical), (other, instead)):
        if not words or priors.classify_room([*clutter, *words], _CERTAIN) != label:
            return None
        messages = tuple(render_room([*clutter, *words], priors.rooms))
        questions.append(Question(messages, frozenset({label}), _RoomReader(priors.rooms)))
    return Pair("unknown words" if other == UNCERTAIN_ROOM else "another type", *questions)


def usual_place(priors: Priors, rng: random.Random) -> Pair | None:
    """Two options at the same distance; the line of usual places names the one, in the second prompt the other.

    The target is not usually kept at either, or nobody heard of it: only the line can tell. Each time the command
    that takes what the line names.
    """
    target = draw_target(priors, rng, made_up=0.5)
    scene = ask_for(without_options(draw_scene(priors, rng)), target, priors)
    if scene is None:
        return None
    kind = _draw_kind(rng)
    known = {place.room for place in priors.places(target)}
    places = sorted(
        (room_type, name)
        for name, prior in priors.furniture.items()
        for room_type in prior.rooms
        if kind.is_made_of(prior) and room_type not in known
    )
    chosen = rng.sample(places, 2)
    if chosen[0][0] == chosen[1][0]:
        return None
    spots: list[Spot] = []
    for place in chosen:
        scene, spot = add_spot(scene, kind, place, priors, rng)
        spots.append(spot)
    distance = rng.choice(DISTANCES[:3])
    for spot in rng.sample(spots, 2):
        scene = make_available(scene, spot, distance)
    if _answer(scene) not in {spot.command for spot in spots}:
        return None
    return Pair(
        f"{kind.value}, {'known' if known else 'unknown'} target",
        *(
            ask(replace(scene, hints=(Hint(room_type, (furniture,)),)), {spot.command})
            for (room_type, furniture), spot in zip(chosen, spots)
        ),
    )


SUITES: dict[str, Suite] = {
    "membership": Suite(partial(membership, helped=False), "done() exactly when the target is in the lists, unaided"),
    "membership-helped": Suite(partial(membership, helped=True), "the same, with the line that names what was found"),
    "copying": Suite(copying, "the only option is named exactly, be its name known or unheard of"),
    "nearer": Suite(nearer, "of two equal options the nearer"),
    "exhausted": Suite(exhausted, "nothing that is open or explored already"),
    "refused": Suite(refused, "after a refusal or a failure something that can be done"),
    "mode": Suite(mode, "normal and saver as the expert tells them apart"),
    "room": Suite(room, "the type of a room by what is in it; other room when the words are unknown"),
    "usual-place": Suite(usual_place, "of two equally near options the one that the usual places name"),
}


def _twins(priors: Priors, rng: random.Random) -> tuple[PromptView, Spot, Spot] | None:
    """A scene with two spots of a kind, both exhausted, and in half the scenes a far door.

    They are usual places of the target when it is known at all.
    """
    target = draw_target(priors, rng)
    scene = ask_for(without_options(draw_scene(priors, rng)), target, priors)
    if scene is None:
        return None
    kind = _draw_kind(rng)
    relation = "in" if kind is Kind.CONTAINER else "on"
    usual = [
        (place.room, place.furniture)
        for place in priors.places(target)
        if place.relation == relation and kind.is_made_of(priors.furniture[place.furniture])
    ][:2]
    if priors.places(target) and not usual:
        return None
    anywhere = sorted(
        (r, name) for name, prior in priors.furniture.items() if kind.is_made_of(prior) for r in prior.rooms
    )
    place = rng.choice(usual or anywhere)
    scene, one = add_spot(scene, kind, place, priors, rng)
    scene, other = add_spot(scene, kind, place, priors, rng, own_room=rng.random() < 0.3)
    if rng.random() < 0.5:
        scene = add_door(scene, DISTANCES[-1], rng)
    return (scene, one, other) if rng.random() < 0.5 else (scene, other, one)


def _draw_kind(rng: random.Random) -> Kind:
    return rng.choices(_KINDS, _KIND_WEIGHTS)[0]


def _expert_takes(views: list[PromptView], spots: tuple[Spot, Spot]) -> bool:
    return all(_answer(view) == spot.command for view, spot in zip(views, spots))


def _kind(one: Spot, other: Spot) -> str:
    where = "" if one.kind is Kind.ROOM else " of a room" if one.room == other.room else " of two rooms"
    return f"{one.kind.value}s{where}"


def _answer(view: PromptView) -> str:
    return ExpertTeacher().answer(view).command


def _equals(view: PromptView, command: str) -> set[str]:
    """The command, and those that take an option of the same kind of thing in the same room at the same distance."""

    def key(kind: ActionKind, option: Option) -> tuple[object, ...]:
        return kind, option.room, option.distance, option.leads_out, without_counter(option.name)

    options = listed_options(view)
    same = {key(*option) for option in options if option_command(*option) == command}
    return {command} | {option_command(*option) for option in options if key(*option) in same}


def _decoy(target: str, priors: Priors, rng: random.Random) -> str:
    """Something that is not the target and mostly shares words with it."""
    words = set(target.split())
    vocabulary = sorted({*priors.objects, *priors.furniture})
    sharing = [word for word in vocabulary if words & set(word.split())]
    choices = [f"{target} {rng.choice(_PARTS)}", f"{rng.choice(QUALIFIERS)} {target}", rng.choice(vocabulary)]
    choices += [rng.choice(sharing)] * 2 if sharing else []
    choices += [unseen_word(priors, rng)] if rng.random() < 0.3 else []
    fitting = [word for word in choices if not matches_target(word, target) and len(word) <= MAX_NAME_LENGTH]
    return rng.choice(fitting or [unseen_word(priors, rng)])


def _typical(room_type: str, priors: Priors, rng: random.Random) -> list[str]:
    """Two to five things that are mostly found in a room of this type."""
    furniture = [name for name, prior in priors.furniture.items() if set(prior.rooms) == {room_type}]
    things = [
        name
        for name, prior in priors.objects.items()
        if sum(place.p for place in prior.places if place.room == room_type) > 0.6
    ]
    pool = furniture + rng.sample(things, min(len(things), len(furniture) + 1))
    return rng.sample(pool, min(len(pool), rng.randint(2, 5)))


@dataclass(frozen=True)
class _RoomReader:
    """Reads the room type that was answered; equal to any other of the same types, as a function would not be."""

    room_types: tuple[str, ...]

    def __call__(self, text: str) -> str | None:
        try:
            return parse_room(text, self.room_types)
        except ParseError:
            return None
