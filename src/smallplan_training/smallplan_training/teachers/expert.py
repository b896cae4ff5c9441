"""The built-in teacher: a search planner that knows what a person knows, and says why.

It reads a `PromptView`, so it sees exactly what the prompt shows, and the unperturbed priors of where things
are kept. Each thing that can be done next is worth (probability that it brings the target to light) over
(what it costs), the rule that is optimal for searching independent boxes one by one (Blackwell; see
DeGroot, Optimal Statistical Decisions, 1970, 14.5). It never sees metres, only the prompt's distance words.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import matches_target, without_counter
from smallplan_planner.priors import Place, Priors, load_priors
from smallplan_planner.prompt import MAX_HINTS, Option, PromptView
from smallplan_planner.response import Response
from smallplan_planner.search import Answer, Situation

METRES = {"very close": 1.5, "near": 6.0, "far": 14.0, "distant": 25.0, "unknown": 14.0}
"""What a distance word stands for, in metres."""

STEP_COST = 1.5  # m that an action costs beside its way, since the number of actions is limited too
OPEN_COST = 2.0  # m that opening costs
ENTER_COST = 8.0  # m that a room beyond a door still costs once its door is open
DISTANCE_WEIGHT = {"normal": 1.0, "saver": 1.6}  # exponent of the cost

CHANCES = ((0.10, 0.16, "good"), (0.035, 0.06, "fair"), (0.012, 0.02, "weak"), (0.0, 0.005, "poor"))
"""(from which probability on, what it counts as, its word): people judge in words, and so a decision follows from
what the analysis says of each candidate."""

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
    worth: float  # probability per metre
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
    """Answers a prompt's view; the words vary with `rng`, the action does not."""

    def __init__(self, priors: Priors | None = None) -> None:
        self._priors = priors or load_priors()

    def answer(self, view: PromptView, rng: random.Random) -> Response:
        matches = listed_matches(view, view.target) if view.matches is None else view.matches
        if matches:
            room, name = matches[0]
            return _found(view, room, name, rng)
        best = self.candidates(view)
        return _search(view, best, rng) if best else self._without_options(view, rng)

    def candidates(self, view: PromptView) -> list[Candidate]:
        """The best container, the best space and the best door, most worth first; what may not be repeated left out."""
        belief = _Belief(self._priors.places(view.target)[:MAX_HINTS])
        exponent = DISTANCE_WEIGHT[view.mode]
        tried = Counter(past.command for past in view.history)
        tried.update(past.command for past in view.invalid)
        repeated = {past.command for past in view.history[-2:]} if _same_twice(view) else set()
        found: list[Candidate] = []
        for kind, options in (
            (ActionKind.GO_TO_AND_OPEN, view.containers),
            (ActionKind.EXPLORE, view.spaces),
            (ActionKind.GO_TO_AND_OPEN, view.doors),
        ):
            rated = []
            for option in options:
                command = option_command(kind, option)
                if command in repeated:
                    continue
                probability, cost, usual = self._rate(option, options is view.doors, view, belief)
                probability *= 0.6 ** tried[command]
                counts, chance = next((value, word) for limit, value, word in CHANCES if probability >= limit)
                rated.append(Candidate(kind, option, counts / cost**exponent, usual, chance))
            if rated:
                found.append(max(rated, key=lambda candidate: candidate.worth))
        return sorted(found, key=lambda candidate: -candidate.worth)

    def _without_options(self, view: PromptView, rng: random.Random) -> Response:
        """Nothing can be explored or opened now: go near a surface where small things may lie unseen, else give up."""
        analysis = f"The {view.target} is not found, and nothing is left to explore or open."
        visited = {past.command for past in view.history}
        for room, name in self._surfaces(view):
            command = f"{ActionKind.NAVIGATE.verb}({room}, {name})"
            if command not in visited and name not in view.near:
                return Response(analysis, f"{name} in {room} may hold it, so I look from near.", command)
        return Response(analysis, rng.choice(("The search ends.", "There is no place left to look.")), "done()")

    def _surfaces(self, view: PromptView) -> list[tuple[str, str]]:
        """(room, name) of the listed surfaces on which the target is usually kept; of any when nothing is known."""
        belief = _Belief(self._priors.places(view.target)[:MAX_HINTS])
        found = []
        for room in view.rooms:
            for obj in room.objects:
                furniture = self._priors.furniture_type(without_counter(obj.name))
                if furniture and self._priors.furniture[furniture].surface:
                    usual = belief.at(self._type_of(room.name), furniture, "on")
                    if usual or not belief.known:
                        found.append((usual, room.name, obj.name))
        return [(room, name) for _, room, name in sorted(found, key=lambda item: -item[0])]

    def _rate(self, option: Option, is_door: bool, view: PromptView, belief: _Belief) -> tuple[float, float, bool]:
        """(probability, cost in metres, whether the target is usually there) of one option."""
        metres = METRES[option.distance] + STEP_COST
        room = self._type_of(option.room)
        if is_door and not _leads_on(option, view):
            return 0.0, metres + OPEN_COST, False
        if is_door or option.leads_out:
            probability, usual = self._beyond(view, belief)
            return probability, metres + ENTER_COST + (OPEN_COST if is_door else 0.0), usual
        if not option.name:
            return self._in_unseen_part(room, belief), metres, belief.in_room(room) > 0
        furniture = self._priors.furniture_type(without_counter(option.name))
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

    def _pieces(self, room: str, furniture: str) -> float:
        """How many pieces of a kind a room of that type usually has."""
        rooms = self._priors.furniture[furniture].rooms
        counts = [rooms[room]] if room in rooms else list(rooms.values())
        return max(1.0, sum(low + high for low, high in counts) / (2.0 if room in rooms else 1.0))

    def _type_of(self, room_name: str) -> str:
        return self._priors.room_type(without_counter(room_name))


