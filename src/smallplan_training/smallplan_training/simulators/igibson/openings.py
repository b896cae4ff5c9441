"""Doors of a house out of a scene's maps and door objects: which rooms each joins, and where it lies in its wall.

What can be walked through without a door is a passage; a door that leads outside stays locked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smallplan_training.simulators.house.house import HouseDoor, Point2, Wall
from smallplan_training.simulators.igibson.maps import PIXEL
from smallplan_training.simulators.igibson.outlines import RoomCells
from smallplan_training.simulators.igibson.scene_files import SceneFolder, SceneThing

log = logging.getLogger(__name__)

OFF_WALL = 0.5
"""m: a door is put into the nearest wall within this distance."""
PARALLEL = math.cos(math.radians(30))
LOOK = (0.2, 0.35, 0.5, 0.7)
"""m on either side of a door where its rooms are looked for."""
STEP = 0.02
"""m along a wall between the places that are tried."""
LEAST_PASSAGE = 0.5
"""m: what is narrower can't be walked through."""
AJAR = 0.15
"""rad or m that a door's joint has moved when it is open."""


@dataclass(frozen=True)
class _Gap:
    """A stretch of a wall that can be walked through."""

    wall: Wall
    start: float  # m along the wall
    stop: float
    rooms: tuple[int, int]


def find_doors(
    scene: SceneFolder,
    doors: Sequence[SceneThing],
    walls: Sequence[Wall],
    cells: RoomCells,
    room_ids: dict[int, str],
    ids: dict[str, str],
) -> tuple[HouseDoor, ...]:
    """The doors and passages of a scene.

    Args:
        doors: the scene's door objects.
        room_ids: value of the map of rooms -> id of the house's room; others are no rooms.
        ids: name in the scene -> id in the house, where that differs.
    """
    found = []
    for thing in doors:
        door = _door(scene, thing, walls, cells, room_ids, ids.get(thing.name, thing.name))
        if door is not None:
            found.append(door)
    gaps = [gap for wall in walls for gap in _gaps(scene, wall, cells, room_ids)]
    number = 0
    for gap in gaps:
        if any(_fills(door, gap) for door in found):
            continue
        number += 1
        middle = _point(gap.wall, (gap.start + gap.stop) / 2)
        rooms = tuple(room_ids[value] for value in gap.rooms)
        width = round(gap.stop - gap.start, 3)
        found.append(HouseDoor(f"passage-{number}", middle, width, rooms, openable=False, open=True))
    return tuple(found)


def _door(
    scene: SceneFolder,
    thing: SceneThing,
    walls: Sequence[Wall],
    cells: RoomCells,
    room_ids: dict[int, str],
    id_: str,
) -> HouseDoor | None:
    along = thing.yaw if thing.size[0] >= thing.size[1] else thing.yaw + math.pi / 2
    width = max(thing.size[0], thing.size[1])
    placed = _into_wall(thing.position[:2], along, width, walls)
    if placed is None:
        log.warning("left out the door %s: there is no wall within %s m", thing.name, OFF_WALL)
        return None
    position, wall = placed
    nx, ny = _direction(wall)[1], -_direction(wall)[0]
    rooms = []
    for side in (1, -1):
        seen = (cells.at(position[0] + side * far * nx, position[1] + side * far * ny) for far in LOOK)
        rooms.append(next((room_ids[value] for value in seen if value in room_ids), None))
    ids = tuple(dict.fromkeys(room for room in rooms if room is not None))
    if not ids or (len(ids) == 1 and None not in rooms):
        log.warning("left out the door %s: it does not lie between two rooms or at the outside", thing.name)
        return None
    openable = len(ids) == 2 and scene.moving_joints(thing) != 0
    is_open = openable and any(abs(value) > AJAR for value in thing.joints.values())
    width = min(width, round(math.dist(wall.a, wall.b), 3))
    return HouseDoor(id_, position, width, ids, openable, is_open)


def _into_wall(point: Sequence[float], along: float, width: float, walls: Sequence[Wall]) -> tuple[Point2, Wall] | None:
    """The nearest place in a wall that runs the same way, and that wall."""
    best: tuple[float, Point2, Wall] | None = None
    for wall in walls:
        ux, uy = _direction(wall)
        if abs(ux * math.cos(along) + uy * math.sin(along)) < PARALLEL:
            continue
        length = math.dist(wall.a, wall.b)
        t = (point[0] - wall.a[0]) * ux + (point[1] - wall.a[1]) * uy
        half = min(width, length) / 2
        place = _point(wall, min(max(t, half), length - half))
        off = math.dist(place, (point[0], point[1]))
        if off <= OFF_WALL and (best is None or off < best[0]):
            best = (off, place, wall)
    return None if best is None else best[1:]


def _gaps(scene: SceneFolder, wall: Wall, cells: RoomCells, room_ids: dict[int, str]) -> Iterator[_Gap]:
    """Stretches of the wall with two rooms beside it and nothing in between."""
    length = math.dist(wall.a, wall.b)
    start, rooms = 0.0, None
    count = int(length / STEP)
    for index in range(count + 2):
        t = (index + 0.5) * STEP
        now = _joined_rooms(scene, wall, t, cells, room_ids) if t < length else None
        if now != rooms:
            stop = min(index * STEP, length)
            if rooms is not None and stop - start >= LEAST_PASSAGE:
                yield _Gap(wall, start, stop, rooms)
            start, rooms = index * STEP, now


def _joined_rooms(
    scene: SceneFolder, wall: Wall, t: float, cells: RoomCells, room_ids: dict[int, str]
) -> tuple[int, int] | None:
    """The two rooms on either side of this place in a wall, None when there are not two or it is solid there."""
    (ux, uy), (x, y) = _direction(wall), _point(wall, t)
    found = []
    for side in (1, -1):
        value = cells.at(x + side * LOOK[0] * uy, y - side * LOOK[0] * ux)
        if value not in room_ids:
            return None
        found.append(value)
    if found[0] == found[1]:
        return None
    reach = int(LOOK[0] / STEP)
    size = len(scene.free_of_furniture)
    for step in range(-reach, reach + 1):
        px, py = x + step * STEP * uy, y - step * STEP * ux
        row, column = int(py / PIXEL + size / 2), int(px / PIXEL + size / 2)
        if not (0 <= row < size and 0 <= column < size and scene.free_of_furniture[row, column]):
            return None
    return min(found), max(found)


def _fills(door: HouseDoor, gap: _Gap) -> bool:
    ux, uy = _direction(gap.wall)
    dx, dy = door.position[0] - gap.wall.a[0], door.position[1] - gap.wall.a[1]
    along, off = dx * ux + dy * uy, abs(dx * uy - dy * ux)
    return off <= OFF_WALL / 2 and gap.start - door.width / 2 <= along <= gap.stop + door.width / 2


def _direction(wall: Wall) -> Point2:
    length = max(math.dist(wall.a, wall.b), 1e-9)
    return (wall.b[0] - wall.a[0]) / length, (wall.b[1] - wall.a[1]) / length


def _point(wall: Wall, t: float) -> Point2:
    ux, uy = _direction(wall)
    return wall.a[0] + t * ux, wall.a[1] + t * uy
