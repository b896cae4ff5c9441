"""Imagined situations: plausible views drawn from the priors alone, without a simulator.

They are what a model is pretrained on: cheap, endless, and wider than simulated houses (more rooms, odd
mixtures of what is open, closed and explored). They hold no geometry; simulated situations follow later.
"""

from __future__ import annotations

import random
from collections import Counter

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import DISTANCE_WORDS, ObjectView, Option, PastAction, PromptView, RoomView

KINDS = (ActionKind.NAVIGATE, ActionKind.GO_TO_AND_OPEN, ActionKind.EXPLORE, ActionKind.DONE)
_VARIED = 0.65  # share of houses with all types of rooms; the others have several of a type
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
    for index, room_type in enumerate(types):
        name = _named(counter, room_type if rng.random() < 0.85 else "room")
        distance = rng.choices((0, 1), (2, 3))[0] if index == here else rng.choices((0, 1, 2, 3), (1, 6, 6, 3))[0]

        seen = rng.choice((0.2, 0.5, 0.9, 1.0, 1.0))
        objects = _contents(priors, room_type, seen, opened, counter, rng)
        rooms.append(RoomView(name, tuple(objects), rng.random() < 0.4))
        for obj in objects:
            if obj.state == "closed":
                containers.append(_option(name, _nearby(distance, rng), rng, obj.name))
            if obj.state != "opened" and priors.is_surface(without_counter(obj.name)) and rng.random() > looked:
                surfaces.append(_option(name, _nearby(distance, rng), rng, obj.name))
        if rooms[-1].unexplored or rng.random() < 0.2:
            leads_out = not rooms[-1].unexplored or rng.random() < 0.3
            spaces.append(_option(name, _nearby(distance, rng), rng, leads_out=leads_out))
        if rng.random() < 0.4:
            doors.append(_option(name, _nearby(distance, rng), rng, _named(counter, "door")))
    robot_room = rooms[here]
    near = rng.sample([obj.name for obj in robot_room.objects], min(rng.randrange(4), len(robot_room.objects)))
    history = tuple(_past(rooms, rng) for _ in range(rng.choices(range(6), (2, 1, 1, 1, 1, 8))[0]))
    order = rng.sample(range(len(rooms)), len(rooms))
    return PromptView(
        target="mug",
        mode="normal",
        kinds=KINDS,
        rooms=tuple(rooms[i] for i in order),
        robot_room=robot_room.name,
        near=tuple(near),
        history=history,
        invalid=tuple(_failure(rooms, rng) for _ in range(rng.choices((0, 1, 2), (12, 2, 1))[0])),
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


def _past(rooms: list[RoomView], rng: random.Random) -> PastAction:
    if rng.random() < 0.08:
        return _failure(rooms, rng)
    room = rng.choice(rooms)
    opened = [obj.name for obj in room.objects if obj.state == "opened"]
    if opened and rng.random() < 0.6:
        return PastAction(f"go_to_and_open({room.name}, {rng.choice(opened)})", "opened")
    return PastAction(f"explore({room.name})", "explored")


def _failure(rooms: list[RoomView], rng: random.Random) -> PastAction:
    room = rng.choice(rooms)
    containers = [obj.name for obj in room.objects if obj.state]
    reason = rng.choice(("failed, unreachable", "failed, blocked", "failed, failed"))
    if containers and rng.random() < 0.6:
        return PastAction(f"go_to_and_open({room.name}, {rng.choice(containers)})", reason)
    return PastAction(f"explore({room.name})", reason)


def _nearby(distance: int, rng: random.Random) -> int:
    return min(len(_WORDS) - 1, max(0, distance + rng.choices((-1, 0, 1), (1, 6, 1))[0]))


def _option(
    room: str, distance: int, rng: random.Random, name: str = "", leads_out: bool = False
) -> tuple[float, Option]:
    return distance + rng.random(), Option(room, _WORDS[distance], name, leads_out)


def _nearest_first(options: list[tuple[float, Option]]) -> tuple[Option, ...]:
    return tuple(option for _, option in sorted(options, key=lambda pair: pair[0]))


def _named(counter: Counter[str], stem: str) -> str:
    counter[stem] += 1
    return stem if counter[stem] == 1 and stem != "room" else f"{stem}-{counter[stem]}"
