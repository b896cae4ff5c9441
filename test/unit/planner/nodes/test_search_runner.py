"""The search loop with everything around it played by the test; no ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.nodes import graph_feed
from smallplan_planner.nodes.bell import Bell
from smallplan_planner.nodes.decision_worker import DecisionWorker
from smallplan_planner.nodes.graph_feed import Arrival, GraphFeed
from smallplan_planner.nodes.search_runner import (
    Decision,
    Limits,
    ModelError,
    PlannedAction,
    SearchRunner,
    describe,
    refused_kind,
)
from smallplan_planner.policies import GreedyPolicy, Policy
from smallplan_planner.priors import load_priors
from smallplan_planner.scene_graph import Frontier, Pose, Room, SceneGraph, SceneObject
from smallplan_planner.search import Answer, ResultCode, SearchConfig, SearchEpisode, SearchResult, Situation

GRAPH = SceneGraph(
    stamp=1.0,
    robot_pose=Pose(0.0, 0.0),
    robot_room="r",
    rooms=(Room("r", "kitchen", (0.0, 0.0, 0.0), 0.0), Room("s", "", (4.0, 0.0, 0.0), 4.0)),
    objects=(SceneObject("o1", "bed", "s", (4.0, 1.0, 0.0), 4.0),),
    frontiers=(Frontier("f1", "r", (2.0, 0.0, 0.0), True, 2.0), Frontier("f2", "s", (5.0, 0.0, 0.0), True, 5.0)),
)
WITH_MUG = replace(GRAPH, objects=(*GRAPH.objects, SceneObject("o9", "mug", "r", (1.0, 2.0, 0.5), 2.2)))
QUICK = Limits(deadline=5.0, graph_timeout=0.1, executor_timeout=0.1, execution_timeout=0.2, cancel_timeout=0.2)


@dataclass
class Execution:
    bell: Bell
    accepted: bool = True
    outcome: Outcome | None = None
    on_cancel: Callable[[Execution], None] = lambda execution: None
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True
        self.on_cancel(self)

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.bell.ring()


class Decider:
    """Answers as `answer` says; by default as the greedy policy does."""

    def __init__(self) -> None:
        self.answer: Callable[[Situation, threading.Event], Answer] = lambda s, cancel: GreedyPolicy().decide(s)
        self.room: Callable[[Sequence[str], threading.Event], str] = lambda labels, cancel: "office"
        self.due: list[float] = []

    def classify_room(self, labels: Sequence[str], cancel: threading.Event, due: float) -> str:
        self.due.append(due)
        return self.room(labels, cancel)

    def decide(self, situation: Situation, cancel: threading.Event, due: float) -> Answer:
        self.due.append(due)
        return self.answer(situation, cancel)


@dataclass
class Surroundings:
    """Perception, executor and listener of one search."""

    target: str = "mug"
    max_steps: int = 3
    limits: Limits = QUICK
    fallback: Policy | None = None
    classify_rooms: str = "rule"
    present: bool = True
    react: Callable[[PlannedAction, Execution], None] = lambda planned, e: e.end(Outcome(True, distance=1.0))
    planned: list[PlannedAction] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    told: list[tuple[Decision, str, float]] = field(default_factory=list)
    time: float = 1.0  # of the graphs' stamps

    def __post_init__(self) -> None:
        self.bell = Bell()
        self.graphs = GraphFeed(self.bell)
        self.decider = Decider()
        self.worker = DecisionWorker(self.bell)
        episode = SearchEpisode(
            self.target, SearchConfig(max_steps=self.max_steps, classify_rooms=self.classify_rooms), load_priors()
        )
        self.runner = SearchRunner(
            episode,
            "episode",
            bell=self.bell,
            graphs=self.graphs,
            decider=self.decider,
            worker=self.worker,
            executor=self,
            listener=self,
            fallback=self.fallback,
            limits=self.limits,
            now=lambda: self.time,
        )

    def see(self, graph: SceneGraph = GRAPH) -> None:
        self.time += 1.0
        self.graphs.put(replace(graph, stamp=self.time + 0.5))

    def available(self) -> bool:
        return self.present

    def start(self, planned: PlannedAction) -> Execution:
        self.planned.append(planned)
        self.executions.append(Execution(self.bell))
        self.react(planned, self.executions[-1])
        return self.executions[-1]

    def on_decision(self, decision: Decision) -> None:
        self.told.append((decision, "", 0.0))

    def on_outcome(self, decision: Decision, outcome: str, distance: float) -> None:
        self.told.append((decision, outcome, distance))

    def run(self) -> SearchResult:
        try:
            return self.runner.run()
        finally:
            self.worker.close(1.0)


def test_a_search_from_start_to_end() -> None:
    world = Surroundings()

    def drive(planned: PlannedAction, execution: Execution) -> None:
        execution.end(Outcome(True, distance=2.5))
        world.time += 1.0
        world.graphs.put(replace(WITH_MUG, stamp=world.time + 1.0))

    world.react = drive
    world.see()
    result = world.run()
    assert result.success and result.object_id == "o9" and result.distance == 2.5 and result.steps == 1
    first = world.planned[0]
    assert first.action == Action(ActionKind.EXPLORE, "r", "f1") and first.position == (2.0, 0.0, 0.0)
    assert (first.step, first.episode_id, first.object_name, first.command) == (1, "episode", "", "explore(kitchen)")
    assert [(d.planned.action.kind, text, metres) for d, text, metres in world.told] == [
        (ActionKind.EXPLORE, "", 0.0),
        (ActionKind.EXPLORE, "executed, 2.5 m", 2.5),
        (ActionKind.DONE, "", 0.0),
        (ActionKind.DONE, "found mug in kitchen", 2.5),
    ]
    assert [room.id for room in world.told[0][0].rooms] == ["s"], "only rooms without a label are labelled"
    assert len(world.planned) == 1, "done() is never sent"


def test_refused_answers_are_told_and_counted() -> None:
    world = Surroundings()
    answers = iter([Answer("navigate(attic, mug)"), Answer("dance()"), Answer("explore(kitchen)")])
    world.decider.answer = lambda s, cancel: next(answers)
    world.react = lambda planned, execution: world.runner.stop(ResultCode.CANCELED, "enough")
    world.see()
    world.run()
    decisions = [decision for decision, _, _ in world.told]
    assert "attic" in decisions[0].refusal and decisions[1].refusal and not decisions[2].refusal
    assert [decision.retries for decision in decisions] == [0, 1, 2]
    assert [decision.planned.step for decision in decisions] == [0, 0, 1]
    assert decisions[0].planned.action == Action(ActionKind.NAVIGATE) and len(world.planned) == 1


def test_stopping_before_the_start() -> None:
    world = Surroundings()
    world.see()
    world.runner.stop(ResultCode.PREEMPTED, "a newer goal took over")
    world.runner.stop(ResultCode.CANCELED, "too late: the first reason counts")
    result = world.run()
    assert result.code is ResultCode.PREEMPTED and not world.told


def test_stopping_while_the_model_thinks_cancels_it() -> None:
    world = Surroundings()
    cancelled = threading.Event()

    def think(situation: Situation, cancel: threading.Event) -> Answer:
        world.runner.stop(ResultCode.CANCELED, "enough")
        if cancel.wait(5.0):
            cancelled.set()
        raise ModelError("cancelled")

    world.decider.answer = think
    world.see()
    result = world.run()
    assert result.code is ResultCode.CANCELED and cancelled.wait(5.0)
    assert not world.planned


def test_stopping_while_the_robot_drives_stops_it_and_counts_its_way() -> None:
    world = Surroundings()

    def drive(planned: PlannedAction, execution: Execution) -> None:
        execution.on_cancel = lambda e: e.end(Outcome(False, OutcomeCode.CANCELED, "stopped", 0.75))
        world.runner.stop(ResultCode.CANCELED, "enough")

    world.react = drive
    world.see()
    result = world.run()
    assert world.executions[0].cancelled and result.distance == 0.75 and result.message == "enough"


def test_an_executor_that_ignores_the_stop_is_named() -> None:
    world = Surroundings()
    world.react = lambda planned, execution: world.runner.stop(ResultCode.CANCELED, "enough")
    world.see()
    result = world.run()
    assert result.code is ResultCode.CANCELED and "did not confirm" in result.message
    assert world.executions[0].cancelled


def test_an_executor_that_ends_with_the_planner_is_not_waited_for() -> None:
    world = Surroundings(limits=replace(QUICK, cancel_timeout=60.0))

    def leave(planned: PlannedAction, execution: Execution) -> None:
        world.runner.stop(ResultCode.CANCELED, "enough")
        world.present = False

    world.react = leave
    world.see()
    result = world.run()
    assert result.code is ResultCode.CANCELED and "disappeared before it confirmed" in result.message
    assert world.executions[0].cancelled


def test_an_executor_that_disappears_while_the_robot_drives_is_asked_to_stop() -> None:
    world = Surroundings(limits=replace(QUICK, executor_timeout=0.1, execution_timeout=20.0))

    def leave(planned: PlannedAction, execution: Execution) -> None:
        execution.accepted = True
        world.present = False

    world.react = leave
    world.see()
    result = world.run()
    assert result.code is ResultCode.EXECUTOR_UNAVAILABLE and "may still move" in result.message
    assert world.executions[0].cancelled


def test_a_late_model_is_replaced_for_one_decision_and_then_asked_again() -> None:
    world = Surroundings(limits=replace(QUICK, deadline=0.1), fallback=GreedyPolicy(), max_steps=2)
    asked: list[threading.Event] = []

    def late_once(situation: Situation, cancel: threading.Event) -> Answer:
        asked.append(cancel)
        if len(asked) == 1:
            cancel.wait(5.0)
            raise ModelError("cancelled")
        return replace(GreedyPolicy().decide(situation), source="slm")

    world.decider.answer = late_once
    world.react = lambda planned, execution: (world.see(), execution.end(Outcome(True, distance=1.0)))[1]
    world.see()
    result = world.run()
    assert result.code is ResultCode.MAX_STEPS
    assert [d.answer.source for d, text, _ in world.told if not text] == ["fallback", "slm"]
    assert asked[0].is_set()


def test_a_model_that_never_returns_leaves_the_search_to_the_fallback() -> None:
    world = Surroundings(limits=replace(QUICK, deadline=0.1), fallback=GreedyPolicy(), max_steps=2)
    release = threading.Event()

    def hang(situation: Situation, cancel: threading.Event) -> Answer:
        release.wait(10.0)
        raise ModelError("at last")

    world.decider.answer = hang
    world.see()
    try:
        result = world.runner.run()
    finally:
        release.set()
        world.worker.close(1.0)
    assert result.steps == 2 and {d.answer.source for d, _, _ in world.told} == {"fallback"}


@pytest.mark.parametrize(
    ("error", "named"), [(ModelError("the prompt is too long"), "too long"), (KeyError("room-7"), "KeyError")]
)
def test_a_failing_model_without_fallback(error: Exception, named: str) -> None:
    world = Surroundings()

    def fail(situation: Situation, cancel: threading.Event) -> Answer:
        raise error

    world.decider.answer = fail
    world.see()
    result = world.run()
    assert result.code is ResultCode.MODEL_FAILED and named in result.message


# Rooms


def test_the_model_names_rooms_before_it_decides() -> None:
    world = Surroundings(classify_rooms="model", max_steps=1)
    asked: list[tuple[str, ...]] = []
    threads: list[str] = []

    def name(labels: Sequence[str], cancel: threading.Event) -> str:
        asked.append(tuple(labels))
        threads.append(threading.current_thread().name)
        return "office"

    world.decider.room = name
    world.see()
    world.run()
    assert asked == [("bed",)], "only the room without a label, and once for the same things"
    assert threads == ["decisions"]
    assert [(room.id, room.label) for room in world.told[0][0].rooms] == [("s", "office")]
    assert world.runner.episode.names.name("s") == "office"


def test_with_the_rule_the_model_is_not_asked_about_rooms() -> None:
    world = Surroundings(classify_rooms="rule", max_steps=1)
    world.decider.room = lambda labels, cancel: pytest.fail("asked")
    world.see()
    world.run()
    assert [room.label for room in world.told[0][0].rooms] == ["bedroom"]


def test_where_the_model_fails_to_name_a_room_the_rule_does(caplog: pytest.LogCaptureFixture) -> None:
    world = Surroundings(classify_rooms="model", max_steps=1, fallback=GreedyPolicy())

    def fail(labels: Sequence[str], cancel: threading.Event) -> str:
        raise ModelError("no memory left")

    world.decider.room = fail
    world.see()
    result = world.run()
    assert result.steps == 1 and "no memory left" in caplog.text
    assert [room.label for room in world.told[0][0].rooms] == ["bedroom"]


def test_where_nothing_falls_back_a_room_without_an_answer_ends_the_search() -> None:
    world = Surroundings(classify_rooms="model", limits=replace(QUICK, deadline=0.1))
    cancelled = threading.Event()

    def hang(labels: Sequence[str], cancel: threading.Event) -> str:
        if cancel.wait(5.0):
            cancelled.set()
        raise ModelError("cancelled")

    world.decider.room = hang
    world.see()
    result = world.run()
    assert result.code is ResultCode.MODEL_FAILED and "deadline of 0.1 s" in result.message
    assert cancelled.wait(5.0) and not world.planned


def test_stopping_while_a_room_is_named_ends_the_search() -> None:
    world = Surroundings(classify_rooms="model")
    cancelled = threading.Event()

    def think(labels: Sequence[str], cancel: threading.Event) -> str:
        world.runner.stop(ResultCode.CANCELED, "enough")
        if cancel.wait(5.0):
            cancelled.set()
        raise ModelError("cancelled")

    world.decider.room = think
    world.see()
    assert world.run().code is ResultCode.CANCELED
    assert cancelled.wait(5.0) and not world.planned


def test_rooms_and_command_share_one_deadline() -> None:
    """A model that needs all its time for the rooms leaves the command to the fallback."""
    world = Surroundings(
        classify_rooms="model", limits=replace(QUICK, deadline=0.2), fallback=GreedyPolicy(), max_steps=1
    )
    release = threading.Event()

    def hang(labels: Sequence[str], cancel: threading.Event) -> str:
        release.wait(10.0)
        return "office"

    world.decider.room = hang
    world.see()
    try:
        result = world.runner.run()
    finally:
        release.set()
        world.worker.close(1.0)
    decision = world.told[0][0]
    assert result.steps == 1 and decision.answer.source == "fallback"
    assert [room.label for room in decision.rooms] == ["bedroom"]


def test_no_graph_and_bad_graphs() -> None:
    assert Surroundings().run().code is ResultCode.NO_GRAPH
    world = Surroundings()
    world.see()
    world.graphs.reject("object 'x': position is not finite")
    result = world.run()
    assert result.code is ResultCode.BAD_GRAPH and "'x'" in result.message


def test_a_search_that_begins_with_an_old_graph_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Perception has ended a minute ago: what it saw last still serves, but nobody is left to wonder."""
    world = Surroundings(max_steps=1)
    with monkeypatch.context() as patched:
        patched.setattr(graph_feed, "Arrival", lambda graph, at: Arrival(graph, at - 60.0))
        world.see()
    world.run()
    assert "no scene graph for 6" in caplog.text  # 60 s and a little
    caplog.clear()
    fresh = Surroundings(max_steps=1)
    fresh.see()
    fresh.run()
    assert "no scene graph for" not in caplog.text


