"""The launch files describe and do what they promise. Needs `launch_ros`, which only a ROS 2 installation has."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not on PyPI; source a ROS 2 to test the launch files")
pytest.importorskip("ros2launch", reason="the command `ros2 launch` is not on PyPI; source a ROS 2 to test with it")
launch = pytest.importorskip("launch")

from fixtures.ros_world import Process, World, wait_until  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "launch"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.split(".")[0], FOLDER / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared(name: str) -> set[str]:
    description = load(name).generate_launch_description()
    return {argument.name for argument in description.get_launch_arguments()}


def context_of(name: str, **values: str) -> Any:
    """What `ros2 launch` knows when it has read the arguments."""
    context = launch.LaunchContext()
    context.launch_configurations.update(values)
    for argument in load(name).generate_launch_description().get_launch_arguments():
        argument.execute(context)
    return context


@contextmanager
def launched(world: World, name: str, *arguments: str) -> Iterator[Process]:
    """A launch file at work, as `ros2 launch` has it."""
    process = world.start("fixtures.ros2", command=("launch", str(FOLDER / name), *arguments))
    try:
        yield process
    finally:
        process.stop()


def test_planner_arguments() -> None:
    assert declared("planner.launch.py") >= {"params_file", "namespace", "model_path", "use_sim_time", "log_level"}


def test_demo_arguments() -> None:
    assert declared("demo.launch.py") >= {"namespace", "house", "seed", "target", "speed", "model_path"}


def test_the_planner_starts_the_installed_executable() -> None:
    (node,) = load("planner.launch.py").planner_node(context_of("planner.launch.py"))
    assert (node.node_package, node.node_executable) == ("smallplan_planner", "planner_node")


def test_a_missing_parameters_file_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"params_file is '/nowhere\.yaml'"):
        load("planner.launch.py").planner_node(context_of("planner.launch.py", params_file="/nowhere.yaml"))


def test_the_demo_searches_and_ends_with_a_signal(world: World, tmp_path: Path) -> None:
    parameters = tmp_path / "greedy.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    policy: greedy\n", encoding="utf-8")
    with launched(world, "demo.launch.py", f"params_file:={parameters}", "seed:=3", "speed:=0") as demo:
        wait_until(lambda: world.state() == "active" or not demo.running, 60.0, "the planner being active")
        assert demo.running, demo.output
        wait_until(lambda: "target" in demo.output, 60.0, "the simulated robot")
        search = world.search("mug", max_steps=2)
        assert search.result(60.0).steps == 2
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0
    assert demo.output.count("process has finished cleanly") == 2, demo.output
    assert "Traceback" not in demo.output


def test_the_demo_ends_when_its_house_does_not_exist(world: World) -> None:
    with launched(world, "demo.launch.py", "house:=/nowhere.json") as demo:
        demo.wait(60.0)
    assert "/nowhere.json: can't be read" in demo.output
    assert "[planner_node-2]: process has finished cleanly" in demo.output
