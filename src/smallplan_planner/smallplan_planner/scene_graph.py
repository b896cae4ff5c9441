"""What the robot knows: rooms, objects, doors and frontiers, typed.

A `SceneGraph` is one observation, immutable, as it comes from perception or a simulator. Nothing here
knows ROS; `nodes/convert.py` turns messages into these types. Units are metres and seconds, positions are
(x, y, z) in the frame `SceneGraph.frame_id`. What a graph is made of are named tuples: there are hundreds in each
observation, and these are made in a third of the time of frozen dataclasses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import networkx as nx

Point = tuple[float, float, float]
"""(x, y, z) in metres, in the graph's frame."""

UNKNOWN_DISTANCE = math.nan


class SceneGraphError(ValueError):
    """A scene graph that can't be planned on; the message names the element and the field."""


class OpenState(IntEnum):
    """Whether something that can be opened is open. Values are those of SceneObject.msg and Door.msg."""

    NONE = 0
    OPEN = 1
    CLOSED = 2


@dataclass(frozen=True)
class Pose:
    """Where the robot stands: position in metres, heading in radians (counter-clockwise from +x)."""

    x: float
    y: float
    yaw: float = 0.0
    z: float = 0.0

    @property
    def position(self) -> Point:
        return (self.x, self.y, self.z)


class Room(NamedTuple):
    id: str
    label: str = ""  # '' = not classified yet
    center: Point = (0.0, 0.0, 0.0)
    distance: float = UNKNOWN_DISTANCE  # m of path from the robot, NaN = unknown


class SceneObject(NamedTuple):
    id: str
    label: str
    room: str  # room id
    position: Point = (0.0, 0.0, 0.0)
    distance: float = UNKNOWN_DISTANCE
    state: OpenState = OpenState.NONE
    openable: bool = False
    parent: str = ""  # id of what it is on or in, '' = none
    relation: str = ""  # "on" | "in" | ''


class Door(NamedTuple):
    id: str
    rooms: tuple[str, ...]  # the 1 or 2 known room ids
    position: Point = (0.0, 0.0, 0.0)
    state: OpenState = OpenState.CLOSED
    openable: bool = True  # False: locked
    distance: float = UNKNOWN_DISTANCE
    label: str = ""  # '' = just a door


class Frontier(NamedTuple):
    id: str
    room: str
    position: Point = (0.0, 0.0, 0.0)
    leads_out: bool = False  # False: unexplored area within the room
    distance: float = UNKNOWN_DISTANCE


