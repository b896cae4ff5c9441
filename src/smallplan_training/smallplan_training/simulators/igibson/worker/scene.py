"""A scene in iGibson's physics: its furniture and doors, the objects placed in it, and their joints.

Physics is stepped directly: `Simulator.step` also updates the states of every object (wet, cooked, …), which a search
has no use for. Ceilings are left out; outer doors stay shut, nobody is asked to open them.
"""

from __future__ import annotations

import atexit
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import igibson.objects.stateful_object
import numpy as np
import pybullet as p
from igibson.objects.articulated_object import URDFObject
from igibson.scenes.igibson_indoor_scene import InteractiveIndoorScene
from igibson.simulator import Simulator

from .server import RequestError

log = logging.getLogger(__name__)

PHYSICS_STEP = 1 / 120
"""s"""
_MODELS = Path(__file__).resolve().parent / "models"
_DENSITY = 300.0  # kg/m3 of placed objects, about that of wood and filled vessels
_SMALLEST = 0.01  # m: thinner boxes slip through what they lie on
_LIFT = 0.005  # m above where an object is told to be, so that it doesn't begin inside of what carries it
_SETTLE_STEPS = 120  # 1 s
_SETTLED = 0.15  # m that an object may move while it settles; one that moves farther is put back and held
_MOVE_STEPS = 360  # 3 s to open or close something
_MOVED = 0.03  # share of a joint's range that may remain
_CLOSED = 0.05  # rad or m from its closed position
_OVER = 0.1  # m over a drawer's rim that what lies in it may reach with its middle
_FORCE = 60.0  # N or Nm with which joints are moved
_SPEED = {p.JOINT_REVOLUTE: 1.0, p.JOINT_PRISMATIC: 0.4}  # rad/s, m/s
_FRICTION = 10.0  # iGibson's own: what is open stays open


