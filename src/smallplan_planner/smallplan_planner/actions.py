"""What the robot can do: the five actions, their preconditions, and a reason for every refusal.

An `Action` speaks of ids; a command is the same in the words of a `NameBook`, as a model writes it:
`navigate(kitchen, mug-2)`, `go_to_and_open(hallway, door)`, `close(kitchen, fridge)`, `explore(kitchen)`, `done()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from smallplan_planner.names import NameBook
from smallplan_planner.scene_graph import Frontier, OpenState, SceneGraph


class ActionKind(IntEnum):
    """Values are those of ActionGoal.msg."""

    NAVIGATE = 0
    GO_TO_AND_OPEN = 1
    CLOSE = 2
    EXPLORE = 3
    DONE = 4

    @property
    def verb(self) -> str:
        return _VERBS[self]


_VERBS = {kind: kind.name.lower() for kind in ActionKind}
ARGUMENTS = {
    ActionKind.NAVIGATE: ("room", "object"),
    ActionKind.GO_TO_AND_OPEN: ("room", "object"),
    ActionKind.CLOSE: ("room", "object"),
    ActionKind.EXPLORE: ("room",),
    ActionKind.DONE: (),
}
"""A room comes before what is in it."""
_KIND_OF_VERB = {kind.verb: kind for kind in ActionKind}
_COMMAND = re.compile(r"([a-z_]+)\s*\(([^()]*)\)")


class Action(NamedTuple):
    """`target_id` is an object, a door or a frontier; both ids are '' for `done()`."""

    kind: ActionKind
    room_id: str = ""
    target_id: str = ""


DONE = Action(ActionKind.DONE)


class OutcomeCode(IntEnum):
    """How an execution ended. Values are those of ExecuteAction.action."""

    NONE = 0
    UNREACHABLE = 1
    BLOCKED = 2
    NOT_OPENABLE = 3
    NO_MANIPULATOR = 4
    STALE_GOAL = 5
    CANCELED = 6
    TIMEOUT = 7
    FAILED = 8


@dataclass(frozen=True)
class Outcome:
    """What an executor reports: whether it worked, why not, and the metres travelled."""

    success: bool
    code: OutcomeCode = OutcomeCode.NONE
    message: str = ""
    distance: float = 0.0


class ActionRefused(ValueError):
    """A command that can't be parsed or whose preconditions don't hold; the message says which and why."""


class ParseError(ActionRefused):
    """An answer or a command that isn't of the agreed form."""


@dataclass(frozen=True)
class ActionRules:
    """What limits the actions beyond the graph itself."""

    allow_open: bool = True
    allow_close: bool = False  # closing never helps a search
    blocked: frozenset[str] = frozenset()  # target ids that just failed


def valid_actions(graph: SceneGraph, rules: ActionRules) -> list[Action]:
    """Every action whose preconditions hold, in the graph's order, `done()` last."""
    return [*_actions_on_graph(graph, rules), DONE]


def only_done(graph: SceneGraph, rules: ActionRules) -> bool:
    """Whether `done()` is the only action whose preconditions hold."""
    return next(_actions_on_graph(graph, rules), None) is None


def _actions_on_graph(graph: SceneGraph, rules: ActionRules) -> Iterator[Action]:
    """The valid actions but for `done()`: those that `refusal` says nothing against, without asking it for each."""
    blocked, navigate = rules.blocked, ActionKind.NAVIGATE
    for room in graph.rooms:
        frontier = next_frontier(graph, room.id, rules)
        if frontier is not None:
            yield Action(ActionKind.EXPLORE, room.id, frontier.id)
    for obj in graph.objects:
        if obj.id not in blocked:
            yield Action(navigate, obj.room, obj.id)
    for kind, (allowed, wanted, _) in _opening(rules).items():
        if not allowed:
            continue
        for door in graph.doors:
            if door.openable and door.state is wanted and door.id not in blocked:
                for room_id in door.rooms:
                    yield Action(kind, room_id, door.id)
        for obj in graph.objects:
            if obj.openable and obj.state is wanted and obj.id not in blocked:
                yield Action(kind, obj.room, obj.id)


