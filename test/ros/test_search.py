"""A search from goal to result: simulated robot, planner and client in three processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from smallplan_msgs.action import ExecuteAction, FindObject
from smallplan_msgs.msg import ActionGoal, SceneGraph
from std_msgs.msg import String

from fixtures.ros_world import LATCHED, SIMULATOR, World, wait_until
from smallplan_planner.nodes.action_client import SafeActionClient

HOUSE_SEED = 3


@pytest.fixture(scope="module")
def episode(world: World) -> Iterator[list[dict]]:
    """A simulated robot runs; what it tells spectators, newest last."""
    told: list[dict] = []
    world.node.create_subscription(String, "sim_node/episode", lambda msg: told.append(json.loads(msg.data)), LATCHED)
    simulator = world.start(SIMULATOR, seed=HOUSE_SEED, speed=0.0)
    wait_until(lambda: told, what=f"the simulator: {simulator.output}")
    yield told
    simulator.stop()


def test_finds_what_is_searched_for(world: World, episode: list[dict]) -> None:
    planner = world.start_planner(graph_timeout=10.0)
    world.action_goals.clear()

    search = world.search(episode[0]["target"], max_steps=200)
    result = search.result(60.0)

    assert result.success and result.error_code == FindObject.Result.NONE, result
    assert result.object_id and result.error_msg.startswith("found ")
    assert result.steps >= 1 and result.distance > 0.0
    wait_until(lambda: len(search.feedback) >= 2 * (result.steps + 1), what="feedback for each decision")
    steps = [(f.decision.goal.step, bool(f.outcome)) for f in search.feedback]
    assert steps == [(step, ended) for step in range(1, result.steps + 2) for ended in (False, True)]
    travelled = [f.distance for f in search.feedback]
    assert travelled == sorted(travelled) and travelled[-2] > 0.0, "the metres so far, with each decision too"
    last = search.feedback[-1]
    assert last.decision.goal.kind == ActionGoal.DONE and last.outcome == result.error_msg
    assert last.distance == pytest.approx(result.distance)
    assert [goal.step for goal in world.action_goals] == list(range(1, result.steps + 2))
    assert wait_until(lambda: episode[-1]["distance"] > 0.0) and len(episode[-1]["driven"]) > 1
    assert episode[-1]["distance"] == pytest.approx(result.distance, abs=0.01)
    planner.stop()


def test_a_language_model_plans(world: World, episode: list[dict], tiny_model: Path) -> None:
    planner = world.start_planner(policy="slm", model_path=tiny_model, n_threads=1, max_steps=3, graph_timeout=10.0)
    search = world.search(episode[0]["target"])
    result = search.result(60.0)

    decided = [f.decision for f in search.feedback if not f.outcome]
    assert (result.steps == 3 and result.error_code == FindObject.Result.MAX_STEPS) or result.success
    assert decided and all(decision.source == "slm" for decision in decided)
    assert all(episode[0]["target"] in decision.prompt for decision in decided)
    assert all(decision.prompt_tokens > 0 and decision.generated_tokens > 0 for decision in decided)
    assert any(decision.reused_tokens > 0 for decision in decided[1:]) or len(decided) == 1
    labels = {room.label for room in decided[-1].rooms}
    assert labels and "" not in labels
    planner.stop()


def test_a_language_model_names_rooms(world: World, episode: list[dict], tiny_model: Path) -> None:
    from smallplan_planner.policies import SlmPolicy
    from smallplan_planner.slm import Slm

    graphs: list[SceneGraph] = []
    world.node.create_subscription(SceneGraph, "scene_graph", graphs.append, LATCHED)
    graph = wait_until(lambda: graphs and graphs[-1].objects and graphs[-1], what="a graph with objects")
    planner = world.start_planner(
        policy="slm", model_path=tiny_model, n_threads=1, max_steps=1, graph_timeout=10.0, classify_rooms="model"
    )
    search = world.search("zebra")
    search.result(60.0)
    planner.stop()

    named = {room.id: room.label for room in search.feedback[0].decision.rooms}
    assert set(named) == {room.id for room in graph.rooms if not room.label}
    with Slm(tiny_model, n_threads=1) as slm:
        policy = SlmPolicy(slm)
        for room_id, label in named.items():
            seen = [thing.label for thing in graph.objects if thing.room == room_id]
            assert label == policy.classify_room(seen), "as the model says, which has random weights, not the rule"


def test_a_goal_sent_by_hand_is_never_stale(world: World, episode: list[dict]) -> None:
    graphs: list[SceneGraph] = []
    world.node.create_subscription(SceneGraph, "scene_graph", graphs.append, LATCHED)
    thing = wait_until(lambda: graphs and graphs[-1].objects, what="a graph with objects")[0]
    client = SafeActionClient(
        world.node, ExecuteAction, "execute_action", callback_group=MutuallyExclusiveCallbackGroup()
    )
    wait_until(client.server_is_ready, what="execute_action")

    def execute(episode_id: str, step: int) -> int:
        goal = ActionGoal(episode_id=episode_id, step=step, room=thing.room, target_id=thing.id)
        sent = client.send_goal_async(ExecuteAction.Goal(goal=goal))
        wait_until(sent.done, what="the goal being accepted")
        ended = sent.result().get_result_async()
        wait_until(ended.done, what="the goal's end")
        return int(ended.result().result.error_code)

    stale = ExecuteAction.Result.STALE_GOAL
    assert [execute("", 0), execute("", 0)] == [ExecuteAction.Result.NONE] * 2
    assert execute("a", 1) == ExecuteAction.Result.NONE
    assert execute("a", 1) == stale
    assert execute("b", 1) == ExecuteAction.Result.NONE
    assert execute("a", 2) == stale
    client.destroy()


def test_a_house_that_can_not_be_used_is_named(world: World, tmp_path: Path) -> None:
    house = tmp_path / "no-rooms.json"
    house.write_text('{"name": "x"}')
    simulator = world.start(SIMULATOR, house=house)
    assert simulator.wait() == 1
    assert "no-rooms.json" in simulator.output and "Traceback" not in simulator.output
