"""How long the planner's node takes from the start of its executable to active, in the eyes of another node.

The real process with the real model, asked for its lifecycle state over DDS. It needs the ROS messages. The one that
asks announces itself often (`config/fastdds.xml`), or it would measure Fast DDS: a participant that has just been made
drops the answers to its first announcement, and then waits for the others' next one, 3 s by default.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from smallplan_planner.resources import resource
from smallplan_training.bench_searches import has_messages
from smallplan_training.errors import UserError
from smallplan_training.processes import ProcessDied, ProcessGroup, ros_environment

NODE = "smallplan_planner"
_PATIENCE = 120.0  # s until active
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # until Jazzy, and since Kilted
_LOOK, _ASK_AGAIN = 0.01, 0.1  # s between two questions for the state, and for its answer


def measure_startup(model: Path, runs: int = 3) -> float:
    """Median seconds of several starts. Raises `UserError` where there is no ROS, or the node does not get active."""
    if not has_messages():
        raise UserError("the planner's node needs ROS 2 and the built messages: run `make setup`, or source one")
    profile = str(resource("config", "fastdds.xml"))
    environment = ros_environment(os.environ)  # the node's: as a user has it
    os.environ.update({**dict.fromkeys(PROFILES, profile), **environment})  # before rclpy reads it
    return round(statistics.median(_start_once(model, environment) for _ in range(runs)), 2)


def planner_command() -> Sequence[str]:
    """The installed executable where the workspace is built, else the module in this Python."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / NODE / "planner_node"
        if prefix and path.is_file():
            return [str(path)]
    return [sys.executable, "-m", f"{NODE}.nodes.planner_node"]


def _start_once(model: Path, environment: Mapping[str, str]) -> float:
    """Seconds of one start, in that environment; its KV cache is an empty folder, as at the first start."""
    import rclpy
    from lifecycle_msgs.msg import State
    from lifecycle_msgs.srv import GetState
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("smallplan_bench", context=context, use_global_arguments=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = node.create_client(GetState, f"/{NODE}/get_state")
        with tempfile.TemporaryDirectory(prefix="smallplan-bench-") as folder:
            parameters = {"policy": "slm", "model_path": str(model.resolve()), "cache_folder": folder}
            file = Path(folder) / "planner.yaml"
            file.write_text(yaml.safe_dump({NODE: {"ros__parameters": parameters}}), encoding="utf-8")
            command = [*planner_command(), "--ros-args", "--params-file", str(file)]
            with ProcessGroup(Path(folder) / "logs", environment) as processes:
                begun = time.perf_counter()
                processes.start(NODE, command)
                while time.perf_counter() - begun < _PATIENCE:
                    processes.check()
                    future = client.call_async(GetState.Request())
                    executor.spin_until_future_complete(future, timeout_sec=_ASK_AGAIN)
                    if future.done() and future.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                        return time.perf_counter() - begun
                    client.remove_pending_request(future)  # an answer is lost while the two don't know each other
                    time.sleep(_LOOK)
                raise UserError(
                    f"the planner was not active within {_PATIENCE:.0f} s; it says: {processes.tail(NODE, 3)}"
                )
    except ProcessDied as error:
        raise UserError(str(error)) from error
    finally:
        rclpy.try_shutdown(context=context)  # ends node and executor with it