def test_a_graph_from_before_the_end_of_an_action_is_not_enough() -> None:
    """It waits for one that was observed later; only when none comes it goes on with the old one."""
    world = Surroundings(limits=replace(QUICK, graph_timeout=5.0))

    def drive(planned: PlannedAction, execution: Execution) -> None:
        world.time += 10.0
        world.graphs.put(replace(GRAPH, stamp=world.time - 1.0))  # observed on the way
        threading.Timer(0.1, lambda: world.graphs.put(replace(WITH_MUG, stamp=world.time + 1.0))).start()
        execution.end(Outcome(True, distance=1.0))

    world.react = drive
    world.see()
    result = world.run()
    assert result.success and result.steps == 1


def test_a_bad_graph_after_a_good_one_does_not_matter() -> None:
    world = Surroundings()

    def drive(planned: PlannedAction, execution: Execution) -> None:
        world.graphs.put(replace(WITH_MUG, stamp=world.time + 1.0))
        world.graphs.reject("object 'x': position is not finite")
        execution.end(Outcome(True, distance=1.0))

    world.react = drive
    world.see()
    assert world.run().success


def test_executors_that_are_not_there() -> None:
    world = Surroundings(present=False)
    world.see()
    assert world.run().code is ResultCode.EXECUTOR_UNAVAILABLE


