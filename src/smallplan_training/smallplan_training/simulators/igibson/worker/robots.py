"""The robots: Fetch where its assets are installed, otherwise a round base with a camera mast (`mobile_base.urdf`).

Both are moved as they are told, 0.1 m at a time, and stop before they run into something that stands firm; the
physics of wheels would say nothing about a search. The arm is not simulated: joints are moved by their motors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import igibson
import numpy as np
import pybullet as p
from igibson.simulator import Simulator

from .scene import SceneInPhysics

STEP = 0.1
"""m that the robot moves before physics catches up."""
_PHYSICS_STEPS = 4
_DEEP = 0.02  # m of penetration that is a collision
_AWAY = (0.0, 0.0, -50.0)  # where the robot is while a scene settles
_MOBILE_BASE = Path(__file__).resolve().parent / "models" / "mobile_base.urdf"


class Robot:
    """A body that stands on the floor at `pose`, (x, y, yaw)."""

    name = ""
    radius = 0.25  # m, for planning
    renderer_instances: Sequence[Any] = ()  # its own, which its camera doesn't show

    def __init__(self, body: int, height: float) -> None:
        self.body = body
        self._height = height  # m, of the base's origin over the floor
        self.pose: list[float] = [0.0, 0.0, 0.0]

    def camera_position(self) -> tuple[float, float, float]:
        raise NotImplementedError

    def leave(self) -> None:
        """Out of the way."""
        p.resetBasePositionAndOrientation(self.body, _AWAY, [0, 0, 0, 1])

    def put(self, x: float, y: float, yaw: float) -> None:
        """Stand there, whatever is there."""
        self.pose = [x, y, yaw]
        orientation = p.getQuaternionFromEuler([0, 0, yaw])
        p.resetBasePositionAndOrientation(self.body, [x, y, self._height], orientation)

    def turn(self, yaw: float) -> None:
        """Turn on the spot."""
        self.put(self.pose[0], self.pose[1], yaw)

    def drive(self, waypoints: np.ndarray, scene: SceneInPhysics) -> tuple[int, str]:
        """Along waypoints (N, 2) from where it stands, facing where it goes.

        Returns how many were reached, and what the robot would have run into, '' = nothing.
        """
        for number, (x, y) in enumerate(waypoints):
            begin = list(self.pose)
            length = math.hypot(x - self.pose[0], y - self.pose[1])
            if length < 1e-6:
                continue
            yaw = math.atan2(y - self.pose[1], x - self.pose[0])
            steps = max(1, math.ceil(length / STEP - 1e-9))
            points = np.linspace(self.pose[:2], [x, y], steps + 1)[1:]
            for point in points:
                self.put(float(point[0]), float(point[1]), yaw)
                for _ in range(_PHYSICS_STEPS):
                    p.stepSimulation()
                contact = self._contact(scene)
                if contact:
                    self.put(begin[0], begin[1], yaw)
                    return number, contact
        return len(waypoints), ""

    def _contact(self, scene: SceneInPhysics) -> str:
        """What the body is in, of the things that stand firm."""
        for contact in p.getContactPoints(bodyA=self.body):
            if contact[8] < -_DEEP and scene.stands_firm(contact[2], contact[4]):
                return scene.name_of(contact[2])
        return ""


class MobileBase(Robot):
    """Our own; it is in no picture."""

    name = "mobile base"

    def __init__(self) -> None:
        body = p.loadURDF(str(_MOBILE_BASE), useFixedBase=True)
        for link in range(-1, p.getNumJoints(body)):
            p.setCollisionFilterGroupMask(body, link, 1, -1)
        super().__init__(body, 0.0)
        self._head = next(joint for joint in range(p.getNumJoints(body)) if p.getJointInfo(body, joint)[12] == b"head")

    def camera_position(self) -> tuple[float, float, float]:
        x, y, z = p.getLinkState(self.body, self._head, computeForwardKinematics=True)[4]
        return x, y, z


class FetchRobot(Robot):
    """iGibson's Fetch with its arm tucked; its camera is its own."""

    name = "Fetch"
    radius = 0.3

    def __init__(self, simulator: Simulator) -> None:
        from igibson.robots import Fetch

        self._fetch = Fetch(name="robot", reset_joint_pos="tuck", action_type="continuous")
        simulator.import_object(self._fetch)
        self._fetch.reset()
        super().__init__(self._fetch.get_body_ids()[0], 0.02)
        self.renderer_instances = self._fetch.renderer_instances

    def put(self, x: float, y: float, yaw: float) -> None:
        self.pose = [x, y, yaw]
        self._fetch.set_position_orientation([x, y, self._height], p.getQuaternionFromEuler([0, 0, yaw]))
        self._fetch.keep_still()

    def camera_position(self) -> tuple[float, float, float]:
        x, y, z = self._fetch.eyes.get_position()
        return float(x), float(y), float(z)


def make_robot(simulator: Simulator) -> Robot:
    """Fetch where iGibson has it, otherwise the mobile base."""
    if (Path(igibson.assets_path) / "models" / "fetch" / "fetch_gripper.urdf").is_file():
        return FetchRobot(simulator)
    return MobileBase()
