"""Children end with their parent on every way out; the ROS environment is private unless it is set."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fixtures.lives import await_end, lives
from smallplan_training.processes import ProcessDied, ProcessGroup, Terminated, free_domain, ros_environment

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    *(sys.executable, "-S", "-c"),
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)",
]


def wait_for_text(path: Path) -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if path.is_file() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.02)
    raise AssertionError(f"nothing was written to {path}")


def test_children_end_on_leaving(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, os.environ) as group:
        group.start("sleeper", SLEEP)
        wait_for_text(tmp_path / "sleeper.log")
        group.check()
        pid = group._children["sleeper"].pid
        assert lives(pid)
    assert not lives(pid)


def test_children_end_on_an_exception_with_their_own_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smallplan_training import processes

    monkeypatch.setattr(processes, "_SIGNALS", ((signal.SIGINT, 0.3), (signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0)))
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path, os.environ) as group:
        group.start("stubborn", STUBBORN)
        grandchild = int(wait_for_text(tmp_path / "stubborn.log"))
        raise KeyboardInterrupt
    await_end(grandchild)


def test_a_child_that_dies_is_noticed_with_its_last_words(tmp_path: Path) -> None:
    expected = pytest.raises(ProcessDied, match=r"(?s)broken ended with code 3.*no such house")
    with expected, ProcessGroup(tmp_path, os.environ) as group:
        group.start("broken", [sys.executable, "-S", "-c", "print('no such house'); raise SystemExit(3)"])
        until = time.monotonic() + 20
        while time.monotonic() < until:
            group.check()
            time.sleep(0.02)


def test_sigterm_becomes_an_exception_and_the_handler_is_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ProcessGroup(tmp_path, os.environ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from smallplan_training.processes import ProcessGroup
        with ProcessGroup(Path({str(tmp_path)!r}), os.environ) as group:
            group.start("sleeper", {SLEEP!r})
            print(group._children["sleeper"].pid, flush=True)
            time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait(timeout=20)
    parent.stdout.close()
    await_end(child)


def test_environment_is_private_unless_set() -> None:
    private = ros_environment({"PATH": "/bin"})
    assert private["PATH"] == "/bin"
    assert 1 <= int(private["ROS_DOMAIN_ID"]) <= 101
    assert private["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert ros_environment({"ROS_DISTRO": "humble"})["ROS_LOCALHOST_ONLY"] == "1"
    chosen = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    assert ros_environment(chosen) == chosen


def test_a_domain_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from smallplan_training import processes

    domain = free_domain()
    monkeypatch.setattr(processes, "_DOMAINS", [domain])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7400 + 250 * domain))
        with pytest.raises(RuntimeError, match="ROS_DOMAIN_ID"):
            free_domain()
