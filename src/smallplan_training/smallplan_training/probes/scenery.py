"""What pairs are made of: seeded scenes of small to middle size, places to open or to explore, names never heard of.

Scenes come from the generator of imagined situations, under seeds that are text: training's are numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import MAX_NAME_LENGTH, matches_target, normalise, sanitise, without_counter
from smallplan_planner.priors import FurniturePrior, Priors
from smallplan_planner.prompt import DISTANCE_WORDS, ObjectView, Option, PromptView, RoomView, listed_matches
from smallplan_planner.synonyms import canonical, words_for
from smallplan_training.nano.situations import shrink
from smallplan_training.teachers.expert import option_command
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import made_up_word, rename, retarget

DISTANCES = tuple(word for _, word in DISTANCE_WORDS)
QUALIFIERS = ("blue", "red", "green", "old", "small", "large", "wooden", "metal")
_MAX_ROOMS = 5
_RARE_CONTAINERS = (
    *("hutch", "locker", "humidor", "bureau", "commode", "cellarette"),
    *("ammunition chest", "parcel station", "seed vault", "bread bin", "ice chest", "mail slot", "tackle box"),
)
_RARE_ROOMS = (
    *("veranda", "solarium", "mudroom", "cloakroom", "sauna", "orangery", "boudoir", "scullery"),
    *("dark room", "boiler room", "server room", "band practice room", "winter garden", "tack room"),
)


class Kind(Enum):
    """What can be an option."""

    CONTAINER = "container"
    SURFACE = "surface"
    ROOM = "room"

    @property
    def action(self) -> ActionKind:
        """What takes it: containers are opened, surfaces looked at from near, rooms explored."""
        return _ACTIONS[self]

    def is_made_of(self, furniture: FurniturePrior) -> bool:
        """Whether such furniture is of this kind; for a room whether the furniture shows what is kept on it."""
        if self is Kind.CONTAINER:
            return furniture.openable
        return furniture.surface and not (self is Kind.SURFACE and furniture.openable)


_ACTIONS = {
    Kind.CONTAINER: ActionKind.GO_TO_AND_OPEN,
    Kind.SURFACE: ActionKind.NAVIGATE,
    Kind.ROOM: ActionKind.EXPLORE,
}


@dataclass(frozen=True)
class Spot:
    """A place that can be an option: a container or a surface in a room, or (`name` '') the room's unexplored part."""

    kind: Kind
    room: str
    name: str = ""

    @property
    def command(self) -> str:
        """The command that takes it."""
        return option_command(self.kind.action, Option(self.room, "unknown", self.name))


def draw_scene(priors: Priors, rng: random.Random) -> PromptView:
    """A house half searched: one to five rooms, in a third of the scenes with things called by made-up names."""
    view = imagine(priors, rng)
    while len(view.rooms) > _MAX_ROOMS:
        view = imagine(priors, rng)
    if rng.random() < 0.5:
        view = shrink(view, rng)
    return rename(view, rng, priors, share=0.3) if rng.random() < 0.33 else view


def ask_for(view: PromptView, target: str, priors: Priors) -> PromptView | None:
    """The scene when `target` is searched for; None where the target, or what may be taken for it, is listed."""
    asked = retarget(view, target, priors)
    return None if listed_matches(asked, asked.target) else asked


def draw_target(priors: Priors, rng: random.Random, made_up: float = 0.2) -> str:
    """Something to search for: a known thing, or with probability `made_up` one that nobody heard of."""
    return unseen_word(priors, rng) if rng.random() < made_up else rng.choice(sorted(priors.objects))


def unseen_word(priors: Priors, rng: random.Random) -> str:
    """A made-up name whose words are in no vocabulary, as names are written."""
    words = {word for name in (*priors.rooms, *priors.furniture, *priors.objects) for word in name.split()}
    while True:
        name = sanitise(made_up_word(rng))
        if len(name) > 2 and not is_known(name, priors) and words.isdisjoint(name.split()):
            return name


def unseen_name(priors: Priors, rng: random.Random, room: bool = False) -> str:
    """A name that the vocabulary lacks: made up, a rare word, or a simulator's label with underscores and numbers."""
    while True:
        made_up = unseen_word(priors, rng)
        number = rng.randint(2, 99)
        label = rng.choice(
            (
                made_up,
                made_up,
                rng.choice(_RARE_ROOMS if room else _RARE_CONTAINERS),
                f"{rng.choice(QUALIFIERS)}_{made_up}_{number}",
                f"{made_up.split()[0]}{number}_{rng.choice('abcdefgh')}",
                f"unit_{number}_{made_up}",
                "".join(map(str.capitalize, f"{rng.choice(QUALIFIERS)} {made_up}".split())),
            )
        )
        name = sanitise(label)
        if not is_known(name, priors):
            return name


