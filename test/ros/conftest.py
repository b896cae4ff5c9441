"""Real nodes in processes of their own, spoken to over DDS on this machine alone."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`, or source one")
pytest.importorskip("smallplan_msgs", reason="needs the built messages: run `make setup`")


def free_domain() -> int:
    """A ROS domain that nobody on this machine uses now (up to 101: the ports above belong to others)."""
    for domain in random.sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
            try:
                first.bind(("", 7410 + 250 * domain))  # the unicast discovery port of a domain's first participant
            except OSError:
                continue
        return domain
    raise RuntimeError("no free ROS domain")


@pytest.fixture(scope="session", autouse=True)
def localhost_only() -> None:
    """Discovery stays on this machine, for this process and its children."""
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.pop("ROS_LOCALHOST_ONLY", None)


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Planners keep their KV caches in a folder of the tests, not in the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, localhost_only: None) -> Iterator[object]:
    """A `World` in a domain of its own; its nodes and processes end with the module."""
    from fixtures.ros_world import World

    with World(free_domain(), tmp_path_factory.mktemp("ros")) as made:
        yield made


@pytest.fixture(autouse=True)
def own_planners(request: pytest.FixtureRequest) -> Iterator[None]:
    """No planner outlives the test that started it, a failing one either: the next test's would not be alone."""
    planners = request.getfixturevalue("world").planners if "world" in request.fixturenames else []
    before = len(planners)
    yield
    for planner in planners[before:]:
        planner.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that answers within a fraction of a second."""
    return _write_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights that takes seconds to answer."""
    return _write_model(tmp_path_factory.mktemp("models") / "slow.gguf", dim=768, layers=8, heads=12, hidden=2048)


def _write_model(path: Path, **size: int) -> Path:
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: run `make setup`")
    pytest.importorskip("sentencepiece", reason="needs sentencepiece to write a model")
    from fixtures.tiny_gguf import write_tiny_gguf

    write_tiny_gguf(path, **size)
    return path
