"""What the model reads: a scene graph, a history and a task in words.

`PromptView` holds what the prompt shows, and nothing else, as names and words; `render` writes it out. The
expert teacher reads the same view, so that what it answers follows from what the model can read.
What happened is told as a log, in the order in which it happened: each action with its outcome, and behind it what was
seen then for the first time or in another state. A log only grows, so its KV cache is reused from step to step; only
what changes with every motion (where the robot is, what it can do and how far that is) stands behind it. Where not
all fits into a model's context, `prompt_budget.py` makes a view that leaves things out, and says how many.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from smallplan_planner.actions import Action, ActionKind, ActionRules
from smallplan_planner.names import NameBook, find_matches, matches_target, meaning, sanitise, without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.scene_graph import OpenState, SceneGraph, SceneObject, distance_key

PROMPT_VERSION = "4"
"""Changes whenever the text below does: a model is trained for one version."""

DISTANCE_WORDS = ((3.0, "very close"), (10.0, "near"), (20.0, "far"), (math.inf, "distant"))
DISTANCES = (*(word for _, word in DISTANCE_WORDS), "unknown")
"""All that a prompt says of a distance, nearest first."""
_LIMITS = [limit for limit, _ in DISTANCE_WORDS[:-1]]
MODES = ("normal", "saver")
LAST_ACTIONS = 5
NEAR = 1.0  # m of path within which an object counts as near the robot
MAX_NEAR_OBJECTS = 3
MAX_HINTS = 6  # places that the line of common knowledge names

_STATE_WORDS = {OpenState.NONE: "", OpenState.OPEN: "opened", OpenState.CLOSED: "closed"}
_ACTION_LINES = {
    ActionKind.NAVIGATE: "navigate(room, object): go near an object and look.",
    ActionKind.GO_TO_AND_OPEN: "go_to_and_open(room, object): open a closed door or container.",
    ActionKind.CLOSE: "close(room, object): close an opened door or container.",
    ActionKind.EXPLORE: "explore(room): look at unexplored space of a room.",
    ActionKind.DONE: "done(): end the search.",
}
SPACES, DOORS, CONTAINERS, SURFACES = "Unexplored space", "Closed doors", "Closed containers", "Seen from afar"
"""Heads of the lists of options."""

_MODE_LINES = {"normal": "find it", "saver": "travel little, give up rather than go far"}


Sights = tuple[tuple[int, OpenState], ...]
"""How a thing was seen, oldest first: (number of actions answered before, its state from then on)."""


class ObjectView(NamedTuple):
    """A thing as it was seen last. `since` and `before` count the actions that had been answered by then."""

    name: str
    state: str = ""  # '' | 'opened' | 'closed'
    since: int = 0  # when it was first seen in this state
    before: tuple[tuple[int, str], ...] = ()  # (since, state) of the states before, oldest first

    @property
    def first_seen(self) -> int:
        return self.before[0][0] if self.before else self.since


@dataclass(frozen=True)
class RoomView:
    """A discovered room; what was seen in it stands in the order of first sight."""

    name: str
    objects: tuple[ObjectView, ...] = ()
    since: int = 0  # answered actions when it was discovered
    left_out: int = 0  # objects that are not listed


class Option(NamedTuple):
    """Something that can be done in a room: a closed door or container to open, a surface to look at from near, or
    unexplored space."""

    room: str
    distance: str  # one of DISTANCE_WORDS' words, or "unknown"
    name: str = ""  # of the door, container or surface, '' for unexplored space
    leads_out: bool = False  # of unexplored space: beyond the room


@dataclass(frozen=True)
class PastAction:
    command: str
    outcome: str
    step: int = 0  # how many were answered before it

    @property
    def failed(self) -> bool:
        """Whether it was refused or came to nothing."""
        return self.outcome.startswith(("invalid", "failed"))


@dataclass(frozen=True)
class Hint:
    """A place where the target is commonly kept."""

    room: str
    furniture: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """How many entries of each list are not shown, because the prompt would not fit into the context with them."""

    rooms: int = 0
    history: int = 0
    spaces: int = 0
    doors: int = 0
    containers: int = 0
    surfaces: int = 0
    matches: int = 0


@dataclass(frozen=True)
class PromptView:
    """Everything that the prompt shows, in the episode's names. Options stand nearest first."""

    target: str
    mode: str
    kinds: tuple[ActionKind, ...]  # the actions that this robot has
    rooms: tuple[RoomView, ...]  # in the order of their discovery
    robot_room: str = ""
    near: tuple[str, ...] = ()
    history: tuple[PastAction, ...] = ()  # oldest first
    spaces: tuple[Option, ...] = ()
    doors: tuple[Option, ...] = ()
    containers: tuple[Option, ...] = ()
    surfaces: tuple[Option, ...] = ()  # furniture with a top that the robot has not been near
    matches: tuple[tuple[str, str], ...] | None = ()  # (room, object), nearest first; None: not shown
    hints: tuple[Hint, ...] | None = ()  # None: not shown
    left_out: LeftOut = LeftOut()

    @property
    def remembered(self) -> tuple[PastAction, ...]:
        """What a decision has to heed: the last actions, and those before them that failed."""
        last = max(0, len(self.history) - LAST_ACTIONS)
        return (*(past for past in self.history[:last] if past.failed), *self.history[last:])

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """What `render` gives, made once: a prompt is counted before it is read."""
        return Message("system", _system(self)), Message("user", _user(self))

    def after(self, command: str, outcome: str) -> PromptView:
        """The view after one action more, from which nothing came to light."""
        step = self.history[-1].step + 1 if self.history else 0
        return replace(self, history=(*self.history, PastAction(command, outcome, step)))


