"""Imports ProcTHOR houses (AI2-THOR's house JSON).

A house names its things by asset; sizes and properties of the assets come from a second file, a JSON object of
`{assetId: {"type", "size": [x, y, z] in m, "props": [...]}}`. ProcTHOR's frame is left-handed with y up and angles in
degrees, clockwise; here x, z become x, y. Labels stay as they are (`DiningTable`).

The rules: a container is openable when its asset is CanOpen and Receptacle; a child whose centre lies below its
parent's top is inside of it (of an open shelf it is on it); containers start closed; a door whose two rooms are the
same leads outside and stays locked; an opening that can't be opened or closed is a passage.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallplan_training.simulators.house.house import (
    Furniture,
    House,
    HouseDoor,
    HouseError,
    HouseObject,
    HouseRoom,
    Point2,
    Wall,
    point_in_polygon,
)

log = logging.getLogger(__name__)

HANGING = 0.6
"""m: what hangs higher above the floor and holds nothing is no obstacle."""
OFF_WALL = 0.2
"""m: what hangs on a wall is put this far into the room, so that it is seen from that room."""
MIN_SIZE = 0.01

Assets = dict[str, dict[str, Any]]


def is_procthor(data: Any) -> bool:
    """Whether parsed JSON is a ProcTHOR house, by its keys."""
    return isinstance(data, dict) and {"rooms", "walls", "doors", "objects", "proceduralParameters"} <= data.keys()


def find_assets(house: Path, given: str | Path | None) -> Assets:
    """The assets of a house file: the file that is given, else `assets.json` beside the house or one folder up.

    Raises: HouseError: there is none, or it is not such a file.
    """
    places = [Path(given)] if given is not None else [house.parent / "assets.json", house.parent.parent / "assets.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = " or ".join(str(place) for place in places)
        raise HouseError(
            f"{house}: a ProcTHOR house needs its assets' sizes, found no {looked}; put `assets.json` there"
        )
    try:
        assets = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HouseError(f"{path}: can't be read as JSON: {error}") from error
    if not isinstance(assets, dict):
        raise HouseError(f"{path}: expected an object of assets by id, got a {type(assets).__name__}")
    return assets


def import_house(data: dict[str, Any], assets: Assets, name: str, source: str = "house") -> House:
    """A ProcTHOR house as a `House`.

    Things whose asset is unknown or that lie outside of all rooms are left out, with a warning in the log.
    Raises: HouseError: the message names the field that is missing or wrong.
    """
    try:
        rooms = tuple(
            HouseRoom(room["id"], room["roomType"], tuple(_plane(point) for point in room["floorPolygon"]))
            for room in data["rooms"]
        )
        walls = {wall["id"]: _wall(wall) for wall in data["walls"]}
        doors = tuple(_door(door, walls) for door in data["doors"])
        furniture, objects = _contents(data["objects"], assets, rooms)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise HouseError(f"{source}: not a complete ProcTHOR house: {type(error).__name__} {error}") from error
    house = House(
        name=name,
        rooms=rooms,
        walls=tuple(dict.fromkeys(_undirected(wall) for wall in walls.values())),
        doors=doors,
        furniture=furniture,
        objects=objects,
    )
    house.check(source)
    return house


def _plane(point: dict[str, float]) -> Point2:
    return (float(point["x"]), float(point["z"]))


def _wall(wall: dict[str, Any]) -> Wall:
    """The wall's foot, from its first point to its second: holes are measured in that direction."""
    floor = min(point["y"] for point in wall["polygon"])
    a, b = [_plane(point) for point in wall["polygon"] if point["y"] == floor][:2]
    return Wall(a, b)


def _undirected(wall: Wall) -> Wall:
    """Each wall is listed once from either side."""
    a, b = sorted(tuple(round(value, 3) for value in end) for end in (wall.a, wall.b))
    return Wall((a[0], a[1]), (b[0], b[1]))


def _door(door: dict[str, Any], walls: dict[str, Wall]) -> HouseDoor:
    wall = walls[door["wall0"]]
    first, second = sorted(float(point["x"]) for point in door["holePolygon"][:2])
    length = math.hypot(wall.b[0] - wall.a[0], wall.b[1] - wall.a[1])
    share = (first + second) / 2 / length
    middle = (wall.a[0] + share * (wall.b[0] - wall.a[0]), wall.a[1] + share * (wall.b[1] - wall.a[1]))
    if door["room0"] == door["room1"]:
        return HouseDoor(door["id"], middle, second - first, (door["room0"],), openable=False, open=False)
    openable = bool(door.get("openable", False))
    is_open = not openable or float(door.get("openness", 0)) > 0
    return HouseDoor(door["id"], middle, second - first, (door["room0"], door["room1"]), openable, is_open)


