"""The node `sim_node`: a simulated robot behind the topics and the action of a real one.

Publishes `scene_graph` and `map` (reliable, transient local), serves `execute_action` at real speed or faster.
`~/episode` (JSON, transient local) tells a spectator what the planner must not know; the planner does not read it.

Run it: `python -m smallplan_training.simulators.house.sim_node --ros-args -p house:=house.json -p speed:=10.0`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence

import numpy as np
from nav_msgs.msg import OccupancyGrid as OccupancyGridMsg
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from smallplan_msgs.action import ExecuteAction
from smallplan_msgs.msg import SceneGraph as SceneGraphMsg
from std_msgs.msg import Header, String

from smallplan_planner.actions import Outcome, OutcomeCode
from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, OccupancyGrid
from smallplan_planner.nodes.convert import action_from_msg, graph_to_msg, outcome_to_msg, seconds_to_msg
from smallplan_planner.nodes.spin import StartError, run_node
from smallplan_planner.scene_graph import Pose
from smallplan_training.simulators.house.episodes import NoEpisode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House, HouseError
from smallplan_training.simulators.house.live import LiveRobot, choose_episode

_TICK = 0.05  # s
_PERIOD = 0.5  # s between graphs: at least one a second is expected
_EAGER = 0.3  # s after an action in which a graph is published every tick: the planner waits for one


class SimNode(Node):  # type: ignore[misc]
    """One episode in one house. Raises `StartError` when the parameters describe none."""

    def __init__(self) -> None:
        super().__init__("sim_node")
        try:
            self._declare_parameters()
            self._live = self._make_robot()
        except (
            HouseError,
            NoEpisode,
            ValueError,
            OSError,
            InvalidParameterTypeException,
            InvalidParameterValueException,
        ) as error:
            raise StartError(str(error)) from error
        latched = QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self._graph_publisher = self.create_publisher(SceneGraphMsg, "scene_graph", latched)
        self._map_publisher = self.create_publisher(OccupancyGridMsg, "map", latched)
        self._episode_publisher = self.create_publisher(String, "~/episode", latched)
        self._published = self._ended = -math.inf  # s of the steady clock
        self._episode_id, self._step = "", 0
        self._cancels: dict[bytes, threading.Event] = {}
        self._over: set[str] = set()  # episodes of the planner that a newer one has replaced
        self._server = ActionServer(
            self,
            ExecuteAction,
            "execute_action",
            execute_callback=self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._on_cancel,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self.create_timer(_TICK, self._publish_when_due, MutuallyExclusiveCallbackGroup())
        self._publish_episode()
        episode = self._live.episode
        self.get_logger().info(f"house {episode.house.name!r}, {episode.house.area:.0f} m², target {episode.target!r}")

    def close(self) -> None:
        """Stop the robot."""
        self._live.cancel()

    def _declare_parameters(self) -> None:
        def declare(name: str, default: object, description: str) -> None:
            self.declare_parameter(name, default, ParameterDescriptor(description=description))

        declare("house", "", "House file (JSON, of this project or of ProcTHOR). '' = one is generated from the seed.")
        declare("seed", 0, "Draws start, target and objects.")
        declare("target", "", "What is searched for. '' = drawn by the seed.")
        start = ParameterDescriptor(
            description="x, y (m) and yaw (rad) in the house's frame; unset = drawn by the seed."
        )
        self.declare_parameter("start", Parameter.Type.DOUBLE_ARRAY, start)
        speeds = FloatingPointRange(from_value=0.0, to_value=1000.0, step=0.0)
        speed = ParameterDescriptor(
            description="Simulated seconds per second: 1 = real time (0.5 m/s, 1 rad/s), 0 = as fast as possible.",
            floating_point_range=[speeds],
        )
        self.declare_parameter("speed", 1.0, speed)
        rates = FloatingPointRange(from_value=0.0, to_value=1.0, step=0.0)
        rate = ParameterDescriptor(description="How often an action fails by itself.", floating_point_range=[rates])
        self.declare_parameter("failure_rate", 0.0, rate)

    def _make_robot(self) -> LiveRobot:
        values = {name: self.get_parameter(name).value for name in ("house", "seed", "target", "speed", "failure_rate")}
        try:
            numbers = self.get_parameter("start").value
        except ParameterUninitializedException:
            numbers = None
        if numbers and len(numbers) != 3:
            raise ValueError(f"start has {len(numbers)} numbers; expected x, y, yaw")
        house = House.load(values["house"]) if values["house"] else generate_house(values["seed"])
        start = Pose(numbers[0], numbers[1], numbers[2]) if numbers else None
        episode = choose_episode(house, values["seed"], values["target"], start)
        return LiveRobot(episode, values["speed"], values["seed"], values["failure_rate"])

    # -- the action

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        self._cancel_of(handle).set()
        return CancelResponse.ACCEPT

    def _cancel_of(self, handle: ServerGoalHandle) -> threading.Event:
        """What stops this goal, also when its cancellation is heard before its execution has begun."""
        return self._cancels.setdefault(bytes(handle.goal_id.uuid), threading.Event())

    def _execute(self, handle: ServerGoalHandle) -> ExecuteAction.Result:
        goal = handle.request.goal
        try:
            action = action_from_msg(goal)
        except ValueError as error:
            outcome = Outcome(False, OutcomeCode.FAILED, str(error))
        else:
            if self._is_stale(goal.episode_id, goal.step):
                outcome = Outcome(False, OutcomeCode.STALE_GOAL, f"step {goal.step} of {goal.episode_id!r} is over")
            else:
                outcome = self._live.execute(
                    action,
                    lambda remaining: handle.publish_feedback(ExecuteAction.Feedback(distance_remaining=remaining)),
                    self._cancel_of(handle),
                )
        self._cancels.pop(bytes(handle.goal_id.uuid), None)
        self._ended = time.monotonic()
        self._publish_episode()
        if outcome.success:
            handle.succeed()
        elif outcome.code is OutcomeCode.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return outcome_to_msg(outcome)

    def _is_stale(self, episode_id: str, step: int) -> bool:
        """Whether a goal is of an episode or a step that is over; notes the newest otherwise.

        A goal without an episode, as a person sends it by hand, is never stale.
        """
        if not episode_id:
            return False
        if episode_id in self._over or (episode_id == self._episode_id and step <= self._step):
            return True
        if episode_id != self._episode_id:
            self._over.add(self._episode_id)
        self._episode_id, self._step = episode_id, step
        return False

    # -- publishing

    def _publish_when_due(self) -> None:
        now = time.monotonic()
        period = _TICK / 2 if now - self._ended < _EAGER else _PERIOD
        if now - self._published < period:
            return
        self._published = now
        graph = self._live.observe(self.get_clock().now().nanoseconds * 1e-9)
        self._graph_publisher.publish(graph_to_msg(graph))
        header = Header(stamp=seconds_to_msg(graph.stamp), frame_id=graph.frame_id)
        self._map_publisher.publish(_grid_to_msg(self._live.grid, header))

    def _publish_episode(self) -> None:
        episode = self._live.episode
        start = episode.start
        text = json.dumps(
            {
                "house": self.get_parameter("house").value,
                "seed": episode.seed,
                "target": episode.target,
                "start": [start.x, start.y, start.yaw],  # in the house's frame
                "shortest_path": None if math.isnan(episode.shortest_path) else episode.shortest_path,  # m
                "distance": self._live.distance,  # m
                "driven": [[round(x, 3), round(y, 3)] for x, y in self._live.driven],  # in the frame of the graph
            }
        )
        self._episode_publisher.publish(String(data=text))


def _grid_to_msg(grid: OccupancyGrid, header: Header) -> OccupancyGridMsg:
    """-1 unknown, 0 free, 100 occupied, row by row from the origin."""
    data = np.full(grid.data.shape, -1, dtype=np.int8)
    data[grid.data == FREE] = 0
    data[grid.data == OCCUPIED] = 100
    msg = OccupancyGridMsg(header=header)
    msg.info.map_load_time = header.stamp
    msg.info.resolution = float(grid.resolution)
    msg.info.height, msg.info.width = grid.shape
    msg.info.origin.position.x, msg.info.origin.position.y = (float(value) for value in grid.origin)
    msg.info.origin.orientation.w = 1.0
    msg.data = data.ravel().tolist()
    return msg


def main(args: Sequence[str] | None = None) -> int:
    """Run the simulated robot until SIGINT or SIGTERM."""
    return run_node(SimNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