def is_known(name: str, priors: Priors) -> bool:
    """Whether the vocabulary has this name: a room, a piece of furniture, an object, or a synonym of one."""
    word = normalise(name)
    known = priors.room_type(word) or priors.furniture_type(word) or canonical(word) in priors.objects
    return bool(known) or len(words_for(word)) > 1


def fresh(view: PromptView, stem: str) -> str:
    """`stem` as a name of its own in the scene, with a counter where it is taken."""
    taken = names_in_scene(view)
    stem = stem[:MAX_NAME_LENGTH].strip()
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 999))) if name not in taken)


def names_in_scene(view: PromptView) -> set[str]:
    """The names of rooms, objects and doors."""
    names = {room.name for room in view.rooms} | {obj.name for room in view.rooms for obj in room.objects}
    return names | {door.name for door in view.doors}


def without_options(view: PromptView) -> PromptView:
    """The scene with everything opened, explored and looked at, after at most three actions, none of them failed."""
    rooms = tuple(
        replace(
            room,
            objects=tuple(obj._replace(state="opened" if obj.state else "") for obj in room.objects),
        )
        for room in view.rooms
    )
    history = tuple(past for past in view.history if not past.failed)[-3:]
    return replace(view, rooms=rooms, history=history, spaces=(), doors=(), containers=(), surfaces=())


def insert(view: PromptView, room: str, obj: ObjectView, index: int) -> PromptView:
    """The scene with one thing more in a room, before its object number `index`."""
    return replace(
        view,
        rooms=tuple(
            replace(r, objects=(*r.objects[:index], obj, *r.objects[index:])) if r.name == room else r
            for r in view.rooms
        ),
    )


def add_room(view: PromptView, name: str, objects: tuple[ObjectView, ...], rng: random.Random) -> PromptView:
    """The scene with one room more, somewhere in the list; it is explored."""
    index = rng.randrange(len(view.rooms) + 1)
    return replace(view, rooms=(*view.rooms[:index], RoomView(name, objects), *view.rooms[index:]))


def add_spot(
    view: PromptView,
    kind: Kind,
    place: tuple[str, str],
    priors: Priors,
    rng: random.Random,
    own_room: bool = False,
) -> tuple[PromptView, Spot]:
    """The scene with a spot more that is no option: opened, explored or looked at. `place` is room type, furniture.

    Furniture goes into a room of the type that is there, unless it shall have one of its `own`.
    """
    room_type, furniture = place
    there = [room.name for room in view.rooms if priors.room_type(without_counter(room.name)) == room_type]
    if own_room or kind is Kind.ROOM or not there:
        room = fresh(view, room_type)
        view = add_room(view, room, _contents(view, room_type, priors, rng), rng)
    else:
        room = rng.choice(there)
    if kind is Kind.ROOM:
        return view, Spot(kind, room)
    name = fresh(view, furniture)
    count = next(len(r.objects) for r in view.rooms if r.name == room)
    state = "opened" if kind is Kind.CONTAINER else ""
    return insert(view, room, ObjectView(name, state), rng.randrange(count + 1)), Spot(kind, room, name)


def make_available(view: PromptView, spot: Spot, distance: str) -> PromptView:
    """The scene in which the spot is an option: closed, unexplored, or seen from afar only."""
    option = Option(spot.room, distance, spot.name)
    if spot.kind is Kind.SURFACE:
        return replace(view, surfaces=_nearest_first((*view.surfaces, option)))
    rooms = tuple(
        replace(
            room,
            objects=tuple(o._replace(state="closed") if o.name == spot.name else o for o in room.objects),
        )
        if room.name == spot.room
        else room
        for room in view.rooms
    )
    if spot.kind is Kind.CONTAINER:
        return replace(view, rooms=rooms, containers=_nearest_first((*view.containers, option)))
    return replace(view, rooms=rooms, spaces=_nearest_first((*view.spaces, option)))


def add_door(view: PromptView, distance: str, rng: random.Random) -> PromptView:
    """The scene with a closed door more."""
    option = Option(rng.choice(view.rooms).name, distance, fresh(view, "door"))
    return replace(view, doors=_nearest_first((*view.doors, option)))


def _contents(view: PromptView, room_type: str, priors: Priors, rng: random.Random) -> tuple[ObjectView, ...]:
    """Some furniture that can't be opened and some things of a room of this type; never the target."""
    furniture = [kind for kind, prior in priors.furniture.items() if room_type in prior.rooms and not prior.openable]
    things = [name for name, prior in priors.objects.items() if any(place.room == room_type for place in prior.places)]
    words = rng.sample(furniture, min(len(furniture), rng.randrange(3)))
    words += rng.sample(things, min(len(things), rng.randrange(4)))
    return tuple(ObjectView(fresh(view, word)) for word in words if not matches_target(word, view.target))


def _nearest_first(options: tuple[Option, ...]) -> tuple[Option, ...]:
    return tuple(sorted(options, key=lambda option: DISTANCES.index(option.distance)))