@dataclass(frozen=True)
class Message:
    role: str  # "system" | "user" | "assistant"
    content: str


@dataclass(frozen=True)
class Helps:
    """What the prompt does for a small model that a large one can do itself."""

    matches: bool = True  # names the discovered objects that are the target
    hints: bool = True  # says where such an object is commonly kept


def distance_word(distance: float) -> str:
    """A distance in metres as the prompt says it; `unknown` for NaN."""
    if math.isnan(distance):
        return "unknown"
    return DISTANCES[bisect_right(_LIMITS, distance)]


def build_view(
    graph: SceneGraph,
    names: NameBook,
    target: str,
    *,
    rules: ActionRules,
    options: Sequence[Action],
    priors: Priors,
    mode: str = "normal",
    helps: Helps = Helps(),
    history: Sequence[PastAction] = (),
    discovered: Mapping[str, int] | None = None,
    sights: Mapping[str, Sights] | None = None,
    surfaces: Sequence[SceneObject] = (),
) -> PromptView:
    """What the prompt shows of `graph` and of the actions that are open (`options`).

    `discovered` (room id to number of actions answered before) and `sights` (by object id) say what the log tells when;
    what they lack was there from the start. `surfaces` are those that the robot has not been near.
    """
    rooms_since = discovered or {}
    seen = sights or {}
    name_of = names.name_of
    kinds = [ActionKind.NAVIGATE, ActionKind.EXPLORE, ActionKind.DONE]
    kinds += [ActionKind.GO_TO_AND_OPEN] if rules.allow_open else []
    kinds += [ActionKind.CLOSE] if rules.allow_close else []
    near = sorted((obj for obj in graph.objects if obj.distance < NEAR), key=lambda obj: (obj.distance, obj.id))
    spaces, doors, containers = _list_options(graph, name_of, options)
    matches = tuple((name_of[obj.room], name_of[obj.id]) for obj in find_matches(graph, target))
    return PromptView(
        target=name_of[target] if target in graph.object_by_id else sanitise(target),
        mode=mode,
        kinds=tuple(sorted(kinds)),
        rooms=tuple(
            RoomView(
                name_of[room.id],
                _first_seen_first(
                    _object_view(name_of[obj.id], seen.get(obj.id) or ((0, obj.state),))
                    for obj in graph.objects_in(room.id)
                ),
                rooms_since.get(room.id, 0),
            )
            for room in sorted(graph.rooms, key=lambda room: rooms_since.get(room.id, 0))
        ),
        robot_room=name_of[graph.robot_room] if graph.robot_room else "",
        near=tuple(name_of[obj.id] for obj in near[:MAX_NEAR_OBJECTS]),
        history=tuple(history),
        spaces=spaces,
        doors=doors,
        containers=containers,
        surfaces=_nearest_first([(distance_key(obj.distance), _object_option(obj, name_of)) for obj in surfaces]),
        matches=matches if helps.matches else None,
        hints=known_places(priors, target) if helps.hints else None,
    )


def known_places(priors: Priors, target: str) -> tuple[Hint, ...]:
    """The likeliest places of a target, gathered by room, likeliest room first."""
    by_room: dict[str, list[str]] = {}
    for place in priors.places(target)[:MAX_HINTS]:
        furniture = by_room.setdefault(place.room, [])
        if place.furniture not in furniture:
            furniture.append(place.furniture)
    return tuple(Hint(room, tuple(furniture)) for room, furniture in by_room.items())


