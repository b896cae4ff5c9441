"""Child processes that end with their parent, and the ROS environment that they share.

Each child has a process group of its own and is ended by SIGINT, then SIGTERM, then SIGKILL, each with a bound;
on Linux the kernel ends it also when the parent dies without a word.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0))  # and s to wait after each
_PR_SET_PDEATHSIG = 1
_DOMAINS = range(1, 102)  # DDS: higher ones use ports that Linux hands out to others


class ProcessDied(RuntimeError):
    """A child has ended before it was told to; the message holds the end of what it wrote."""


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that every `with` on the way out is left in order."""


class ProcessGroup:
    """Starts children and ends all of them on leaving the `with` block. Output goes to files in `logs`."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._previous: signal.Handlers | object = None

    def __enter__(self) -> ProcessGroup:
        self._logs.mkdir(parents=True, exist_ok=True)
        atexit.register(self.end)
        self._previous = signal.signal(signal.SIGTERM, _raise_terminated)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        atexit.unregister(self.end)
        signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child; its output goes to `<logs>/<name>.log`."""
        with self._log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def check(self) -> None:
        """Raise `ProcessDied` when a child has ended."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                raise ProcessDied(
                    f"{name} ended with code {code}; the end of {self._log(name)}:\n  {self.tail(name, 8)}"
                )

    def tail(self, name: str, lines: int) -> str:
        """The last lines that a child wrote."""
        written = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n  ".join(written[-lines:]) or "it wrote nothing"

    def end(self) -> None:
        """End all children; returns when they are gone. May be called again."""
        for number, patience in _SIGNALS:
            for child in self._children.values():
                _signal_group(child, number)
            until = time.monotonic() + patience
            while time.monotonic() < until and any(_group_lives(child) for child in self._children.values()):
                time.sleep(0.02)
        self._children.clear()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def ros_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a free domain and discovery on this machine only, unless they are set already."""
    result = dict(environment)
    result.setdefault("ROS_DOMAIN_ID", str(free_domain()))
    if result.get("ROS_DISTRO") == "humble":
        result.setdefault("ROS_LOCALHOST_ONLY", "1")
    else:
        result.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return result


def free_domain() -> int:
    """A ROS domain that nobody on this machine uses, as far as its ports tell; chosen at random.

    Raises RuntimeError when all are taken.
    """
    domains = list(_DOMAINS)
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        base = 7400 + 250 * domain  # RTPS 2.2, 9.6.1.1: discovery multicast; the first participant's own are 10 and 11
        if all(_is_free(base + offset) for offset in (0, 10, 11)):
            return domain
    raise RuntimeError("no free ROS domain was found; set ROS_DOMAIN_ID")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    child.poll()
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # gone; PermissionError: on some systems, only zombies are left
        return


def _group_lives(child: subprocess.Popen[bytes]) -> bool:
    child.poll()  # reaps it
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def die_with_parent() -> None:
    """Have Linux end this process when the thread that started it ends, however it does; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
