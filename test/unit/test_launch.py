"""The launch files describe what they promise. What `launch_ros` has to read is skipped where there is none."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "launch"
NODES = {
    "planner_node": "smallplan_planner.nodes.planner_node",
    "sim_node": "smallplan_training.simulators.house.sim_node",
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.launch.py")), ids=lambda path: path.name)
def test_every_executable_exists(path: Path) -> None:
    """Read without launch: each `executable=` is a node of this project with a `main`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [
        keyword.value.value
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "executable" and isinstance(keyword.value, ast.Constant)
    ]
    assert found
    for executable in found:
        spec = importlib.util.find_spec(NODES[executable])
        assert spec is not None and spec.origin is not None
        assert "def main(" in Path(spec.origin).read_text(encoding="utf-8")


@pytest.fixture
def launch() -> Any:
    pytest.importorskip("launch_ros", reason="launch_ros is not on PyPI; source a ROS 2 to test the launch files")
    return pytest.importorskip("launch")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.split(".")[0], FOLDER / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planner_nodes(launch: Any, **values: str) -> list[Any]:
    """What `ros2 launch` starts when it is given these arguments."""
    module, context = load("planner.launch.py"), launch.LaunchContext()
    context.launch_configurations.update(values)
    for argument in module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    return module.planner_node(context)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("planner.launch.py", {"params_file", "namespace", "model_path", "use_sim_time", "log_level"}),
        ("demo.launch.py", {"params_file", "namespace", "model_path", "house", "seed", "target", "speed", "log_level"}),
    ],
)
def test_arguments(launch: Any, name: str, arguments: set[str]) -> None:
    description = load(name).generate_launch_description()
    assert {argument.name for argument in description.get_launch_arguments()} >= arguments


def test_the_planner_starts_the_installed_executable(launch: Any) -> None:
    (node,) = planner_nodes(launch)
    assert (node.node_package, node.node_executable) == ("smallplan_planner", "planner_node")


def test_a_missing_parameters_file_is_refused(launch: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"params_file is '/nowhere\.yaml'"):
        planner_nodes(launch, params_file="/nowhere.yaml")
