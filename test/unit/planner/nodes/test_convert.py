from __future__ import annotations

import math

import pytest

pytest.importorskip("smallplan_msgs", reason="needs the built messages: run `make setup`")
from hypothesis import given, settings
from hypothesis import strategies as st
from smallplan_msgs.action import ExecuteAction
from smallplan_msgs.msg import ActionGoal, SceneObject
from smallplan_msgs.msg import SceneGraph as SceneGraphMsg

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.nodes.convert import (
    action_from_msg,
    action_to_msg,
    graph_from_msg,
    graph_to_msg,
    outcome_from_msg,
    outcome_to_msg,
    result_to_msg,
    seconds_from_msg,
    seconds_to_msg,
)
from smallplan_planner.nodes.search_runner import PlannedAction
from smallplan_planner.scene_graph import (
    Door,
    Frontier,
    OpenState,
    Pose,
    Room,
    SceneGraph,
    SceneGraphError,
)
from smallplan_planner.scene_graph import SceneObject as Thing
from smallplan_planner.search import ResultCode, SearchResult

GRAPH = SceneGraph(
    stamp=12.5,
    frame_id="map",
    robot_pose=Pose(1.0, -2.0, 0.75, 0.5),
    robot_room="r1",
    rooms=(Room("r1", "", (1.0, 2.0, 0.0), 0.0), Room("r2", "kitchen", (4.0, 2.0, 0.0), 3.5)),
    objects=(
        Thing("o1", "fridge", "r2", (4.0, 1.0, 0.5), 2.5, OpenState.CLOSED, True),
        Thing("o2", "mug", "r2", (4.0, 1.0, 0.75), 2.5, parent="o1", relation="in"),
    ),
    doors=(Door("d1", ("r1", "r2"), (2.5, 2.0, 1.0), OpenState.OPEN, False, 1.25),),
    frontiers=(Frontier("f1", "r1", (0.5, 0.5, 0.0), True, 4.5),),
)


def test_a_graph_survives_the_way_there_and_back() -> None:
    back = graph_from_msg(graph_to_msg(GRAPH))
    assert back.robot_pose.yaw == pytest.approx(GRAPH.robot_pose.yaw)
    assert back.robot_pose.position == GRAPH.robot_pose.position
    for field in ("stamp", "frame_id", "robot_room", "rooms", "objects", "doors", "frontiers"):
        assert getattr(back, field) == getattr(GRAPH, field), field


def test_unknown_distances_stay_unknown() -> None:
    graph = SceneGraph(rooms=(Room("r"),), objects=(Thing("o", "mug", "r"),))
    back = graph_from_msg(graph_to_msg(graph))
    assert math.isnan(back.rooms[0].distance) and math.isnan(back.objects[0].distance)


def test_a_state_without_meaning_is_refused_by_name() -> None:
    with pytest.raises(SceneGraphError, match=r"'o7'.*state 9"):
        graph_from_msg(SceneGraphMsg(objects=[SceneObject(id="o7", state=9)]))


@given(st.floats(0.0, 4e9))
@settings(max_examples=50)
def test_stamps_keep_microseconds(seconds: float) -> None:
    assert seconds_from_msg(seconds_to_msg(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.floats(-3.1, 3.1))
@settings(max_examples=20)
def test_headings_are_kept(yaw: float) -> None:
    graph = SceneGraph(robot_pose=Pose(0.0, 0.0, yaw), rooms=(Room("r"),))
    assert graph_from_msg(graph_to_msg(graph)).robot_pose.yaw == pytest.approx(yaw)


def test_actions() -> None:
    planned = PlannedAction(
        "e", 3, Action(ActionKind.GO_TO_AND_OPEN, "r2", "o1"), "fridge", (4.0, 1.0, 0.5), "map", "go_to_and_open(…)"
    )
    msg = action_to_msg(planned, seconds_to_msg(7.0))
    assert action_from_msg(msg) == planned.action
    assert (msg.episode_id, msg.step, msg.object, msg.command) == ("e", 3, "fridge", "go_to_and_open(…)")
    assert msg.target.header.frame_id == "map" and msg.target.pose.position.z == 0.5
    with pytest.raises(ValueError, match="kind is 77"):
        action_from_msg(ActionGoal(kind=77))


@pytest.mark.parametrize("code", OutcomeCode)
def test_outcomes(code: OutcomeCode) -> None:
    outcome = Outcome(code is OutcomeCode.NONE, code, "why", 1.5)
    assert outcome_from_msg(outcome_to_msg(outcome), succeeded=outcome.success) == outcome


def test_results_of_executors_that_contradict_themselves_are_failures() -> None:
    aborted = outcome_from_msg(ExecuteAction.Result(success=True), succeeded=False)
    assert not aborted.success and aborted.code is OutcomeCode.FAILED
    unknown = outcome_from_msg(ExecuteAction.Result(error_code=200, error_msg="?"), succeeded=True)
    assert unknown.code is OutcomeCode.FAILED and "200" in unknown.message
    assert outcome_from_msg(ExecuteAction.Result(success=True, distance=math.nan), succeeded=True).distance == 0.0


def test_results() -> None:
    msg = result_to_msg(SearchResult(True, ResultCode.NONE, "found mug", "o2", (1.0, 2.0, 3.0), 4, 1, 5.5))
    assert (msg.success, msg.object_id, msg.position.y) == (True, "o2", 2.0)
    assert (msg.steps, msg.retries, msg.distance, msg.error_msg) == (4, 1, 5.5, "found mug")


def test_codes_are_those_of_the_messages() -> None:
    from smallplan_msgs.action import FindObject

    messages = {ResultCode: FindObject.Result, OutcomeCode: ExecuteAction.Result, ActionKind: ActionGoal}
    for codes, message in messages.items():
        assert {code.name: code.value for code in codes} == {code.name: getattr(message, code.name) for code in codes}
