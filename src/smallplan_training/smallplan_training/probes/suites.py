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
from smallplan_planner.prompt import LAST_ACTIONS, Hint, ObjectView, Option, PastAction, PromptView
from smallplan_planner.room_prompt import parse_room, render_room
from smallplan_planner.synonyms import words_for
from smallplan_training.probes.pairs import Pair, Question, ask, listed_commands
from smallplan_training.probes.scenery import (
    DISTANCES,
    QUALIFIERS,
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
from smallplan_training.teachers.expert import ExpertTeacher, listed_matches, option_command
from smallplan_training.teachers.variations import random_target, retarget

Maker = Callable[[Priors, random.Random], "Pair | None"]

_PARTS = ("rack", "holder", "stand", "bag", "cover", "box", "shelf", "tray")
_SYNONYM = 0.15  # share of present targets that are listed by another word
_COUNTED = 0.25  # share of names with a counter
_CERTAIN = 0.8  # probability from which on the rule's room type is beyond doubt
_TARGETS = 8  # tried in a scene until the modes differ


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
    return Pair(ask(views[0], {"done()"}), ask(views[1], {"done()"}, avoid=True))


def copying(priors: Priors, rng: random.Random) -> Pair | None:
    """The only option is called by a name of the vocabulary, or by one that it lacks.

    A closed container or a room with unexplored space, everything else being opened and explored. Unseen names are
    made up, rare words, or a simulator's labels with underscores and numbers. Both times the command must name it.
    """
    scene = ask_for(without_options(draw_scene(priors, rng)), draw_target(priors, rng), priors)
    if scene is None:
        return None
    scene = replace(scene, doors=())
    is_room = rng.random() < 0.4
    known = list(priors.rooms) if is_room else [kind for kind, prior in priors.furniture.items() if prior.openable]
    counter = f"-{rng.randint(2, 4)}" if rng.random() < _COUNTED else ""
    place = rng.randrange(2**32)
    distance = rng.choice(DISTANCES)
    room = rng.choice(scene.rooms)
    index = rng.randrange(len(room.objects) + 1)
    questions = []
    for stem in (rng.choice(known), unseen_name(priors, rng, is_room)):
        name = stem + counter
        if fresh(scene, name) != name:
            return None
        if is_room:
            view = add_room(scene, name, room.objects[:0], random.Random(place))
            spot = Spot(name)
        else:
            view = insert(scene, room.name, ObjectView(name, "opened"), index)
            spot = Spot(room.name, name)
        questions.append(ask(make_available(view, spot, distance), {spot.command}))
    return Pair(*questions)


def nearer(priors: Priors, rng: random.Random) -> Pair | None:
    """Two equal containers or two equal rooms to explore, one of them nearer; in the second prompt the other one.

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
    return _if_expert_takes(views, (one, other))


def exhausted(priors: Priors, rng: random.Random) -> Pair | None:
    """Of two equal places one is open (explored) and the other closed (unexplored); then the other way round.

    Each time a command that takes something listed as an option: what is open or explored is not.
    """
    twins = _twins(priors, rng)
    if twins is None:
        return None
    scene, one, other = twins
    distance = rng.choice(DISTANCES[:3])
    views = [make_available(scene, spot, distance) for spot in (one, other)]
    if _if_expert_takes(views, (one, other)) is None:
        return None
    return Pair(*(ask(view, listed_commands(view)) for view in views))


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
    if kind == "exhausted":
        past = PastAction(
            one.command, "invalid, " + ("it is open already" if one.name else "the room has no unexplored space")
        )
    elif kind == "unlisted":
        name = fresh(scene, unseen_word(priors, rng))
        command = option_command(ActionKind.GO_TO_AND_OPEN, Option(one.room, "", name))
        past = PastAction(command, f"invalid, there is no object called  {name}")
    else:
        first = make_available(first, one, "very close")
        past = PastAction(one.command, "failed, unreachable")
        second = replace(second, rooms=first.rooms)
    second = replace(second, history=(*second.history, past))
    if _answer(second) not in listed_commands(second):
        return None
    return Pair(*(ask(view, listed_commands(view)) for view in (first, second)))


def mode(priors: Priors, rng: random.Random) -> Pair | None:
    """Mode normal or saver, where the expert's answers differ. Each time the expert's command, or its equal."""
    scene = draw_scene(priors, rng)
    if not listed_commands(scene):
        return None
    for _ in range(_TARGETS):
        view = retarget(scene, random_target(scene, priors, rng, found=0.0), priors)
        normal, saver = (replace(view, mode=name) for name in ("normal", "saver"))
        if not view.matches and _answer(normal) != _answer(saver):
            return Pair(*(ask(each, _equals(each, _answer(each))) for each in (normal, saver)))
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
    return Pair(*questions)


def usual_place(priors: Priors, rng: random.Random) -> Pair | None:
    """Two options at the same distance; the line of usual places names the one, in the second prompt the other.

    The target is not usually kept at either, or nobody heard of it: only the line can tell. Each time the command
    that takes what the line names.
    """
    target = draw_target(priors, rng, made_up=0.5)
    scene = ask_for(without_options(draw_scene(priors, rng)), target, priors)
    if scene is None:
        return None
    scene = replace(scene, doors=())
    in_container = rng.random() < 0.6
    kept = {(place.room, place.furniture) for place in priors.places(target)}
    places = sorted(
        (room_type, name)
        for name, prior in priors.furniture.items()
        for room_type in prior.rooms
        if (prior.openable if in_container else prior.surface) and room_type not in {known for known, _ in kept}
    )
    chosen = rng.sample(places, 2)
    if chosen[0][0] == chosen[1][0]:
        return None
    spots: list[Spot] = []
    for room_type, furniture in chosen:
        scene, spot = add_spot(scene, room_type, furniture if in_container else "", priors, rng)
        spots.append(spot)
    distance = rng.choice(DISTANCES[:3])
    for spot in spots:
        scene = make_available(scene, spot, distance)
    return Pair(
        *(
            ask(replace(scene, hints=(Hint(room_type, (furniture,)),)), {spot.command})
            for (room_type, furniture), spot in zip(chosen, spots)
        )
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
    """A scene with two places of a kind, both opened or explored, and in half the scenes a far door.

    The places are usual for the target when it is known at all.
    """
    target = draw_target(priors, rng)
    scene = ask_for(without_options(draw_scene(priors, rng)), target, priors)
    if scene is None:
        return None
    scene = replace(scene, doors=())
    in_container = rng.random() < 0.6
    usual = [place for place in priors.places(target) if (place.relation == "in") == in_container]
    if usual:
        place = rng.choice(usual[:2])
        room_type, furniture = place.room, place.furniture
    elif priors.places(target):
        return None
    else:
        openable = sorted((r, name) for name, prior in priors.furniture.items() if prior.openable for r in prior.rooms)
        room_type, furniture = rng.choice(openable)
    furniture = furniture if in_container else ""
    scene, one = add_spot(scene, room_type, furniture, priors, rng)
    scene, other = add_spot(scene, room_type, furniture, priors, rng, own_room=rng.random() < 0.3)
    if rng.random() < 0.5:
        scene = add_door(scene, DISTANCES[-1], rng)
    return (scene, one, other) if rng.random() < 0.5 else (scene, other, one)


def _if_expert_takes(views: list[PromptView], spots: tuple[Spot, Spot]) -> Pair | None:
    """The pair in which the expert takes these places, None when it doesn't."""
    if any(_answer(view) != spot.command for view, spot in zip(views, spots)):
        return None
    return Pair(*(ask(view, {spot.command}) for view, spot in zip(views, spots)))


def _answer(view: PromptView) -> str:
    return ExpertTeacher().answer(view, random.Random(0)).command


def _equals(view: PromptView, command: str) -> set[str]:
    """The command, and those that take an option of the same kind of thing in the same room at the same distance."""

    def key(kind: ActionKind, option: Option) -> tuple[object, ...]:
        return kind, option.room, option.distance, option.leads_out, without_counter(option.name)

    options = [(ActionKind.EXPLORE, option) for option in view.spaces]
    options += [(ActionKind.GO_TO_AND_OPEN, option) for option in (*view.doors, *view.containers)]
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