def listed_matches(view: PromptView, target: str) -> tuple[tuple[str, str], ...]:
    """(room, object) of what the prompt lists that is the target, whether it says so or not."""
    things = ((room.name, obj.name) for room in view.rooms for obj in room.objects)
    return tuple((room, name) for room, name in things if matches_target(without_counter(name), target))


@lru_cache(maxsize=4096)  # from one decision to the next most things are the same
def _object_view(name: str, sights: Sights) -> ObjectView:
    *before, (since, state) = sights
    return ObjectView(name, _STATE_WORDS[state], since, tuple((since, _STATE_WORDS[state]) for since, state in before))


def _first_seen_first(objects: Iterable[ObjectView]) -> tuple[ObjectView, ...]:
    return tuple(sorted(objects, key=lambda obj: obj.first_seen))


def _list_options(
    graph: SceneGraph, name_of: Mapping[str, str], options: Sequence[Action]
) -> tuple[tuple[Option, ...], tuple[Option, ...], tuple[Option, ...]]:
    spaces: list[tuple[float, Option]] = []
    doors: list[tuple[float, Option]] = []
    containers: list[tuple[float, Option]] = []
    explore, go_to_and_open = ActionKind.EXPLORE, ActionKind.GO_TO_AND_OPEN
    for kind, room_id, target_id in options:
        if kind is explore:
            frontier = graph.frontier_by_id[target_id]
            option = Option(name_of[room_id], distance_word(frontier.distance), leads_out=frontier.leads_out)
            spaces.append((distance_key(frontier.distance), option))
        elif kind is go_to_and_open:
            door = graph.door_by_id.get(target_id)
            if door is None:
                obj = graph.object_by_id[target_id]
                containers.append((distance_key(obj.distance), _object_option(obj, name_of)))
            else:
                option = Option(name_of[room_id], distance_word(door.distance), name_of[target_id])
                doors.append((distance_key(door.distance), option))
    return _nearest_first(spaces), _nearest_first(doors), _nearest_first(containers)


def _object_option(obj: SceneObject, name_of: Mapping[str, str]) -> Option:
    return Option(name_of[obj.room], distance_word(obj.distance), name_of[obj.id])


def _nearest_first(options: list[tuple[float, Option]]) -> tuple[Option, ...]:
    return tuple(option for _, option in sorted(options, key=lambda pair: pair[0]))


def render(view: PromptView) -> list[Message]:
    """The prompt as chat messages: one system, one user message."""
    return list(view.messages)


def _system(view: PromptView) -> str:
    lines = ["You plan for a robot that searches a house for an object. Its actions:"]
    lines += [_ACTION_LINES[kind] for kind in view.kinds]
    lines.append(f"Mode: {view.mode}, {_MODE_LINES[view.mode]}.")
    lines.append("Answer in three lines, Analysis: Reasoning: Command:")
    return "\n".join(lines)


def _user(view: PromptView) -> str:
    lines = [f"Task: find the {view.target}."]
    if view.hints is not None:
        places = [f"{hint.room} ({', '.join(hint.furniture)})" for hint in view.hints]
        lines.append(f"Usual places: {'; '.join(places) if places else 'not known'}.")
    lines.append("Log:")
    lines += [entry.text for entry in log_entries(view)]
    lines += _more(view.left_out.rooms, " rooms")
    lines += _more(view.left_out.history, " actions")
    where = f"You are in {view.robot_room}" if view.robot_room else "You are in no known room"
    lines.append(where + (f", near {', '.join(view.near)}." if view.near else "."))
    empty = [room.name for room in view.rooms if not room.objects and not room.left_out]
    lines += [f"Nothing seen in {', '.join(empty)}."] if empty else []
    lines += _option_lines(SPACES, view.spaces, view.left_out.spaces)
    lines += _option_lines(DOORS, view.doors, view.left_out.doors)
    named, others = split_containers(view)
    lines += _option_lines(CONTAINERS, named, view.left_out.containers, _other_lines(others))
    lines += _option_lines(SURFACES, listed_surfaces(view), view.left_out.surfaces)
    lines.append("Use listed names only. Explore only rooms with unexplored space. Target listed: done().")
    task = f"Task: find the {view.target}."
    if view.matches is not None:
        found = [f"{name} in {room}" for room, name in view.matches] + _more(view.left_out.matches)
        task += f" Found: {', '.join(found) or 'none'}."
    lines.append(task)
    return "\n".join(lines)


