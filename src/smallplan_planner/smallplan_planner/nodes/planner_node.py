"""The node `smallplan_planner`: finds objects on request, over ROS 2.

A thin lifecycle shell. It owns the parameters, the subscription `scene_graph`, the action server `find_object`, the
client of `execute_action` and the publishers; a `SearchRunner` does each goal on a thread of its own, and decisions
are made on the thread of a `DecisionWorker`, so that the executor's threads stay free for cancellations,
transitions and graphs.

Run it: `ros2 run smallplan_planner planner_node --ros-args --params-file config/planner.yaml`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import RCLError, ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription
from smallplan_msgs.action import FindObject
from smallplan_msgs.msg import ActionGoal
from smallplan_msgs.msg import Decision as DecisionMsg
from smallplan_msgs.msg import SceneGraph as SceneGraphMsg

from smallplan_planner.garbage import spare_decisions
from smallplan_planner.generation import SlmError
from smallplan_planner.nodes.action_client import FEEDBACK_QOS
from smallplan_planner.nodes.bell import Bell
from smallplan_planner.nodes.convert import action_to_msg, decision_to_msg, graph_from_msg, result_to_msg
from smallplan_planner.nodes.deciders import OwnedDecider, make_decider
from smallplan_planner.nodes.decision_worker import DecisionWorker
from smallplan_planner.nodes.diagnostics import Status, diagnostics_to_msg
from smallplan_planner.nodes.executor_client import ExecutorClient
from smallplan_planner.nodes.goal_turns import GoalTurns
from smallplan_planner.nodes.graph_feed import GraphFeed
from smallplan_planner.nodes.parameters import ParameterError, ParameterStore, PlannerParameters
from smallplan_planner.nodes.ros_events import incompatible_qos_callbacks
from smallplan_planner.nodes.search_runner import Decision, Limits, SearchRunner
from smallplan_planner.nodes.spin import run_node
from smallplan_planner.policies import GreedyPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Helps
from smallplan_planner.scene_graph import SceneGraphError
from smallplan_planner.search import BadGoalError, ResultCode, SearchConfig, SearchEpisode, SearchResult

_DIAGNOSTICS_PERIOD = 1.0  # s
_STALE_GRAPH = 5.0  # s without a graph that are worth a warning: perception publishes once a second
_START = 10.0  # s that loading the model may take when the process is to end meanwhile
_MARGIN = 2.0  # s that a stopped search may take beyond the wait for its executor
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PlannerNode(LifecycleNode):  # type: ignore[misc]
    """Unconfigured: no model. Inactive: the model is loaded and graphs come in. Active: goals are taken."""

    def __init__(self) -> None:
        super().__init__("smallplan_planner")
        self._store = ParameterStore(self, self._use_adapter)
        self._bell = Bell()
        self._graphs = GraphFeed(self._bell)
        self._turns = GoalTurns()
        self._runners: dict[bytes, SearchRunner] = {}
        self._cancelled: set[bytes] = set()  # goals, also those whose search has not begun yet
        self._active = False
        self._decider: OwnedDecider | None = None
        self._worker: DecisionWorker | None = None
        self._subscription: Subscription | None = None
        self._problem = ""  # why the last transition failed
        self._qos_problem = ""
        self._fallbacks = 0
        self._last_latency = 0.0
        latched = QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self._goal_publisher = self.create_lifecycle_publisher(ActionGoal, "action_goal", 10)
        self._decision_publisher = self.create_lifecycle_publisher(DecisionMsg, "decision", latched)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._executor_client = ExecutorClient(self, self._bell)
        self._answer_impossible_transitions()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # timers fire also when simulated time stands still
        group = MutuallyExclusiveCallbackGroup()
        self.create_timer(_DIAGNOSTICS_PERIOD, self._publish_diagnostics, group, clock=steady)
        self._started = threading.Event()
        self._start_timer = self.create_timer(0.0, self._start, clock=steady)

    def close(self) -> None:
        """Stop the search under way, and with it the robot, before the process ends."""
        self._started.wait(_START)  # a transition that is under way would end without a context
        self._rest("the planner is shut down")
        self._release()

    # -- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the model, subscribe. On failure the node stays unconfigured and says why."""
        try:
            parameters = self._store.read()
            load_priors()
            self._decider = make_decider(parameters)
        except (ParameterError, SlmError, OSError, ImportError, ValueError) as error:
            self._problem = f"can't be configured: {error}".rstrip(".")
            self.get_logger().error(f"{self._problem}. Correct the parameters and configure again.")
            return _FAILURE
        spare_decisions()
        self._worker = DecisionWorker(self._bell)
        self._subscribe(parameters.graph_durability)
        self._store.lock(configured=True)
        self._problem = ""
        self.get_logger().info(f"configured; decisions by {self._decider.name}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._decider is not None
        self._decider.restore()
        result = super().on_activate(state)
        self._active = result == _SUCCESS
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the search under way; the robot stands afterwards."""
        self._rest("the planner was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._rest("the planner is shut down")
        self._release()
        return super().on_shutdown(state)

    def _start(self) -> None:
        """Once, as soon as the node is served: configure and activate where `autostart` says so, then take goals."""
        self._start_timer.cancel()
        if self.get_parameter("autostart").value and self.trigger_configure() == _SUCCESS:
            self.trigger_activate()
        self._server = ActionServer(  # only now: nobody is rejected because the model is still being loaded
            self,
            FindObject,
            "find_object",
            execute_callback=self._search,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=MutuallyExclusiveCallbackGroup(),
            feedback_pub_qos_profile=FEEDBACK_QOS,
        )
        self._started.set()

    def _answer_impossible_transitions(self) -> None:
        """Refuse a transition that the state does not have: rclpy raises an error then and sends no answer."""
        service = next(service for service in self.services if service.srv_name.endswith("/change_state"))
        change_state = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().warning(f"a transition was refused: {error}")
                response.success = False
                return response

        service.callback = answer

    def _rest(self, message: str) -> None:
        """Take no goals any more, end the search under way, and keep what the model can go on from."""
        was_active, self._active = self._active, False
        self._stop_searches(message)
        if was_active and self._decider is not None:
            self._decider.save()

    def _use_adapter(self, name: str) -> str:
        """Have the configured model decide with another adapter; returns why not."""
        decider = self._decider
        if decider is None:
            return ""
        try:
            decider.use_adapter(name)
        except SlmError as error:
            self.get_logger().warning(f"a LoRA adapter was refused: {error}")
            return str(error)
        self.get_logger().info(f"LoRA adapter: {name or 'none'}")
        return ""

    def _stop_searches(self, message: str) -> None:
        timeout = float(self.get_parameter("cancel_timeout").value) + _MARGIN
        if not self._turns.stop_all(ResultCode.CANCELED, message, timeout):
            self.get_logger().error(f"the search under way did not end within {timeout} s")

    def _release(self) -> None:
        """Free what configuring has made."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        worker_ended = self._worker is None or self._worker.close(_MARGIN)
        if self._decider is not None and worker_ended:
            self._decider.close()
        self._worker = self._decider = None
        self._graphs.clear()
        self._store.lock(configured=False)

    # -- scene graphs

    def _subscribe(self, durability: str) -> None:
        self._qos_problem = ""
        qos = QoSProfile(
            depth=1,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.VOLATILE if durability == "volatile" else DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self._subscription = self.create_subscription(
            SceneGraphMsg,
            "scene_graph",
            self._on_graph,
            qos,
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=incompatible_qos_callbacks(self._on_incompatible_qos),
        )

    def _on_graph(self, msg: SceneGraphMsg) -> None:
        try:
            graph = graph_from_msg(msg)
            graph.validate()
        except SceneGraphError as error:
            self.get_logger().warning(f"a scene graph was refused: {error}", throttle_duration_sec=5.0)
            self._graphs.reject(str(error))
        else:
            self._graphs.put(graph)

    def _on_incompatible_qos(self, policy_kind: int) -> None:
        assert self._subscription is not None
        policy = qos_policy_name_from_kind(policy_kind)
        self._qos_problem = (
            f"a publisher of {self._subscription.topic_name} offers an incompatible {policy}: its graphs don't arrive; "
            "publish reliable and transient local, or set graph_durability to volatile"
        )
        self.get_logger().error(self._qos_problem)

    # -- goals

    def _on_goal(self, request: FindObject.Goal) -> GoalResponse:
        if not self._active:
            reason = self._problem or "activate it to search"
            self.get_logger().warning(f"a goal was rejected: the planner is not active; {reason}")
            return GoalResponse.REJECT
        if self._turns.busy and not self.get_parameter("preempt").value:
            self.get_logger().warning("a goal was rejected: a search is under way, and preempt is false")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        key = bytes(handle.goal_id.uuid)
        self._cancelled.add(key)
        runner = self._runners.get(key)
        if runner is not None:
            runner.stop(ResultCode.CANCELED, "the client cancelled the search")
        return CancelResponse.ACCEPT

    def _search(self, handle: ServerGoalHandle) -> FindObject.Result:
        """One goal, from acceptance to result; runs on a thread of the executor and gives the others way."""
        try:
            runner, timeout = self._make_runner(handle)
        except (BadGoalError, ParameterError, ValueError) as error:
            handle.abort()
            return result_to_msg(SearchResult(False, ResultCode.BAD_GOAL, str(error)))
        key = bytes(handle.goal_id.uuid)
        self._runners[key] = runner
        try:
            if key in self._cancelled:
                runner.stop(ResultCode.CANCELED, "the client cancelled the search")
            self._turns.begin(runner, timeout)
            if not self._active:
                runner.stop(ResultCode.CANCELED, "the planner was deactivated")
            result = runner.run()
        finally:
            self._turns.end(runner)
            del self._runners[key]
            self._cancelled.discard(key)
        ending = "succeeded" if result.success else f"ended: {result.code.name}"
        self.get_logger().info(f"search for {handle.request.target[:40]!r} {ending}, {result.message}")
        self._conclude(handle, result)
        return result_to_msg(result)

    def _make_runner(self, handle: ServerGoalHandle) -> tuple[SearchRunner, float]:
        """The runner of a goal, and how long it may wait for its turn. Raises `BadGoalError`, ValueError."""
        request, parameters = handle.request, self._store.read()
        config = SearchConfig(
            max_steps=request.max_steps or parameters.max_steps,
            max_retries=parameters.max_retries,
            mode=request.mode or parameters.mode,
            allow_open=parameters.allow_open,
            allow_close=parameters.allow_close,
            helps=Helps(matches=parameters.show_matches, hints=parameters.show_hints),
            classify_rooms=parameters.classify_rooms,
        )
        episode = SearchEpisode(request.target, config, load_priors())
        if self._decider is None or self._worker is None:
            raise BadGoalError("the planner was cleaned up before the search began")
        runner = SearchRunner(
            episode,
            uuid.uuid4().hex,
            bell=self._bell,
            graphs=self._graphs,
            decider=self._decider,
            worker=self._worker,
            executor=self._executor_client,
            listener=_GoalListener(self, handle),
            fallback=GreedyPolicy() if parameters.fallback == "greedy" else None,
            limits=_limits(parameters),
            now=self._now,
        )
        return runner, parameters.cancel_timeout + _MARGIN

    def _conclude(self, handle: ServerGoalHandle, result: SearchResult) -> None:
        """Set the goal's final state."""
        if result.success:
            handle.succeed()
            return
        if result.code is ResultCode.CANCELED:
            # rclpy marks the goal as cancelling only after the callback that has stopped the search
            give_up = time.monotonic() + 1.0
            while self._active and not handle.is_cancel_requested and time.monotonic() < give_up:
                time.sleep(0.005)
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()

    def publish_decision(self, decision: Decision) -> FindObject.Feedback:
        """Tell everybody what was decided; returns the feedback for the messages that follow."""
        goal = action_to_msg(decision.planned, self.get_clock().now().to_msg())
        msg = decision_to_msg(decision, goal)
        if not decision.refusal:
            self._goal_publisher.publish(goal)
        self._decision_publisher.publish(msg)
        self._last_latency = decision.latency
        self._fallbacks += decision.answer.source == "fallback"
        return FindObject.Feedback(decision=msg)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    # -- diagnostics

    def _publish_diagnostics(self) -> None:
        statuses = [self._planner_status(), self._graph_status()]
        msg = diagnostics_to_msg(self.get_fully_qualified_name(), statuses, self.get_clock().now().to_msg())
        self._diagnostics_publisher.publish(msg)

    def _planner_status(self) -> Status:
        running, decider = self._turns.running, self._decider
        state = "active" if self._active else "inactive" if decider is not None else "unconfigured"
        values: dict[str, object] = {
            "state": state,
            "policy": decider.name if decider is not None else "",
            "target": running.episode.target if running is not None else "",
            "steps": running.episode.steps if running is not None else 0,
            "last decision (s)": f"{self._last_latency:.3f}",
            "fallbacks": self._fallbacks,
            "executor available": self._executor_client.available(),
        }
        if decider is not None:
            values |= decider.status()
        summary = f"{state}, {'searching' if running is not None else 'idle'}"
        return Status("planner", summary, values, self._problem, fatal=bool(self._problem))

    def _graph_status(self) -> Status:
        newest = self._graphs.newest
        age = time.monotonic() - newest.at if newest is not None else None
        problem = f"refused: {self._graphs.problem}" if self._graphs.problem else ""
        if self._decider is not None and not problem:
            if age is None:
                problem = self._qos_problem or "no scene graph has arrived yet"
            elif age > _STALE_GRAPH:
                problem = f"no scene graph for {age:.0f} s; expected at least one a second"
        values = {
            "age (s)": "" if age is None else f"{age:.1f}",
            "accepted": self._graphs.accepted,
            "refused": self._graphs.rejected,
            "incompatible QoS": self._qos_problem,
        }
        return Status("scene graph", "arrives", values, problem or self._qos_problem)


class _GoalListener:
    """Publishes what happens in a search: topics for all, feedback for the goal's client."""

    def __init__(self, node: PlannerNode, handle: ServerGoalHandle) -> None:
        self._node = node
        self._handle = handle
        self._feedback = FindObject.Feedback()

    def on_decision(self, decision: Decision) -> None:
        travelled = self._feedback.distance  # so far: as it was after the action before
        self._feedback = self._node.publish_decision(decision)
        self._feedback.distance = travelled
        self._feedback.outcome = f"refused: {decision.refusal}" if decision.refusal else ""
        self._handle.publish_feedback(self._feedback)

    def on_outcome(self, decision: Decision, outcome: str, distance: float) -> None:
        self._feedback.outcome = outcome
        self._feedback.distance = float(distance)
        self._handle.publish_feedback(self._feedback)


def _limits(parameters: PlannerParameters) -> Limits:
    return Limits(
        deadline=parameters.deadline,
        graph_timeout=parameters.graph_timeout,
        executor_timeout=parameters.executor_timeout,
        execution_timeout=parameters.execution_timeout,
        cancel_timeout=parameters.cancel_timeout,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the planner until SIGINT or SIGTERM."""
    return run_node(PlannerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
