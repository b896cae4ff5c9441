"""A scene pack: one house as a data set of iGibson's format, so that a real `InteractiveIndoorScene` loads it.

A pack is a data set root with one scene in it. Its frame is the house's. Furniture and objects are boxes of the right
sizes, containers are hollow with doors or a drawer, interior doors turn in their frames. Names of models are those of
the scene's things: `names.json` says what each of them is in the house. Packs are made on demand and kept in the
user's cache; the same house gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from smallplan_planner.priors import load_priors
from smallplan_planner.resources import oldest_first, user_cache
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.arrangement import rest_places, stand
from smallplan_training.simulators.igibson.bodies import Body, solid
from smallplan_training.simulators.igibson.building import door_body, door_yaw, floor_blocks, wall_blocks
from smallplan_training.simulators.igibson.maps import draw_maps
from smallplan_training.simulators.igibson.meshes import Block, colour_of, mtl_text, obj_text
from smallplan_training.simulators.igibson.urdf import (
    BASE,
    SceneItem,
    building_urdf,
    collision_mesh,
    object_urdf,
    scene_urdf,
    visual_mesh,
)

DATA_SET_VERSION = "2.2.2"
PACK_VERSION = 5
"""Part of a pack's place in the cache: a new way of making packs does not find old ones."""
NAMES_FORMAT = 1
DOOR = "door"
_KEPT_PACKS = 64  # in the cache; one takes up to 5 MB
_UNFINISHED = ".pack-"  # how the name of a folder begins that is being written
_DAY = 86400.0  # s
PREFIX = "smallplan_"
"""Before the categories of furniture and objects: iGibson's own categories come with states that need its assets."""


@dataclass(frozen=True)
class Pack:
    folder: Path  # the data set's root
    scene: str  # the scene's id
    names: dict[str, str]  # id in the house -> name in the scene, of furniture, objects and doors
    rooms: tuple[str, ...]  # ids of the house's rooms; value k of the room map is rooms[k - 1]

    @staticmethod
    def load(folder: Path) -> Pack:
        """A pack that was made before; raises `UserError` when the folder holds none."""
        found = sorted((folder / "scenes").glob("*/misc/names.json"))
        if len(found) != 1:
            raise UserError(
                f"{folder}: expected a scene pack, found {len(found)} names.json; run smallplan export-igibson"
            )
        data = read_names(found[0])
        names = {item["id"]: name for name, item in data["items"].items()}
        return Pack(folder, found[0].parents[1].name, names, tuple(data["rooms"]))


def read_names(path: Path) -> dict[str, Any]:
    """What a pack's `names.json` says; raises `UserError` that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON: {error}; make the pack again") from error
    keys = {"format", "house", "generated", "labels", "rooms", "items"}
    if not isinstance(data, dict) or not keys <= data.keys() or data["format"] != NAMES_FORMAT:
        raise UserError(f"{path}: expected the names of a scene pack, format {NAMES_FORMAT}; make the pack again")
    return data


def cached_pack(house: House) -> Pack:
    """The pack of this house, made when the user's cache does not have it yet.

    Raises: UserError: the cache can't be written.
    """
    text = json.dumps([PACK_VERSION, house.to_json()], sort_keys=True)
    folder = user_cache() / "igibson" / "packs" / hashlib.sha256(text.encode()).hexdigest()[:20]
    if folder.is_dir():
        folder.touch()  # in use
        return Pack.load(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make_room(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
        try:
            _PackWriter(house, temporary).write()
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was faster
            raise UserError(
                f"{folder.parent}: can't be written: {error.strerror}; set XDG_CACHE_HOME to a folder for caches"
            ) from error
    return Pack.load(folder)


def _make_room(packs: Path) -> None:
    """Remove the packs that were used longest ago, and what a process left unfinished that was killed."""
    used = oldest_first(packs.iterdir())
    finished = [folder for _, folder in used if not folder.name.startswith(_UNFINISHED)]
    abandoned = [folder for when, folder in used if folder.name.startswith(_UNFINISHED) and when < time.time() - _DAY]
    for folder in [*abandoned, *finished[: 1 - _KEPT_PACKS]]:
        shutil.rmtree(folder, ignore_errors=True)


def make_pack(house: House, folder: Path) -> Pack:
    """Write the pack of a house into a folder that is empty or does not exist.

    Raises: UserError: there is something in the folder, or it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; give another --folder, or empty this one")
        return _PackWriter(house, folder).write()
    except OSError as error:
        raise UserError(f"{folder}: can't be written: {error.strerror}; give another --folder") from error


