"""A search episode as a state machine without I/O: graphs in, actions out, outcomes in.

Whoever drives it (a ROS node from callbacks, a simulator from a loop, a test by hand) does

    episode.observe(graph)                      # an observation
    while episode.result is None:
        for question in episode.rooms_to_classify():
            episode.classify(question.room_id, policy.classify_room(question.labels))
        action = episode.choose(policy.decide(episode.situation()))
        if action is None:                      # refused: ask again, or the episode has ended
            continue
        episode.report(executor(action))
        episode.observe(next graph)

It keeps the history, counts steps and retries, takes failed targets out until something has changed, and
decides when a search ends.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from smallplan_planner.actions import (
    Action,
    ActionKind,
    ActionRefused,
    ActionRules,
    Outcome,
    OutcomeCode,
    format_command,
    only_done,
    parse_command,
    valid_actions,
)
from smallplan_planner.names import UNCERTAIN_ROOM, NameBook, find_matches, normalise
from smallplan_planner.priors import Priors
from smallplan_planner.prompt import MODES, Helps, PastAction, PromptView, Sights, build_view
from smallplan_planner.room_prompt import room_words
from smallplan_planner.scene_graph import Door, Frontier, Point, SceneGraph, SceneObject

MAX_TARGET_LENGTH = 200
"""Characters of a target; whoever sends more sends something else than a name."""

ROOM_CLASSIFIERS = ("model", "rule")
"""Who says which room a room is: the policy (a model is asked), or the rule of `Priors.classify_room`."""

LOOK_RANGE = 2.0
"""Metres within which small things on a piece of furniture are recognised: its far end may be half a metre further."""

REPEAT_LIMIT = 3  # the same command this many times running is STUCK
EXECUTOR_FAILURES = 3  # this many time-outs or failures of the executor end the episode
_MOVED = 0.1  # m; less is not motion
_NEAR_TARGET = 2.0  # m around a blocked target in which a change of the graph frees it

_BLOCKING = frozenset(
    {OutcomeCode.UNREACHABLE, OutcomeCode.BLOCKED, OutcomeCode.NOT_OPENABLE, OutcomeCode.NO_MANIPULATOR}
)
_EXECUTOR_TROUBLE = frozenset({OutcomeCode.TIMEOUT, OutcomeCode.FAILED})
_DONE_WORDS = {
    ActionKind.NAVIGATE: "arrived",
    ActionKind.GO_TO_AND_OPEN: "opened",
    ActionKind.CLOSE: "closed",
    ActionKind.EXPLORE: "explored",
    ActionKind.DONE: "done",
}


class ResultCode(IntEnum):
    """How a search ended. Values are those of FindObject.action."""

    NONE = 0
    NOT_FOUND = 1
    MAX_STEPS = 2
    STUCK = 3
    CANCELED = 4
    PREEMPTED = 5
    BAD_GOAL = 6
    BAD_GRAPH = 7
    NO_GRAPH = 8
    MODEL_FAILED = 9
    EXECUTOR_UNAVAILABLE = 10
    EXECUTOR_FAILED = 11
    TIMEOUT = 12


@dataclass(frozen=True)
class SearchResult:
    success: bool
    code: ResultCode
    message: str
    object_id: str = ""
    position: Point = (0.0, 0.0, 0.0)
    steps: int = 0
    retries: int = 0
    distance: float = 0.0  # m travelled


@dataclass(frozen=True)
class SearchConfig:
    """The limits of a search and what the robot may do. Raises ValueError on values out of range."""

    max_steps: int = 50
    max_retries: int = 5
    mode: str = "normal"
    allow_open: bool = True
    allow_close: bool = False
    helps: Helps = field(default_factory=Helps)
    classify_rooms: str = "model"  # one of ROOM_CLASSIFIERS

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.max_retries < 0:
            raise ValueError(f"max_steps {self.max_steps}, max_retries {self.max_retries}: expected >= 1 and >= 0")
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        if self.classify_rooms not in ROOM_CLASSIFIERS:
            allowed = ", ".join(ROOM_CLASSIFIERS)
            raise ValueError(f"classify_rooms is {self.classify_rooms!r}; expected one of {allowed}")


class BadGoalError(ValueError):
    """A target that nobody can search for."""


@dataclass(frozen=True)
class Answer:
    """What a policy answers: a command, why, and what it cost."""

    command: str
    analysis: str = ""
    reasoning: str = ""
    source: str = "slm"  # "slm" | "fallback"
    prompt: str = ""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    latency: float = 0.0  # s
    parse_error: str = ""  # why no command could be read out of the answer, '' when one could
    view: PromptView | None = None  # what the prompt showed; None: all of the situation's


@dataclass(frozen=True)
class RoomQuestion:
    """A room that needs a label, and the labels of what was seen in it."""

    room_id: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Situation:
    """What a policy decides on: the graph, its names, the actions that are open, and the prompt's view."""

    graph: SceneGraph
    names: NameBook
    target: str
    rules: ActionRules
    options: tuple[Action, ...]  # `done()` last; without what would be the same command a third time running
    view: PromptView

    @cached_property
    def matches(self) -> list[SceneObject]:
        return find_matches(self.graph, self.target)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to explore or to open, not even what may not be repeated just now."""
        uncovering = (ActionKind.EXPLORE, ActionKind.GO_TO_AND_OPEN)
        return not any(action.kind in uncovering for action in valid_actions(self.graph, self.rules))


@dataclass(frozen=True)
class _Past:
    action: Action | None  # None: refused before it meant one
    command: str  # of a refused one, cleaned
    outcome: str


@dataclass(frozen=True)
class _Block:
    position: Point  # of the robot when it had failed
    surroundings: frozenset[tuple[str, int]]  # of the target then


class SearchEpisode:
    """One search for `target`. `result` is None until it has ended. Raises `BadGoalError` for a bad target."""

    def __init__(self, target: str, config: SearchConfig, priors: Priors) -> None:
        if not normalise(target) or len(target) > MAX_TARGET_LENGTH:
            shown = target if len(target) <= 40 else target[:40] + "…"
            raise BadGoalError(
                f"target {shown!r} ({len(target)} characters); expected an object's name, 1 to {MAX_TARGET_LENGTH} "
                "characters with a letter or digit"
            )
        self.target = target
        self.config = config
        self.names = NameBook()
        self.room_labels: dict[str, str] = {}
        """The latest label of each room that perception has not labelled, by room id."""
        self.result: SearchResult | None = None
        self.steps = 0
        self.retries = 0
        self.distance = 0.0
        self.last_refusal = ""
        self._priors = priors
        self._graph: SceneGraph | None = None
        self._history: list[_Past] = []
        self._commands: list[str] = []
        self._pending: Action | None = None
        self._retries_in_place = 0
        self._executor_failures = 0
        self._blocked: dict[str, _Block] = {}
        self._just_failed: set[str] = set()  # blocked from the next observation on
        self._discovered: dict[str, int] = {}  # by room id: actions answered before it was there
        self._sights: dict[str, Sights] = {}  # by object id
        self._seen_from_near: set[str] = set()  # ids of objects
        self._questions: dict[str, RoomQuestion] = {}  # by room id
        self._settled: dict[str, tuple[str, ...]] = {}  # room id to the labels that its own rests on
        self._named = False  # whether all that is in the graph has its name

    def observe(self, graph: SceneGraph) -> None:
        """Take in an observation; raises `SceneGraphError` when it can't be planned on, and keeps the old one."""
        graph.validate()
        self._graph = graph
        self._log(graph)
        self._look_for_questions(graph)
        self._named = False
        if self.config.classify_rooms == "rule":
            self.classify_by_rule()
        if not self._questions:
            self._name_things()
        position = graph.robot_pose.position
        self._seen_from_near.update(
            obj.id
            for obj in graph.objects_in(graph.robot_room)
            if math.dist(obj.position[:2], position[:2]) <= LOOK_RANGE
        )
        for target_id in self._just_failed:  # as it is after the failure: its own motion frees nothing
            self._blocked[target_id] = _Block(position, _surroundings(graph, target_id))
        self._just_failed.clear()
        self._blocked = {
            target_id: block
            for target_id, block in self._blocked.items()
            if math.dist(block.position, position) < _MOVED and block.surroundings == _surroundings(graph, target_id)
        }
        if self.result is None and only_done(graph, self._rules()):
            self._name_things()
            self.finish(*self._done())

    def _log(self, graph: SceneGraph) -> None:
        """Note what is there for the first time or in another state; what is seen on a way stands behind the action."""
        answered = len(self._history) + (self._pending is not None)
        for room in graph.rooms:
            self._discovered.setdefault(room.id, answered)
        for obj in graph.objects:
            seen = self._sights.get(obj.id, ())
            if not seen or seen[-1][1] is not obj.state:
                self._sights[obj.id] = (*seen, (answered, obj.state))

    def rooms_to_classify(self) -> tuple[RoomQuestion, ...]:
        """The rooms without a label of perception's in which other things are seen than when they were classified.

        Ask for them before `situation()`: until then such a room keeps the name it has, a new one is `room-n`.
        Empty when the search has ended, and with `classify_rooms: rule`.
        """
        return tuple(self._questions.values()) if self.result is None else ()

    def classify(self, room_id: str, label: str) -> None:
        """Take in which room this is, as somebody answered a question; raises KeyError for a room nobody asked for."""
        question = self._questions.pop(room_id)
        self._named = False
        self.room_labels[room_id] = label
        self._settled[room_id] = question.labels
        if not self._questions:
            self._name_things()

    def classify_by_rule(self) -> None:
        """Let the rule answer all questions that are open."""
        for question in tuple(self._questions.values()):
            self.classify(question.room_id, self._priors.classify_room(question.labels))

    def situation(self) -> Situation:
        """What to decide on now. Raises RuntimeError before the first observation or after the end."""
        if self._graph is None or self.result is not None:
            raise RuntimeError("a situation exists after the first observation and before the result")
        self._name_things()
        rules = self._rules()
        past = [PastAction(self._shown(item), item.outcome, step) for step, item in enumerate(self._history)]
        valid = valid_actions(self._graph, rules)
        view = build_view(
            self._graph,
            self.names,
            self.target,
            rules=rules,
            options=valid,
            priors=self._priors,
            mode=self.config.mode,
            helps=self.config.helps,
            history=past,
            discovered=self._discovered,
            sights=self._sights,
            surfaces=self._surfaces(rules),
        )
        last = self._command_to_avoid()
        options = tuple(
            action
            for action in valid
            if not last or action.kind is ActionKind.DONE or format_command(action, self.names) != last
        )
        return Situation(self._graph, self.names, self.target, rules, options, view)

    def _surfaces(self, rules: ActionRules) -> list[SceneObject]:
        """Furniture that bears something, or usually does, and that the robot has not been near."""
        assert self._graph is not None
        bearing = {obj.parent for obj in self._graph.objects if obj.relation == "on"}
        left_out = self._seen_from_near | rules.blocked
        return [
            obj
            for obj in self._graph.objects
            if obj.id not in left_out and (obj.id in bearing or self._priors.is_surface(obj.label))
        ]

    def choose(self, answer: Answer) -> Action | None:
        """Take a policy's answer: the action to execute now, or None when it was refused or ended the search.

        A refused answer counts as a retry; `last_refusal` says why. `done()` ends the search and is returned.
        """
        if self._graph is None or self.result is not None or self._pending is not None:
            raise RuntimeError("choose() needs an observation, a running episode, and no action under way")
        self._name_things()
        self._commands.append(answer.command)
        last = self._commands[-REPEAT_LIMIT:]
        if not answer.parse_error and len(last) == REPEAT_LIMIT and len(set(last)) == 1:
            self.last_refusal = f"the model answered {_clean(answer.command)} {REPEAT_LIMIT} times running"
            self.finish(ResultCode.STUCK, self.last_refusal)
            return None
        try:
            if answer.parse_error:
                raise ActionRefused(answer.parse_error)
            action = parse_command(answer.command, self._graph, self.names, self._rules())
        except ActionRefused as refused:
            self.last_refusal = str(refused)
            self._history.append(_Past(None, _clean(answer.command), f"invalid, {_reason(refused)}"))
            self._count_retry()
            return None
        if action.kind is ActionKind.DONE:
            self.finish(*self._done())
        else:
            self._pending = action
        return action

    def report(self, outcome: Outcome) -> None:
        """Tell how the action that `choose` returned ended."""
        if self._pending is None or self._graph is None:
            raise RuntimeError("report() needs an action under way")
        action, self._pending = self._pending, None
        distance = outcome.distance if math.isfinite(outcome.distance) and outcome.distance > 0 else 0.0
        self.distance += distance
        failed = f"failed, {outcome.code.name.lower().replace('_', ' ')}"
        words = _DONE_WORDS[action.kind] if outcome.success else failed
        self._history.append(_Past(action, "", words))
        if outcome.success or distance >= _MOVED:
            self.steps += 1
            self._retries_in_place = 0
        if not outcome.success:
            if outcome.code in _BLOCKING:
                self._just_failed.add(action.target_id)
            self._executor_failures += outcome.code in _EXECUTOR_TROUBLE
            if self._executor_failures >= EXECUTOR_FAILURES:
                message = f"the executor failed {EXECUTOR_FAILURES} times; the last: {failed}"
                if outcome.message:
                    message += f": {outcome.message}"
                self.finish(ResultCode.EXECUTOR_FAILED, message)
                return
            if outcome.code in _EXECUTOR_TROUBLE or distance < _MOVED:
                self._count_retry()
        if self.result is None and self.steps >= self.config.max_steps:
            self.finish(ResultCode.MAX_STEPS, f"not found within {self.config.max_steps} steps")

    def finish(self, code: ResultCode, message: str) -> None:
        """End the search for a reason that lies here or outside (cancelled, no graph, no executor, …)."""
        matches = find_matches(self._graph, self.target) if self._graph is not None else []
        found = matches[0] if code is ResultCode.NONE and matches else None
        self.result = SearchResult(
            success=found is not None,
            code=code,
            message=message,
            object_id=found.id if found else "",
            position=found.position if found else (0.0, 0.0, 0.0),
            steps=self.steps,
            retries=self.retries,
            distance=self.distance,
        )

    def _look_for_questions(self, graph: SceneGraph) -> None:
        """Rooms that need a label now; one in which nothing was seen is uncertain without a question."""
        self._questions.clear()
        for room in graph.rooms:
            if room.label:
                self.room_labels.pop(room.id, None)
                continue
            things = sorted(graph.objects_in(room.id), key=lambda obj: self._sights[obj.id][0][0])
            labels = tuple(obj.label for obj in things)
            settled = self._settled.get(room.id)
            if labels == settled:
                continue
            words = set(room_words(labels))
            if words and words != set(room_words(settled or ())):
                self._questions[room.id] = RoomQuestion(room.id, labels)
                continue
            self._settled[room.id] = labels
            if not words:
                self.room_labels[room.id] = UNCERTAIN_ROOM

    def _name_things(self) -> None:
        """Give names to what is new: only now, so that a room is named after what was answered about it."""
        if self._graph is not None and not self._named:
            self._named = True
            self.names.update(self._graph, self.room_labels)

    def _done(self) -> tuple[ResultCode, str]:
        assert self._graph is not None
        matches = find_matches(self._graph, self.target)
        if not matches:
            return ResultCode.NOT_FOUND, f"no {self.target!r} among the {len(self._graph.objects)} discovered objects"
        room = self.names.name(matches[0].room)
        return ResultCode.NONE, f"found {self.names.name(matches[0].id)} in {room}"

    def _rules(self) -> ActionRules:
        return ActionRules(self.config.allow_open, self.config.allow_close, frozenset(self._blocked))

    def _command_to_avoid(self) -> str:
        """The command that would be the same for the third time running, which ends a search; '' for none."""
        last = self._commands[-(REPEAT_LIMIT - 1) :]
        return last[0] if len(last) == REPEAT_LIMIT - 1 and len(set(last)) == 1 else ""

    def _count_retry(self) -> None:
        """Ask again, unless that has been done too often: the answer that ends a search is no retry."""
        if self._retries_in_place >= self.config.max_retries:
            answers = self._retries_in_place + 1
            self.finish(ResultCode.STUCK, f"{answers} answers without motion; the last: {self._history[-1].outcome}")
            return
        self.retries += 1
        self._retries_in_place += 1

    def _shown(self, item: _Past) -> str:
        return format_command(item.action, self.names) if item.action is not None else item.command


def _surroundings(graph: SceneGraph, target_id: str) -> frozenset[tuple[str, int]]:
    """Ids and states of what lies around a target: when they change, a target that failed may work again."""
    elements: list[SceneObject | Door | Frontier] = [*graph.objects, *graph.doors, *graph.frontiers]
    target = next((item for item in elements if item.id == target_id), None)
    if target is None:
        return frozenset()
    return frozenset(
        (item.id, int(getattr(item, "state", 0)))
        for item in elements
        if math.dist(item.position, target.position) <= _NEAR_TARGET
    )


def _clean(command: str) -> str:
    """A refused command as the history shows it: words, no structure, at most 60 characters."""
    return re.sub(r"[^\w(), -]+", " ", command[:60]).strip() or "no command"


def _reason(refused: ActionRefused) -> str:
    """The refusal in words that fit a prompt: its last clause."""
    return re.sub(r"[^\w(), -]+", " ", str(refused).rsplit(": ", 1)[-1])[:80].strip()