def _contents(
    things: list[dict[str, Any]], assets: Assets, rooms: tuple[HouseRoom, ...]
) -> tuple[tuple[Furniture, ...], tuple[HouseObject, ...]]:
    furniture: list[Furniture] = []
    objects: list[HouseObject] = []
    for thing in things:
        asset = assets.get(thing["assetId"])
        if asset is None:
            log.warning("left out %s: its asset %s is unknown", thing["id"], thing["assetId"])
            continue
        position, size = thing["position"], _size(asset)
        room = _room_of(thing, rooms)
        if room is None:
            log.warning("left out %s: it lies outside of all rooms", thing["id"])
            continue
        props = asset.get("props") or []
        hangs = position["y"] - size[1] / 2 > HANGING and "Receptacle" not in props
        if "CanPickup" in props or hangs:
            x, y = _inside(_plane(position), room)
            objects.append(
                HouseObject(thing["id"], asset["type"], (x, y, float(position["y"])), (size[0], size[2], size[1]))
            )
            continue
        piece = Furniture(
            id=thing["id"],
            category=asset["type"],
            position=_plane(position),
            size=(size[0], size[2]),
            yaw=-math.radians(float(thing["rotation"]["y"])),
            height=max(MIN_SIZE, float(position["y"]) + size[1] / 2),
            openable="CanOpen" in props and "Receptacle" in props,
            room=room.id,
        )
        furniture.append(piece)
        objects += [_child(child, assets[child["assetId"]], piece) for child in _descendants(thing, assets)]
    return tuple(furniture), tuple(objects)


def _descendants(thing: dict[str, Any], assets: Assets) -> Iterator[dict[str, Any]]:
    for child in thing.get("children", []):
        if child["assetId"] in assets:
            yield child
        else:
            log.warning("left out %s: its asset %s is unknown", child["id"], child["assetId"])
        yield from _descendants(child, assets)


def _child(child: dict[str, Any], asset: dict[str, Any], parent: Furniture) -> HouseObject:
    position, size = child["position"], _size(asset)
    relation = "in" if parent.openable and position["y"] < parent.height else "on"
    x, y = _plane(position)
    return HouseObject(
        child["id"], asset["type"], (x, y, float(position["y"])), (size[0], size[2], size[1]), parent.id, relation
    )


def _size(asset: dict[str, Any]) -> tuple[float, float, float]:
    """Extent along x, y (up), z in m."""
    x, y, z = (max(MIN_SIZE, float(value)) for value in asset["size"])
    return x, y, z


def _room_of(thing: dict[str, Any], rooms: tuple[HouseRoom, ...]) -> HouseRoom | None:
    """The room that the thing's id names (`Bed|4|2` is in `room|4`), else the one around its position."""
    parts = str(thing["id"]).split("|")
    named = next((room for room in rooms if len(parts) > 1 and room.id == f"room|{parts[1]}"), None)
    if named is not None:
        return named
    x, y = _plane(thing["position"])
    return next((room for room in rooms if point_in_polygon(x, y, room.polygon)), None)


def _inside(point: Point2, room: HouseRoom) -> Point2:
    """The point, moved off the walls into its room."""
    x, y = point
    shifts = [(0.0, 0.0)] + [
        (OFF_WALL * factor * math.cos(angle), OFF_WALL * factor * math.sin(angle))
        for factor in (1.0, 2.0)
        for angle in (step * math.pi / 4 for step in range(8))
    ]
    for dx, dy in shifts:
        if point_in_polygon(x + dx, y + dy, room.polygon) and _wall_distance(x + dx, y + dy, room) >= OFF_WALL * 0.65:
            return (x + dx, y + dy)
    return point


def _wall_distance(x: float, y: float, room: HouseRoom) -> float:
    """Metres to the room's outline."""
    nearest = math.inf
    for (ax, ay), (bx, by) in zip(room.polygon, room.polygon[1:] + room.polygon[:1]):
        dx, dy = bx - ax, by - ay
        share = min(max(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0.0), 1.0)
        nearest = min(nearest, math.hypot(x - ax - share * dx, y - ay - share * dy))
    return nearest