class SceneInPhysics:
    """An interactive scene that is loaded into a simulator, in which it stays."""

    def __init__(self, scene_id: str, simulator: Simulator) -> None:
        igibson.objects.stateful_object.OBJECT_TAXONOMY = None  # no object gets states
        self.simulator = simulator
        self._scene = InteractiveIndoorScene(
            scene_id, build_graph=False, not_load_object_categories=["ceilings"], include_robots=False
        )
        # iGibson writes a copy of every model into its data set for each process, and leaves it there.
        atexit.register(shutil.rmtree, self._scene.scene_instance_folder, ignore_errors=True)
        simulator.import_scene(self._scene)
        self._of_scene = list(self._scene.objects_by_name.values())
        self._placed: list[URDFObject] = []
        self._giving_way: set[tuple[int, int, int]] = set()  # (robot, body, joint) that don't meet
        self._let_leaves_pass()

    def describe(self) -> list[dict[str, Any]]:
        """Name, category, rooms, centre and size of the box, yaw, and joints' limits of everything in the scene."""
        return [_describe(thing) for thing in self._of_scene]

    def restore(self) -> None:
        """Everything of the scene as it was when it was loaded; nothing placed."""
        for thing in self._placed:
            self._remove(thing)
        self._placed = []
        for robot, body, joint in self._giving_way:
            p.setCollisionFilterPair(robot, body, -1, joint, 1)
        self._giving_way.clear()
        self._scene.reset_scene_objects()
        self._scene.force_wakeup_scene_objects()

    def place(self, objects: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Add boxes (`name`, `category`, `size`, `position` of the centre, `yaw`, `fixed`) and let them settle.

        For each name its `position` afterwards, and `held`: it did not stay near where it was to be (its place was
        taken, or is solid), so it is fixed there and takes no part in physics, as what is told to be `fixed`.
        """
        for told in objects:
            thing = self._add(told)
            self._placed.append(thing)
            if told["fixed"]:
                self._hold(thing, np.array(told["position"], dtype=float), float(told["yaw"]))
        for _ in range(_SETTLE_STEPS):
            p.stepSimulation()
        answer = {}
        for told, thing in zip(objects, self._placed):
            wanted = np.array(told["position"], dtype=float)
            held = math.dist(thing.get_position(), wanted) > _SETTLED
            if held:
                self._hold(thing, wanted, float(told["yaw"]))
            answer[thing.name] = {"position": [float(value) for value in thing.get_position()], "held": bool(held)}
        return answer

    def joints(self) -> dict[str, dict[str, float]]:
        """Positions of all joints that move, by object and joint, rad or m."""
        return {
            thing.name: {name: float(p.getJointState(body, joint)[0]) for name, body, joint, *_ in moving}
            for thing in self._of_scene
            for moving in [_moving_joints(thing)]
            if moving
        }

    def move(self, name: str, opening: bool, robot: int) -> float:
        """Open or close by all joints, as far as nothing is in the way; returns the share of the way, 0 to 1.

        The body `robot` gives way to the leaves while they move and while they are open.
        """
        thing = self._scene.objects_by_name.get(name)
        if thing is None:
            raise RequestError(f"there is no object {name!r} in the scene")
        moving = _moving_joints(thing)
        if not moving:
            log.warning("%s was to be moved, and has no joint that moves", name)
            return 0.0
        thing.force_wakeup()
        riders = [rider for _, body, joint, kind, *_ in moving for rider in self._riders(body, joint, kind)]
        for _, body, joint, kind, low, high in moving:
            p.setCollisionFilterPair(robot, body, -1, joint, 0 if opening else 1)
            (self._giving_way.add if opening else self._giving_way.discard)((robot, body, joint))
            goal = _open_position(low, high) if opening else 0.0
            p.setJointMotorControl2(
                body, joint, p.POSITION_CONTROL, targetPosition=goal, force=_FORCE, maxVelocity=_SPEED[kind]
            )
        for _ in range(_MOVE_STEPS):
            p.stepSimulation()
            if self._share(moving, opening) > 1 - _MOVED:
                break
        for _, body, joint, *_ in moving:
            p.setJointMotorControl2(body, joint, p.VELOCITY_CONTROL, targetVelocity=0.0, force=_FRICTION)
        for rider, body, joint, place in riders:
            rider.set_position_orientation(*p.multiplyTransforms(*_link_pose(body, joint), *place))
            rider.set_velocities([([0, 0, 0], [0, 0, 0])])
        return self._share(moving, opening)

    def name_of(self, body: int) -> str:
        """The name of the object that a body belongs to, '' = none."""
        thing = self._scene.objects_by_id.get(body)
        return thing.name if thing is not None else ""

    def stands_firm(self, body: int, link: int) -> bool:
        """Whether a link is part of the scene and fixed: what the robot runs into, not what it pushes aside.

        A leaf is when it is closed.
        """
        thing = self._scene.objects_by_id.get(body)
        if thing is None or thing in self._placed or not getattr(thing, "fixed_base", False):
            return False
        return link < 0 or abs(float(p.getJointState(body, link)[0])) < _CLOSED

    def _let_leaves_pass(self) -> None:
        """Leaves pass through fixed things other than their own: no scene keeps the room free that each would need."""
        fixed = [
            body for thing in self._of_scene if getattr(thing, "fixed_base", False) for body in thing.get_body_ids()
        ]
        for thing in self._of_scene:
            for _, body, leaf, *_ in _moving_joints(thing):
                for other in fixed:
                    for link in range(-1, p.getNumJoints(other)) if other != body else ():
                        p.setCollisionFilterPair(body, other, leaf, link, 0)

    def _riders(self, body: int, joint: int, kind: int) -> list[Any]:
        """What lies in a drawer and is to lie there when it has moved: (object, body, joint, pose on the link)."""
        if kind != p.JOINT_PRISMATIC:
            return []
        low, high = (np.array(corner) for corner in p.getAABB(body, joint))
        inverse = p.invertTransform(*_link_pose(body, joint))
        inside = [
            thing
            for thing in self._placed
            for at in [thing.get_position()]
            if (at[:2] > low[:2]).all() and (at[:2] < high[:2]).all() and low[2] < at[2] < high[2] + _OVER
        ]
        return [
            (thing, body, joint, p.multiplyTransforms(*inverse, *thing.get_position_orientation())) for thing in inside
        ]

    def _share(self, moving: Sequence[Sequence[Any]], opening: bool) -> float:
        """The least of the joints' shares."""
        shares = []
        for _, body, joint, _, low, high in moving:
            opened = float(p.getJointState(body, joint)[0]) / _open_position(low, high)
            shares.append(opened if opening else 1 - opened)
        return min(1.0, max(0.0, min(shares)))

    def _add(self, told: Mapping[str, Any]) -> URDFObject:
        size = np.maximum(np.array(told["size"], dtype=float), _SMALLEST)
        thing = URDFObject(
            str(_MODELS / "box.urdf"),
            name=str(told["name"]),
            category=str(told["category"]),
            model_path=str(_MODELS),
            bounding_box=size,
            avg_obj_dims={"density": _DENSITY},
            fixed_base=False,
            scene_instance_folder=self._scene.scene_instance_folder,
        )
        self.simulator.import_object(thing)
        position = np.array(told["position"], dtype=float) + np.array([0, 0, _LIFT])
        orientation = p.getQuaternionFromEuler([0, 0, float(told["yaw"])])
        thing.set_bbox_center_position_orientation(position, orientation)
        thing.force_wakeup()
        return thing

    def _hold(self, thing: URDFObject, position: np.ndarray, yaw: float) -> None:
        thing.set_bbox_center_position_orientation(position, p.getQuaternionFromEuler([0, 0, yaw]))
        for body in thing.get_body_ids():
            p.changeDynamics(body, -1, mass=0)
            p.setCollisionFilterGroupMask(body, -1, 0, 0)

    def _remove(self, thing: URDFObject) -> None:
        """Out of the scene, the physics and the renderer, whose instances are numbered by their place in a list."""
        bodies = thing.get_body_ids()
        self._scene.remove_object(thing)
        renderer = self.simulator.renderer
        gone = set(map(id, thing.renderer_instances))
        renderer.instances[:] = [instance for instance in renderer.instances if id(instance) not in gone]
        for number, instance in enumerate(renderer.instances):
            instance.id = number
        renderer.update_instance_id_to_pb_id_map()
        for body in bodies:
            p.removeBody(body)


def _moving_joints(thing: Any) -> list[Any]:
    """(name, body, joint, kind, lower, upper) of each joint of an object that has a range to move in."""
    found = []
    for body in thing.get_body_ids():
        for joint in range(p.getNumJoints(body)):
            info = p.getJointInfo(body, joint)
            if info[2] in _SPEED and info[8] < info[9]:
                found.append((info[1].decode(), body, joint, info[2], float(info[8]), float(info[9])))
    return found


def _link_pose(body: int, link: int) -> tuple[Any, Any]:
    position, orientation = p.getLinkState(body, link, computeForwardKinematics=True)[:2]
    return position, orientation


def _open_position(low: float, high: float) -> float:
    """Closed is 0, open the limit that is farther from it."""
    return high if abs(high) >= abs(low) else low


def _describe(thing: Any) -> dict[str, Any]:
    described = {
        "name": thing.name,
        "category": thing.category,
        "rooms": list(getattr(thing, "in_rooms", None) or []),
        "joints": {name: [low, high] for name, _, _, _, low, high in _moving_joints(thing)},
    }
    box = getattr(thing, "bounding_box", None)
    if box is not None:
        position, orientation = thing.get_base_link_position_orientation()
        offset = p.multiplyTransforms([0, 0, 0], orientation, -thing.scaled_bbxc_in_blf, [0, 0, 0, 1])[0]
        described["position"] = [float(value) for value in np.add(position, offset)]
        described["size"] = [float(value) for value in box]
        described["yaw"] = float(p.getEulerFromQuaternion(orientation)[2])
    return described
