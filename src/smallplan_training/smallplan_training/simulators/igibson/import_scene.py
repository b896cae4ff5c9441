"""`smallplan import-igibson`: an iGibson scene as a house for the embedded simulator.

    smallplan import-igibson ig_dataset/scenes/Rs_int --out Rs.json

Rooms come from the map of rooms, walls lie between them, doors and passages where the maps and the door objects say;
furniture and objects are the scene's, with the boxes around them, and have our words for iGibson's categories where
there are some. What opens stands in `config/igibson.yaml`, for a pack of our own in its models. Exterior doors are
locked. A scene of the data set holds few small objects: like in a generated house each episode spawns more.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import Furniture, House, HouseError, HouseObject, HouseRoom, Point2
from smallplan_training.simulators.house.placement import ObjectPlacer
from smallplan_training.simulators.igibson.categories import Categories, Kind, load_categories
from smallplan_training.simulators.igibson.maps import PIXEL
from smallplan_training.simulators.igibson.openings import find_doors
from smallplan_training.simulators.igibson.outlines import RoomCells, outlines, room_cells, walls_around
from smallplan_training.simulators.igibson.scene_files import SceneFolder, SceneThing, read_scene

log = logging.getLogger(__name__)

HANGING = 0.6
"""m: furniture that hangs higher above the floor than this and holds nothing is no obstacle, but an object."""
SINKS, FLOATS = 0.05, 0.15
"""m that an object may reach into the furniture that it is on, and hover over it."""
ASIDE = 0.05
"""m that an object's centre may lie outside of the furniture that it is on or in."""
NEAR_ROOM = 0.6
"""m: what stands in no room belongs to one that is this near."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `smallplan import-igibson`."""
    parser.add_argument("scene", type=Path, metavar="SCENE_DIR", help="<data set>/scenes/<scene>")
    parser.add_argument("--out", type=Path, required=True, metavar="HOUSE.json", help="the house file to write")
    parser.add_argument(
        "--categories", type=Path, metavar="FILE", help="what the categories are, instead of config/igibson.yaml"
    )


def run(args: argparse.Namespace) -> int:
    """Import the scene."""
    house = import_scene(args.scene, args.categories)
    try:
        house.save(args.out)
    except OSError as error:
        raise UserError(f"{args.out}: can't be written: {error.strerror}; give another --out") from error
    Console(highlight=False, soft_wrap=True).print(
        f"{args.out}: {len(house.rooms)} rooms, {len(house.doors)} doors and passages, "
        f"{len(house.furniture)} pieces of furniture, {len(house.objects)} objects"
    )
    return 0


def import_scene(folder: Path, categories: Path | None = None) -> House:
    """The scene in this folder as a house, in the scene's frame.

    Ids are the scene's names; those of a pack are the ids of the house that it was made from.
    Args:
        categories: a table to use instead of `config/igibson.yaml`.
    Raises: UserError: a file is missing or wrong, or a category unknown; the message names the file.
    """
    table = load_categories(categories)
    scene = read_scene(folder)
    cells = room_cells(scene.rooms, PIXEL)
    polygons = outlines(cells)
    rooms = _rooms(scene, polygons, table)
    walls = walls_around(list(polygons.values()))
    known = scene.names.get("items", {})
    kinds = {thing.name: _kind(scene, thing, table) for thing in scene.things}
    doors = [thing for thing in scene.things if kinds[thing.name] is Kind.DOOR]
    furniture, objects = _contents(scene, kinds, cells, {value: room.id for value, room in rooms.items()}, table)
    house = House(
        name=scene.names.get("house", folder.resolve().name),
        rooms=tuple(rooms.values()),
        walls=walls,
        doors=find_doors(
            scene,
            doors,
            walls,
            cells,
            {value: room.id for value, room in rooms.items()},
            {name: item["id"] for name, item in known.items()},
        ),
        furniture=tuple(furniture),
        objects=tuple(objects),
        labels=scene.names.get("labels", {}),
    )
    spawns = scene.names.get("generated", bool(ObjectPlacer(house, table.priors).categories))
    house = replace(house, generated=spawns)
    try:
        return House.from_json(house.to_json(), source=str(scene.urdf))
    except HouseError as error:
        raise UserError(f"{error}; the scene can't be used as a house") from error


def _rooms(
    scene: SceneFolder, polygons: dict[int, tuple[tuple[float, float], ...]], table: Categories
) -> dict[int, HouseRoom]:
    """Value of the map -> room."""
    ids: Sequence[str] = scene.names.get("rooms", [])
    rooms = {}
    for value, polygon in polygons.items():
        id_ = ids[value - 1] if value <= len(ids) else f"room-{value}"
        rooms[value] = HouseRoom(id_, table.room_type(scene.room_types[value]), polygon)
    for value in scene.room_types.keys() - polygons.keys():
        log.warning("left out room %s (%s): it is too small", value, scene.room_types[value])
    return rooms


def _kind(scene: SceneFolder, thing: SceneThing, table: Categories) -> Kind:
    known = scene.names.get("items", {}).get(thing.name)
    if known is None:
        return table.kind_of(thing.category, str(scene.urdf))
    if known["kind"] == "furniture":
        return Kind.CONTAINER if scene.moving_joints(thing) else Kind.FURNITURE
    return Kind.DOOR if known["kind"] == "door" else Kind.OBJECT


