"""Reads an iGibson scene folder: the maps, and what stands where. Knows the files, not what they mean to a search.

A scene folder is `<data set>/scenes/<scene>`; room types, versions and models lie in the data set around it. A pack
of our own also has `misc/names.json`, which says what its things are called in the house that it was made from.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smallplan_planner.scene_graph import Point
from smallplan_training.errors import UserError
from smallplan_training.simulators.igibson.pack import read_names

VERSIONS = ((2, 0, 6), (2, 2, 3))
"""The first version of the data set that igibson 2.2.2 reads, and the first one that it does not."""
UPRIGHT = 0.9
"""Cosine of the tilt up to which a thing counts as standing upright."""
_BUILDING = ("walls", "floors", "ceilings")


@dataclass(frozen=True)
class SceneThing:
    """Something that stands in a scene; the box around it is `size`, turned by `yaw` about its centre."""

    name: str
    category: str
    model: str
    position: Point
    yaw: float
    size: Point
    fixed: bool  # it does not fall
    joints: dict[str, float] = field(default_factory=dict)  # rad or m, of joints that are not said to be at 0


@dataclass(frozen=True)
class SceneFolder:
    """One scene. Maps are square, `maps.PIXEL` m a pixel, the origin in their centre, rows along +y."""

    path: Path
    urdf: Path
    things: tuple[SceneThing, ...]
    free_of_furniture: NDArray[np.bool_]  # no walls
    rooms: NDArray[np.uint8]  # 0 = no room
    room_types: dict[int, str]  # value in `rooms` -> iGibson's type
    names: dict[str, Any]  # a pack's names.json, empty for other scenes

    @cached_property
    def data_set(self) -> Path:
        """The folder with VERSION, metadata, objects and scenes."""
        return self.path.parent.parent

    def moving_joints(self, thing: SceneThing) -> int | None:
        """How many doors and drawers the thing's model has, None when the model is not there."""
        path = self.data_set / "objects" / thing.category / thing.model / f"{thing.model}.urdf"
        if not path.is_file():
            return None
        return sum(joint.get("type") in ("revolute", "prismatic") for joint in _parse(path).iter("joint"))


def read_scene(path: Path) -> SceneFolder:
    """The scene in this folder; raises `UserError` that names the file and says what to do."""
    path = path.resolve()
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; expected a scene: <data set>/scenes/<scene>")
    data_set = path.parent.parent
    _check_version(data_set)
    urdf = path / "urdf" / f"{path.name}_best.urdf"
    if not urdf.is_file():
        raise UserError(f"{urdf} is missing; expected a scene of iGibson 2, whose name ends in _int")
    layout = path / "layout"
    rooms = _map(layout / "floor_insseg_0.png")
    types = _map(layout / "floor_semseg_0.png", rooms.shape)
    names = path / "misc" / "names.json"
    return SceneFolder(
        path=path,
        urdf=urdf,
        things=_things(urdf, data_set),
        free_of_furniture=_map(layout / "floor_trav_no_obj_0.png", rooms.shape) == 255,
        rooms=rooms,
        room_types=_room_types(data_set / "metadata" / "room_categories.txt", layout, rooms, types),
        names=read_names(names) if names.is_file() else {},
    )


def _check_version(data_set: Path) -> None:
    path = data_set / "VERSION"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} can't be read; expected the folder of a scene within iGibson's data set: <data set>/scenes/<scene>"
        ) from error
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if found is None or not VERSIONS[0] <= tuple(int(number) for number in found.groups()) < VERSIONS[1]:
        low, high = (".".join(str(number) for number in version) for version in VERSIONS)
        raise UserError(
            f"{path}: the data set's version is {text[:40]!r}; expected {low} or later, before {high}: "
            "download the data set again with igibson 2.2.2"
        )


