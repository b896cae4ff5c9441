"""The demo's side of ROS: sends `find_object`, watches the map, and keeps what a picture of the search needs.

Everything runs on the calling thread: whoever waits here spins the node, with a bound, and looks after the child
processes meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from nav_msgs.msg import OccupancyGrid as OccupancyGridMsg
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from smallplan_msgs.action import FindObject
from smallplan_msgs.msg import SceneGraph as SceneGraphMsg
from std_msgs.msg import String

from smallplan_planner.actions import ActionKind
from smallplan_planner.mapping.occupancy import OccupancyGrid
from smallplan_planner.nodes.action_client import FEEDBACK_QOS, SafeActionClient
from smallplan_planner.nodes.convert import graph_from_msg, seconds_from_msg
from smallplan_planner.scene_graph import SceneGraph
from smallplan_training.errors import UserError

Point2 = tuple[float, float]


@dataclass(frozen=True)
class DecisionHeard:
    """One decision of the planner, as its feedback tells it."""

    number: int  # of the action, from 1
    kind: ActionKind
    command: str
    reasoning: str
    source: str  # "slm" | "fallback"
    latency: float  # s
    stamp: float  # s, ROS time


@dataclass(frozen=True)
class ActionHeard:
    """One executed action: the decision, its outcome in a sentence, and the metres so far in the episode."""

    decision: DecisionHeard
    outcome: str
    success: bool
    distance: float


@dataclass
class Heard:
    """Everything that was heard of one search."""

    actions: list[ActionHeard] = field(default_factory=list)
    maps: list[tuple[float, OccupancyGrid]] = field(default_factory=list)  # s ROS time, oldest first
    driven: list[Point2] = field(default_factory=list)  # m, frame of the map
    travelled: float = 0.0  # m, of `driven`
    graph: SceneGraph | None = None

    def map_at(self, stamp: float) -> OccupancyGrid:
        """The last map up to a time, or the first one. Raises ValueError without any map."""
        if not self.maps:
            raise ValueError("no map has been heard")
        return next((grid for when, grid in reversed(self.maps) if when <= stamp), self.maps[0][1])


class DemoClient:
    """A client of planner and simulator; use it in a `with` block. `check` is called while it waits, and may raise."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.heard = Heard()
        self._check = check

    def __enter__(self) -> DemoClient:
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("smallplan_demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        latched = QoSProfile(
            depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self._node.create_subscription(OccupancyGridMsg, "map", self._on_map, latched)
        self._node.create_subscription(SceneGraphMsg, "scene_graph", self._on_graph, latched)
        self._node.create_subscription(String, "sim_node/episode", self._on_episode, latched)
        self._client = SafeActionClient(self._node, FindObject, "find_object", feedback_sub_qos_profile=FEEDBACK_QOS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._client.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def await_discovery(self, seconds: float) -> None:
        """Wait for the simulator's map and the planner's action; raises `UserError` after `seconds`."""
        self._wait(lambda: bool(self.heard.maps) and self.heard.graph is not None, seconds, "the simulated robot's map")
        self._wait(self._client.server_is_ready, seconds, "the planner's action find_object")

    def search(
        self,
        target: str,
        seconds: float,
        on_decision: Callable[[DecisionHeard], None],
        on_outcome: Callable[[DecisionHeard, str, float], None],
    ) -> FindObject.Result:
        """Send the goal and wait for its result; at most `seconds` between two signs of life.

        `on_outcome` gets the decision, a sentence, and the metres so far; refusals come through it as well.
        """
        spoke = time.monotonic()

        def on_feedback(message: FindObject.Impl.FeedbackMessage) -> None:
            nonlocal spoke
            spoke = time.monotonic()
            self._on_feedback(message.feedback, on_decision, on_outcome)

        sent = self._client.send_goal_async(FindObject.Goal(target=target), feedback_callback=on_feedback)
        handle = self._await_future(sent, seconds, "the planner's answer to the goal")
        if not handle.accepted:
            raise UserError("the planner rejected the goal: it is not active")
        future = handle.get_result_async()
        while not future.done():
            self._spin()
            if time.monotonic() - spoke > seconds:
                raise UserError(f"the planner has said nothing for {seconds:.0f} s")
        answer = future.result()
        if answer.status == GoalStatus.STATUS_UNKNOWN:
            raise UserError("the planner does not know the goal any more; was it restarted?")
        self._settle(answer.result.distance)
        return answer.result

    def _settle(self, distance: float, seconds: float = 2.0) -> None:
        """Wait until the last map and the whole path have arrived; what is late then stays out of the picture."""
        ended, until = self._now(), time.monotonic() + seconds
        heard = self.heard
        while time.monotonic() < until and (heard.maps[-1][0] < ended or heard.travelled < distance - 0.05):
            self._spin()

    def _on_feedback(
        self,
        feedback: FindObject.Feedback,
        on_decision: Callable[[DecisionHeard], None],
        on_outcome: Callable[[DecisionHeard, str, float], None],
    ) -> None:
        message, outcome = feedback.decision, feedback.outcome
        decision = DecisionHeard(
            number=len(self.heard.actions) + 1,
            kind=ActionKind(message.goal.kind),
            command=message.goal.command,
            reasoning=message.reasoning,
            source=message.source,
            latency=message.latency,
            stamp=seconds_from_msg(message.goal.header.stamp),
        )
        refused = outcome.startswith("refused")
        if not outcome or refused:
            on_decision(decision)
        if not outcome:
            return
        if not refused and decision.kind is not ActionKind.DONE:
            success = not outcome.startswith("failed")
            self.heard.actions.append(ActionHeard(decision, outcome, success, feedback.distance))
        on_outcome(decision, outcome, feedback.distance)

    def _on_map(self, message: OccupancyGridMsg) -> None:
        info = message.info
        data = np.array(message.data, dtype=np.int8).reshape(info.height, info.width)
        grid = OccupancyGrid(data, info.resolution, (info.origin.position.x, info.origin.position.y))
        maps = self.heard.maps
        if len(maps) > 1 and all(np.array_equal(grid.data, known.data) for _, known in maps[-2:]):
            maps.pop()  # nothing new: only its time counts
        maps.append((seconds_from_msg(message.header.stamp), grid))

    def _on_graph(self, message: SceneGraphMsg) -> None:
        self.heard.graph = graph_from_msg(message)

    def _on_episode(self, message: String) -> None:
        told = json.loads(message.data)
        self.heard.driven = [(float(x), float(y)) for x, y in told["driven"]]
        self.heard.travelled = float(told["distance"])

    def _now(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def _await_future(self, future: rclpy.Future, seconds: float, what: str) -> Any:
        self._wait(future.done, seconds, what)
        return future.result()

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while not condition():
            self._spin()
            if time.monotonic() > until:
                raise UserError(f"waited {seconds:.0f} s for {what}")

    def _spin(self) -> None:
        self._check()
        self._executor.spin_once(timeout_sec=0.1)
