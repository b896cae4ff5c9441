"""The demo as a user runs it: real processes, real DDS, real pictures, and nothing left behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from smallplan_planner.resources import DEFAULT_MODEL, resource

TIMEOUT = 400  # s, on a machine that is busy with other things


def command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "smallplan_training.cli", "demo", "--output", str(output), *arguments]


def policy() -> str:
    """The model plans where it is there."""
    try:
        resource("models", DEFAULT_MODEL)
    except FileNotFoundError:
        return "greedy"
    return "slm"


def left_behind(output: Path) -> list[str]:
    """Command lines of processes that the demo has started: they name a file in its output folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(output) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def test_the_demo_finds_its_target_and_draws_it(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    done = subprocess.run(
        command(output, "--policy", policy(), "--speed", "0"), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert re.fullmatch(r"found [\w -]+ in [\w -]+ · \d+ actions? · \d+\.\d m \(shortest \d+\.\d m\)", lines[-1]), (
        lines[-1]
    )
    commands = [line for line in lines if re.match(r"\s*\d+  \w+\(", line)]
    outcomes = [line for line in lines if "→" in line]
    steps = int(re.search(r"(\d+) action", lines[-1])[1])  # type: ignore[index]
    assert "done()" in commands[-1]
    assert len(commands) >= steps + 1 and len(outcomes) >= steps
    assert float(re.search(r"· ([\d.]+) m \(", lines[-1])[1]) > 0  # type: ignore[index]
    with Image.open(output / "episode.png") as picture:
        picture.load()
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 50
    with Image.open(output / "episode.gif") as animation:
        assert animation.n_frames > steps
    assert left_behind(output) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(number: signal.Signals, code: int, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    process = subprocess.Popen(
        command(output, "--policy", "greedy", "--speed", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    )
    watchdog = threading.Timer(TIMEOUT, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        heard = []
        for line in process.stdout:
            heard.append(line)
            if re.match(r"\s*1  \w+\(", line):  # the robot is under way
                break
        assert left_behind(output), "".join(heard)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    until = time.monotonic() + 5
    while left_behind(output) and time.monotonic() < until:
        time.sleep(0.1)
    assert left_behind(output) == []


def test_a_target_that_the_house_lacks_is_said_at_once(tmp_path: Path) -> None:
    arguments = command(tmp_path / "demo", "--policy", "greedy", "--target", "zeppelin")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 2
    assert "zeppelin" in done.stderr and "Traceback" not in done.stderr


def test_a_broken_model_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF")
    arguments = command(tmp_path / "demo", "--model", str(model))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 2
    assert "broken.gguf is truncated" in done.stderr and "Traceback" not in done.stderr
    assert left_behind(tmp_path / "demo") == []
