"""What the model reads: a scene graph, a history and a task in words.

`PromptView` holds what the prompt shows, and nothing else, as names and words; `render` writes it out. The
expert teacher reads the same view, so that what it answers follows from what the model can read.
Parts that change least come first, so that their KV cache is reused from step to step. Where not all fits into a
model's context, `prompt_budget.py` makes a view that leaves things out, and the lines concerned say how many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smallplan_planner.actions import Action, ActionKind, ActionRules
from smallplan_planner.names import NameBook, find_matches, matches_target, sanitise, without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.scene_graph import OpenState, SceneGraph, SceneObject, distance_key

PROMPT_VERSION = "3"
"""Changes whenever the text below does: a model is trained for one version."""

DISTANCE_WORDS = ((3.0, "very close"), (10.0, "near"), (20.0, "far"), (math.inf, "distant"))
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


@dataclass(frozen=True)
class ObjectView:
    name: str
    state: str = ""  # '' | 'opened' | 'closed'


@dataclass(frozen=True)
class RoomView:
    name: str
    objects: tuple[ObjectView, ...] = ()
    unexplored: bool = False  # area within it is unexplored
    left_out: int = 0  # objects that are not listed


@dataclass(frozen=True)
class Option:
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


@dataclass(frozen=True)
class Hint:
    """A place where the target is commonly kept."""

    room: str
    furniture: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """How many entries of each list are not shown, because the prompt would not fit into the context with them."""

    rooms: int = 0
    invalid: int = 0
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
    rooms: tuple[RoomView, ...]  # the one that changed last stands last
    robot_room: str = ""
    near: tuple[str, ...] = ()
    history: tuple[PastAction, ...] = ()
    invalid: tuple[PastAction, ...] = ()  # those older than `history`
    spaces: tuple[Option, ...] = ()
    doors: tuple[Option, ...] = ()
    containers: tuple[Option, ...] = ()
    surfaces: tuple[Option, ...] = ()  # furniture with a top that the robot has not been near
    matches: tuple[tuple[str, str], ...] | None = ()  # (room, object), nearest first; None: not shown
    hints: tuple[Hint, ...] | None = ()  # None: not shown
    left_out: LeftOut = LeftOut()


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
    return next(word for limit, word in DISTANCE_WORDS if distance < limit)


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
    invalid: Sequence[PastAction] = (),
    last_change: Mapping[str, int] | None = None,
    surfaces: Sequence[SceneObject] = (),
) -> PromptView:
    """What the prompt shows of `graph` and of the actions that are open (`options`).

    `last_change` (room id to step) orders the rooms; `surfaces` are those that the robot has not been near.
    """
    age = last_change or {}
    kinds = [ActionKind.NAVIGATE, ActionKind.EXPLORE, ActionKind.DONE]
    kinds += [ActionKind.GO_TO_AND_OPEN] if rules.allow_open else []
    kinds += [ActionKind.CLOSE] if rules.allow_close else []
    near = sorted((obj for obj in graph.objects if obj.distance < NEAR), key=lambda obj: (obj.distance, obj.id))
    spaces, doors, containers = _list_options(graph, names, options)
    matches = tuple((names.name(obj.room), names.name(obj.id)) for obj in find_matches(graph, target))
    return PromptView(
        target=names.name(target) if target in graph.object_by_id else sanitise(target),
        mode=mode,
        kinds=tuple(sorted(kinds)),
        rooms=tuple(
            RoomView(
                names.name(room.id),
                tuple(ObjectView(names.name(obj.id), _STATE_WORDS[obj.state]) for obj in graph.objects_in(room.id)),
                any(not f.leads_out for f in graph.frontiers_of(room.id)),
            )
            for room in sorted(graph.rooms, key=lambda room: age.get(room.id, 0))
        ),
        robot_room=names.name(graph.robot_room) if graph.robot_room else "",
        near=tuple(names.name(obj.id) for obj in near[:MAX_NEAR_OBJECTS]),
        history=tuple(history[-LAST_ACTIONS:]),
        invalid=tuple(invalid),
        spaces=spaces,
        doors=doors,
        containers=containers,
        surfaces=_nearest_first([(distance_key(obj.distance), _object_option(obj, names)) for obj in surfaces]),
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


def _list_options(
    graph: SceneGraph, names: NameBook, options: Sequence[Action]
) -> tuple[tuple[Option, ...], tuple[Option, ...], tuple[Option, ...]]:
    spaces: list[tuple[float, Option]] = []
    doors: list[tuple[float, Option]] = []
    containers: list[tuple[float, Option]] = []
    for action in options:
        room = names.name(action.room_id) if action.room_id else ""
        if action.kind is ActionKind.EXPLORE:
            frontier = graph.frontier_by_id[action.target_id]
            option = Option(room, distance_word(frontier.distance), leads_out=frontier.leads_out)
            spaces.append((distance_key(frontier.distance), option))
        elif action.kind is ActionKind.GO_TO_AND_OPEN:
            door = graph.door_by_id.get(action.target_id)
            if door is None:
                obj = graph.object_by_id[action.target_id]
                containers.append((distance_key(obj.distance), _object_option(obj, names)))
            else:
                option = Option(room, distance_word(door.distance), names.name(door.id))
                doors.append((distance_key(door.distance), option))
    return _nearest_first(spaces), _nearest_first(doors), _nearest_first(containers)


def _object_option(obj: SceneObject, names: NameBook) -> Option:
    return Option(names.name(obj.room), distance_word(obj.distance), names.name(obj.id))


def _nearest_first(options: list[tuple[float, Option]]) -> tuple[Option, ...]:
    return tuple(option for _, option in sorted(options, key=lambda pair: pair[0]))


def render(view: PromptView) -> list[Message]:
    """The prompt as chat messages: one system, one user message."""
    return [Message("system", _system(view)), Message("user", _user(view))]


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
    lines.append("Rooms:")
    lines += [_room_line(room) for room in view.rooms]
    lines += _more(view.left_out.rooms, " rooms")
    where = f"You are in {view.robot_room}" if view.robot_room else "You are in no known room"
    lines.append(where + (f", near {', '.join(view.near)}." if view.near else "."))
    if view.invalid or view.left_out.invalid:
        lines.append("Invalid before:")
        lines += [f"{past.command}: {past.outcome}" for past in view.invalid]
        lines += _more(view.left_out.invalid)
    lines.append("Last actions:" if view.history else "Last actions: none")
    lines += [f"{past.command}: {past.outcome}" for past in view.history]
    lines += _option_lines(SPACES, view.spaces, view.left_out.spaces)
    lines += _option_lines(DOORS, view.doors, view.left_out.doors)
    lines += _option_lines(CONTAINERS, view.containers, view.left_out.containers)
    lines += _option_lines(SURFACES, view.surfaces, view.left_out.surfaces)
    lines.append("Use listed names only. Explore only rooms with unexplored space. Target listed: done().")
    task = f"Task: find the {view.target}."
    if view.matches is not None:
        found = [f"{name} in {room}" for room, name in view.matches] + _more(view.left_out.matches)
        task += f" Found: {', '.join(found) or 'none'}."
    lines.append(task)
    return "\n".join(lines)


def _room_line(room: RoomView) -> str:
    objects = [obj.name + (f" ({obj.state})" if obj.state else "") for obj in room.objects] + _more(room.left_out)
    return f"{room.name}: {', '.join(objects) or 'nothing seen'}{'; partly unexplored' if room.unexplored else ''}"


def _option_lines(head: str, options: Sequence[Option], left_out: int) -> list[str]:
    """One line for each distance and room, nearest first: `near, kitchen: cabinet, fridge`."""
    if not options and not left_out:
        return [f"{head}: none"]
    lines = [beginning + ", ".join(map(option_word, group)) for beginning, group in option_groups(options).items()]
    return [f"{head}:", *lines, *_more(left_out)]


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
