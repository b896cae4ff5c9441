from __future__ import annotations

import math
import threading

import pytest

from smallplan_planner.actions import DONE, Action, ActionKind, OutcomeCode
from smallplan_planner.scene_graph import SceneGraph
from smallplan_training.simulators.house.episodes import Episode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.live import LiveRobot, choose_episode

BOUND = 20.0  # s


@pytest.fixture(scope="module")
def episode() -> Episode:
    return choose_episode(generate_house(3), 1)


def farthest(graph: SceneGraph) -> Action:
    frontier = max(graph.frontiers, key=lambda f: f.distance)
    assert frontier.distance > 1.5, "this house is too small for this test"
    return Action(ActionKind.EXPLORE, frontier.room, frontier.id)


def test_it_drives_and_sees_more(episode: Episode) -> None:
    live = LiveRobot(episode, speed=0.0)
    before = live.observe(1.0)
    remaining: list[float] = []
    outcome = live.execute(farthest(before), remaining.append)
    after = live.observe(2.0)
    assert outcome.success and outcome.distance > 1.0
    assert live.distance == pytest.approx(outcome.distance)
    assert remaining == sorted(remaining, reverse=True) and remaining[-1] == 0.0
    length = sum(math.dist(a, b) for a, b in zip(live.driven, live.driven[1:], strict=False))
    assert length == pytest.approx(outcome.distance) and live.driven[0] == (0.0, 0.0)
    assert live.driven[-1] == pytest.approx((after.robot_pose.x, after.robot_pose.y))
    assert after.stamp == 2.0 and len(after.objects) >= len(before.objects)


def test_where_it_is_stopped_it_stands(episode: Episode) -> None:
    live = LiveRobot(episode, speed=1.0)  # real time: far too slow to arrive
    action = farthest(live.observe(1.0))
    cancel, under_way = threading.Event(), threading.Event()
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(live.execute(action, lambda _: under_way.set(), cancel)), daemon=True
    )
    thread.start()
    assert under_way.wait(BOUND)
    midway = live.observe(2.0)
    assert midway.stamp == 2.0, "it is observed while it drives"
    cancel.set()
    thread.join(BOUND)
    stopped = live.observe(3.0)
    assert outcomes[0].code is OutcomeCode.CANCELED and not live.busy
    goal = next(f for f in stopped.frontiers if f.id == action.target_id)
    assert goal.distance > 0.5
    assert (stopped.robot_pose.x, stopped.robot_pose.y) == pytest.approx(live.driven[-1])
    assert live.observe(4.0).robot_pose == stopped.robot_pose


def test_a_cancellation_that_comes_first_is_not_lost(episode: Episode) -> None:
    live = LiveRobot(episode, speed=1.0)
    cancel = threading.Event()
    cancel.set()
    outcome = live.execute(farthest(live.observe(1.0)), cancel=cancel)
    assert outcome.code is OutcomeCode.CANCELED and outcome.distance < 0.2


def test_a_newer_action_takes_over(episode: Episode) -> None:
    live = LiveRobot(episode, speed=1.0)
    action = farthest(live.observe(1.0))
    first, under_way = [], threading.Event()
    thread = threading.Thread(target=lambda: first.append(live.execute(action, lambda _: under_way.set())), daemon=True)
    thread.start()
    assert under_way.wait(BOUND)
    second = live.execute(Action(ActionKind.NAVIGATE, "nowhere", "nothing"))
    thread.join(BOUND)
    assert first[0].code is OutcomeCode.CANCELED and second.code is OutcomeCode.STALE_GOAL


def test_what_is_not_executed(episode: Episode) -> None:
    live = LiveRobot(episode, speed=0.0)
    graph = live.observe(1.0)
    assert live.execute(DONE).code is OutcomeCode.FAILED
    assert live.execute(Action(ActionKind.NAVIGATE, graph.rooms[0].id, "object_999")).code is OutcomeCode.STALE_GOAL
    assert live.distance == 0.0


@pytest.mark.parametrize("speed", [-1.0, math.nan, math.inf])
def test_speeds_that_are_none(episode: Episode, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        LiveRobot(episode, speed)


def test_episodes_that_are_asked_for(episode: Episode) -> None:
    again = choose_episode(episode.house, 5, episode.target, episode.start)
    assert (again.target, again.start) == (episode.target, episode.start) and again.shortest_path > 0.0
    with pytest.raises(ValueError, match="start"):
        choose_episode(episode.house, 5, "", episode.start)
