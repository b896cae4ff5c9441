"""The interfaces are what others rely on: constants, fields, and that they convert to and from DDS's types."""

from __future__ import annotations

import pytest

pytest.importorskip("smallplan_msgs", reason="smallplan_msgs is not built (make setup)")

from smallplan_msgs.action import ExecuteAction, FindObject
from smallplan_msgs.msg import ActionGoal, Decision, Door, Frontier, Room, SceneGraph, SceneObject

FIELDS = {
    Room: {"id": "string", "label": "string", "center": "geometry_msgs/Point", "distance": "float"},
    SceneObject: {
        "id": "string",
        "label": "string",
        "room": "string",
        "position": "geometry_msgs/Point",
        "distance": "float",
        "state": "uint8",
        "openable": "boolean",
        "parent": "string",
        "relation": "string",
    },
    Door: {
        "id": "string",
        "label": "string",
        "rooms": "sequence<string>",
        "position": "geometry_msgs/Point",
        "state": "uint8",
        "openable": "boolean",
        "distance": "float",
    },
    Frontier: {
        "id": "string",
        "room": "string",
        "position": "geometry_msgs/Point",
        "leads_out": "boolean",
        "distance": "float",
    },
    SceneGraph: {
        "header": "std_msgs/Header",
        "robot_pose": "geometry_msgs/Pose",
        "robot_room": "string",
        "rooms": "sequence<smallplan_msgs/Room>",
        "objects": "sequence<smallplan_msgs/SceneObject>",
        "doors": "sequence<smallplan_msgs/Door>",
        "frontiers": "sequence<smallplan_msgs/Frontier>",
    },
    ActionGoal: {
        "header": "std_msgs/Header",
        "episode_id": "string",
        "step": "uint32",
        "kind": "uint8",
        "room": "string",
        "object": "string",
        "target_id": "string",
        "target": "geometry_msgs/PoseStamped",
        "command": "string",
    },
    Decision: {
        "goal": "smallplan_msgs/ActionGoal",
        "analysis": "string",
        "reasoning": "string",
        "prompt": "string",
        "rooms": "sequence<smallplan_msgs/Room>",
        "source": "string",
        "retries": "uint32",
        "prompt_tokens": "uint32",
        "reused_tokens": "uint32",
        "generated_tokens": "uint32",
        "latency": "float",
    },
    FindObject.Goal: {"target": "string", "max_steps": "uint32", "mode": "string"},
    FindObject.Result: {
        "success": "boolean",
        "error_code": "uint16",
        "error_msg": "string",
        "object_id": "string",
        "position": "geometry_msgs/Point",
        "steps": "uint32",
        "retries": "uint32",
        "distance": "float",
    },
    FindObject.Feedback: {"decision": "smallplan_msgs/Decision", "outcome": "string", "distance": "float"},
    ExecuteAction.Goal: {"goal": "smallplan_msgs/ActionGoal"},
    ExecuteAction.Result: {
        "success": "boolean",
        "error_code": "uint16",
        "error_msg": "string",
        "distance": "float",
    },
    ExecuteAction.Feedback: {"distance_remaining": "float"},
}

CONSTANTS = {
    SceneObject: "NONE=0 OPEN=1 CLOSED=2",
    Door: "OPEN=1 CLOSED=2",
    ActionGoal: "NAVIGATE=0 GO_TO_AND_OPEN=1 CLOSE=2 EXPLORE=3 DONE=4",
    FindObject.Result: (
        "NONE=0 NOT_FOUND=1 MAX_STEPS=2 STUCK=3 CANCELED=4 PREEMPTED=5 BAD_GOAL=6 BAD_GRAPH=7 NO_GRAPH=8 "
        "MODEL_FAILED=9 EXECUTOR_UNAVAILABLE=10 EXECUTOR_FAILED=11 TIMEOUT=12"
    ),
    ExecuteAction.Result: (
        "NONE=0 UNREACHABLE=1 BLOCKED=2 NOT_OPENABLE=3 NO_MANIPULATOR=4 STALE_GOAL=5 CANCELED=6 TIMEOUT=7 FAILED=8"
    ),
}


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_fields(kind: type) -> None:
    assert kind.get_fields_and_field_types() == FIELDS[kind]


@pytest.mark.parametrize("kind", CONSTANTS, ids=lambda kind: kind.__name__)
def test_constants(kind: type) -> None:
    for constant in CONSTANTS[kind].split():
        name, value = constant.split("=")
        assert getattr(kind, name) == int(value)


def test_a_scene_graph_survives_serialization() -> None:
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    graph = SceneGraph(robot_room="room-1")
    graph.rooms = [Room(id="room-1", distance=float("nan"))]
    graph.objects = [SceneObject(id="o", label="\U0001f34e \u200fmug\n", room="room-1", state=SceneObject.CLOSED)]
    graph.doors = [Door(id="d", rooms=["room-1", "room-2"], state=Door.OPEN)]
    graph.frontiers = [Frontier(id="f", room="room-1", leads_out=True)]
    copy = serialization.deserialize_message(serialization.serialize_message(graph), SceneGraph)
    assert copy.objects == graph.objects
    assert copy.doors == graph.doors
    assert copy.frontiers == graph.frontiers
    assert copy.rooms[0].distance != copy.rooms[0].distance, "NaN stays NaN"
