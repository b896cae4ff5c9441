"""Between messages and the planner's own types, in both directions. Units and frames are the same on both sides."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point as PointMsg
from geometry_msgs.msg import Pose as PoseMsg
from geometry_msgs.msg import PoseStamped
from smallplan_msgs.action import ExecuteAction, FindObject
from smallplan_msgs.msg import ActionGoal
from smallplan_msgs.msg import Decision as DecisionMsg
from smallplan_msgs.msg import Door as DoorMsg
from smallplan_msgs.msg import Frontier as FrontierMsg
from smallplan_msgs.msg import Room as RoomMsg
from smallplan_msgs.msg import SceneGraph as SceneGraphMsg
from smallplan_msgs.msg import SceneObject as SceneObjectMsg
from std_msgs.msg import Header

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.nodes.search_runner import Decision, PlannedAction
from smallplan_planner.scene_graph import (
    Door,
    Frontier,
    OpenState,
    Point,
    Pose,
    Room,
    SceneGraph,
    SceneGraphError,
    SceneObject,
)
from smallplan_planner.search import SearchResult

_NANOSECONDS = 1_000_000_000
_STATES = {int(state): state for state in OpenState}  # a look is quicker than a call of the enumeration


def graph_from_msg(msg: SceneGraphMsg) -> SceneGraph:
    """A message's graph, not validated yet. Raises `SceneGraphError` where a value has no meaning here."""
    return SceneGraph(
        stamp=seconds_from_msg(msg.header.stamp),
        frame_id=msg.header.frame_id,
        robot_pose=pose_from_msg(msg.robot_pose),
        robot_room=msg.robot_room,
        rooms=tuple(Room(room.id, room.label, _point(room.center), room.distance) for room in msg.rooms),
        objects=tuple(
            SceneObject(
                obj.id,
                obj.label,
                obj.room,
                _point(obj.position),
                obj.distance,
                _state(obj.state, "object", obj.id),
                obj.openable,
                obj.parent,
                obj.relation,
            )
            for obj in msg.objects
        ),
        doors=tuple(
            Door(
                door.id,
                tuple(door.rooms),
                _point(door.position),
                _state(door.state, "door", door.id),
                door.openable,
                door.distance,
                door.label,
            )
            for door in msg.doors
        ),
        frontiers=tuple(Frontier(f.id, f.room, _point(f.position), f.leads_out, f.distance) for f in msg.frontiers),
    )


def graph_to_msg(graph: SceneGraph) -> SceneGraphMsg:
    """A graph as a message."""
    return SceneGraphMsg(
        header=Header(stamp=seconds_to_msg(graph.stamp), frame_id=graph.frame_id),
        robot_pose=pose_to_msg(graph.robot_pose),
        robot_room=graph.robot_room,
        rooms=[room_to_msg(room) for room in graph.rooms],
        objects=[
            SceneObjectMsg(
                id=obj.id,
                label=obj.label,
                room=obj.room,
                position=_point_msg(obj.position),
                distance=float(obj.distance),
                state=int(obj.state),
                openable=bool(obj.openable),
                parent=obj.parent,
                relation=obj.relation,
            )
            for obj in graph.objects
        ],
        doors=[
            DoorMsg(
                id=door.id,
                label=door.label,
                rooms=list(door.rooms),
                position=_point_msg(door.position),
                state=int(door.state),
                openable=bool(door.openable),
                distance=float(door.distance),
            )
            for door in graph.doors
        ],
        frontiers=[
            FrontierMsg(
                id=f.id,
                room=f.room,
                position=_point_msg(f.position),
                leads_out=bool(f.leads_out),
                distance=float(f.distance),
            )
            for f in graph.frontiers
        ],
    )


def room_to_msg(room: Room) -> RoomMsg:
    return RoomMsg(id=room.id, label=room.label, center=_point_msg(room.center), distance=float(room.distance))


def action_to_msg(planned: PlannedAction, stamp: Time) -> ActionGoal:
    """What is published on `action_goal` and sent to the executor; the target's pose has no direction."""
    target = PoseStamped(header=Header(stamp=stamp, frame_id=planned.frame_id))
    target.pose.position = _point_msg(planned.position)
    return ActionGoal(
        header=Header(stamp=stamp, frame_id=planned.frame_id),
        episode_id=planned.episode_id,
        step=planned.step,
        kind=int(planned.action.kind),
        room=planned.action.room_id,
        object=planned.object_name,
        target_id=planned.action.target_id,
        target=target,
        command=planned.command,
    )