@dataclass(frozen=True)
class _Model:
    """One thing of the scene with its body."""

    item: SceneItem
    body: Body
    id: str
    category: str  # in the house
    kind: str  # furniture, object or door


class _PackWriter:
    def __init__(self, house: House, folder: Path) -> None:
        self._house, self._root = house, folder
        self._scene = f"{slug(house.name)}_int"
        self._folder = folder / "scenes" / self._scene
        self._room_types = _room_categories(house)
        self._room_names = _room_instances(house)
        self._standing = stand(house)
        self._taken = {"world", "walls", "floors"}

    def write(self) -> Pack:
        models = [*self._doors(), *self._furniture(), *self._objects()]
        for model in models:
            self._write_model(model)
        items = [SceneItem(name, name, self._scene) for name in ("walls", "floors")]
        _write(
            self._folder / "urdf" / f"{self._scene}_best.urdf",
            scene_urdf(self._scene, items + [m.item for m in models]),
        )
        self._write_building("walls", wall_blocks(self._house))
        self._write_building("floors", floor_blocks(self._house))
        self._write_maps()
        self._write_names(models)
        self._write_metadata(models)
        _write(self._root / "VERSION", DATA_SET_VERSION + "\n")
        rooms = tuple(room.id for room in self._house.rooms)
        return Pack(self._root, self._scene, {model.id: model.item.name for model in models}, rooms)

    def _doors(self) -> list[_Model]:
        models = []
        for index, door in enumerate(self._house.doors):
            if door.is_passage:
                continue
            body = door_body(self._house, index)
            item = self._item(
                door.id,
                DOOR,
                position=(*door.position, body.size[2] / 2),
                yaw=door_yaw(self._house, index),
                size=body.size,
                rooms=tuple(self._room_names[room] for room in door.rooms),
                joint_states={part.joint: part.upper if door.open else 0.0 for part in body.parts},
            )
            models.append(_Model(item, body, door.id, DOOR, "door"))
        return models

    def _furniture(self) -> list[_Model]:
        models = []
        for piece in self._house.furniture:
            standing = self._standing[piece.id]
            item = self._item(
                piece.id,
                category_name(piece.category),
                position=standing.centre,
                yaw=standing.yaw,
                size=standing.body.size,
                rooms=(self._room_names[piece.room],),
            )
            models.append(_Model(item, standing.body, piece.id, piece.category, "furniture"))
        return models

    def _objects(self) -> list[_Model]:
        models = []
        places = rest_places(self._house, self._standing)
        for thing in self._house.objects:
            place = places[thing.id]
            room = self._house.room_at(place.position[0], place.position[1])
            item = self._item(
                thing.id,
                category_name(thing.category),
                position=place.position,
                yaw=place.yaw,
                size=place.size,
                fixed=place.fixed,
                rooms=(self._room_names[room.id],) if room else (),
            )
            models.append(_Model(item, solid(place.size), thing.id, thing.category, "object"))
        return models

    def _item(self, id_: str, category: str, **rest: Any) -> SceneItem:
        """A thing with a name of its own; its model has that name too."""
        name = stem = slug(id_)
        number = 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return SceneItem(name, category, name, **rest)

    def _write_model(self, model: _Model) -> None:
        folder = self._root / "objects" / model.item.category / model.item.model
        body = model.body
        _write(folder / f"{model.item.model}.urdf", object_urdf(model.item.model, body))
        links = {BASE: body.base, **{part.name: part.blocks for part in body.parts}}
        for link, blocks in links.items():
            _write_meshes(folder, link, blocks, model.category)
        metadata = {
            "bbox_size": [round(extent, 4) for extent in body.size],
            "base_link_offset": [0.0, 0.0, 0.0],
            "orientations": [],
            "openable_joint_ids": [[index, part.joint, 1] for index, part in enumerate(body.parts)],
            "link_bounding_boxes": {link: _bounding_boxes(blocks) for link, blocks in links.items()},
        }
        _write(folder / "misc" / "metadata.json", json.dumps(metadata) + "\n")
        if model.kind == "door":  # iGibson knows this category, and gives it states that have textures
            red, green, blue = (round(value * 255) for value in colour_of(model.category))
            path = folder / "material" / "DIFFUSE.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (red, green, blue)).save(path)

    def _write_building(self, category: str, blocks: Sequence[Block]) -> None:
        _write(self._folder / "urdf" / f"{self._scene}_{category}.urdf", building_urdf(category))
        _write_meshes(self._folder, category, blocks, category)

    def _write_maps(self) -> None:
        type_ids = [self._room_types.index(slug(room.type)) + 1 for room in self._house.rooms]
        maps = draw_maps(self._house, type_ids)
        layout = self._folder / "layout"
        layout.mkdir(parents=True)
        maps.free.save(layout / "floor_trav_0.png")
        maps.free_of_furniture.save(layout / "floor_trav_no_obj_0.png")
        maps.room_instances.save(layout / "floor_insseg_0.png")
        maps.room_types.save(layout / "floor_semseg_0.png")

    def _write_names(self, models: Iterable[_Model]) -> None:
        house = self._house
        data = {
            "format": NAMES_FORMAT,
            "house": house.name,
            "generated": house.generated,
            "labels": dict(house.labels),
            "rooms": [room.id for room in house.rooms],
            "items": {m.item.name: {"id": m.id, "category": m.category, "kind": m.kind} for m in models},
        }
        _write(self._folder / "misc" / "names.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def _write_metadata(self, models: Iterable[_Model]) -> None:
        priors = load_priors()
        known = [category_name(name) for name in (*priors.furniture, *priors.objects)]
        categories = ["walls", "floors", "ceilings", DOOR, *known, *sorted({m.item.category for m in models})]
        folder = self._root / "metadata"
        _write(folder / "categories.txt", "\n".join(dict.fromkeys(categories)) + "\n")
        _write(folder / "room_categories.txt", "\n".join(self._room_types) + "\n")
        _write(folder / "avg_category_specs.json", "{}\n")


def slug(text: str) -> str:
    """The text as a name of files and links."""
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_") or "thing"


def category_name(category: str) -> str:
    """What a category of a house is called in a pack."""
    return PREFIX + slug(category)


def _room_categories(house: House) -> list[str]:
    """The types of rooms in the order of their values in the map: those of the priors, then this house's others."""
    return list(
        dict.fromkeys(slug(name) for name in (*load_priors().rooms, *sorted(room.type for room in house.rooms)))
    )


def _room_instances(house: House) -> dict[str, str]:
    """Room id -> the name that iGibson gives it: its type, and a number in the order of the map's values."""
    counts: Counter[str] = Counter()
    names = {}
    for room in house.rooms:
        kind = slug(room.type)
        names[room.id] = f"{kind}_{counts[kind]}"
        counts[kind] += 1
    return names


def _bounding_boxes(blocks: Sequence[Block]) -> dict[str, Any]:
    """A link's bounding box in its own frame, in the form of iGibson's metadata."""
    lows = [min(b.centre[axis] - b.size[axis] / 2 for b in blocks) for axis in range(3)]
    highs = [max(b.centre[axis] + b.size[axis] / 2 for b in blocks) for axis in range(3)]
    transform = [[1.0 if row == column else 0.0 for column in range(4)] for row in range(4)]
    for axis in range(3):
        transform[axis][3] = round((lows[axis] + highs[axis]) / 2, 4)
    box = {"extent": [round(high - low, 4) for low, high in zip(lows, highs)], "transform": transform}
    return {shape: {"axis_aligned": box, "oriented": box} for shape in ("collision", "visual")}


def _write_meshes(folder: Path, link: str, blocks: Sequence[Block], kind: str) -> None:
    visual = folder / visual_mesh(link)
    _write(visual, obj_text(blocks, material=visual.stem))
    _write(visual.with_suffix(".mtl"), mtl_text(visual.stem, kind))
    _write(folder / collision_mesh(link), obj_text(blocks))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