def test_an_executor_that_never_answers_is_given_up_and_cancelled() -> None:
    world = Surroundings()
    world.react = lambda planned, execution: setattr(execution, "accepted", False)
    world.see()
    result = world.run()
    assert result.code is ResultCode.TIMEOUT and world.executions[0].cancelled


def test_an_executor_that_comes_back_in_time_is_waited_for() -> None:
    world = Surroundings(limits=replace(QUICK, executor_timeout=3.0, execution_timeout=5.0), max_steps=1)

    def vanish(planned: PlannedAction, execution: Execution) -> None:
        world.present = False
        threading.Timer(0.4, lambda: setattr(world, "present", True)).start()
        threading.Timer(0.8, lambda: execution.end(Outcome(True, distance=1.0))).start()

    world.react = vanish
    world.see()
    result = world.run()
    assert result.code is ResultCode.MAX_STEPS and result.steps == 1


def test_an_action_that_ends_well_while_it_is_timed_out_counts() -> None:
    world = Surroundings(max_steps=1)

    def just_in_time(planned: PlannedAction, execution: Execution) -> None:
        execution.on_cancel = lambda e: e.end(Outcome(True, distance=4.0))

    world.react = just_in_time
    world.see()
    result = world.run()
    assert result.code is ResultCode.MAX_STEPS and result.distance == 4.0


