"""The adapter's side of a worker process: start it, ask it, notice when it is gone.

    with IGibsonClient(scene, camera) as client:
        placed = client.begin(objects, pose)
        frames = client.look([0.0])

A worker that dies, or does not answer in time, raises `WorkerDied`, which names the file with what it wrote; the next
call starts another one. What would fail again raises an error that ends the run: `WorkerBroken` when no worker
can be had at all, `WorkerRefused` for a request that it refuses.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.resources import oldest_first, user_cache
from smallplan_training.errors import UserError
from smallplan_training.simulators.igibson.worker import protocol
from smallplan_training.simulators.igibson.worker.protocol import Channel, ConnectionClosed, Message, ProtocolError
from smallplan_training.simulators.search_env import EpisodeLost

log = logging.getLogger(__name__)

WORKER_SCRIPT = Path(__file__).resolve().parent / "worker" / "__main__.py"
START_TIMEOUT = 120.0
"""s until a worker has connected; it imports iGibson first."""
LOAD_TIMEOUT = 900.0
REQUEST_TIMEOUT = 180.0
_GRACE = 5.0  # s for a worker to end by itself
_POLL = 0.1
_TAIL = 6  # lines of its log in an error
_KEPT_LOGS = 20
_numbers = itertools.count(1)


class WorkerDied(EpisodeLost):
    """The worker has ended, does not answer, or speaks another protocol."""


class WorkerBroken(UserError):
    """No worker can be had: what it runs in is broken, and another try would end alike."""


class WorkerRefused(UserError):
    """The worker says that it can't do what it was asked for: another try would end alike."""


@dataclass(frozen=True)
class WorkerCommand:
    """How a worker is started: the Python of its environment, the script, and its environment variables."""

    python: Path
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    script: Path = WORKER_SCRIPT


@dataclass(frozen=True)
class CameraConfig:
    """The head camera: pixels, and rad. It is bent down so that it sees the floor right before the robot.

    A little wider than the 120 degrees that count, since a camera that is bent down sees less at the horizon.
    """

    width: int = 320
    height: int = 240
    field_of_view: float = 2.182  # 125 degrees
    pitch: float = 0.436  # 25 degrees


@dataclass(frozen=True)
class Frames:
    """What the camera has seen, one frame for each direction; see the worker's `camera.py`."""

    depth: NDArray[np.float32]  # (K, H, W) m along the optical axis, 0 = nothing
    ids: NDArray[np.uint16]  # (K, H, W)
    cameras: NDArray[np.float64]  # (K, 4, 4) camera (x right, y down, z forward) to scene
    intrinsics: NDArray[np.float64]  # (4,) fx, fy, cx, cy in pixels
    names: Mapping[int, str]  # object by instance id
    categories: Mapping[str, str]  # semantic class by object
    joints: Mapping[str, Mapping[str, float]]  # positions by object and joint, rad or m
    pictures: NDArray[np.uint8] | None = None  # (K, H, W, 3) RGB