def action_from_msg(msg: ActionGoal) -> Action:
    """The action that an executor is to carry out. Raises ValueError when its kind is none."""
    try:
        return Action(ActionKind(msg.kind), msg.room, msg.target_id)
    except ValueError as error:
        allowed = ", ".join(f"{kind.value} {kind.name}" for kind in ActionKind)
        raise ValueError(f"kind is {msg.kind}; expected one of {allowed}") from error


def decision_to_msg(decision: Decision, goal: ActionGoal) -> DecisionMsg:
    answer = decision.answer
    return DecisionMsg(
        goal=goal,
        analysis=answer.analysis,
        reasoning=answer.reasoning,
        prompt=answer.prompt,
        rooms=[room_to_msg(room) for room in decision.rooms],
        source=answer.source,
        retries=decision.retries,
        prompt_tokens=answer.prompt_tokens,
        reused_tokens=answer.reused_tokens,
        generated_tokens=answer.generated_tokens,
        latency=float(decision.latency),
    )


def result_to_msg(result: SearchResult) -> FindObject.Result:
    return FindObject.Result(
        success=result.success,
        error_code=int(result.code),
        error_msg=result.message,
        object_id=result.object_id,
        position=_point_msg(result.position),
        steps=result.steps,
        retries=result.retries,
        distance=float(result.distance),
    )


def outcome_to_msg(outcome: Outcome) -> ExecuteAction.Result:
    return ExecuteAction.Result(
        success=outcome.success,
        error_code=int(outcome.code),
        error_msg=outcome.message,
        distance=float(outcome.distance),
    )


def outcome_from_msg(msg: ExecuteAction.Result, succeeded: bool) -> Outcome:
    """An executor's result; `succeeded` is the status of its action goal. What contradicts itself is FAILED."""
    distance = msg.distance if math.isfinite(msg.distance) and msg.distance > 0 else 0.0
    if msg.success and succeeded:
        return Outcome(True, OutcomeCode.NONE, msg.error_msg, distance)
    try:
        code = OutcomeCode(msg.error_code)
    except ValueError:
        return Outcome(False, OutcomeCode.FAILED, f"unknown error_code {msg.error_code}: {msg.error_msg}", distance)
    if code is OutcomeCode.NONE:
        message = msg.error_msg or "the executor gave up without an error_code"
        return Outcome(False, OutcomeCode.FAILED, message, distance)
    return Outcome(False, code, msg.error_msg, distance)


def pose_from_msg(msg: PoseMsg) -> Pose:
    """A pose in the plane; roll and pitch are dropped. An orientation of all zeros counts as yaw 0."""
    q = msg.orientation
    yaw = math.atan2(2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z))
    return Pose(msg.position.x, msg.position.y, yaw, msg.position.z)


def pose_to_msg(pose: Pose) -> PoseMsg:
    msg = PoseMsg(position=_point_msg(pose.position))
    msg.orientation.z = math.sin(pose.yaw / 2)
    msg.orientation.w = math.cos(pose.yaw / 2)
    return msg


def seconds_from_msg(stamp: Time) -> float:
    return float(stamp.sec) + stamp.nanosec / _NANOSECONDS


def seconds_to_msg(seconds: float) -> Time:
    """A stamp from seconds >= 0, to the precision of a float (under a microsecond for today's dates)."""
    whole = math.floor(seconds)
    return Time(sec=whole, nanosec=min(_NANOSECONDS - 1, round((seconds - whole) * _NANOSECONDS)))


def _state(value: int, kind: str, element_id: str) -> OpenState:
    if value not in _STATES:
        raise SceneGraphError(f"{kind} {element_id!r}: state {value}; expected 0 (none), 1 (open) or 2 (closed)")
    return _STATES[value]


def _point(msg: PointMsg) -> Point:
    return (msg.x, msg.y, msg.z)


def _point_msg(point: Point) -> PointMsg:
    return PointMsg(x=float(point[0]), y=float(point[1]), z=float(point[2]))
