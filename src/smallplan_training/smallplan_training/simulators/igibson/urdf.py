"""Bodies and scenes as URDF, the way iGibson reads it.

One collision mesh and one visual mesh for each link, all named relative to the model's folder; a scene is a URDF
whose links name the models, and whose joints say where their bounding boxes' centres are.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smallplan_planner.scene_graph import Point
from smallplan_training.simulators.igibson.bodies import Body
from smallplan_training.simulators.igibson.meshes import decimal

BASE = "base_link"


@dataclass(frozen=True)
class SceneItem:
    """A thing in a scene. `position` is the centre of its bounding box, `size` None for parts of the building."""

    name: str
    category: str
    model: str
    position: Point = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    size: Point | None = None
    fixed: bool = True
    rooms: tuple[str, ...] = ()
    joint_states: Mapping[str, float] = field(default_factory=dict)


def visual_mesh(link: str) -> str:
    """Where a link's visual mesh lies in its model's folder."""
    return f"shape/visual/{link}_vm.obj"


def collision_mesh(link: str) -> str:
    """Where a link's collision mesh lies in its model's folder."""
    return f"shape/collision/{link}_cm.obj"


def object_urdf(name: str, body: Body) -> str:
    """The URDF of one body: its base link and a link and joint for each part that moves."""
    robot = ET.Element("robot", name=name)
    _link(robot, BASE, BASE)
    for part in body.parts:
        _link(robot, part.name, part.name)
    for part in body.parts:
        joint = ET.SubElement(robot, "joint", name=part.joint, type="prismatic" if part.sliding else "revolute")
        ET.SubElement(joint, "origin", rpy="0 0 0", xyz=_numbers(part.origin))
        ET.SubElement(joint, "parent", link=BASE)
        ET.SubElement(joint, "child", link=part.name)
        ET.SubElement(joint, "axis", xyz=_numbers(part.axis))
        ET.SubElement(joint, "limit", lower="0.0", upper=decimal(part.upper), effort="100", velocity="2")
    return _text(robot)


def building_urdf(category: str) -> str:
    """The URDF of walls or floors: one link that weighs nothing and never moves."""
    robot = ET.Element("robot", name=category)
    inertial = ET.SubElement(_link(robot, category, category), "inertial")
    ET.SubElement(inertial, "origin", rpy="0 0 0", xyz="0 0 0")
    ET.SubElement(inertial, "mass", value="0")
    ET.SubElement(inertial, "inertia", ixx="0", ixy="0", ixz="0", iyy="0", iyz="0", izz="0")
    return _text(robot)


def scene_urdf(name: str, items: Sequence[SceneItem]) -> str:
    """The URDF of a whole scene."""
    robot = ET.Element("robot", name=name)
    ET.SubElement(robot, "link", name="world")
    for item in items:
        link = ET.SubElement(robot, "link", name=item.name, category=item.category, model=item.model)
        if item.size is not None:
            link.set("bounding_box", _numbers(item.size))
        if item.rooms:
            link.set("room", ",".join(item.rooms))
        if item.joint_states:
            states = {f"{item.name}_{joint}": [round(value, 4), 0.0] for joint, value in item.joint_states.items()}
            link.set("joint_states", json.dumps(states))
        joint = ET.SubElement(robot, "joint", name=f"j_{item.name}", type="fixed" if item.fixed else "floating")
        ET.SubElement(joint, "origin", rpy=_numbers((0.0, 0.0, item.yaw)), xyz=_numbers(item.position))
        ET.SubElement(joint, "child", link=item.name)
        ET.SubElement(joint, "parent", link="world")
    return _text(robot)


def _link(robot: ET.Element, name: str, mesh: str) -> ET.Element:
    link = ET.SubElement(robot, "link", name=name)
    for kind, path in (("visual", visual_mesh(mesh)), ("collision", collision_mesh(mesh))):
        shape = ET.SubElement(link, kind)
        ET.SubElement(shape, "origin", rpy="0 0 0", xyz="0 0 0")
        ET.SubElement(ET.SubElement(shape, "geometry"), "mesh", filename=path)
    return link


def _numbers(values: Sequence[float]) -> str:
    return " ".join(decimal(value) for value in values)


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
