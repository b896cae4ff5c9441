"""Searches to measure decisions on: led once, and then gone through again with other settings, situation by situation.

A search that was led is kept as `RecordedSearch`. `replay` asks a generator everything that was asked then, in the
same order and with the same wording, whatever it answers: so different settings are measured on the same situations.
Nothing here needs a simulator: a process that replays holds what the planner's does.
"""

from __future__ import annotations

import importlib.util
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from smallplan_planner.actions import Action, Outcome
from smallplan_planner.garbage import spare_decisions
from smallplan_planner.generation import Generation, Generator, PromptBudget, SlmDeadlineError, SlmError
from smallplan_planner.grammar import Grammar
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.policies import SlmPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import Answer, SearchConfig, SearchEpisode
from smallplan_training.errors import UserError

if TYPE_CHECKING:
    from smallplan_planner.slm import Slm

DEADLINE = 20.0  # s for a decision, the default of the node

_Question = TypeVar("_Question")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True)
class Decision:
    """One measured decision: wall time in s, what the generator tells, llama.cpp's own time in s (rooms included)."""

    seconds: float
    generation: Generation  # the last one; empty when late
    eval_time: float
    command: str
    answer_seconds: float  # of `seconds`, the answer without the rooms
    late: bool = False  # no answer came by the deadline


@dataclass(frozen=True)
class Moment:
    """What was seen, answered and came of it."""

    graph: SceneGraph
    rooms: tuple[str, ...]  # answers to the questions for rooms that were open, in their order
    command: str
    outcome: Outcome | None  # None: the command ended the search, or the record


@dataclass(frozen=True)
class RecordedSearch:
    """One search, from its first observation on."""

    target: str
    config: SearchConfig
    moments: tuple[Moment, ...]

    @property
    def decisions(self) -> int:
        return len(self.moments)


def first_decisions(searches: Sequence[RecordedSearch], count: int) -> tuple[RecordedSearch, ...]:
    """The searches up to their first `count` decisions together."""
    kept: list[RecordedSearch] = []
    for search in searches:
        if count > 0:
            kept.append(replace(search, moments=search.moments[:count]))
            count -= search.decisions
    return tuple(kept)


@contextmanager
def loaded(model: Path, **settings: Any) -> Iterator[Slm]:
    """The model to measure, with these settings of `Slm`, as the node has it; a model that fails is a `UserError`."""
    from smallplan_planner.slm import Slm

    try:
        with Slm(model, **settings) as slm:
            spare_decisions()
            yield slm
    except SlmError as error:
        raise UserError(str(error)) from error


