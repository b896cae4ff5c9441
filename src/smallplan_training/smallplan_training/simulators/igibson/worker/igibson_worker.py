"""The worker's requests, carried out by iGibson: load a scene, begin an episode, drive, look, open and close.

| request | fields, arrays | answer |
|---|---|---|
| `load` | scene, width, height, field_of_view, pitch | `loaded`: robot, radius, objects |
| `reset` | objects to place, pose | `ready`: placed, joints |
| `drive` | waypoints (N, 2) | `driven`: reached, pose, contact |
| `turn` | yaw | `turned`: pose |
| `look` | yaws, picture | `frames`: instances, joints; depth, ids, cameras (K, 4, 4), intrinsics, pictures |
| `move` | object, opening | `moved`: share, joints |

Metres and radians, in the scene's frame. See `camera.py` for frames, `scene.py` for objects and joints.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from .camera import Camera
from .protocol import Message
from .robots import Robot, make_robot
from .scene import SceneInPhysics
from .server import RequestError, serve_from_stdin

log = logging.getLogger(__name__)


class IGibsonWorker:
    """One scene, one robot. Everything but `load` needs a loaded scene."""

    def __init__(self) -> None:
        self._loaded: tuple[SceneInPhysics, Robot, Camera] | None = None

    def load(self, request: Message) -> Message:
        """Load a scene; a process loads one, once."""
        if self._loaded is not None:
            raise RequestError("a scene is loaded already; start another worker for another scene")
        fields, begin = request.fields, time.perf_counter()
        camera = Camera(int(fields["width"]), int(fields["height"]), float(fields["field_of_view"]))
        scene = SceneInPhysics(str(fields["scene"]), camera.new_simulator())
        robot = make_robot(scene.simulator)
        camera.attach(scene, robot, float(fields["pitch"]))
        self._loaded = scene, robot, camera
        seconds = time.perf_counter() - begin
        log.info("%s with %s was loaded in %.1f s", fields["scene"], robot.name, seconds)
        return Message(
            "loaded",
            {"robot": robot.name, "radius": robot.radius, "objects": scene.describe(), "seconds": seconds},
        )

    def reset(self, request: Message) -> Message:
        """Put everything where it was, place an episode's objects, let them settle, put the robot at its start."""
        scene, robot, _ = self._ready()
        x, y, yaw = (float(value) for value in request.fields["pose"])
        robot.leave()
        scene.restore()
        placed = scene.place(request.fields["objects"])
        robot.put(x, y, yaw)
        return Message("ready", {"placed": placed, "joints": scene.joints()})

    def drive(self, request: Message) -> Message:
        """Along waypoints in steps of 0.1 m; ends before the step that would run into something."""
        scene, robot, _ = self._ready()
        waypoints = np.asarray(request.arrays["waypoints"], dtype=float).reshape(-1, 2)
        if not np.isfinite(waypoints).all():
            raise RequestError("a waypoint is not finite")
        reached, contact = robot.drive(waypoints, scene)
        return Message("driven", {"reached": reached, "pose": robot.pose, "contact": contact})

    def turn(self, request: Message) -> Message:
        _, robot, _ = self._ready()
        robot.turn(float(request.fields["yaw"]))
        return Message("turned", {"pose": robot.pose})

    def look(self, request: Message) -> Message:
        """Frames of the head camera in these directions, from where the robot stands."""
        scene, _, camera = self._ready()
        arrays, instances = camera.look(
            [float(yaw) for yaw in request.fields["yaws"]], bool(request.fields.get("picture", False))
        )
        return Message("frames", {"instances": instances, "joints": scene.joints()}, arrays)

    def move(self, request: Message) -> Message:
        """Open or close an object by all of its joints; `share` is how much of the way they went, 0 to 1."""
        scene, robot, _ = self._ready()
        share = scene.move(str(request.fields["object"]), bool(request.fields["opening"]), robot.body)
        return Message("moved", {"share": share, "joints": scene.joints()})

    def _ready(self) -> tuple[SceneInPhysics, Robot, Camera]:
        if self._loaded is None:
            raise RequestError("no scene is loaded yet")
        return self._loaded


def main() -> int:
    """The worker process; returns its exit code."""
    worker = IGibsonWorker()
    kinds = ("load", "reset", "drive", "turn", "look", "move")
    return serve_from_stdin({kind: getattr(worker, kind) for kind in kinds})
