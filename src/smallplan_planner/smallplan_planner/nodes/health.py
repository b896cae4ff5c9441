"""Is the planner active? Asked from outside its process, over ROS: for a container's health check, and for people.

The lifecycle service is answered by the node's own executor, so an answer says that the node is alive and serves.
Where the node is not active, /diagnostics says why.

Run it: `ros2 run smallplan_planner health --timeout 5`; it ends with 0 when the planner is active, else with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

PLANNER = "/smallplan_planner"
NODE_VARIABLE = "SMALLPLAN_NODE"
TIMEOUT = 5.0  # s, for everything together
_ASK_AGAIN = 1.0  # s: an answer is lost when the server has not discovered this client yet
_REASON = 1.5  # s for a diagnosis: the node publishes one a second


@dataclass(frozen=True)
class Health:
    """What was found out about the node within the time."""

    node: str
    state: str  # the lifecycle state's label, '' when nobody answered
    active: bool
    detail: str = ""  # why it is not active, as far as is known

    def __str__(self) -> str:
        state = f"is {self.state}" if self.state else "does not answer"
        return f"{self.node} {state}{f': {self.detail}' if self.detail else ''}"


def check_health(name: str = PLANNER, timeout: float = TIMEOUT, *, domain_id: int | None = None) -> Health:
    """Ask the node with this full name for its state; returns within about `timeout` s whatever happens.

    `domain_id`: the ROS domain, None for that of the environment. Raises ValueError for a time that is not above 0.
    """
    if not timeout > 0.0:
        raise ValueError(f"the timeout is {timeout} s; expected more than 0")
    give_up = time.monotonic() + timeout
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(
            f"smallplan_health_{os.getpid()}",
            context=context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            return _ask(node, executor, name, give_up, timeout)
        finally:
            executor.shutdown(timeout_sec=1.0)
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _ask(node: Node, executor: SingleThreadedExecutor, name: str, give_up: float, timeout: float) -> Health:
    diagnoses: list[str] = []

    def on_diagnostics(msg: DiagnosticArray) -> None:
        diagnoses.extend(status.message for status in msg.status if status.name == f"{name}: planner")

    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    client = node.create_client(GetState, f"{name}/get_state")
    if not client.wait_for_service(timeout_sec=max(0.0, give_up - time.monotonic())):
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        return Health(name, "", False, f"no such node within {timeout:g} s; does it run, in ROS domain {domain}?")
    answer = _call(client, executor, give_up)
    if answer is None:
        return Health(name, "", False, f"its process is there, but it gave no answer within {timeout:g} s")
    state = answer.current_state
    if state.id == State.PRIMARY_STATE_ACTIVE:
        return Health(name, state.label, True)
    end = min(give_up, time.monotonic() + _REASON)
    while not diagnoses and time.monotonic() < end:
        executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))
    return Health(name, state.label, False, diagnoses[-1] if diagnoses else "expected active")


def _call(client: Any, executor: SingleThreadedExecutor, give_up: float) -> GetState.Response | None:
    """The service's answer, None when there is none in time."""
    while (left := give_up - time.monotonic()) > 0.0:
        future = client.call_async(GetState.Request())
        executor.spin_until_future_complete(future, timeout_sec=min(left, _ASK_AGAIN))
        if future.done():
            return future.result()
        client.remove_pending_request(future)
    return None


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 active, 1 anything else."""
    parser = argparse.ArgumentParser(prog="health", description="Ends with 0 when the planner is active, else with 1.")
    parser.add_argument(
        "--node",
        default=os.environ.get(NODE_VARIABLE) or PLANNER,
        help=f"the node's full name (default: ${NODE_VARIABLE}, else {PLANNER})",
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help="default: %(default)s")
    options = parser.parse_args(args)
    if not options.timeout > 0.0:
        parser.error(f"--timeout is {options.timeout}; expected more than 0")
    health = check_health("/" + options.node.lstrip("/"), options.timeout)
    sys.stdout.write(f"{health}\n")
    return 0 if health.active else 1


if __name__ == "__main__":
    sys.exit(main())
