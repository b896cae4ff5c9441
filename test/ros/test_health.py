"""The planner's health, asked over DDS by the command, and by the container's script beside a real node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.ros_world import World, wait_until
from smallplan_planner.nodes.health import PLANNER, check_health

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_is_left_running(world: World) -> Iterator[None]:
    yield
    world.stop_processes()


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A folder like /opt/smallplan in an image, made of this workspace."""
    if not (ROOT / "install" / "local_setup.bash").is_file():
        pytest.skip("the workspace is not built (make setup)")
    for name in (".venv", "docker", "install/lib"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    # Sources first, as in scripts/env.sh: links to modules that are newer than the build are not there yet.
    sources = os.pathsep.join(path for path in sys.path if path)
    (tmp_path / "install" / "local_setup.bash").write_text(
        f'. "{ROOT}/install/local_setup.bash"\nexport PYTHONPATH="{sources}:$PYTHONPATH"\n'
    )
    return tmp_path


def run_script(world: World, container: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A script of the container, with what ROS 2's own set-up file would set in its environment."""
    setup = container / "ros.bash"
    prefix = os.environ.get("AMENT_PREFIX_PATH") or str(ROOT / ".venv")
    setup.write_text(f'export AMENT_PREFIX_PATH="{prefix}"\n')
    environment = {
        **os.environ,
        "SMALLPLAN_ROS_SETUP": str(setup),
        "ROS_DOMAIN_ID": str(world.domain),
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(container / "docker" / "fastdds_udp.xml"),
    }
    script = container / "docker" / name
    return subprocess.run([script, *words], env=environment, capture_output=True, text=True, timeout=120)


def test_health_follows_the_lifecycle(world: World) -> None:
    world.start_planner("unconfigured", autostart=False)
    health = check_health(timeout=20.0, domain_id=world.domain)
    assert (health.state, health.active) == ("unconfigured", False)
    assert world.change_state("configure") and world.change_state("activate")
    health = check_health(timeout=20.0, domain_id=world.domain)
    assert (health.state, health.active, health.detail) == ("active", True, "")
    assert world.change_state("deactivate")
    assert check_health(timeout=20.0, domain_id=world.domain).state == "inactive"


def test_a_planner_that_failed_says_why(world: World) -> None:
    world.start_planner("unconfigured", policy="slm", model_path="/does/not/exist.gguf")
    health = check_health(timeout=20.0, domain_id=world.domain)
    assert not health.active
    assert "/does/not/exist.gguf does not exist" in health.detail


def test_nobody_there_is_known_in_time(world: World) -> None:
    health = check_health("/robot7/smallplan_planner", 1.0, domain_id=world.domain)
    assert (health.state, health.active) == ("", False)
    assert "/robot7/smallplan_planner does not answer: no such node within 1 s" in str(health)
    with pytest.raises(ValueError, match="timeout is 0"):
        check_health(PLANNER, 0.0)


def test_the_containers_scripts_beside_a_real_planner(world: World, container: Path) -> None:
    """Fast DDS speaks UDP alone here, as in the container, and shared memory too in the planner's process."""
    dead = run_script(world, container, "health.sh", "--timeout", "1")
    assert dead.returncode == 1 and "does not answer" in dead.stdout, dead.stderr
    planner = world.start_planner()
    alive = run_script(world, container, "health.sh", "--timeout", "20")
    assert (alive.stdout, alive.returncode) == ("/smallplan_planner is active\n", 0), alive.stderr
    planner.stop()
    wait_until(lambda: world.state() == "", what="the planner's end")
    checked = run_script(world, container, "check_image.sh", str(os.getuid()))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout == "-- /smallplan_planner is active\n"
