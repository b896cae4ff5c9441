"""Imagined situations: plausible views drawn from the priors alone, without a simulator.

They are what a model is pretrained on: cheap, endless, and wider than simulated houses (more rooms, odd
mixtures of what is open, closed and explored). They hold no geometry; simulated situations follow later.
Each comes with a past that might have led to it: rooms that were discovered one after the other, things that came to
light, actions that opened what is open.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, replace

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import DISTANCE_WORDS, ObjectView, Option, PastAction, PromptView, RoomView

KINDS = (ActionKind.NAVIGATE, ActionKind.GO_TO_AND_OPEN, ActionKind.EXPLORE, ActionKind.DONE)
_VARIED = 0.65  # share of houses with all types of rooms; the others have several of a type
_SEEN_AT_ONCE = 0.6  # share of rooms that are there from the start, and of things seen with their room
_EXPLORED, _LOOKED_AT, _FAILED = 0.5, 0.1, 0.12  # shares of rooms, of things that can't be opened, of rooms
_CHANGED = 0.02  # share of things that somebody else opened or closed
_ANY_LOST, _LOST = 0.06, 0.3  # share of houses with options that no way is known to, and of options in them
_WORDS = tuple(word for _, word in DISTANCE_WORDS)


def imagine(priors: Priors, rng: random.Random) -> PromptView:
    """A view of a house half searched, asked for nothing in particular (see `variations.retarget`)."""
    counter: Counter[str] = Counter()
    kinds = priors.rooms if rng.random() < _VARIED else rng.sample(priors.rooms, rng.randint(1, 3))
    types = rng.choices(kinds, k=rng.choices(range(1, 11), (3, 5, 7, 8, 8, 7, 5, 4, 2, 1))[0])
    rooms: list[RoomView] = []
    containers: list[tuple[float, Option]] = []
    spaces: list[tuple[float, Option]] = []
    doors: list[tuple[float, Option]] = []
    surfaces: list[tuple[float, Option]] = []
    here = rng.randrange(len(types))
    opened, looked = rng.random(), rng.random()
    lost = _LOST if rng.random() < _ANY_LOST else 0.0

    def measured(distance: int) -> int | None:
        return None if lost and rng.random() < lost else _nearby(distance, rng)

    for index, room_type in enumerate(types):
        name = _named(counter, room_type if rng.random() < 0.85 else "room")
        distance = rng.choices((0, 1), (2, 3))[0] if index == here else rng.choices((0, 1, 2, 3), (1, 6, 6, 3))[0]

        seen = rng.choice((0.2, 0.5, 0.9, 1.0, 1.0))
        objects = _contents(priors, room_type, seen, opened, counter, rng)
        rooms.append(RoomView(name, tuple(objects)))
        for obj in objects:
            if obj.state == "closed":
                containers.append(_option(name, measured(distance), rng, obj.name))
            if obj.state != "opened" and priors.is_surface(without_counter(obj.name)) and rng.random() > looked:
                surfaces.append(_option(name, measured(distance), rng, obj.name))
        unexplored = rng.random() < 0.4
        if unexplored or rng.random() < 0.2:
            leads_out = not unexplored or rng.random() < 0.3
            spaces.append(_option(name, measured(distance), rng, leads_out=leads_out))
        if rng.random() < 0.4:
            doors.append(_option(name, measured(distance), rng, _named(counter, "door")))
    robot_room = rooms[here]
    near = rng.sample([obj.name for obj in robot_room.objects], min(rng.randrange(4), len(robot_room.objects)))
    discovered, history = _tell(rng.sample(rooms, len(rooms)), counter, rng)
    return PromptView(
        target="mug",
        mode="normal",
        kinds=KINDS,
        rooms=discovered,
        robot_room=robot_room.name,
        near=tuple(near),
        history=history,
        spaces=_nearest_first(spaces),
        doors=_nearest_first(doors),
        containers=_nearest_first(containers),
        surfaces=_nearest_first(surfaces),
    )


def _contents(
    priors: Priors, room_type: str, seen: float, opened: float, counter: Counter[str], rng: random.Random
) -> list[ObjectView]:
    """The furniture of a room as far as it is seen, and things on it or in what is open."""
    objects: list[ObjectView] = []
    visible: set[tuple[str, str]] = set()
    for kind, furniture in priors.furniture.items():
        if room_type not in furniture.rooms:
            continue
        for _ in range(rng.randint(*furniture.rooms[room_type])):
            if rng.random() > seen:
                continue
            state = ("opened" if rng.random() < opened else "closed") if furniture.openable else ""
            objects.append(ObjectView(_named(counter, kind), state))
            if furniture.surface:
                visible.add((kind, "on"))
            if state == "opened":
                visible.add((kind, "in"))
    fitting = [
        name
        for name, prior in priors.objects.items()
        if any(p.room == room_type and (p.furniture, p.relation) in visible for p in prior.places)
    ]
    for name in rng.sample(fitting, min(len(fitting), rng.randrange(9))):
        objects.append(ObjectView(_named(counter, name)))
    if rng.random() < 0.2:
        objects.append(ObjectView(_named(counter, rng.choice(sorted(priors.objects)))))
    rng.shuffle(objects)
    return objects


@dataclass(frozen=True)
class _Deed:
    """An action of the past, when it was (from 0 to 1), and the thing in a room that it was done to."""

    time: float
    command: str
    outcome: str
    thing: str = ""


def _tell(
    rooms: list[RoomView], counter: Counter[str], rng: random.Random
) -> tuple[tuple[RoomView, ...], tuple[PastAction, ...]]:
    """A past that leads to these rooms, discovered in this order: when everything was seen, and what was done."""
    found = sorted(0.0 if rng.random() < _SEEN_AT_ONCE else rng.random() for _ in rooms)
    deeds: list[_Deed] = []
    for index, (room, time) in enumerate(zip(rooms, found)):
        if time:
            deeds.append(_discovery(time, rng.choice(rooms[: index + 1]), counter, rng))
        for obj in room.objects:
            when = rng.uniform(time, 1.0)
            if obj.state == "opened":
                deeds.append(_Deed(when, f"go_to_and_open({room.name}, {obj.name})", "opened", obj.name))
            elif not obj.state and rng.random() < _LOOKED_AT:
                deeds.append(_Deed(when, f"navigate({room.name}, {obj.name})", "arrived", obj.name))
        if rng.random() < _EXPLORED:
            deeds.append(_Deed(rng.uniform(time, 1.0), f"explore({room.name})", "explored"))
        if rng.random() < _FAILED:
            failure = _failure(room, rng)
            deeds.append(_Deed(rng.uniform(time, 1.0), failure.command, failure.outcome))
    most = rng.choices((0, 4, 12, 30), (2, 5, 6, 2))[0]
    deeds = sorted(rng.sample(deeds, min(len(deeds), rng.randint(0, most))), key=lambda deed: deed.time)
    times = [deed.time for deed in deeds]
    done_to = {deed.thing: index for index, deed in enumerate(deeds) if deed.thing}
    told = []
    for room, time in zip(rooms, found):
        objects = []
        for obj in room.objects:
            seen = bisect_left(times, time if rng.random() < _SEEN_AT_ONCE else rng.uniform(time, 1.0))
            objects.append(_seen(obj, seen, done_to.get(obj.name), len(deeds), rng))
        objects.sort(key=lambda obj: obj.first_seen)
        told.append(replace(room, objects=tuple(objects), since=bisect_left(times, time)))
    return tuple(told), tuple(PastAction(deed.command, deed.outcome, step) for step, deed in enumerate(deeds))


def _discovery(time: float, room: RoomView, counter: Counter[str], rng: random.Random) -> _Deed:
    """How another room came into sight from this one."""
    if rng.random() < 0.5:
        return _Deed(time, f"go_to_and_open({room.name}, {_named(counter, 'door')})", "opened")
    return _Deed(time, f"explore({room.name})", "explored")


def _seen(obj: ObjectView, first: int, deed: int | None, now: int, rng: random.Random) -> ObjectView:
    """The thing with when it was seen: closed until an action opened it, and now and then otherwise before."""
    if deed is not None:
        first = min(first, deed)
        return obj._replace(since=deed + 1, before=((first, "closed"),)) if obj.state else obj._replace(since=first)
    if obj.state and first < now and rng.random() < _CHANGED:
        other = "closed" if obj.state == "opened" else "opened"
        return obj._replace(since=rng.randint(first + 1, now), before=((first, other),))
    return obj._replace(since=first)


def _failure(room: RoomView, rng: random.Random) -> PastAction:
    containers = [obj.name for obj in room.objects if obj.state]
    reason = rng.choice(("failed, unreachable", "failed, blocked", "failed, failed"))
    if containers and rng.random() < 0.6:
        return PastAction(f"go_to_and_open({room.name}, {rng.choice(containers)})", reason)
    return PastAction(f"explore({room.name})", reason)


def _nearby(distance: int, rng: random.Random) -> int:
    return min(len(_WORDS) - 1, max(0, distance + rng.choices((-1, 0, 1), (1, 6, 1))[0]))


def _option(
    room: str, distance: int | None, rng: random.Random, name: str = "", leads_out: bool = False
) -> tuple[float, Option]:
    if distance is None:
        return len(_WORDS) + rng.random(), Option(room, "unknown", name, leads_out)
    return distance + rng.random(), Option(room, _WORDS[distance], name, leads_out)


def _nearest_first(options: list[tuple[float, Option]]) -> tuple[Option, ...]:
    return tuple(option for _, option in sorted(options, key=lambda pair: pair[0]))


def _named(counter: Counter[str], stem: str) -> str:
    counter[stem] += 1
    return stem if counter[stem] == 1 and stem != "room" else f"{stem}-{counter[stem]}"
