"""Scene graphs of any size, drawn from the priors: what a long mission in a large building may have discovered.

They are for measuring and testing what depends on size (prompts, grammars, graph handling). Rooms stand in rows and
distances are straight lines: nothing here is for driving in, which is what `simulators/house` makes houses for.
"""

from __future__ import annotations

import math
import random
from itertools import cycle

from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.scene_graph import Door, Frontier, OpenState, Point, Pose, Room, SceneGraph, SceneObject

ROOM_SIZE = 5.0  # m, the side of a room
_ROOMS_IN_A_ROW = 8
_FURNITURE = 0.5  # share of objects
_CLOSED = 0.7  # share of containers and doors that are closed
_FRONTIERS = 0.4  # share of rooms with unexplored space, half of which leads out


def synthetic_graph(n_rooms: int, n_objects: int, seed: int = 0, priors: Priors | None = None) -> SceneGraph:
    """A graph of labelled rooms with furniture and things, about as many in each; the robot is in the first.

    Raises ValueError without a room, or with a negative number of objects.
    """
    if n_rooms < 1 or n_objects < 0:
        raise ValueError(f"{n_rooms} rooms and {n_objects} objects; expected at least 1 and at least 0")
    rng, known = random.Random(seed), priors or load_priors()
    corners = [(ROOM_SIZE * (i % _ROOMS_IN_A_ROW), ROOM_SIZE * (i // _ROOMS_IN_A_ROW)) for i in range(n_rooms)]
    robot = (ROOM_SIZE / 2, ROOM_SIZE / 2, 0.0)

    def somewhere(room: int) -> Point:
        x, y = corners[room]
        return x + rng.uniform(0.0, ROOM_SIZE), y + rng.uniform(0.0, ROOM_SIZE), 0.0

    types = [room_type for room_type, _ in zip(cycle(known.rooms), range(n_rooms))]
    rooms = []
    for index, (room_type, (x, y)) in enumerate(zip(types, corners)):
        center = (x + ROOM_SIZE / 2, y + ROOM_SIZE / 2, 0.0)
        rooms.append(Room(f"room{index}", room_type, center, math.dist(center, robot)))
    furniture = {
        room: sorted((name, sum(f.rooms[room])) for name, f in known.furniture.items() if room in f.rooms)
        for room in known.rooms
    }
    things = {
        room: sorted(name for name, obj in known.objects.items() if any(place.room == room for place in obj.places))
        for room in known.rooms
    }
    objects = []
    for index in range(n_objects):
        room = index % n_rooms
        if rng.random() < _FURNITURE:
            labels, weights = zip(*furniture[types[room]])
            label = rng.choices(labels, weights)[0]
        else:
            label = rng.choice(things[types[room]])
        kind, position = known.furniture.get(label), somewhere(room)
        openable = kind is not None and kind.openable
        objects.append(
            SceneObject(
                f"object{index}",
                label,
                f"room{room}",
                position,
                math.dist(position, robot),
                _state(rng) if openable else OpenState.NONE,
                openable,
            )
        )
    doors, frontiers = [], []
    for index in range(1, n_rooms):
        position = (*corners[index], 0.0)
        neighbours = (f"room{index - 1}", f"room{index}")
        doors.append(Door(f"door{index}", neighbours, position, _state(rng), True, math.dist(position, robot)))
    for index in range(n_rooms):
        if rng.random() < _FRONTIERS:
            position = somewhere(index)
            leads_out = rng.random() < 0.5
            frontiers.append(
                Frontier(f"frontier{index}", f"room{index}", position, leads_out, math.dist(position, robot))
            )
    return SceneGraph(
        robot_pose=Pose(robot[0], robot[1]),
        robot_room="room0",
        rooms=tuple(rooms),
        objects=tuple(objects),
        doors=tuple(doors),
        frontiers=tuple(frontiers),
    )


def _state(rng: random.Random) -> OpenState:
    return OpenState.CLOSED if rng.random() < _CLOSED else OpenState.OPEN
