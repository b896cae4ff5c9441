"""The built-in teacher: a search planner that knows what a person knows, and says why.

It reads a `PromptView`, so it sees exactly what the prompt shows, and the unperturbed priors of where things
are kept. Each thing that can be done next is worth (probability that it brings the target to light) over
(what it costs), the rule that is optimal for searching independent boxes one by one (Blackwell; see
DeGroot, Optimal Statistical Decisions, 1970, 14.5). It never sees metres, only the prompt's distance words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import without_counter
from smallplan_planner.policies import RuleClassifier
from smallplan_planner.priors import Place, Priors, load_priors
from smallplan_planner.prompt import (
    MAX_HINTS,
    Option,
    PromptView,
    known_places,
    listed_matches,
    listed_surfaces,
    split_containers,
)
from smallplan_planner.response import Response
from smallplan_planner.search import Answer, Situation

METRES = {"very close": 1.5, "near": 6.0, "far": 14.0, "distant": 25.0, "unknown": 14.0}
"""What a distance word stands for, in metres."""

_ORDER = (
    (ActionKind.GO_TO_AND_OPEN, False),
    (ActionKind.NAVIGATE, False),
    (ActionKind.EXPLORE, False),
    (ActionKind.GO_TO_AND_OPEN, True),
)
"""(kind, whether it is a door) in the order in which an analysis names candidates."""

STEP_COST = 1.5  # m that an action costs beside its way, since the number of actions is limited too
OPEN_COST = 2.0  # m that opening costs
ENTER_COST = 8.0  # m that a room beyond a door still costs once its door is open
DISTANCE_WEIGHT = {"normal": 0.5, "saver": 1.6}  # exponent of the cost
LOOK_COST = 0.5  # m that looking costs
LOOK = 0.5  # probability that a small thing on a surface was overlooked from afar
_FAR = ("far", "distant", "unknown")
_AWAY = ("near", *_FAR)


def _each(**distances: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((chance, distance) for chance in distances for distance in distances[chance])


LAST: dict[str, frozenset[tuple[str, str]]] = {
    "normal": frozenset(),
    "saver": _each(hardly=_AWAY, slight=_AWAY, poor=_AWAY, weak=("distant",)),
}
"""(chance, distance) of candidates that come behind all others."""

NOT_WORTH: dict[str, frozenset[tuple[str, str]]] = {
    "normal": frozenset(),
    "saver": _each(hardly=_AWAY, slight=_AWAY, poor=_FAR, weak=("distant",)),
}
"""Those of `LAST` that are not worth their way: when nothing else is left, the search ends."""

_MODE_REMINDERS = {"normal": "", "saver": "saver. "}
"""How a decision begins. A small model that says its mode right before it decides keeps the two apart: that nothing is
worth its way is then only ever said after `saver`."""

CHANCES = (
    *((0.10, 0.16, "good"), (0.035, 0.06, "fair"), (0.012, 0.02, "weak")),
    *((0.004, 0.006, "poor"), (0.002, 0.002, "slight"), (0.0, 0.0005, "hardly")),
)
"""(from which probability on, what it counts as, its word): people judge in words, and so a decision follows from
what the analysis says of each candidate."""

TOLD = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)  # probabilities of usual places that only the prompt tells, in its order
SMALL = 0.3  # m; what is larger is recognised from afar
SURPRISE = 0.25  # probability that a thing is nowhere where it is usually kept
CONTAINERS_IN_A_HOUSE = 50  # over which a surprise in something closed spreads
ROOMS_IN_A_HOUSE = 7
IN_CLOSED = 0.5  # share of small things that are in something closed
UNSEEN_PART = 0.35  # share of a room that is still to be seen when it is partly unexplored


@dataclass(frozen=True)
class Candidate:
    """Something to do next: its worth, and whether the target is usually kept there."""

    kind: ActionKind
    option: Option
    worth: tuple[int, float]  # (0: not worth its way, 1: behind others, 2; what its chance counts as over its cost)
    usual: bool
    chance: str  # the probability in a word of `CHANCES`


@dataclass(frozen=True)
class _Belief:
    """Where the target usually is, in probabilities that sum to at most 1."""

    places: tuple[Place, ...]

    @property
    def known(self) -> bool:
        return bool(self.places)

    def in_room(self, room: str) -> float:
        return sum(place.p for place in self.places if place.room == room)

    def at(self, room: str, furniture: str, relation: str) -> float:
        """Probability of a kind of furniture; in a room of unknown type, of that kind in any room."""
        return sum(
            place.p
            for place in self.places
            if place.furniture == furniture and place.relation == relation and room in (place.room, "")
        )

    def on_surfaces(self, room: str) -> float:
        return sum(place.p for place in self.places if place.room == room and place.relation == "on")


class ExpertTeacher:
    """Answers a prompt's view, the same view always in the same words: a small model has none to waste."""

    def __init__(self, priors: Priors | None = None) -> None:
        self._priors = priors or load_priors()

    def answer(self, view: PromptView) -> Response:
        matches = listed_matches(view, view.target) if view.matches is None else view.matches
        if matches:
            room, name = matches[0]
            return _found(view, room, name)
        candidates = self.candidates(view)
        if not candidates:
            nothing = f"No {view.target} yet. Nothing is left to explore, to open or to look at."
            return Response(nothing, "There is no place left, so I stop.", "done()")
        return _search(view, candidates)

    def _belief(self, view: PromptView) -> _Belief:
        """What the prompt says about usual places where it says something else than the priors, else the priors."""
        if view.hints is None or view.hints == known_places(self._priors, view.target):
            return _Belief(self._priors.places(view.target)[:MAX_HINTS])
        told = [(hint.room, furniture) for hint in view.hints for furniture in hint.furniture]
        return _Belief(
            tuple(
                Place(room, furniture, "in" if self._is_openable(furniture) else "on", p)
                for (room, furniture), p in zip(told, TOLD, strict=False)
            )
        )

    def _is_openable(self, furniture: str) -> bool:
        kind = self._priors.furniture.get(furniture)
        return kind is not None and kind.openable

    def candidates(self, view: PromptView) -> list[Candidate]:
        """The best container, surface, space and door, most worth first; what may not be repeated left out."""
        best = [max(rated, key=lambda candidate: candidate.worth) for rated in self.rate(view) if rated]
        return sorted(best, key=lambda candidate: candidate.worth, reverse=True)

    def rate(self, view: PromptView) -> list[list[Candidate]]:
        """All containers, surfaces, spaces and doors, each list in its order; what may not be repeated left out."""
        belief = self._belief(view)
        exponent = DISTANCE_WEIGHT[view.mode]
        tried = Counter(past.command for past in view.remembered)
        repeated = {past.command for past in view.history[-2:]} if _same_twice(view) else set()
        lists: list[list[Candidate]] = []
        named, others = split_containers(view)
        for kind, options in (
            (ActionKind.GO_TO_AND_OPEN, (*named, *others)),
            (ActionKind.NAVIGATE, listed_surfaces(view) if self._is_small(view.target) else ()),
            (ActionKind.EXPLORE, view.spaces),
            (ActionKind.GO_TO_AND_OPEN, view.doors),
        ):
            rated = []
            for option in options:
                command = option_command(kind, option)
                if command in repeated:
                    continue
                probability, cost, usual = self._rate(kind, option, view, belief)
                probability *= 0.6 ** tried[command]
                counts, chance = next((value, word) for limit, value, word in CHANCES if probability >= limit)
                seen = (chance, option.distance)
                rank = 2 - (seen in LAST[view.mode]) - (seen in NOT_WORTH[view.mode])
                rated.append(Candidate(kind, option, (rank, counts / cost**exponent), usual, chance))
            lists.append(rated)
        return lists

    def _rate(self, kind: ActionKind, option: Option, view: PromptView, belief: _Belief) -> tuple[float, float, bool]:
        """(probability, cost in metres, whether the target is usually there) of one option."""
        metres = METRES[option.distance] + STEP_COST
        room = self._type_of(option.room)
        is_door = option in view.doors
        if is_door and not _leads_on(option, view):
            return 0.0, metres + OPEN_COST, False
        if is_door or option.leads_out:
            probability, usual = self._beyond(view, belief)
            return probability, metres + ENTER_COST + (OPEN_COST if is_door else 0.0), usual
        if not option.name:
            return self._in_unseen_part(room, belief), metres, belief.in_room(room) > 0
        furniture = self._priors.furniture_type(without_counter(option.name))
        if kind is ActionKind.NAVIGATE:
            on_it = belief.at(room, furniture, "on")
            share = LOOK * (1.0 - SURPRISE) / self._pieces(room, furniture) if on_it else 0.0
            return share * on_it, metres + LOOK_COST, on_it > 0
        expected = belief.at(room, furniture, "in")
        probability = SURPRISE * IN_CLOSED / CONTAINERS_IN_A_HOUSE
        if expected:
            probability += (1.0 - SURPRISE) * expected / self._pieces(room, furniture)
        return probability, metres + OPEN_COST, expected > 0

    def _in_unseen_part(self, room: str, belief: _Belief) -> float:
        """Probability that looking at the unexplored part of a room brings the target nearer."""
        surprise = SURPRISE / ROOMS_IN_A_HOUSE * (1.0 - IN_CLOSED)
        if not room:
            return UNSEEN_PART * (surprise + (1.0 - SURPRISE) / ROOMS_IN_A_HOUSE)
        seen_at_once = belief.on_surfaces(room)
        seen_later = 0.4 * (belief.in_room(room) - seen_at_once)
        return UNSEEN_PART * (surprise + (1.0 - SURPRISE) * (seen_at_once + seen_later))

    def _beyond(self, view: PromptView, belief: _Belief) -> tuple[float, bool]:
        """Probability that the room behind one of the exits is one where the target is kept."""
        discovered = {self._type_of(room.name) for room in view.rooms}
        missing = sum(place.p for place in belief.places if place.room not in discovered)
        exits = sum(_leads_on(door, view) for door in view.doors) + sum(space.leads_out for space in view.spaces)
        unseen = max(1, ROOMS_IN_A_HOUSE - len(view.rooms))
        surprise = SURPRISE / ROOMS_IN_A_HOUSE + (0.0 if belief.known else 1.0 / ROOMS_IN_A_HOUSE)
        second = 0.1 * sum(place.p for place in belief.places if place.room in discovered)
        share = (missing + second) * (1.0 - SURPRISE) / max(1.0, min(exits, unseen))
        return 0.7 * (surprise + share), missing > 0

    def _is_small(self, target: str) -> bool:
        """Whether it is too small to be recognised from afar; what nobody knows may be."""
        size = self._priors.size(target)
        return size is None or max(size) < SMALL

    def _pieces(self, room: str, furniture: str) -> float:
        """How many pieces of a kind a room of that type usually has."""
        rooms = self._priors.furniture[furniture].rooms
        counts = [rooms[room]] if room in rooms else list(rooms.values())
        return max(1.0, sum(low + high for low, high in counts) / (2.0 if room in rooms else 1.0))

    def _type_of(self, room_name: str) -> str:
        return self._priors.room_type(without_counter(room_name))