def _opening(rules: ActionRules) -> dict[ActionKind, tuple[bool, OpenState, str]]:
    """The actions on what can be opened: (whether the robot has it, the state that it needs, its word)."""
    return {
        ActionKind.GO_TO_AND_OPEN: (rules.allow_open, OpenState.CLOSED, "open"),
        ActionKind.CLOSE: (rules.allow_close, OpenState.OPEN, "close"),
    }


def next_frontier(graph: SceneGraph, room_id: str, rules: ActionRules) -> Frontier | None:
    """The frontier that `explore(room)` takes: those that lead out first, then the nearest, ties by id."""
    return next((f for f in graph.frontiers_of(room_id) if f.id not in rules.blocked), None)


def refusal(action: Action, graph: SceneGraph, rules: ActionRules) -> str | None:
    """Why `action` can't be executed now, in one clause without names, or None when it can."""
    if action.kind is ActionKind.DONE:
        return None
    if action.room_id not in graph.room_by_id:
        return "there is no such room"
    if action.target_id in rules.blocked:
        return "it has just failed and nothing has changed since"
    if action.kind is ActionKind.EXPLORE:
        if action.target_id in graph.frontier_by_id:
            return None
        return "the room has no unexplored space"
    obj, door = graph.object_by_id.get(action.target_id), graph.door_by_id.get(action.target_id)
    if obj is None and door is None:
        return "there is no such object"
    if (obj is not None and obj.room != action.room_id) or (door is not None and action.room_id not in door.rooms):
        return "it is not in that room"
    if action.kind is ActionKind.NAVIGATE:
        return None if obj is not None else "a door is not an object to go to"
    allowed, wanted, word = _opening(rules)[action.kind]
    if not allowed:
        return f"this robot does not {word} things"
    openable, state = (obj.openable, obj.state) if obj is not None else (door.openable, door.state)  # type: ignore[union-attr]
    if not openable:
        return "it can't be opened" if obj is not None else "it is locked"
    return None if state is wanted else ("it is open already" if word == "open" else "it is not open")


def format_command(action: Action, names: NameBook) -> str:
    """The action as a model writes it, in the names of the episode."""
    return format_commands((action,), names)[0]


def format_commands(actions: Iterable[Action], names: NameBook) -> list[str]:
    """As `format_command`, of each."""
    name_of, done, explore = names.name_of, ActionKind.DONE, ActionKind.EXPLORE  # an enumeration is slow to look into
    commands = []
    for kind, room_id, target_id in actions:
        if kind is explore:
            commands.append(f"{_VERBS[kind]}({name_of[room_id]})")
        elif kind is done:
            commands.append(f"{_VERBS[kind]}()")
        else:
            commands.append(f"{_VERBS[kind]}({name_of[room_id]}, {name_of[target_id]})")
    return commands


def parse_command(text: str, graph: SceneGraph, names: NameBook, rules: ActionRules) -> Action:
    """The action that a command line means here; raises `ActionRefused` with the reason when it means none."""
    match = _COMMAND.fullmatch(text.strip())
    if match is None:
        raise ParseError(f"{_shorten(text)!r} is not a command; expected for example explore(kitchen)")
    kind = _KIND_OF_VERB.get(match[1])
    if kind is None:
        raise ParseError(f"there is no action {_shorten(match[1])!r}; expected one of {', '.join(_KIND_OF_VERB)}")
    given = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
    expected = ARGUMENTS[kind]
    if len(given) != len(expected):
        raise ParseError(f"{kind.verb} takes {len(expected)} arguments ({', '.join(expected)}), got {len(given)}")
    ids = {}
    for argument, name in zip(expected, given, strict=True):
        found = names.find(name)
        if found is None:
            raise ActionRefused(f"there is no {argument} called {_shorten(name)!r}")
        ids[argument] = found
    room_id = ids.get("room", "")
    target_id = ids.get("object", "")
    if kind is ActionKind.EXPLORE:
        frontier = next_frontier(graph, room_id, rules)
        target_id = frontier.id if frontier is not None else ""
    action = Action(kind, room_id, target_id)
    reason = refusal(action, graph, rules)
    if reason is not None:
        raise ActionRefused(f"{text.strip()}: {reason}")
    return action


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "…"