class ExpertPolicy:
    """The expert as a policy; `seed` varies its words only."""

    def __init__(self, seed: int = 0, priors: Priors | None = None) -> None:
        self._teacher = ExpertTeacher(priors)
        self._rng = random.Random(seed)

    def decide(self, situation: Situation) -> Answer:
        response = self._teacher.answer(situation.view, self._rng)
        return Answer(response.command, response.analysis, response.reasoning)


def option_command(kind: ActionKind, option: Option) -> str:
    """The command that takes an option."""
    return f"{kind.verb}({option.room}, {option.name})" if option.name else f"{kind.verb}({option.room})"


def _leads_on(door: Option, view: PromptView) -> bool:
    """Whether a closed door leads to a room not yet known: one between two known rooms is listed under both."""
    return sum(other.name == door.name for other in view.doors) == 1


def listed_matches(view: PromptView, target: str) -> tuple[tuple[str, str], ...]:
    """(room, object) of what the prompt lists that is the target, whether it says so or not."""
    things = ((room.name, obj.name) for room in view.rooms for obj in room.objects)
    return tuple((room, name) for room, name in things if matches_target(without_counter(name), target))


def _same_twice(view: PromptView) -> bool:
    """Whether the last two actions were the same command: a third time running would end the search."""
    return len(view.history) >= 2 and view.history[-1].command == view.history[-2].command


def _found(view: PromptView, room: str, name: str, rng: random.Random) -> Response:
    analysis = rng.choice((f"{name} is in {room}.", f"The {view.target} is found: {name} in {room}."))
    reasoning = rng.choice(("The target is listed, so the search ends.", f"{name} is what was asked for."))
    return Response(analysis, reasoning, "done()")


def _search(view: PromptView, candidates: list[Candidate], rng: random.Random) -> Response:
    target, best = view.target, candidates[0]
    opening = rng.choice((f"No {target} yet.", f"The {target} is not found."))
    # always container, space, door: one place in the text for each comparison
    order = sorted(candidates, key=lambda c: (c.option.name == "", _is_door(c, view)))
    listed = "; ".join(_describe(candidate) for candidate in order)
    analysis = f"{opening} {rng.choice(('Options', 'Best options'))}: {listed}."
    return Response(analysis, _reason(view, best, rng), option_command(best.kind, best.option))


def _is_door(candidate: Candidate, view: PromptView) -> bool:
    return candidate.option in view.doors


def _describe(candidate: Candidate) -> str:
    option = candidate.option
    thing = option.name or "space"
    return f"{thing} in {option.room}, {option.distance}, {candidate.chance}"


def _reason(view: PromptView, best: Candidate, rng: random.Random) -> str:
    target, option = view.target, best.option
    if option in view.doors or option.name:
        thing, act = f"{option.name} in {option.room}", "open it"
    else:
        thing, act = f"unexplored space in {option.room}", "look there"
    if best.usual and (option in view.doors or option.leads_out):
        why = rng.choice(("a usual room is not found yet", f"the {target} may be in a room not yet seen"))
    elif best.usual:
        why = rng.choice((f"a usual place of the {target}", f"the {target} is often kept there"))
    else:
        why = rng.choice((f"it is {option.distance}", "the usual places are not at hand"))
    return f"{thing}: {why}, so I {act}."