class LogEntry(NamedTuple):
    """A line of the log: an action, or what was seen of a room behind one."""

    text: str
    room: RoomView | None = None  # None: an action
    objects: tuple[ObjectView, ...] = ()  # of the room, in the text's order


def log_entries(view: PromptView) -> Iterator[LogEntry]:
    """The log: for each number of actions answered, what was seen then, room by room, and the action that followed."""
    sights: dict[int, list[LogEntry]] = {}
    for room in view.rooms:
        left_out = _more(room.left_out)
        for step, objects in sorted(_sights(room).items()):
            things = [obj.name + (f" ({obj.state})" if obj.state else "") for obj in objects] + left_out
            entry = LogEntry(f"{room.name}: {', '.join(things)}", room, tuple(objects))
            sights.setdefault(step, []).append(entry)
            left_out = []
    for past in view.history:
        for step in sorted(step for step in sights if step <= past.step):
            yield from sights.pop(step)
        yield LogEntry(f"{past.command}: {past.outcome}")
    for step in sorted(sights):
        yield from sights[step]


def _sights(room: RoomView) -> dict[int, list[ObjectView]]:
    """What was seen of a room, by the number of actions answered before: each thing in the state that it had."""
    seen: dict[int, list[ObjectView]] = {}
    for obj in room.objects:
        for since, state in obj.before:
            seen.setdefault(since, []).append(obj._replace(state=state))
        seen.setdefault(obj.since, []).append(obj)
    if room.left_out and not seen:
        seen[room.since] = []
    return seen


def listed_surfaces(view: PromptView) -> tuple[Option, ...]:
    """The surfaces that are listed: the usual ones, or all when nothing else is left to do."""
    usual = _usual_kinds(view, view.surfaces)
    return usual if usual or view.spaces or view.doors or view.containers else view.surfaces


def _usual_kinds(view: PromptView, options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Those of a kind of furniture where the target is usually kept; all where the prompt names no usual places."""
    if not view.hints:
        return options
    kinds = {meaning(furniture) for hint in view.hints for furniture in hint.furniture}
    return tuple(option for option in options if meaning(without_counter(option.name)) in kinds)


def split_containers(view: PromptView) -> tuple[tuple[Option, ...], tuple[Option, ...]]:
    """The containers that are listed by name, and the others, of which the log has the names and the list the
    distances: by room, that with the nearest container first, and in a room in the order of the log."""
    named = _usual_kinds(view, view.containers)
    by_name = {option.name for option in named}
    others = [option for option in view.containers if option.name not in by_name]
    nearest = {room: rank for rank, room in enumerate(dict.fromkeys(option.room for option in others))}
    logged = {obj.name: index for room in view.rooms for index, obj in enumerate(room.objects)}
    others.sort(key=lambda option: (nearest[option.room], logged.get(option.name, len(logged))))
    return named, tuple(others)


def _other_lines(others: Sequence[Option]) -> list[str]:
    """A line for each distance, with the rooms in which the others are as far, and by name what is as far elsewhere."""
    by_room: dict[str, list[str]] = {}
    for option in others:
        by_room.setdefault(option.room, []).append(option.distance)
    mostly = {room: max(dict.fromkeys(words), key=words.count) for room, words in by_room.items()}
    told: dict[str, list[str]] = {}
    for room, word in mostly.items():
        told.setdefault(word, []).append(room)
    for option in others:
        if option.distance != mostly[option.room]:
            told.setdefault(option.distance, []).append(option.name)
    return [f"others {word}: {', '.join(told[word])}" for word in DISTANCES if word in told]


def _option_lines(head: str, options: Sequence[Option], left_out: int, others: Sequence[str] = ()) -> list[str]:
    """One line for each distance and room, nearest first: `near, kitchen: cabinet, fridge`."""
    if not options and not left_out and not others:
        return [f"{head}: none"]
    lines = [beginning + ", ".join(map(option_word, group)) for beginning, group in option_groups(options).items()]
    return [f"{head}:", *lines, *others, *_more(left_out)]


def option_groups(options: Sequence[Option]) -> dict[str, list[Option]]:
    """How the line of each distance and room begins, and the options that it lists."""
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(f"{option.distance}, {option.room}: ", []).append(option)
    return groups


def option_word(option: Option) -> str:
    """What stands for an option in its line."""
    return option.name or ("leading out" if option.leads_out else "within")


def _more(left_out: int, what: str = "") -> list[str]:
    """What ends a list of which a part is left out; nothing where it is whole."""
    return [f"and {left_out} more{what}"] if left_out else []
