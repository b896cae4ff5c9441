"""Goals that nobody can search for, goals that are cancelled, and goals that meet another one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from action_msgs.msg import GoalStatus
from smallplan_msgs.action import FindObject

from fixtures.ros_world import FakeExecutor, Process, World, endless_graph, until_cancelled, wait_until, with_mug
from smallplan_planner.actions import OutcomeCode


@pytest.fixture(scope="module")
def planner(world: World) -> Iterator[Process]:
    process = world.start_planner()
    yield process
    process.stop()


@pytest.fixture
def executor(world: World) -> Iterator[FakeExecutor]:
    """An executor that drives until it is cancelled."""
    made = FakeExecutor(world, until_cancelled)
    world.perceive(endless_graph())
    yield made
    made.destroy()


@pytest.mark.parametrize(
    ("goal", "named"),
    [({"target": ""}, "target"), ({"target": "x" * 1000}, "1000"), ({"target": "mug", "mode": "hasty"}, "'hasty'")],
)
def test_bad_goal_leaves_the_running_one_alone(
    world: World, planner: Process, executor: FakeExecutor, goal: dict, named: str
) -> None:
    running = world.search()
    wait_until(lambda: executor.goals, what="an action")
    bad = world.search(**goal)
    result = bad.result()
    assert result.error_code == FindObject.Result.BAD_GOAL and named in result.error_msg
    assert len(result.error_msg) < 300 and bad.status == GoalStatus.STATUS_ABORTED
    assert running.response is None and not executor.ended
    running.cancel()
    assert running.result().error_code == FindObject.Result.CANCELED


def test_cancelling_stops_the_robot(world: World, planner: Process, executor: FakeExecutor) -> None:
    search = world.search()
    wait_until(lambda: executor.goals, what="an action")
    search.cancel()
    result = search.result(3.0)
    assert executor.ended and executor.ended[0].code is OutcomeCode.CANCELED
    assert result.error_code == FindObject.Result.CANCELED and search.status == GoalStatus.STATUS_CANCELED
    assert result.distance == pytest.approx(0.5)


def test_a_second_goal_preempts_the_first(world: World, planner: Process, executor: FakeExecutor) -> None:
    first = world.search("spoon")
    wait_until(lambda: executor.goals, what="an action")
    second = world.search("mug")
    assert first.result(5.0).error_code == FindObject.Result.PREEMPTED and first.status == GoalStatus.STATUS_ABORTED
    assert executor.ended[0].code is OutcomeCode.CANCELED
    wait_until(lambda: len(executor.goals) == 2, what="an action of the second goal")
    assert executor.goals[0].episode_id != executor.goals[1].episode_id
    second.cancel()
    assert second.result(3.0).error_code == FindObject.Result.CANCELED


def test_of_many_goals_the_newest_is_served(world: World, planner: Process, executor: FakeExecutor) -> None:
    searches = [world.search(f"thing {name}") for name in "abcdefghij"]
    codes = [search.result().error_code for search in searches[:-1]]
    assert set(codes) == {FindObject.Result.PREEMPTED}
    searches[-1].cancel()
    assert searches[-1].result().error_code == FindObject.Result.CANCELED


def test_a_second_goal_can_be_refused(world: World, planner: Process, executor: FakeExecutor) -> None:
    assert world.set_parameter("preempt", False) == ""
    try:
        first = world.search()
        wait_until(lambda: executor.goals, what="an action")
        assert not world.try_search("spoon").handle.accepted
        assert first.response is None
        first.cancel()
        first.result()
    finally:
        assert world.set_parameter("preempt", True) == ""


def test_deactivating_ends_the_search(world: World, planner: Process, executor: FakeExecutor) -> None:
    search = world.search()
    wait_until(lambda: executor.goals, what="an action")
    assert world.change_state("deactivate")
    result = search.result(3.0)
    assert result.error_code == FindObject.Result.CANCELED and "deactivated" in result.error_msg
    assert executor.ended[0].code is OutcomeCode.CANCELED
    assert not world.try_search().handle.accepted
    assert world.change_state("activate")
    world.perceive(with_mug(endless_graph()))
    assert world.search().result().success


def test_generation_keeps_nobody_waiting(world: World, planner: Process, slow_model: Path) -> None:
    """While the model thinks: state queries are answered, graphs are taken in, cancelling and deactivating work."""
    planner.stop()
    thinking = world.start_planner(policy="slm", model_path=slow_model, n_threads=1, deadline=60.0)
    executor = FakeExecutor(world, until_cancelled)
    world.perceive(endless_graph())
    world.decisions.clear()
    try:
        search = world.search()
        time.sleep(0.4)  # the model is thinking now
        began = time.monotonic()
        assert world.state() == "active"
        answered = time.monotonic() - began
        search.cancel()
        result = search.result(3.0)
        cancelled = time.monotonic() - began
        assert not world.decisions, "the model was too fast for this test"
        assert result.error_code == FindObject.Result.CANCELED and search.status == GoalStatus.STATUS_CANCELED
        assert answered < 1.0 and cancelled < 2.0  # 100 ms and 1 s, with room for a busy machine
        assert not executor.goals

        search = world.search()
        time.sleep(0.4)
        began = time.monotonic()
        assert world.change_state("deactivate")
        assert time.monotonic() - began < 2.0
        assert search.result(3.0).error_code == FindObject.Result.CANCELED
        assert world.change_state("cleanup") and world.state() == "unconfigured"
        assert not world.decisions and not executor.goals
    finally:
        executor.destroy()
        thinking.stop()
    assert "Traceback" not in thinking.output


@pytest.mark.parametrize("fallback", ["greedy", "abort"])
def test_a_missed_deadline(world: World, planner: Process, slow_model: Path, fallback: str) -> None:
    planner.stop()
    late = world.start_planner(policy="slm", model_path=slow_model, n_threads=1, deadline=0.1, fallback=fallback)
    executor = FakeExecutor(world)
    world.perceive(endless_graph())
    try:
        search = world.search(max_steps=2)
        result = search.result()
        if fallback == "abort":
            assert result.error_code == FindObject.Result.MODEL_FAILED and "answer" in result.error_msg
            assert not executor.goals
        else:
            assert result.error_code == FindObject.Result.MAX_STEPS and result.steps == 2
            assert {feedback.decision.source for feedback in search.feedback} == {"fallback"}
            assert "falling back" in late.output
    finally:
        executor.destroy()
        late.stop()
