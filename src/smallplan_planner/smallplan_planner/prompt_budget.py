"""What stays in a prompt that does not fit into the model's context, or is longer than it can read: what matters.

`fit` shows a smaller house: a thing that is kept stands everywhere it would stand (in its room, among the options,
among what is found), a thing that is left out stands nowhere, and each list says how many it lacks. No name and no
line is ever cut. Things are kept in one order that depends on the view alone:

    always            task, rules, last actions, the robot's room, what it is near, the nearest match
    then              the other matches, nearest first
                      the nearest space, door, container and surface
                      options where the target is usually kept, nearest first; the latest refusals
                      doors and spaces that lead on, nearest first
                      the names of the rooms
                      other options, nearest first
                      what else is in the robot's room
                      older refusals
                      the rest, usual rooms and near rooms first; the latest of the older actions

So a larger budget keeps the same and more. What is left out stays open to the model: the grammar is of all actions.
Whoever asks a model, on the robot or in training, asks what `fit_situation` gives: both read the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any

from smallplan_planner.generation import PromptBudget, PromptReader, SlmError
from smallplan_planner.grammar import Grammar
from smallplan_planner.names import without_counter
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import (
    DISTANCE_WORDS,
    LAST_ACTIONS,
    LeftOut,
    Message,
    Option,
    PromptView,
    known_places,
    listed_matches,
    listed_surfaces,
    render,
)
from smallplan_planner.room_prompt import MAX_WORDS, render_room
from smallplan_planner.search import Situation

CountTokens = Callable[[Sequence[Message]], int]
"""Tokens that messages take as a prompt, chat template included."""

_FIRST_STEP = 32  # things; the search for how many fit starts with so many
_RANK = {word: rank for rank, (_, word) in enumerate(DISTANCE_WORDS)}
_UNKNOWN_RANK = len(_RANK)  # of the distance `unknown`, and of a room in which nothing can be done


class _Kind(IntEnum):
    OBJECT = 0
    ROOM = 1
    DOOR = 2
    SPACE = 3  # the unexplored space of a room
    ACTION = 4  # older than the last ones


_Part = tuple[_Kind, str | int]
"""What is kept or left out as one: its kind, and the name (of the room for a space) or the action's step."""


class _Tier(IntEnum):
    """The order of the module's table."""

    MATCH = 0
    NEAREST = 1
    USUAL = 2
    EXIT = 3
    ROOM = 4
    OPTION = 5
    HERE = 6
    REFUSAL = 7
    REST = 8
    ACTION = 9


def fit_situation(situation: Situation, reader: PromptReader, grammar: Grammar | None, priors: Priors) -> Situation:
    """The situation with as much in its view as `reader` can read of it, when it answers under `grammar`.

    Raises `SlmError` as `fit` does.
    """
    view = fit(situation.view, reader.count_tokens, reader.prompt_budget(grammar), priors)
    return situation if view is situation.view else replace(situation, view=view)


def fit(view: PromptView, count_tokens: CountTokens, budget: PromptBudget, priors: Priors) -> PromptView:
    """The view itself when its prompt is readable within `budget`, else as much of it as is, by relevance.

    A larger budget never leaves out more. Raises `SlmError` when not even the parts that are always kept fit.
    """
    if _count_names(view) <= budget.readable and count_tokens(render(view)) <= budget.readable:
        return view
    always = _always(view)
    order = [part for part in _by_relevance(view, priors) if part not in always]

    def take(count: int) -> PromptView:
        return _restrict(view, always.union(order[:count]))

    least = count_tokens(render(take(0)))
    what = "the parts of the prompt that can't be left out (task, rules, last actions, the robot's place)"
    limit = _limit(least, budget, what)
    return take(_most(len(order), lambda count: count_tokens(render(take(count))) <= limit))


