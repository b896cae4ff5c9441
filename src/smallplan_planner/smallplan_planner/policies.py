"""Policies: what decides on the next action. The baselines are policies like the model.

The SLM policy is given a generator (`slm.Slm`) and does not know llama.cpp itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from smallplan_planner.actions import Action, ActionKind, ParseError, format_command
from smallplan_planner.generation import Generator
from smallplan_planner.grammar import FreeLine, build_grammar
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import render
from smallplan_planner.prompt_budget import fit_room, fit_situation
from smallplan_planner.response import Response, read_response
from smallplan_planner.room_prompt import parse_room, room_grammar, room_words
from smallplan_planner.scene_graph import distance_key
from smallplan_planner.search import Answer, SearchEpisode, Situation

CUT_NOTE = "[cut to meet the deadline]"
"""Ends the reasoning of an answer whose analysis or reasoning the model had no time to finish."""


class Policy(Protocol):
    def decide(self, situation: Situation) -> Answer:
        """The next command, with the reasons for it."""

    def classify_room(self, labels: Iterable[str]) -> str:
        """The type of a room in which things with these labels were seen, `other room` when uncertain."""


def classify_rooms(episode: SearchEpisode, policy: Policy) -> None:
    """Let a policy answer all questions for rooms that are open; before each `episode.situation()`."""
    for question in episode.rooms_to_classify():
        episode.classify(question.room_id, policy.classify_room(question.labels))


class RuleClassifier:
    """The part of a policy that names rooms by the rule of the priors."""

    def classify_room(self, labels: Iterable[str]) -> str:
        """As `Priors.classify_room`."""
        return load_priors().classify_room(labels)


class GreedyPolicy(RuleClassifier):
    """The nearest frontier, closed door or closed container; `done()` once the target is listed.

    It is the robot's fallback when the model is late, and the baseline of plain frontier exploration.
    """

    source = "fallback"

    def decide(self, situation: Situation) -> Answer:
        if situation.matches:
            return Answer("done()", reasoning="The target is listed.", source=self.source)
        useful = [a for a in situation.options if a.kind in (ActionKind.EXPLORE, ActionKind.GO_TO_AND_OPEN)]
        others = useful or situation.options[:-1]  # without useful ones: whatever lets a command be repeated later
        if not others or (not useful and situation.exhausted):
            return Answer("done()", reasoning="Nothing is left to explore or open.", source=self.source)
        action = min(
            others,
            key=lambda a: (distance_key(_distance(a, situation)), a.target_id, a.room_id),
        )
        return Answer(
            format_command(action, situation.names), reasoning="It is the nearest option.", source=self.source
        )


class RandomPolicy(RuleClassifier):
    """Any valid action with the same probability; `done()` only once the target is listed or nothing else is left."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def decide(self, situation: Situation) -> Answer:
        others = [action for action in situation.options if action.kind is not ActionKind.DONE]
        if situation.matches or not others:
            return Answer("done()")
        return Answer(format_command(self._random.choice(others), situation.names))


def _distance(action: Action, situation: Situation) -> float:
    graph = situation.graph
    if action.target_id in graph.frontier_by_id:
        return graph.frontier_by_id[action.target_id].distance
    if action.target_id in graph.door_by_id:
        return graph.door_by_id[action.target_id].distance
    return graph.object_by_id[action.target_id].distance


class SlmPolicy:
    """The small language model: reads the prompt, answers under the grammar of the actions that are open.

    Without the grammar an answer that can't be parsed is returned with its `parse_error`, and refused commands
    are left for the episode to find; a room is uncertain then, and counted in `unreadable_rooms`. `deadline` is in
    seconds for one answer, where the methods are not told another.
    """

    source = "slm"

    def __init__(self, slm: Generator, *, use_grammar: bool = True, deadline: float | None = None) -> None:
        self._slm = slm
        self._use_grammar = use_grammar
        self._deadline = deadline
        self._priors = load_priors()
        self._room_grammar = room_grammar(self._priors.rooms)
        self.rooms_asked = 0
        self.unreadable_rooms = 0

    def classify_room(
        self, labels: Iterable[str], cancel: threading.Event | None = None, deadline: float | None = None
    ) -> str:
        """Ask the model, unless nothing was seen; raises as `decide` does."""
        labels, due = tuple(labels), self._due(deadline)
        if not room_words(labels):
            return UNCERTAIN_ROOM
        self.rooms_asked += 1
        grammar = self._room_grammar if self._use_grammar else FreeLine(self._room_grammar.longest)
        budget = self._slm.prompt_budget(grammar)
        messages = fit_room(labels, self._priors.rooms, self._slm.count_tokens, budget)
        made = self._slm.generate(messages, grammar, _left(due), cancel)
        try:
            return parse_room(made.text, self._priors.rooms)
        except ParseError:
            self.unreadable_rooms += 1
            return UNCERTAIN_ROOM

    def decide(
        self, situation: Situation, cancel: threading.Event | None = None, deadline: float | None = None
    ) -> Answer:
        """Ask the model about as much of the situation as fits into its context.

        Where its reasons were cut to be in time, `reasoning` ends with `CUT_NOTE`. Raises `SlmDeadlineError`,
        `SlmCancelled` (once `cancel` is set) and `SlmError`.
        """
        start, due = time.monotonic(), self._due(deadline)
        grammar = None
        if self._use_grammar:
            grammar = build_grammar(situation.options, situation.names, target_listed=bool(situation.matches))
        view = fit_situation(situation, self._slm, grammar, self._priors).view
        made = self._slm.generate(render(view), grammar, _left(due), cancel)
        response, parse_error = Response(made.analysis, made.reasoning, made.command), ""
        if grammar is None:
            response, parse_error = read_response(made.text)
        return Answer(
            response.command,
            response.analysis,
            f"{response.reasoning} {CUT_NOTE}".strip() if made.cut else response.reasoning,
            source=self.source,
            prompt=made.prompt,
            prompt_tokens=made.prompt_tokens,
            reused_tokens=made.reused_tokens,
            generated_tokens=made.generated_tokens,
            latency=time.monotonic() - start,
            parse_error=parse_error,
            view=view,
        )

    def _due(self, deadline: float | None) -> float | None:
        """When an answer is due that is asked for now (s, `time.monotonic`)."""
        seconds = self._deadline if deadline is None else deadline
        return None if seconds is None else time.monotonic() + seconds


def _left(due: float | None) -> float | None:
    return None if due is None else max(0.0, due - time.monotonic())
