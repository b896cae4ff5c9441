"""The launch files: what they declare and start, where launch_ros is there to read them."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from smallplan_planner.resources import resource

LAUNCH_FILES = sorted(resource("launch", "").glob("*.launch.py"))
NODES = {
    "planner_node": "smallplan_planner.nodes.planner_node",
    "sim_node": "smallplan_training.simulators.house.sim_node",
}


def name_of(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_every_executable_exists(path: Path) -> None:
    """Read without launch: each `executable=` is a node of this project with a `main`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [
        keyword.value.value
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "executable" and isinstance(keyword.value, ast.Constant)
    ]
    includes = "IncludeLaunchDescription" in path.read_text(encoding="utf-8")
    assert found or includes
    for executable in found:
        spec = find_spec(NODES[executable])
        assert spec is not None and spec.origin is not None
        assert "def main(" in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_launch_reads_it(path: Path) -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (it is not on PyPI); it comes with a ROS 2")
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(path))
    arguments = description.get_launch_arguments()
    assert {"namespace", "model_path", "params_file"} <= {argument.name for argument in arguments}
    context = LaunchContext()
    for argument in arguments:
        argument.visit(context)
    entities = [entity for item in description.entities for entity in (item.visit(context) or [item])]
    assert any("Node" in type(entity).__name__ or "Include" in type(entity).__name__ for entity in entities)