def fit_room(
    labels: Sequence[str], room_types: Sequence[str], count_tokens: CountTokens, budget: PromptBudget
) -> list[Message]:
    """The question which room this is, with as many of its things as are readable, the most telling first.

    Raises ValueError as `render_room` does, and `SlmError` when not even one thing fits.
    """
    whole = render_room(labels, room_types)
    if count_tokens(whole) <= budget.readable:
        return whole

    def ask(count: int) -> list[Message]:
        return render_room(labels, room_types, count + 1)

    limit = _limit(count_tokens(ask(0)), budget, "the question which room this is, with one thing in it")
    return ask(_most(MAX_WORDS - 1, lambda count: count_tokens(ask(count)) <= limit))


def _limit(least: int, budget: PromptBudget, what: str) -> int:
    """The tokens to keep to, where `least` is what `what` takes: as many as are readable, unless that is too few."""
    if least > budget.most:
        raise SlmError(
            f"{what}: {least} tokens, and {budget.most} are left for a prompt beside the longest answer; "
            f"raise n_ctx by {least - budget.most} or more"
        )
    return max(least, budget.readable)


def _most(total: int, fits: Callable[[int], bool]) -> int:
    """A count below `total` that fits, where 0 does and `total` does not: so many that one more would not.

    A prompt with more in it may be shorter by a token or two, when a list is whole again. As the counts that are
    tried depend only on what fitted before, whatever fits more often (a larger budget) gets no less all the same.
    """
    low, step = 0, _FIRST_STEP
    while low + step < total and fits(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, total)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _count_names(view: PromptView) -> int:
    """Names in the lists. Each takes a token or more: far too many are not worth counting exactly."""
    return sum(len(room.objects) for room in view.rooms)


def _always(view: PromptView) -> set[_Part]:
    """The parts that are never left out, beside those that are no parts."""
    return {
        (_Kind.ROOM, view.robot_room),
        *((_Kind.OBJECT, name) for name in view.near),
        *((_Kind.OBJECT, name) for name in _matches(view)[:1]),
        *((_Kind.ACTION, past.step) for past in view.history[-LAST_ACTIONS:]),
    }


def _matches(view: PromptView) -> list[str]:
    """Names of what is the target, nearest first where the view says so."""
    matches = listed_matches(view, view.target) if view.matches is None else view.matches
    return [name for _, name in matches]


def _by_relevance(view: PromptView, priors: Priors) -> list[_Part]:
    """All parts, each once, the most relevant first."""
    rated = list(_rate(view, _UsualPlaces(view, priors)))
    rated.sort(key=lambda pair: pair[0])  # stable: ties in the order in which they were rated
    return list(dict.fromkeys(part for _, part in rated))


def _rate(view: PromptView, usual: _UsualPlaces) -> Iterator[tuple[tuple[int, ...], _Part]]:
    """(what to sort by, part); a part may come several times, and its best rating counts."""
    for name in _matches(view):
        yield (_Tier.MATCH,), (_Kind.OBJECT, name)
    for kind, options in _sections(view):
        for index, option in enumerate(options):
            yield (_option_tier(kind, option, index, usual), _rank(option)), _part(kind, option)
    older = view.history[: max(0, len(view.history) - LAST_ACTIONS)]
    refusals = [past for past in reversed(older) if past.failed]
    for age, past in enumerate(refusals):
        yield (_Tier.USUAL if age < LAST_ACTIONS else _Tier.REFUSAL,), (_Kind.ACTION, past.step)
    for past in reversed(older):
        yield (_Tier.ACTION,), (_Kind.ACTION, past.step)
    nearness = _room_ranks(view)
    for room in reversed(view.rooms):  # the one that was discovered last is likely near
        where = (not usual.is_room(room.name), nearness.get(room.name, _UNKNOWN_RANK))
        yield (_Tier.ROOM, *where), (_Kind.ROOM, room.name)
        tier = (_Tier.HERE,) if room.name == view.robot_room else (_Tier.REST, *where)
        for obj in room.objects:
            yield tier, (_Kind.OBJECT, obj.name)