class Worker:
    """One worker process and the channel to it.

    Raises: WorkerDied: it did not connect; WorkerBroken: it can't be started, or ends by itself before it connects;
        UserError: there can be no socket in the folder for temporary files.
    """

    def __init__(self, command: WorkerCommand, log_file: Path, start_timeout: float = START_TIMEOUT) -> None:
        self.log_file = log_file
        folder = Path(tempfile.mkdtemp(prefix="smallplan-"))  # only this user may enter it
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(listener, folder / "worker")
            secret = secrets.token_hex(32)
            self._process = _start(command, log_file)
            self._tell(str(folder / "worker"), secret)
            try:
                self._channel = self._accept(listener, secret, start_timeout)
            except BaseException:
                self._end()
                raise
        finally:
            listener.close()
            shutil.rmtree(folder, ignore_errors=True)

    def request(
        self,
        kind: str,
        fields: Mapping[str, Any] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Message:
        """Ask and wait for the answer. Raises `WorkerDied`, after which it is gone, and `WorkerRefused`."""
        try:
            self._channel.send(Message(kind, fields or {}, arrays or {}), timeout)
            answer = self._channel.receive(timeout)
        except ProtocolError as error:
            if isinstance(error, ConnectionClosed):  # its exit code comes a moment later
                self._wait(_GRACE)
            self._channel.close()
            raise self._died(f"while it was to {kind}: {error}") from error
        if answer.kind == "error":
            raise WorkerRefused(f"the worker can't {kind}: {answer.fields.get('message')} (its log: {self.log_file})")
        return answer

    def close(self) -> None:
        """Hang up and wait until it has ended; it is killed if it doesn't. May be called again."""
        self._channel.close()
        self._wait(_GRACE)
        self._end()

    def _tell(self, address: str, secret: str) -> None:
        """Where to connect; not on the command line, which every user of the machine can read."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(json.dumps({"socket": address, "secret": secret}).encode() + b"\n")

    def _accept(self, listener: socket.socket, secret: str, timeout: float) -> Channel:
        listener.settimeout(_POLL)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(socket.timeout):
                connection, _ = listener.accept()
                try:
                    return protocol.accept(connection, secret)
                except ProtocolError as error:
                    raise self._died(f"in the handshake: {error}") from error
            if self._process.poll() is not None:
                died = self._died("before it connected")
                if self._process.returncode > 0:  # of its own accord
                    raise WorkerBroken(f"{died}\n`make igibson` checks its environment")
                raise died
        raise self._died(f"it did not connect within {timeout:.0f} s")

    def _died(self, when: str) -> WorkerDied:
        code = self._process.poll()
        self._end()
        how = "was ended" if code is None else f"ended with code {code}"
        return WorkerDied(f"the worker {how} {when}. The end of its log {self.log_file}:\n  {_tail(self.log_file)}")

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


class IGibsonClient:
    """A worker with one scene, started when it is first needed and again after it died.

    `scene`: what the data set that the worker's environment names calls it.
    """

    def __init__(self, command: WorkerCommand, scene: str, camera: CameraConfig | None = None) -> None:
        self._command, self._scene, self._camera = command, scene, camera or CameraConfig()
        self._worker: Worker | None = None
        self.robot_radius = 0.0
        """m; known once a worker runs."""
        self.objects: tuple[Mapping[str, Any], ...] = ()
        """What the scene consists of: name, category, rooms, position, size, yaw, joints; known once a worker runs."""

    def __enter__(self) -> IGibsonClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start a worker that has loaded the scene, unless one runs."""
        if self._worker is not None:
            return
        worker = Worker(self._command, _new_log())
        try:
            camera = self._camera
            loaded = worker.request(
                "load",
                {
                    "scene": self._scene,
                    "width": camera.width,
                    "height": camera.height,
                    "field_of_view": camera.field_of_view,
                    "pitch": camera.pitch,
                },
                timeout=LOAD_TIMEOUT,
            )
        except BaseException:
            worker.close()
            raise
        self.robot_radius, self.objects = float(loaded.fields["radius"]), tuple(loaded.fields["objects"])
        log.info("%s: %s", self._scene, worker.log_file)
        self._worker = worker

    def begin(
        self, objects: Sequence[Mapping[str, Any]], pose: tuple[float, float, float]
    ) -> dict[str, tuple[float, float, float]]:
        """Begin an episode: the scene as it was, these objects in it, the robot at `pose` (x, y, yaw).

        Args: objects: each with `name`, `category`, `position` (centre), `size`, `yaw`, `fixed` (it hangs there).
        Returns: where each object has come to rest.
        """
        answer = self._ask("reset", {"objects": list(objects), "pose": list(pose)})
        placed = answer.fields["placed"]
        held = sum(bool(item["held"]) for item in placed.values())
        if held:
            log.info(
                "%s: %d of %d objects did not stay where they were put, and are held", self._scene, held, len(placed)
            )
        return {name: tuple(item["position"]) for name, item in placed.items()}

    def drive(self, waypoints: NDArray[np.float64]) -> int:
        """Along waypoints (N, 2); returns how many were reached."""
        answer = self._ask("drive", arrays={"waypoints": np.asarray(waypoints, dtype=float)})
        if answer.fields["contact"]:
            log.info("%s: the robot would have run into %s", self._scene, answer.fields["contact"])
        return int(answer.fields["reached"])

    def turn(self, yaw: float) -> None:
        """Turn the robot to a heading, rad."""
        self._ask("turn", {"yaw": yaw})

    def look(self, yaws: Sequence[float], picture: bool = False) -> Frames:
        """Frames in these directions, rad, from where the robot is."""
        answer = self._ask("look", {"yaws": list(yaws), "picture": picture})
        seen, arrays = answer.fields["instances"], answer.arrays
        return Frames(
            depth=arrays["depth"],
            ids=arrays["ids"],
            cameras=arrays["cameras"],
            intrinsics=arrays["intrinsics"],
            names={int(number): name for number, (name, _) in seen.items()},
            categories=dict(seen.values()),
            joints=answer.fields["joints"],
            pictures=arrays.get("pictures"),
        )

    def move(self, name: str, opening: bool) -> float:
        """Open or close an object by its joints; the share of the way that they went, 0 to 1 (0: it has none)."""
        return float(self._ask("move", {"object": name, "opening": opening}).fields["share"])

    def close(self) -> None:
        """End the worker. May be called again; the next request starts another one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(
        self, kind: str, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> Message:
        self.start()
        assert self._worker is not None
        try:
            return self._worker.request(kind, fields, arrays)
        except WorkerDied:
            self._worker = None
            raise


def _start(command: WorkerCommand, log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("wb") as output:
        try:
            return subprocess.Popen(
                [str(command.python), str(command.script)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(command.environ),
                start_new_session=True,  # Ctrl-C ends this process, which hangs up
            )
        except OSError as error:
            raise WorkerBroken(
                f"the worker can't be started: {error}; `make igibson` checks its environment"
            ) from error


def _bind(listener: socket.socket, path: Path) -> None:
    try:
        listener.bind(str(path))
    except OSError as error:  # such a path has at most about a hundred bytes
        raise UserError(f"{path}: no socket can be made there: {error}; set TMPDIR to a folder like /tmp") from error
    listener.listen(1)


def _new_log() -> Path:
    """An empty file for what a worker writes; the oldest of those whose processes have ended are removed.

    Raises `UserError` where there can be none.
    """
    folder = user_cache() / "igibson" / "logs"
    path = folder / f"worker-{os.getpid()}-{next(_numbers)}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError as error:
        raise UserError(
            f"{path}: can't be written: {error.strerror}; set XDG_CACHE_HOME to a folder for caches"
        ) from error
    ended = [old for old in folder.glob("worker-*.log") if not _is_running(old)]
    for _, old in oldest_first(ended)[:-_KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return path


def _is_running(log: Path) -> bool:
    """Whether the process whose worker writes this log still runs."""
    return Path("/proc", log.name.split("-")[1]).exists()


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return f"(it can't be read: {error})"
    return "\n  ".join(lines[-_TAIL:]) or "(it is empty)"
