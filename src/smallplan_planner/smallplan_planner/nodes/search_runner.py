"""One `find_object` goal from start to end, as a loop over a `SearchEpisode` that waits for events. No ROS in here.

A runner is given its surroundings: graphs that arrive (`GraphFeed`), a decider and the worker thread that it
decides on, an action executor, and a listener that is told of every decision. `run` blocks the thread that calls
it, but every wait has a bound and ends at once when `stop` is called from another thread. On every way out the
executor's current action has been cancelled and its end awaited.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.nodes.bell import Bell
from smallplan_planner.nodes.decision_worker import DecisionWorker, Made, PendingDecision
from smallplan_planner.nodes.graph_feed import Arrival, GraphFeed
from smallplan_planner.policies import Policy
from smallplan_planner.scene_graph import Point, Room, SceneGraph
from smallplan_planner.search import Answer, ResultCode, SearchEpisode, SearchResult, Situation

logger = logging.getLogger(__name__)

_POLL = 0.2  # s between two looks at whether the executor is still there
_ROOMS_SHARE = 0.5  # of a decision's time that the model may take to name rooms; the rule names those that are late


class ModelError(Exception):
    """The model gave no answer in time, or none at all; the message says why."""


class Decider(Protocol):
    """What answers for the model; `nodes/deciders.py` wraps policies so."""

    def decide(self, situation: Situation, cancel: threading.Event, due: float) -> Answer:
        """The next command, until `due` (s, steady clock). Returns or raises soon after `cancel` is set. Raises
        `ModelError` when it can't answer."""

    def classify_room(self, labels: Sequence[str], cancel: threading.Event, due: float) -> str:
        """The type of a room in which things with these labels were seen; cancelled, due and raising as `decide`."""


@dataclass(frozen=True)
class PlannedAction:
    """An action with all that an executor needs to know; positions in metres in `frame_id`."""

    episode_id: str
    step: int  # actions decided in this episode, from 1 on
    action: Action
    object_name: str  # '' = none
    position: Point
    frame_id: str
    command: str


@dataclass(frozen=True)
class Decision:
    """What was decided, why and at what cost. A refused answer's `planned` names no room and no target."""

    planned: PlannedAction
    answer: Answer
    rooms: tuple[Room, ...]  # with the labels that the planner gave
    retries: int  # answers refused or not executable before this one
    latency: float  # s from the graph's arrival (or from when it was needed) to this decision
    refusal: str = ""  # why the answer was refused, '' when it was taken


class Execution(Protocol):
    """An action under way."""

    @property
    def accepted(self) -> bool:
        """Whether the executor has answered that it takes the action."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, None while it is under way."""

    def cancel(self) -> None:
        """Ask for its end; does not wait. Also when the executor accepts it only later."""


class ActionExecutor(Protocol):
    """Whoever carries out actions; both methods return at once."""

    def available(self) -> bool: ...

    def start(self, planned: PlannedAction) -> Execution: ...


class Listener(Protocol):
    """Is told of a search as it happens, on the thread that runs it."""

    def on_decision(self, decision: Decision) -> None: ...

    def on_outcome(self, decision: Decision, outcome: str, distance: float) -> None:
        """`outcome` is one sentence, `distance` the metres travelled in the episode so far."""


@dataclass(frozen=True)
class Limits:
    """How long a search waits, in seconds of the steady clock."""

    deadline: float = 20.0  # for one decision, the naming of rooms before it included
    graph_timeout: float = 2.0  # for a graph observed after an action's end
    executor_timeout: float = 5.0  # for an executor to appear, to answer, or to come back
    execution_timeout: float = 300.0  # for one action
    cancel_timeout: float = 5.0  # for a cancelled action to end