def _map(path: Path, shape: Sequence[int] | None = None) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode in ("L", "P") else image.convert("L"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; the scene is not complete: download the data set again") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read as an image: {error}; download the data set again") from error
    if pixels.shape[0] != pixels.shape[1]:
        raise UserError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels; expected a square map")
    return pixels if shape is None else _resized(pixels, int(shape[0]))


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The map cut or padded to this size about its centre: maps of one scene share their origin and their scale."""
    have = pixels.shape[0]
    if have > size:
        start = (have - size) // 2
        return pixels[start : start + size, start : start + size]
    before = (size - have) // 2
    return np.pad(pixels, (before, size - have - before))


def _room_types(path: Path, layout: Path, rooms: NDArray[np.uint8], types: NDArray[np.uint8]) -> dict[int, str]:
    try:
        categories = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"{path} can't be read; it names the types of rooms: download the data set again") from error
    found = {}
    for value in np.unique(rooms):
        if value == 0:
            continue
        number = int(np.bincount(types[rooms == value]).argmax())
        if not 1 <= number <= len(categories):
            raise UserError(
                f"{layout / 'floor_semseg_0.png'}: room {value} has type {number}; "
                f"expected 1 to {len(categories)}, a line of {path}"
            )
        found[int(value)] = categories[number - 1]
    if not found:
        raise UserError(f"{layout / 'floor_insseg_0.png'}: shows no room; download the data set again")
    return found


def _things(urdf: Path, data_set: Path) -> tuple[SceneThing, ...]:
    root = _parse(urdf)
    joints = {_child(joint): joint for joint in root.iter("joint")}
    things = []
    for link in root.iter("link"):
        name, category = link.get("name", ""), link.get("category")
        joint = joints.get(name)
        if category is None or category in _BUILDING or joint is None or link.get("model") is None:
            continue
        try:
            things.append(_thing(link, joint, data_set))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{urdf}: {name}: not a complete thing ({type(error).__name__}: {error})") from error
    return tuple(things)


def _thing(link: ET.Element, joint: ET.Element, data_set: Path) -> SceneThing:
    name, category, model = link.attrib["name"], link.attrib["category"], link.attrib["model"]
    origin = joint.find("origin")
    if origin is None:
        raise ValueError("its joint has no origin")
    x, y, z = _numbers(origin.attrib["xyz"])
    turn = _rotation(_numbers(origin.get("rpy", "0 0 0")))
    size = _size(link, data_set / "objects" / category / model)
    if abs(turn[2, 2]) < UPRIGHT:  # it lies on its side
        size, yaw = np.abs(turn) @ size, 0.0
    else:
        yaw = float(np.arctan2(turn[1, 0], turn[0, 0]))
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(f"its size is {size.tolist()}")
    return SceneThing(
        name=name,
        category=category,
        model=model,
        position=(x, y, z),
        yaw=yaw,
        size=(float(size[0]), float(size[1]), float(size[2])),
        fixed=joint.get("type") == "fixed",
        joints=_joint_states(link),
    )


def _size(link: ET.Element, model: Path) -> NDArray[np.float64]:
    if "bounding_box" in link.attrib:
        return np.array(_numbers(link.attrib["bounding_box"]))
    path = model / "misc" / "metadata.json"
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["bbox_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it has no bounding_box, and {path} has no bbox_size") from error
    return np.array(size, dtype=float) * np.array(_numbers(link.get("scale", "1 1 1")))


def _joint_states(link: ET.Element) -> dict[str, float]:
    if "joint_states" in link.attrib:
        return {name: float(state[0]) for name, state in json.loads(link.attrib["joint_states"]).items()}
    if "joint_positions" in link.attrib:
        return {name: float(value) for name, value in json.loads(link.attrib["joint_positions"])[0].items()}
    return {}


def _rotation(rpy: Sequence[float]) -> NDArray[np.float64]:
    """The rotation matrix of URDF's roll, pitch and yaw."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _child(joint: ET.Element) -> str:
    child = joint.find("child")
    return "" if child is None else child.get("link", "")


def _numbers(text: str) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in text.split())
    return x, y, z


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise UserError(f"{path}: can't be read as URDF: {error}; download the data set again") from error