def test_three_time_outs_end_the_search() -> None:
    world = Surroundings()

    def slow(planned: PlannedAction, execution: Execution) -> None:
        execution.on_cancel = lambda e: e.end(Outcome(False, OutcomeCode.CANCELED, "stopped", 0.2))

    world.react = slow
    world.see()
    result = world.run()
    assert result.code is ResultCode.EXECUTOR_FAILED and len(world.executions) == 3
    assert result.distance == pytest.approx(0.6)


@pytest.mark.timeout(30)
def test_the_search_does_not_wait_for_time_outs_that_are_not_needed() -> None:
    world = Surroundings(limits=Limits(60.0, 60.0, 60.0, 60.0, 60.0), max_steps=2)
    world.react = lambda planned, execution: (execution.end(Outcome(True, distance=1.0)), world.see())[0]
    world.see()
    assert world.run().code is ResultCode.MAX_STEPS


def test_words() -> None:
    assert describe(Outcome(True, distance=3.21)) == "executed, 3.2 m"
    assert describe(Outcome(False, OutcomeCode.NOT_OPENABLE, "it is locked")) == "failed, not openable: it is locked"
    assert describe(Outcome(False, OutcomeCode.BLOCKED)) == "failed, blocked"
    assert refused_kind("go_to_and_open(hall, door)") is ActionKind.GO_TO_AND_OPEN
    assert refused_kind("sing()") is ActionKind.NAVIGATE


def test_the_model_is_told_when_its_answer_is_due_and_naming_rooms_leaves_time_to_decide() -> None:
    """With a fallback rooms get half of the time: those that the model is late with the rule can name."""
    for fallback, share in ((GreedyPolicy(), 0.5), (None, 1.0)):
        world = Surroundings(
            classify_rooms="model", max_steps=1, fallback=fallback, limits=replace(QUICK, deadline=100.0)
        )
        world.see()
        before = time.monotonic()
        world.run()
        rooms, decision = (due - before for due in world.decider.due)
        assert rooms == pytest.approx(100.0 * share, abs=20.0)
        assert decision == pytest.approx(100.0, abs=20.0)