class _Stopped(Exception):
    """The search has to end: it was stopped from outside, or a wait was in vain."""

    def __init__(self, code: ResultCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SearchRunner:
    """Runs one episode. When the model fails, `fallback` decides and the rule names rooms; with None the search ends
    with MODEL_FAILED then.

    `now` is the clock of the graphs' stamps, in seconds (the ROS clock).
    """

    def __init__(
        self,
        episode: SearchEpisode,
        episode_id: str,
        *,
        bell: Bell,
        graphs: GraphFeed,
        decider: Decider,
        worker: DecisionWorker,
        executor: ActionExecutor,
        listener: Listener,
        fallback: Policy | None,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self.episode = episode
        self.episode_id = episode_id
        self._bell = bell
        self._graphs = graphs
        self._decider = decider
        self._worker = worker
        self._executor = executor
        self._listener = listener
        self._fallback = fallback
        self._limits = limits
        self._now = now
        self._stop: _Stopped | None = None
        self._stop_lock = threading.Lock()
        self._execution: Execution | None = None
        self._arrival: Arrival | None = None
        self._needed_since = 0.0
        self._decided = 0
        self._retries = 0

    def stop(self, code: ResultCode, message: str) -> None:
        """End the search soon, for this reason; the first reason counts. Returns at once, from any thread."""
        with self._stop_lock:
            if self._stop is None:
                self._stop = _Stopped(code, message)
        self._bell.ring()

    @property
    def stopped(self) -> bool:
        return self._stop is not None

    def run(self) -> SearchResult:
        """Search until the end; call once. Returns the result, with a sentence that says why it ended."""
        episode = self.episode
        try:
            self._check_stop()
            self._observe_first()
            while episode.result is None:
                self._step()
        except _Stopped as stopped:
            message, execution = stopped.message, self._execution
            doubt = self._end_execution()
            if execution is not None and execution.outcome is not None:
                episode.distance += max(0.0, execution.outcome.distance)
            if doubt:
                message += f"; {doubt}"
            episode.finish(stopped.code, message)
        except Exception as error:  # a defect ends this search, not the node
            logger.exception("the search failed")
            episode.finish(ResultCode.MODEL_FAILED, f"the planner failed: {type(error).__name__}: {error}")
        finally:
            self._end_execution()
        assert episode.result is not None
        return episode.result

    def _step(self) -> None:
        """One decision, and its execution."""
        begun = time.monotonic()
        give_up = begun + self._limits.deadline
        share = _ROOMS_SHARE if self._fallback is not None else 1.0
        self._classify_rooms(begun + share * self._limits.deadline)
        situation = self.episode.situation()
        answer = self._ask(situation, give_up)
        self._check_stop()
        action = self.episode.choose(answer)
        retries, self._retries = self._retries, self._retries + 1
        if action is None:
            result = self.episode.result
            refusal = result.message if result is not None else self.episode.last_refusal
            decision = self._record(situation, answer, None, retries, refusal)
            self._listener.on_decision(decision)
            self._needed_since = time.monotonic()
            return
        self._decided += 1
        decision = self._record(situation, answer, action, retries)
        self._listener.on_decision(decision)
        if action.kind is ActionKind.DONE:
            assert self.episode.result is not None
            self._listener.on_outcome(decision, self.episode.result.message, self.episode.distance)
            return
        outcome = self._execute(decision.planned)
        ended = self._now()
        self.episode.report(outcome)
        if outcome.success:
            self._retries = 0
        self._listener.on_outcome(decision, describe(outcome), self.episode.distance)
        if self.episode.result is None:
            self._observe_after(ended)

    # -- graphs

    def _observe_first(self) -> None:
        """Start from the newest graph when it is recent and good; wait for one when there is none."""
        good = self._wait(lambda: self._recent() and not self._graphs.problem, self._limits.graph_timeout)
        newest = self._graphs.newest
        if newest is not None and not good and not self._graphs.problem:
            logger.warning(
                "no scene graph for %.0f s; the search begins with the last one (perception should publish at least "
                "once a second)",
                time.monotonic() - newest.at,
            )
        self._take_graph(good)

    def _recent(self) -> bool:
        newest = self._graphs.newest
        return newest is not None and time.monotonic() - newest.at <= max(self._limits.graph_timeout, 2.0)

    def _observe_after(self, ended: float) -> None:
        """Go on from a graph observed after `ended` (s, the stamps' clock), or with a warning from an older one."""
        fresh = self._wait(lambda: self._observed_after(ended), self._limits.graph_timeout)
        if not fresh and not self._graphs.problem:
            logger.warning(
                "no scene graph that was observed after the action's end arrived within %g s; going on with the last "
                "one (perception should publish at least once a second, stamped by the same clock)",
                self._limits.graph_timeout,
            )
        self._take_graph(fresh)

    def _observed_after(self, ended: float) -> bool:
        newest = self._graphs.newest
        return newest is not None and newest.graph.stamp > ended

    def _take_graph(self, as_wanted: bool) -> None:
        """Go on from the newest good graph; one that is not as wanted serves only where no bad one came since."""
        problem, newest = self._graphs.problem, self._graphs.newest
        if problem and not as_wanted:
            raise _Stopped(ResultCode.BAD_GRAPH, problem)
        if newest is None:
            raise _Stopped(
                ResultCode.NO_GRAPH,
                f"no scene graph arrived within {self._limits.graph_timeout} s; is perception running, and is its "
                "topic's durability compatible?",
            )
        self._needed_since = time.monotonic()
        self._arrival = newest
        self.episode.observe(newest.graph)

    # -- decisions

    def _classify_rooms(self, give_up: float) -> None:
        """Have the rooms named that need it: by the model, or by the rule when the model fails."""
        questions = self.episode.rooms_to_classify()
        if not questions:
            return
        try:
            labels = self._think(
                lambda cancel: [self._decider.classify_room(item.labels, cancel, give_up) for item in questions],
                give_up,
            )
        except ModelError as error:
            if self._fallback is None:
                raise _Stopped(ResultCode.MODEL_FAILED, str(error)) from error
            logger.warning("naming rooms by the rule: %s", error)
            self.episode.classify_by_rule()
            return
        for question, label in zip(questions, labels):
            self.episode.classify(question.room_id, label)

    def _ask(self, situation: Situation, give_up: float) -> Answer:
        """The model's answer, or the fallback's when the model fails."""
        try:
            return self._think(lambda cancel: self._decider.decide(situation, cancel, give_up), give_up)
        except ModelError as error:
            if self._fallback is None:
                raise _Stopped(ResultCode.MODEL_FAILED, str(error)) from error
            logger.warning("falling back to the greedy policy: %s", error)
            return self._fallback.decide(situation)

    def _think(self, job: Callable[[threading.Event], Made], give_up: float) -> Made:
        """What the model makes on the worker's thread until `give_up` (steady clock). Raises `ModelError`."""
        pending: PendingDecision[Made] | None = None
        deadline = self._limits.deadline
        try:
            if not self._wait(lambda: not self._worker.busy, give_up - time.monotonic()):
                raise ModelError(f"the model is still busy with an earlier decision (a deadline of {deadline} s)")
            begun = pending = self._worker.start(job)
            if not self._wait(lambda: begun.finished, give_up - time.monotonic()):
                raise ModelError(f"the model did not answer in time (a deadline of {deadline} s)")
            if begun.answer is not None:
                return begun.answer
            assert begun.error is not None
            raise begun.error
        finally:
            if pending is not None and not pending.finished:
                pending.cancel.set()

    def _record(
        self, situation: Situation, answer: Answer, action: Action | None, retries: int, refusal: str = ""
    ) -> Decision:
        assert self._arrival is not None
        graph, labels = situation.graph, self.episode.room_labels
        rooms = tuple(
            Room(room.id, labels[room.id], room.center, room.distance)
            for room in graph.rooms
            if not room.label and labels.get(room.id)
        )
        taken = action or Action(refused_kind(answer.command))
        named = taken.target_id in graph.object_by_id or taken.target_id in graph.door_by_id
        planned = PlannedAction(
            episode_id=self.episode_id,
            step=self._decided,
            action=taken,
            object_name=situation.names.name(taken.target_id) if named else "",
            position=_position(graph, taken.target_id),
            frame_id=graph.frame_id,
            command=answer.command,
        )
        latency = time.monotonic() - max(self._arrival.at, self._needed_since)
        return Decision(planned, answer, rooms, retries, latency, refusal)

    # -- execution

    def _execute(self, planned: PlannedAction) -> Outcome:
        """Have an action carried out; what the executor does not answer in time becomes an outcome or an end."""
        limits = self._limits
        if not self._wait_for_executor():
            raise _Stopped(
                ResultCode.EXECUTOR_UNAVAILABLE,
                f"nobody serves execute_action (waited {limits.executor_timeout} s); start an executor",
            )
        execution = self._execution = self._executor.start(planned)
        if not self._wait(lambda: execution.accepted or execution.outcome is not None, limits.executor_timeout):
            self._forget_execution()
            if not self._executor.available():
                raise _Stopped(ResultCode.EXECUTOR_UNAVAILABLE, "the executor disappeared before it took the action")
            raise _Stopped(ResultCode.TIMEOUT, f"the executor did not answer a goal within {limits.executor_timeout} s")
        give_up = time.monotonic() + limits.execution_timeout
        while execution.outcome is None:
            if self._wait(lambda: execution.outcome is not None, min(_POLL, give_up - time.monotonic())):
                break
            if time.monotonic() >= give_up:
                return self._time_out(execution)
            if not self._executor.available() and not self._wait_for_executor(execution):
                self._forget_execution()
                raise _Stopped(
                    ResultCode.EXECUTOR_UNAVAILABLE,
                    "the executor disappeared in the middle of an action; the robot may still move",
                )
        self._execution = None
        assert execution.outcome is not None
        return execution.outcome

    def _wait_for_executor(self, execution: Execution | None = None) -> bool:
        """Whether an executor is there, or `execution` has ended, within the time allowed."""
        give_up = time.monotonic() + self._limits.executor_timeout
        while time.monotonic() < give_up:
            if self._executor.available() or (execution is not None and execution.outcome is not None):
                return True
            self._wait(lambda: execution is not None and execution.outcome is not None, 0.05)
        return False

    def _time_out(self, execution: Execution) -> Outcome:
        limits = self._limits
        logger.warning("an action took more than %g s; cancelling it", limits.execution_timeout)
        execution.cancel()
        if not self._wait(lambda: execution.outcome is not None, limits.cancel_timeout):
            self._execution = None
            raise _Stopped(
                ResultCode.TIMEOUT,
                f"the executor neither ended an action within {limits.execution_timeout} s nor answered its "
                f"cancellation within {limits.cancel_timeout} s; the robot may still move",
            )
        self._execution = None
        outcome = execution.outcome
        assert outcome is not None
        if outcome.success:
            return outcome
        message = f"cancelled after {limits.execution_timeout} s"
        return Outcome(False, OutcomeCode.TIMEOUT, message, outcome.distance)

    def _end_execution(self) -> str:
        """Cancel the current action and wait for its end; returns why the robot may still move, '' when it stands."""
        execution, self._execution = self._execution, None
        if execution is None or execution.outcome is not None:
            return ""
        execution.cancel()
        timeout, gone = self._limits.cancel_timeout, False
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            if self._bell.wait_for(lambda: execution.outcome is not None, min(_POLL, give_up - time.monotonic())):
                return ""
            if gone:  # on the second look: its last answer may have been under way
                return "the executor disappeared before it confirmed that it stopped"
            gone = not self._executor.available()
        return f"the executor did not confirm within {timeout} s that it stopped"

    def _forget_execution(self) -> None:
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.cancel()

    # -- waiting

    def _wait(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait for `predicate` at most `timeout` s; raises `_Stopped` when the search has to end."""
        held = self._bell.wait_for(lambda: self.stopped or predicate(), timeout)
        self._check_stop()
        return held

    def _check_stop(self) -> None:
        if self._stop is not None:
            raise self._stop


def describe(outcome: Outcome) -> str:
    """An outcome in one sentence: `executed, 3.2 m` or `failed, unreachable: no path to it`."""
    if outcome.success:
        return f"executed, {outcome.distance:.1f} m"
    code = outcome.code.name.lower().replace("_", " ")
    return f"failed, {code}" + (f": {outcome.message}" if outcome.message else "")


def refused_kind(command: str) -> ActionKind:
    """The action that a refused command names, `NAVIGATE` when it names none."""
    verb = command.partition("(")[0].strip()
    return next((kind for kind in ActionKind if kind.verb == verb), ActionKind.NAVIGATE)


def _position(graph: SceneGraph, target_id: str) -> Point:
    for items in (graph.object_by_id, graph.door_by_id, graph.frontier_by_id):
        if target_id in items:
            return items[target_id].position  # type: ignore[index]
    return (0.0, 0.0, 0.0)
