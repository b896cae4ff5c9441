"""Executors that are not there, say nothing, come too late or fail: bounded waits, a code and a sentence for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from rclpy.action import GoalResponse
from smallplan_msgs.action import FindObject

from fixtures.ros_world import (
    PATIENCE,
    FakeExecutor,
    Process,
    World,
    endless_graph,
    until_cancelled,
    wait_until,
    with_mug,
)
from smallplan_planner.actions import Outcome, OutcomeCode

Code = FindObject.Result


@pytest.fixture(scope="module")
def planner(world: World) -> Iterator[Process]:
    yield world.start_planner(executor_timeout=1.0, execution_timeout=0.5, cancel_timeout=0.5)


@pytest.fixture
def executor(world: World, planner: Process) -> Iterator[FakeExecutor]:
    """An executor for the test to spoil; afterwards the planner serves the next goal with a good one."""
    made = FakeExecutor(world)
    world.perceive(endless_graph())
    yield made
    made.behave, made.accept = lambda handle: Outcome(True, distance=1.0), lambda request: GoalResponse.ACCEPT
    world.perceive(with_mug(endless_graph()))
    assert world.search().result().success
    made.destroy()
    assert planner.running and "Traceback" not in planner.output


def test_nobody_serves_the_action(world: World, planner: Process) -> None:
    world.perceive(endless_graph())
    result = world.search().result()
    assert result.error_code == Code.EXECUTOR_UNAVAILABLE and "execute_action" in result.error_msg


def test_never_answers_the_goal(world: World, executor: FakeExecutor) -> None:
    release = threading.Event()

    def silent(request: object) -> GoalResponse:
        release.wait(PATIENCE)
        return GoalResponse.ACCEPT

    executor.accept = silent
    executor.behave = until_cancelled
    result = world.search().result()
    assert result.error_code == Code.TIMEOUT and "did not answer" in result.error_msg
    release.set()  # it takes the goal far too late: the planner cancels it then
    wait_until(lambda: executor.ended, what="the end of the late action")
    assert executor.ended[0].code is OutcomeCode.CANCELED


def test_refuses_goals(world: World, executor: FakeExecutor) -> None:
    executor.accept = lambda request: GoalResponse.REJECT
    result = world.search().result()
    assert result.error_code == Code.EXECUTOR_FAILED and "refused" in result.error_msg


def test_takes_too_long(world: World, executor: FakeExecutor) -> None:
    executor.behave = until_cancelled
    result = world.search().result()
    assert result.error_code == Code.EXECUTOR_FAILED and len(executor.ended) == 3
    assert all(outcome.code is OutcomeCode.CANCELED for outcome in executor.ended)


def test_ignores_cancellation(world: World, executor: FakeExecutor) -> None:
    release = threading.Event()

    def deaf(handle: object) -> Outcome:
        release.wait(PATIENCE)
        return Outcome(True, distance=3.0)

    executor.behave = deaf
    result = world.search().result()
    assert result.error_code == Code.TIMEOUT and "may still move" in result.error_msg
    release.set()


def test_fails_three_times(world: World, executor: FakeExecutor) -> None:
    executor.behave = lambda handle: Outcome(False, OutcomeCode.FAILED, "the wheels fell off", 0.0)
    search = world.search()
    result = search.result()
    assert result.error_code == Code.EXECUTOR_FAILED and "the wheels fell off" in result.error_msg
    outcomes = [feedback.outcome for feedback in search.feedback if feedback.outcome]
    assert outcomes == ["failed, failed: the wheels fell off"] * 3


def test_unreachable_targets_are_left_out(world: World, executor: FakeExecutor) -> None:
    executor.behave = lambda handle: Outcome(False, OutcomeCode.UNREACHABLE, "no way", 0.0)
    world.search(max_steps=5).result()
    assert [goal.target_id for goal in executor.goals[:2]] == ["f1", "f2"]


def test_stale_goals_do_not_end_the_node(world: World, executor: FakeExecutor) -> None:
    executor.behave = lambda handle: Outcome(False, OutcomeCode.STALE_GOAL, "that episode is over")
    result = world.search().result()
    assert result.error_code == Code.STUCK and result.retries > 0


def test_an_unknown_error_code_is_a_failure(world: World, executor: FakeExecutor) -> None:
    executor.behave = lambda handle: Outcome(False, 99, "?")  # type: ignore[arg-type]
    result = world.search().result()
    assert result.error_code == Code.EXECUTOR_FAILED and "99" in result.error_msg


def test_dies_in_the_middle_of_an_action(world: World, planner: Process) -> None:
    assert world.set_parameter("execution_timeout", 20.0) == ""
    release = threading.Event()

    def wait(handle: object) -> Outcome:
        release.wait(PATIENCE)
        return Outcome(True)

    executor = FakeExecutor(world, wait)
    world.perceive(endless_graph())
    try:
        search = world.search()
        wait_until(lambda: executor.goals, what="an action")
        executor.destroy()
        began = time.monotonic()
        result = search.result()
        assert result.error_code == Code.EXECUTOR_UNAVAILABLE and "disappeared" in result.error_msg
        assert time.monotonic() - began < 10.0
    finally:
        release.set()
        assert world.set_parameter("execution_timeout", 0.5) == ""
    again = FakeExecutor(world)
    world.perceive(with_mug(endless_graph()))
    assert world.search().result().success
    again.destroy()
