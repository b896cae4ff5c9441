"""Which planner is started, and what is said where none can be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smallplan_training import bench_startup
from smallplan_training.errors import UserError


def test_the_installed_executable_is_started_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{tmp_path}")
    assert bench_startup.planner_command() == [sys.executable, "-m", "smallplan_planner.nodes.planner_node"]
    executable = tmp_path / "lib" / "smallplan_planner" / "planner_node"
    executable.parent.mkdir(parents=True)
    executable.touch()
    assert bench_startup.planner_command() == [str(executable)]


def test_without_ros_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_startup, "has_messages", lambda: False)
    with pytest.raises(UserError, match="needs ROS 2 and the built messages"):
        bench_startup.measure_startup(Path("model.gguf"))