class RecordingGenerator:
    """Passes on what a generator makes, and keeps it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.made: list[Generation] = []

    def generate(
        self,
        messages: Sequence[Message],
        grammar: Grammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """As `Generator.generate`."""
        self.made.append(self._generator.generate(messages, grammar, deadline, cancel))
        return self.made[-1]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """As `Generator.count_tokens`."""
        return self._generator.count_tokens(messages)

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        """As `Generator.prompt_budget`."""
        return self._generator.prompt_budget(grammar)


class DecisionTimer:
    """Measures decisions that a generator makes, from the graph received to the goal ready to be published.

    `deadline` is in s for one answer, None: none.
    """

    def __init__(self, generator: Generator, deadline: float | None = None) -> None:
        self._recording = RecordingGenerator(generator)
        self._policy = SlmPolicy(self._recording, deadline=deadline)
        self._pack, self._unpack = _message_ends()

    def decide(
        self, search: SearchEpisode, graph: SceneGraph, known: Moment | None = None
    ) -> tuple[Decision, tuple[str, ...], Action | None] | None:
        """One decision: what it cost, the answers for rooms, and the action; None where nothing is left to decide.

        With a moment that is `known` the same is asked, and the search goes on with the answers of that time.
        """
        received, made = self._pack(graph), self._recording.made
        made.clear()
        start = time.perf_counter()
        search.observe(self._unpack(received))
        if search.result is not None:
            return None
        rooms = []
        for index, question in enumerate(search.rooms_to_classify()):
            label = self._in_time(self._policy.classify_room, question.labels)
            rooms.append(known.rooms[index] if known is not None else label or UNCERTAIN_ROOM)
            search.classify(question.room_id, rooms[-1])
        asked = time.perf_counter()
        answer = self._in_time(self._policy.decide, search.situation())
        answered = time.perf_counter()
        if known is not None:
            action = search.choose(Answer(known.command))
        elif answer is None:
            raise SlmDeadlineError("a search is led without a deadline")
        else:
            action = search.choose(answer)
        decision = Decision(
            time.perf_counter() - start,
            made[-1] if answer is not None else Generation("", ""),
            sum(one.eval_time for one in made),
            answer.command if answer is not None else "",
            answered - asked,
            late=answer is None,
        )
        return decision, tuple(rooms), action

    def _in_time(self, ask: Callable[[_Question], _Reply], about: _Question) -> _Reply | None:
        """What the policy answers, None when it is late."""
        try:
            return ask(about)
        except SlmDeadlineError:
            return None


def replay(
    generator: Generator, searches: Iterable[RecordedSearch], deadline: float | None = None
) -> Iterator[Decision]:
    """The decisions that a generator makes in the situations of these searches; raises what it raises."""
    timer, priors = DecisionTimer(generator, deadline), load_priors()
    for recorded in searches:
        search = SearchEpisode(recorded.target, recorded.config, priors)
        for moment in recorded.moments:
            decided = timer.decide(search, moment.graph, moment)
            assert decided is not None, "what was decided on once is there to decide on"
            yield decided[0]
            if moment.outcome is not None:
                search.report(moment.outcome)


@dataclass(frozen=True)
class DecisionFigures:
    """What decisions cost together. Times in milliseconds, fractions from 0 to 1."""

    decisions: int
    decision_ms_p50: float
    decision_ms_p95: float
    decision_overhead: float  # all decisions' wall time over llama.cpp's own evaluation time
    eval_ms_p50: float  # of llama.cpp
    prompt_tokens: float  # median
    generated_tokens: float  # median
    reused_tokens_fraction: float  # of all prompt tokens
    prompt_tps: float  # tokens/s read, by llama.cpp's own time
    generation_tps: float  # tokens/s written, by the same


def summarise(decisions: Sequence[Decision]) -> DecisionFigures:
    """The figures of at least one decision."""
    milliseconds = [1000 * decision.seconds for decision in decisions]
    made = [decision.generation for decision in decisions]
    prompt, reused = sum(one.prompt_tokens for one in made), sum(one.reused_tokens for one in made)
    read = sum(one.read_time for one in made)
    written = sum(one.eval_time for one in made) - read
    p50, p95 = (round(float(value), 2) for value in np.percentile(milliseconds, (50, 95)))
    return DecisionFigures(
        decisions=len(decisions),
        decision_ms_p50=p50,
        decision_ms_p95=p95,
        decision_overhead=round(sum(milliseconds) / sum(1000 * one.eval_time for one in decisions), 3),
        eval_ms_p50=round(statistics.median(1000 * one.eval_time for one in decisions), 2),
        prompt_tokens=statistics.median(one.prompt_tokens for one in made),
        generated_tokens=statistics.median(one.generated_tokens for one in made),
        reused_tokens_fraction=round(reused / prompt, 3),
        prompt_tps=round((prompt - reused) / read, 1),
        generation_tps=round(sum(one.generated_tokens for one in made) / written, 1),
    )


def has_messages() -> bool:
    """Whether the ROS messages are installed: then their conversion is part of a decision."""
    return all(importlib.util.find_spec(name) is not None for name in ("rclpy", "smallplan_msgs"))


def _message_ends() -> tuple[Callable, Callable]:
    """How a graph becomes a message and a message a graph; without ROS, a graph is handed on as it is."""
    if not has_messages():
        return _same, _same
    from smallplan_planner.nodes.convert import graph_from_msg, graph_to_msg

    return graph_to_msg, graph_from_msg


def _same(graph: SceneGraph) -> SceneGraph:
    return graph