def _contents(
    scene: SceneFolder, kinds: dict[str, Kind], cells: RoomCells, room_ids: dict[int, str], table: Categories
) -> tuple[list[Furniture], list[HouseObject]]:
    furniture: list[Furniture] = []
    loose: list[SceneThing] = []
    hanging: set[str] = set()
    for thing in scene.things:
        kind = kinds[thing.name]
        ours = thing.name in scene.names.get("items", {})
        holds = ours or kind is Kind.CONTAINER or table.priors.is_surface(thing.category)
        if kind is Kind.OBJECT:
            loose.append(thing)
            if ours and thing.fixed:
                hanging.add(thing.name)
        elif kind is Kind.FURNITURE and not holds and _bottom(thing) > HANGING:
            loose.append(thing)
            hanging.add(thing.name)
        elif kind in (Kind.CONTAINER, Kind.FURNITURE):
            room = _room_near(thing, cells, room_ids)
            height = thing.position[2] + thing.size[2] / 2
            if room is None or height <= 0:
                log.warning("left out %s: it stands in no room", thing.name)
                continue
            id_, category = _name(scene, thing, table)
            furniture.append(
                Furniture(
                    id=id_,
                    category=category,
                    position=thing.position[:2],
                    size=thing.size[:2],
                    yaw=thing.yaw,
                    height=height,
                    openable=kind is Kind.CONTAINER,
                    room=room,
                )
            )
    return furniture, _objects(scene, loose, hanging, furniture, cells, room_ids, table)


def _objects(
    scene: SceneFolder,
    things: Sequence[SceneThing],
    hanging: Container[str],
    furniture: Sequence[Furniture],
    cells: RoomCells,
    room_ids: dict[int, str],
    table: Categories,
) -> list[HouseObject]:
    """The objects in the scene's order; what lies on another object belongs where that one does.

    Args:
        hanging: names of things that hang on a wall, whatever is below them.
    """
    parents: dict[str, tuple[str, str]] = {}
    below: list[SceneThing] = []
    for thing in sorted(things, key=_bottom):
        parent = ("", "") if thing.name in hanging else _parent(thing, furniture)
        if not parent[0] and thing.name not in hanging:
            under = [other for other in below if parents[other.name][0] and _rests_on(thing, other)]
            parent = parents[under[-1].name] if under else parent
        parents[thing.name] = parent
        below.append(thing)
    objects = []
    for thing in things:
        if _room_near(thing, cells, room_ids) is None:
            log.warning("left out %s: it lies in no room", thing.name)
            continue
        id_, category = _name(scene, thing, table)
        objects.append(HouseObject(id_, category, thing.position, thing.size, *parents[thing.name]))
    return objects


def _name(scene: SceneFolder, thing: SceneThing, table: Categories) -> tuple[str, str]:
    """The id and the category that a thing has in the house."""
    known = scene.names.get("items", {}).get(thing.name)
    if known is not None:
        return known["id"], known["category"]
    return thing.name, table.word_for(thing.category)


def _room_near(thing: SceneThing, cells: RoomCells, room_ids: dict[int, str]) -> str | None:
    """The room that a thing stands in, or one close by."""
    x, y = thing.position[:2]
    for far in (0.0, NEAR_ROOM / 3, 2 * NEAR_ROOM / 3, NEAR_ROOM):
        for eighth in range(8 if far else 1):
            angle = eighth * math.pi / 4
            value = cells.at(x + far * math.cos(angle), y + far * math.sin(angle))
            if value in room_ids:
                return room_ids[value]
    return None


def _parent(thing: SceneThing, furniture: Sequence[Furniture]) -> tuple[str, str]:
    """The furniture that an object is on or in and which of the two, ('', '') when it is neither."""
    bottom = _bottom(thing)
    best: tuple[float, str, str] | None = None
    for piece in furniture:
        if not _over(thing, piece.position, piece.size, piece.yaw):
            continue
        if -SINKS <= bottom - piece.height <= FLOATS:
            candidate = (abs(bottom - piece.height), piece.id, "on")
        elif bottom < piece.height and thing.position[2] < piece.height:
            candidate = (FLOATS + piece.height - bottom, piece.id, "in" if piece.openable else "on")
        else:
            continue
        best = candidate if best is None else min(best, candidate)
    return ("", "") if best is None else (best[1], best[2])


def _rests_on(thing: SceneThing, other: SceneThing) -> bool:
    gap = _bottom(thing) - other.position[2] - other.size[2] / 2
    near = all(
        abs(thing.position[axis] - other.position[axis]) <= (max(thing.size[:2]) + max(other.size[:2])) / 2
        for axis in (0, 1)
    )
    return near and -SINKS <= gap <= SINKS


def _bottom(thing: SceneThing) -> float:
    return thing.position[2] - thing.size[2] / 2


def _over(thing: SceneThing, centre: Point2, size: Point2, yaw: float) -> bool:
    """Whether the object's centre lies within a footprint."""
    dx, dy = thing.position[0] - centre[0], thing.position[1] - centre[1]
    c, s = math.cos(yaw), math.sin(yaw)
    u, v = abs(c * dx + s * dy), abs(c * dy - s * dx)
    return u <= size[0] / 2 + ASIDE and v <= size[1] / 2 + ASIDE
