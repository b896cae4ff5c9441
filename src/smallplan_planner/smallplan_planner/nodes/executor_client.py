"""The planner's client of the action `execute_action`: starts actions, tells how they end, cancels them."""

from __future__ import annotations

import threading

from action_msgs.msg import GoalStatus
from rclpy.action.client import ClientGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from smallplan_msgs.action import ExecuteAction

from smallplan_planner.actions import Outcome, OutcomeCode
from smallplan_planner.nodes.action_client import SafeActionClient
from smallplan_planner.nodes.bell import Bell
from smallplan_planner.nodes.convert import action_to_msg, outcome_from_msg
from smallplan_planner.nodes.search_runner import PlannedAction


class RosExecution:
    """One `execute_action` goal; an `Execution` of the search runner. Answers to other goals never reach it."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._handle: ClientGoalHandle | None = None
        self._cancelled = False
        self._outcome: Outcome | None = None

    @property
    def accepted(self) -> bool:
        return self._handle is not None

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    def cancel(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            handle = self._handle
        if handle is not None:
            handle.cancel_goal_async()

    def on_response(self, future: Future) -> None:
        """The executor has taken or refused the goal."""
        handle = future.result()
        if handle is None or not handle.accepted:
            self._end(Outcome(False, OutcomeCode.FAILED, "the executor refused the goal"))
            return
        handle.get_result_async().add_done_callback(self._on_result)
        with self._lock:
            self._handle = handle
            cancelled = self._cancelled
        if cancelled:  # taken only after the planner gave it up
            handle.cancel_goal_async()
        self._bell.ring()

    def _on_result(self, future: Future) -> None:
        response = future.result()
        if response is None or response.status == GoalStatus.STATUS_UNKNOWN:
            self._end(Outcome(False, OutcomeCode.FAILED, "the executor does not know its goal any more"))
            return
        self._end(outcome_from_msg(response.result, response.status == GoalStatus.STATUS_SUCCEEDED))

    def _end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._bell.ring()


class ExecutorClient:
    """An `ActionExecutor` of the search runner."""

    def __init__(self, node: Node, bell: Bell) -> None:
        self._node = node
        self._bell = bell
        group = MutuallyExclusiveCallbackGroup()
        self._client = SafeActionClient(node, ExecuteAction, "execute_action", callback_group=group)

    def available(self) -> bool:
        return bool(self._client.server_is_ready())

    def start(self, planned: PlannedAction) -> RosExecution:
        goal = ExecuteAction.Goal(goal=action_to_msg(planned, self._node.get_clock().now().to_msg()))
        execution = RosExecution(self._bell)
        self._client.send_goal_async(goal).add_done_callback(execution.on_response)
        return execution

    def destroy(self) -> None:
        self._client.destroy()
