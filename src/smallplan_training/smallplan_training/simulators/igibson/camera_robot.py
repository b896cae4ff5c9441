"""The robot of the embedded simulator with a body in iGibson: it plans and acts alike, but drives and looks there."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.scene_graph import Pose
from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.perception import Cell, Perception
from smallplan_training.simulators.house.raster import ROBOT_RADIUS
from smallplan_training.simulators.house.robot import SimulatedRobot
from smallplan_training.simulators.igibson.camera_perception import CameraPerception
from smallplan_training.simulators.igibson.client import IGibsonClient
from smallplan_training.simulators.igibson.scenes import EpisodeScene

FULL_TURN_FRAMES = 4
OPEN_ENOUGH = 0.3
"""Share of a leaf's way from which the robot looks inside, or goes through."""


class CameraRobot(SimulatedRobot):
    """A robot whose episode has begun in `client`'s worker, at `start`.

    The other arguments, and what is raised, are those of `SimulatedRobot`.
    """

    def __init__(
        self,
        client: IGibsonClient,
        scene: EpisodeScene,
        start: Pose,
        seed: int = 0,
        failure_rate: float = 0.0,
        radius: float = ROBOT_RADIUS,
    ) -> None:
        self._client, self._scene, self.radius = client, scene, radius
        super().__init__(scene.house, start, seed, failure_rate, scene.raster)
        self.picture: NDArray[np.uint8] | None = None
        """(H, W, 3) RGB, what the camera showed last in the direction of travel."""

    def _new_perception(self, start: Cell) -> Perception:
        self._camera_perception = CameraPerception(self.state, start, self._scene.thing_of, self._scene.door_of)
        return self._camera_perception

    def _travel(self, points: NDArray[np.float64]) -> int:
        return self._client.drive(points[1:] + np.array(self._scene.start))

    def _turn(self, yaw: float) -> int:
        self._client.turn(yaw)
        return super()._turn(yaw)

    def _look(self, angle: float) -> None:
        count = FULL_TURN_FRAMES if angle >= sensing.FULL_TURN else 1
        yaws = [self.pose.yaw + 2 * math.pi * number / count for number in range(count)]
        frames = self._client.look(yaws, picture=True)
        self._camera_perception.look_at(frames, yaws)
        if frames.pictures is not None:
            self.picture = frames.pictures[0]

    def _swing(self, furniture: int | None, door: int | None, opening: bool) -> bool:
        return self._client.move(self._scene.leaf_of(furniture, door), opening) >= OPEN_ENOUGH
