"""How a node's process ends."""

from __future__ import annotations

import signal

from smallplan_msgs.action import ExecuteAction

from fixtures.ros_world import World, wait_until
from smallplan_planner.nodes.action_client import SafeActionClient


def test_who_waits_for_a_result_gets_it_before_the_process_ends(world: World) -> None:
    node = world.start("fixtures.slow_node")
    client = SafeActionClient(world.node, ExecuteAction, "execute_action")
    wait_until(client.server_is_ready, what="the action")
    goal = client.send_goal_async(ExecuteAction.Goal())
    wait_until(goal.done, what="an answer to the goal")
    result = goal.result().get_result_async()
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    wait_until(result.done, what="the result")
    assert result.result().result.success
    client.destroy()