def _option_tier(kind: _Kind, option: Option, index: int, usual: _UsualPlaces) -> _Tier:
    if index == 0:
        return _Tier.NEAREST
    if kind is not _Kind.DOOR and usual.includes(option):
        return _Tier.USUAL
    return _Tier.EXIT if kind is _Kind.DOOR or option.leads_out else _Tier.OPTION


class _UsualPlaces:
    """Where the target is usually kept: as the view says, or as the priors do where it says nothing."""

    def __init__(self, view: PromptView, priors: Priors) -> None:
        self._priors = priors
        hints = known_places(priors, view.target) if view.hints is None else view.hints
        self._rooms = {hint.room for hint in hints}
        self._places = {(hint.room, furniture) for hint in hints for furniture in hint.furniture}
        self._furniture = {furniture for _, furniture in self._places}

    def is_room(self, name: str) -> bool:
        return self._room_type(name) in self._rooms

    def includes(self, option: Option) -> bool:
        """Whether a container, a surface or a space is a usual place; in a room of unknown type, its kind decides."""
        room = self._room_type(option.room)
        if not option.name:
            return room in self._rooms
        furniture = self._priors.furniture_type(without_counter(option.name))
        return (room, furniture) in self._places or (not room and furniture in self._furniture)

    def _room_type(self, name: str) -> str:
        return self._priors.room_type(without_counter(name))


def _sections(view: PromptView) -> tuple[tuple[_Kind, tuple[Option, ...]], ...]:
    return (
        (_Kind.SPACE, view.spaces),
        (_Kind.DOOR, view.doors),
        (_Kind.OBJECT, view.containers),
        (_Kind.OBJECT, listed_surfaces(view)),
    )


def _part(kind: _Kind, option: Option) -> _Part:
    return kind, option.room if kind is _Kind.SPACE else option.name


def _rank(option: Option) -> int:
    return _RANK.get(option.distance, _UNKNOWN_RANK)


def _room_ranks(view: PromptView) -> dict[str, int]:
    """How near a room is: as the nearest of what can be done in it."""
    ranks: dict[str, int] = {}
    for _, options in _sections(view):
        for option in options:
            ranks[option.room] = min(_rank(option), ranks.get(option.room, _UNKNOWN_RANK))
    return ranks


def _restrict(view: PromptView, parts: set[_Part]) -> PromptView:
    """The view with these parts alone, and the rooms that they are in."""
    view = replace(view, surfaces=listed_surfaces(view))  # the others are not shown anyway

    def among(kind: _Kind, options: tuple[Option, ...]) -> tuple[Option, ...]:
        return tuple(option for option in options if _part(kind, option) in parts)

    spaces, doors, containers, surfaces = (among(kind, options) for kind, options in _sections(view))
    needed = {option.room for option in (*spaces, *doors, *containers, *surfaces)}
    rooms = []
    for room in view.rooms:
        objects = tuple(obj for obj in room.objects if (_Kind.OBJECT, obj.name) in parts)
        if objects or room.name in needed or (_Kind.ROOM, room.name) in parts:
            missing = len(room.objects) - len(objects)
            rooms.append(replace(room, objects=objects, left_out=room.left_out + missing) if missing else room)
    kept: dict[str, Any] = {
        "rooms": tuple(rooms),
        "history": tuple(past for past in view.history if (_Kind.ACTION, past.step) in parts),
        "spaces": spaces,
        "doors": doors,
        "containers": containers,
        "surfaces": surfaces,
    }
    if view.matches is not None:
        kept["matches"] = tuple((room, name) for room, name in view.matches if (_Kind.OBJECT, name) in parts)
    gone = {name: getattr(view.left_out, name) + len(getattr(view, name)) - len(items) for name, items in kept.items()}
    return replace(view, **kept, left_out=LeftOut(**gone))
