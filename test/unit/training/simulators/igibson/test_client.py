"""The client and a real worker process: what it does when all is well, and when the worker is not."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson import client as client_module
from smallplan_training.simulators.igibson.client import (
    CameraConfig,
    IGibsonClient,
    Worker,
    WorkerBroken,
    WorkerCommand,
    WorkerDied,
    WorkerRefused,
)

from .boxes import CAMERA, command, make_client

START = (1.0, 2.0, 0.0)
MUG = {"name": "mug", "category": "mug", "position": [2.2, 3.4, 0.5], "size": [0.1] * 3, "yaw": 0.0, "fixed": False}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs go here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_frames_of_a_worker(two_rooms: House, tmp_path: Path) -> None:
    with make_client(two_rooms, tmp_path) as worker:
        assert worker.begin([MUG], START) == {"mug": (2.2, 3.4, 0.5)}
        assert worker.robot_radius == 0.25
        frames = worker.look([0.0, np.pi / 2], picture=True)
        assert frames.depth.shape == frames.ids.shape == (2, CAMERA.height, CAMERA.width)
        assert frames.pictures is not None and frames.pictures.shape == (2, CAMERA.height, CAMERA.width, 3)
        above, ahead = (frames.ids[0, row, CAMERA.width // 2] for row in (12, 40))
        assert frames.names[int(ahead)] == "middle"  # the door between the rooms
        assert above == 65535
        assert "mug" in {frames.names[int(number)] for number in np.unique(frames.ids[1])}
        assert frames.categories["table"] == "coffee table"
        assert worker.look([0.0]).pictures is None
        assert worker.drive(np.array([[1.5, 2.0], [2.0, 2.0]])) == 2
        assert worker.look([0.0]).cameras[0, 0, 3] == pytest.approx(2.0)
        assert worker.move("middle", opening=True) == 1.0


def test_a_worker_that_dies_is_told_with_its_log_and_started_anew(two_rooms: House, tmp_path: Path) -> None:
    once = tmp_path / "once"
    with make_client(two_rooms, tmp_path, {"kind": "look", "do": "die", "once": str(once)}) as worker:
        worker.begin([], START)
        with pytest.raises(WorkerDied, match=r"ended with code 7 while it was to look") as caught:
            worker.look([0.0])
        assert "the fault is die" in str(caught.value)  # the end of what it wrote, and the file that holds all of it
        log = next(word.rstrip(":") for word in str(caught.value).split() if word.startswith(str(tmp_path / "cache")))
        assert "the fault is die" in Path(log).read_text()
        worker.begin([], START)
        assert worker.look([0.0]).depth.any()


def test_a_worker_that_hangs_is_killed(two_rooms: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Worker(command(two_rooms, tmp_path, {"kind": "turn", "do": "hang"}), tmp_path / "log")
    with pytest.raises(WorkerDied, match="was ended while it was to turn: no answer in time"):
        started.request("turn", {"yaw": 0.0}, timeout=0.5)
    assert not _lives(started._process.pid)


def test_what_a_worker_refuses_is_an_error_and_it_goes_on(two_rooms: House, tmp_path: Path) -> None:
    assert issubclass(WorkerRefused, UserError)  # a line, not a traceback
    with pytest.raises(WorkerRefused, match="there is no scene 'Rs_int'"):
        IGibsonClient(command(two_rooms, tmp_path), "Rs_int").start()
    with make_client(two_rooms, tmp_path, {"kind": "turn", "do": "fail"}) as worker:
        worker.begin([], START)
        with pytest.raises(WorkerRefused, match=r"can't turn: ValueError: as it was told \(its log: "):
            worker.turn(1.0)
        assert worker.look([0.0]).depth.any()
    with pytest.raises(WorkerRefused, match="there is no request 'fly'"):
        Worker(command(two_rooms, tmp_path), tmp_path / "log").request("fly")


@pytest.mark.parametrize(
    ("script", "kind", "error"),
    [
        (
            "import sys; print('no igibson here'); sys.exit(3)",
            WorkerBroken,
            r"ended with code 3 before it connected.*no igibson here.*make igibson",
        ),
        ("import os; os.kill(os.getpid(), 9)", WorkerDied, "ended with code -9 before it connected"),
        ("import time; time.sleep(60)", WorkerDied, "did not connect within 1 s"),
    ],
)
def test_a_worker_that_does_not_start(tmp_path: Path, script: str, kind: type[Exception], error: str) -> None:
    (tmp_path / "script.py").write_text(script)
    started = WorkerCommand(Path(sys.executable), script=tmp_path / "script.py")
    with pytest.raises(kind, match=rf"(?s){error}"):
        Worker(started, tmp_path / "log", start_timeout=1.0 if "sleep" in script else 60.0)
    with pytest.raises(WorkerBroken, match="can't be started"):
        Worker(WorkerCommand(tmp_path / "nothing"), tmp_path / "log")


def test_a_worker_ends_with_its_adapter(two_rooms: House, tmp_path: Path) -> None:
    worker = make_client(two_rooms, tmp_path)
    worker.start()
    assert worker._worker is not None
    process = worker._worker._process
    worker.close()
    assert process.returncode == 0  # by itself
    worker.close()


def test_the_secret_is_neither_on_the_command_line_nor_in_the_environment(two_rooms: House, tmp_path: Path) -> None:
    told = []
    original = Worker._tell

    def tell(self: Worker, address: str, secret: str) -> None:
        told.append(secret)
        original(self, address, secret)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "_tell", tell)
        started = Worker(command(two_rooms, tmp_path), tmp_path / "log")
    process = Path("/proc") / str(started._process.pid)
    if not process.exists():
        pytest.skip("needs /proc")
    assert told[0].encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    started.close()


def test_old_logs_are_removed(cache: Path) -> None:
    for number in range(client_module._KEPT_LOGS + 5):
        path = client_module._new_log()
        path.write_text("")
        os.utime(path, (number, number))
    folder = cache / "smallplan" / "igibson" / "logs"
    assert len(list(folder.iterdir())) == client_module._KEPT_LOGS + 5, "this process, whose workers may write, runs"
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace(str(os.getpid()), "4194305")))  # no process has such a number
    mine = client_module._new_log()
    kept = list(folder.iterdir())
    assert mine in kept and len(kept) == client_module._KEPT_LOGS + 1


def test_where_a_worker_can_have_no_log_or_no_socket_the_remedy_is_told(
    two_rooms: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 100)
    long.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(long))
        with pytest.raises(UserError, match=r"no socket can be made there.* set TMPDIR"):
            Worker(command(two_rooms, tmp_path), tmp_path / "log")
    assert not any(long.iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"can't be written: .* set XDG_CACHE_HOME"):
        make_client(two_rooms, tmp_path).start()


def test_a_camera_must_make_sense() -> None:
    config = CameraConfig()
    assert np.degrees(config.field_of_view) >= 120  # what is seen counts within 120 degrees
    half_height = np.arctan(config.height / config.width * np.tan(config.field_of_view / 2))
    assert np.tan(np.pi / 2 - config.pitch - half_height) < 0.25  # m of floor before a robot of 0.25 m radius


def _lives(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True
