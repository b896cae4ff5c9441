"""`ros2 launch` at work. Needs `launch_ros` and `ros2launch`, which only a ROS 2 installation has."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

for module in ("launch_ros", "ros2launch"):
    pytest.importorskip(module, reason=f"{module} is not on PyPI; source a ROS 2 to test with `ros2 launch`")

from fixtures.ros_world import Process, World, wait_until  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "launch"


@contextmanager
def launched(world: World, name: str, *arguments: str) -> Iterator[Process]:
    """A launch file at work, as `ros2 launch` has it."""
    process = world.start("fixtures.ros2", command=("launch", str(FOLDER / name), *arguments))
    try:
        yield process
    finally:
        process.stop()


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