@dataclass(frozen=True)
class SceneGraph:
    """One observation of everything discovered so far. `validate` before planning on foreign input."""

    stamp: float = 0.0  # s, time of the observation
    frame_id: str = "map"
    robot_pose: Pose = field(default_factory=lambda: Pose(0.0, 0.0))
    robot_room: str = ""  # room id, '' = unknown
    rooms: tuple[Room, ...] = ()
    objects: tuple[SceneObject, ...] = ()
    doors: tuple[Door, ...] = ()
    frontiers: tuple[Frontier, ...] = ()

    @cached_property
    def room_by_id(self) -> dict[str, Room]:
        return {room.id: room for room in self.rooms}

    @cached_property
    def object_by_id(self) -> dict[str, SceneObject]:
        return {obj.id: obj for obj in self.objects}

    @cached_property
    def door_by_id(self) -> dict[str, Door]:
        return {door.id: door for door in self.doors}

    @cached_property
    def frontier_by_id(self) -> dict[str, Frontier]:
        return {frontier.id: frontier for frontier in self.frontiers}

    def objects_in(self, room_id: str) -> list[SceneObject]:
        return self._objects_by_room.get(room_id, [])

    @cached_property
    def _objects_by_room(self) -> dict[str, list[SceneObject]]:
        by_room: dict[str, list[SceneObject]] = {}
        for obj in self.objects:
            by_room.setdefault(obj.room, []).append(obj)
        return by_room

    def frontiers_of(self, room_id: str) -> list[Frontier]:
        """The room's frontiers, the one `explore` takes first in front (those that lead out, nearest, id)."""
        found = [frontier for frontier in self.frontiers if frontier.room == room_id]
        return sorted(found, key=lambda f: (not f.leads_out, distance_key(f.distance), f.id))

    def to_networkx(self) -> nx.Graph:
        """The two-level scene graph: rooms over objects, rooms joined by doors. Nodes are ids, with `kind`."""
        graph = nx.Graph()
        for room in self.rooms:
            graph.add_node(room.id, kind="room", label=room.label)
        for obj in self.objects:
            graph.add_node(obj.id, kind="object", label=obj.label)
            graph.add_edge(obj.parent or obj.room, obj.id, relation=obj.relation or "in")
        for door in self.doors:
            graph.add_node(door.id, kind="door", label="door")
            for room_id in door.rooms:
                graph.add_edge(room_id, door.id, relation="door")
        for frontier in self.frontiers:
            graph.add_node(frontier.id, kind="frontier", label="frontier")
            graph.add_edge(frontier.room, frontier.id, relation="frontier")
        return graph

    def validate(self) -> None:
        """Raise `SceneGraphError`, naming the element and the field, when this graph can't be planned on."""
        if not self.rooms:
            raise SceneGraphError("the scene graph has no rooms; at least the robot's room is expected")
        if not math.isfinite(sum(self.robot_pose.position) + self.robot_pose.yaw):
            raise SceneGraphError(f"robot_pose is {self.robot_pose}; finite numbers are expected")
        self._check_ids()
        self._check_geometry()
        self._check_references()
        self._check_parents()

    def _check_ids(self) -> None:
        seen: dict[str, str] = {}
        for kind, items in self._collections():
            for number, item in enumerate(items, 1):
                if not item.id:
                    raise SceneGraphError(
                        f"{kind} {number} of {len(items)} has an empty id; every element needs a unique one"
                    )
                if item.id in seen:
                    raise SceneGraphError(
                        f"id {item.id!r} is used by a {seen[item.id]} and by a {kind}; ids must be unique"
                    )
                seen[item.id] = kind

    def _check_geometry(self) -> None:
        for kind, items in self._collections():
            for item in items:
                x, y, z = position = item.center if isinstance(item, Room) else item.position
                if not math.isfinite(x + y + z):
                    raise SceneGraphError(f"{kind} {item.id!r}: position {position} is not finite")
                if not 0.0 <= item.distance < math.inf and not math.isnan(item.distance):
                    raise SceneGraphError(
                        f"{kind} {item.id!r}: distance {item.distance} m; expected >= 0, or NaN for unknown"
                    )

    def _check_references(self) -> None:
        rooms = self.room_by_id
        if self.robot_room and self.robot_room not in rooms:
            raise SceneGraphError(f"robot_room {self.robot_room!r} is not among the rooms")
        for obj in self.objects:
            if obj.room not in rooms:
                raise SceneGraphError(f"object {obj.id!r}: room {obj.room!r} is not among the rooms")
            if obj.parent and obj.parent not in self.object_by_id:
                raise SceneGraphError(f"object {obj.id!r}: parent {obj.parent!r} is not among the objects")
            if obj.relation not in ("", "on", "in"):
                raise SceneGraphError(f"object {obj.id!r}: relation {obj.relation!r}; expected 'on', 'in' or ''")
        for door in self.doors:
            if not 1 <= len(door.rooms) <= 2:
                raise SceneGraphError(f"door {door.id!r} joins {len(door.rooms)} rooms; expected 1 or 2")
            if door.state is OpenState.NONE:
                raise SceneGraphError(f"door {door.id!r}: state is NONE; expected OPEN or CLOSED")
            for room_id in door.rooms:
                if room_id not in rooms:
                    raise SceneGraphError(f"door {door.id!r}: room {room_id!r} is not among the rooms")
        for frontier in self.frontiers:
            if frontier.room not in rooms:
                raise SceneGraphError(f"frontier {frontier.id!r}: room {frontier.room!r} is not among the rooms")

    def _check_parents(self) -> None:
        parents = {obj.id: obj.parent for obj in self.objects if obj.parent}
        if parents.keys().isdisjoint(parents.values()):  # as usual: things on furniture, which is on nothing
            return
        try:
            TopologicalSorter({child: (parent,) for child, parent in parents.items()}).prepare()
        except CycleError as error:
            raise SceneGraphError(f"the parents of objects form a cycle: {' -> '.join(error.args[1])}") from error

    def _collections(self) -> Iterable[tuple[str, tuple[Room | SceneObject | Door | Frontier, ...]]]:
        yield "room", self.rooms
        yield "object", self.objects
        yield "door", self.doors
        yield "frontier", self.frontiers


def distance_key(distance: float) -> float:
    """A distance to sort by: unknown ones (NaN) come last."""
    return math.inf if math.isnan(distance) else distance