class ExpertPolicy(RuleClassifier):
    """The expert as a policy."""

    def __init__(self, priors: Priors | None = None) -> None:
        self._teacher = ExpertTeacher(priors)

    def decide(self, situation: Situation) -> Answer:
        response = self._teacher.answer(situation.view)
        return Answer(response.command, response.analysis, response.reasoning)


def option_command(kind: ActionKind, option: Option) -> str:
    """The command that takes an option."""
    return f"{kind.verb}({option.room}, {option.name})" if option.name else f"{kind.verb}({option.room})"


def _leads_on(door: Option, view: PromptView) -> bool:
    """Whether a closed door leads to a room not yet known: one between two known rooms is listed under both."""
    return sum(other.name == door.name for other in view.doors) == 1


def _same_twice(view: PromptView) -> bool:
    """Whether the last two actions were the same command: a third time running would end the search."""
    return len(view.history) >= 2 and view.history[-1].command == view.history[-2].command


def _found(view: PromptView, room: str, name: str) -> Response:
    return Response(f"{name} is in {room}.", f"The {view.target} is found, so I stop.", "done()")


def _search(view: PromptView, candidates: list[Candidate]) -> Response:
    best = candidates[0]
    # always container, surface, space, door: one place in the text for each comparison
    order = sorted(candidates, key=lambda c: _ORDER.index((c.kind, c.option in view.doors)))
    analysis = f"No {view.target} yet. Options: {'; '.join(map(_describe, order))}."
    if best.worth[0]:
        command, reason = option_command(best.kind, best.option), _reason(view, best)
    else:
        command, reason = "done()", "Not worth the way, so I stop."
    return Response(analysis, _MODE_REMINDERS[view.mode] + reason, command)


def _describe(candidate: Candidate) -> str:
    option = candidate.option  # its name tells what it is, that of a room its space: few words to write
    return f"{option.name or option.room}, {option.distance}, {candidate.chance}"


def _reason(view: PromptView, best: Candidate) -> str:
    option = best.option
    thing = f"{option.name} in {option.room}" if option.name else option.room
    act = "open it" if best.kind is ActionKind.GO_TO_AND_OPEN else "look there"
    if not best.usual:
        return f"{thing}: it is {option.distance}, so I {act}."
    if option in view.doors or option.leads_out:
        return f"{thing}: a usual room is not found yet, so I {act}."
    return f"{thing}: a usual place, so I {act}."
