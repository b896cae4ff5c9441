"""The launch files describe what they promise. Needs `launch_ros`, which only a ROS 2 installation has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not on PyPI; source a ROS 2 to test the launch files")
launch = pytest.importorskip("launch")

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


def test_planner_arguments() -> None:
    assert declared("planner.launch.py") >= {"params_file", "namespace", "model_path", "use_sim_time", "log_level"}


def test_demo_arguments() -> None:
    assert declared("demo.launch.py") >= {"namespace", "house", "seed", "target", "speed", "model_path"}


def test_the_planner_starts_the_installed_executable() -> None:
    module = load("planner.launch.py")
    context = launch.LaunchContext()
    for argument in module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    (node,) = module.planner_node(context)
    assert (node.node_package, node.node_executable) == ("smallplan_planner", "planner_node")
