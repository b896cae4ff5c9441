"""The building as boxes: walls with gaps for doors and passages, the floor, and how each door hangs."""

from __future__ import annotations

import math

from smallplan_training.simulators.house.house import ON_WALL, House, Point2, Wall
from smallplan_training.simulators.igibson.bodies import (
    DOOR_HEIGHT,
    Body,
    hinged_door,
    locked_door,
)
from smallplan_training.simulators.igibson.clearance import Obstacles, best_opening
from smallplan_training.simulators.igibson.meshes import Block, block_between
from smallplan_training.simulators.igibson.walls import wall_thickness

WALL_HEIGHT = 2.6
FLOOR_THICKNESS = 0.1
APRON = 0.5
"""m of floor around the house."""


def wall_blocks(house: House) -> list[Block]:
    """The walls, and the lintels over doors; a passage is open to the ceiling."""
    blocks = []
    thickness = wall_thickness(house)
    for wall in house.walls:
        length = math.dist(wall.a, wall.b)
        if length == 0:
            continue
        gaps = sorted(_gaps(house, wall, length))
        end = -thickness / 2
        for start, stop, lintel in gaps:
            if start > end:
                blocks.append(_along(wall, length, thickness, end, start, 0.0))
            if lintel:
                blocks.append(_along(wall, length, thickness, max(start, end), stop, DOOR_HEIGHT))
            end = max(end, stop)
        if length + thickness / 2 > end:
            blocks.append(_along(wall, length, thickness, end, length + thickness / 2, 0.0))
    return blocks


def floor_blocks(house: House) -> list[Block]:
    """One slab under the whole house, its upper side at 0."""
    xs = [x for room in house.rooms for x, _ in room.polygon]
    ys = [y for room in house.rooms for _, y in room.polygon]
    low, high = (min(xs) - APRON, min(ys) - APRON), (max(xs) + APRON, max(ys) + APRON)
    return [block_between((*low, -FLOOR_THICKNESS), (*high, 0.0))]


def door_yaw(house: House, index: int) -> float:
    """The direction of the wall that the door is in (its body's x), rad."""
    (ax, ay), (bx, by) = house.door_segments[index]
    return math.atan2(by - ay, bx - ax)


def door_body(house: House, index: int) -> Body:
    """The door's body; it opens to where least stands in its way.

    Raises: ValueError: the door is a passage, which has no body.
    """
    door = house.doors[index]
    if door.is_passage:
        raise ValueError(f"{door.id} is a passage; only doors have a body")
    thickness = wall_thickness(house)
    if not door.openable or len(door.rooms) < 2:
        return locked_door(door.width, thickness)
    variants = [hinged_door(door.width, thickness, hinge, side) for side in (1, -1) for hinge in (-1, 1)]
    obstacles = Obstacles(house, dict.fromkeys(house.furniture_by_id, 0.0))
    centre = (*door.position, variants[0].size[2] / 2)
    return best_opening(variants, centre, door_yaw(house, index), obstacles, walls=False)


def _gaps(house: House, wall: Wall, length: float) -> list[tuple[float, float, bool]]:
    """Where openings cut this wall: from, to (m along it), and whether there is a lintel over it."""
    found = []
    for door, jambs in zip(house.doors, house.door_segments):
        places = [_project(wall, length, jamb) for jamb in jambs]
        if all(off <= ON_WALL for _, off in places):
            start, stop = sorted(along for along, _ in places)
            start, stop = max(start, 0.0), min(stop, length)
            if start < stop:
                found.append((start, stop, not door.is_passage))
    return found


def _project(wall: Wall, length: float, point: Point2) -> tuple[float, float]:
    """How far along the wall the point is, and how far off its line."""
    ux, uy = (wall.b[0] - wall.a[0]) / length, (wall.b[1] - wall.a[1]) / length
    dx, dy = point[0] - wall.a[0], point[1] - wall.a[1]
    return dx * ux + dy * uy, abs(dx * uy - dy * ux)


def _along(wall: Wall, length: float, thickness: float, start: float, stop: float, bottom: float) -> Block:
    ux, uy = (wall.b[0] - wall.a[0]) / length, (wall.b[1] - wall.a[1]) / length
    middle = (start + stop) / 2
    return Block(
        centre=(wall.a[0] + middle * ux, wall.a[1] + middle * uy, (bottom + WALL_HEIGHT) / 2),
        size=(stop - start, thickness, WALL_HEIGHT - bottom),
        yaw=math.atan2(uy, ux),
    )
