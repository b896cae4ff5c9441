"""A house as data: rooms, walls, doors, furniture and objects, read from and written to JSON.

The JSON's fields are described in `house.schema.json`; what a schema can't say (a door that lies on no wall, a
parent that doesn't exist) is checked here. Units are metres and radians, in the house's own frame, z up. This
module knows nothing of robots: `raster.py` turns a house into cells, `robot.py` puts a robot into it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from smallplan_planner.scene_graph import Point

Point2 = tuple[float, float]
"""(x, y) in metres, in the house's frame."""

ON_WALL = 0.15
"""m: how far a door's ends may lie off the line of the wall that it is in (a wall's thickness)."""


class HouseError(ValueError):
    """A house that can't be used; the message names the file and the field."""


@dataclass(frozen=True)
class HouseRoom:
    id: str
    type: str
    polygon: tuple[Point2, ...]

    @property
    def area(self) -> float:
        """m², by the shoelace formula."""
        total = 0.0
        for (x0, y0), (x1, y1) in zip(self.polygon, self.polygon[1:] + self.polygon[:1]):
            total += x0 * y1 - x1 * y0
        return abs(total) / 2


@dataclass(frozen=True)
class Wall:
    a: Point2
    b: Point2


@dataclass(frozen=True)
class HouseDoor:
    id: str
    position: Point2  # the middle of the opening
    width: float
    rooms: tuple[str, ...]  # two, or one: it leads outside
    openable: bool = True
    open: bool = False

    @property
    def is_passage(self) -> bool:
        """An opening that can't be opened or closed."""
        return self.open and not self.openable


@dataclass(frozen=True)
class Furniture:
    id: str
    category: str
    position: Point2  # centre of the footprint
    size: Point2  # width, depth, before the turn by yaw
    yaw: float
    height: float
    openable: bool
    room: str

    @property
    def corners(self) -> tuple[Point2, ...]:
        """The footprint's four corners, counter-clockwise."""
        (x, y), (w, d) = self.position, self.size
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        offsets = ((-w / 2, -d / 2), (w / 2, -d / 2), (w / 2, d / 2), (-w / 2, d / 2))
        return tuple((x + c * u - s * v, y + s * u + c * v) for u, v in offsets)


@dataclass(frozen=True)
class HouseObject:
    id: str
    category: str
    position: Point  # centre
    size: Point
    parent: str = ""  # furniture id, '' = on the floor
    relation: str = ""  # "on" | "in" | ''

    @property
    def top(self) -> float:
        return self.position[2] + self.size[2] / 2


@dataclass(frozen=True)
class House:
    """One house. Build it by `House.load`, `House.from_json` or the generator; `check` is run by the first two."""

    name: str
    rooms: tuple[HouseRoom, ...]
    walls: tuple[Wall, ...]
    doors: tuple[HouseDoor, ...]
    furniture: tuple[Furniture, ...]
    objects: tuple[HouseObject, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    generated: bool = False

    @cached_property
    def room_by_id(self) -> dict[str, HouseRoom]:
        return {room.id: room for room in self.rooms}

    @cached_property
    def furniture_by_id(self) -> dict[str, Furniture]:
        return {piece.id: piece for piece in self.furniture}

    @cached_property
    def door_segments(self) -> tuple[tuple[Point2, Point2], ...]:
        """The two jambs of each door, along the wall that it is in.

        Raises: HouseError: a door lies on no wall.
        """
        return tuple(self._door_segment(index) for index in range(len(self.doors)))

    @property
    def area(self) -> float:
        """m² of floor."""
        return sum(room.area for room in self.rooms)

    def label_of(self, category: str) -> str:
        """What perception calls this category."""
        return self.labels.get(category, category)

    def with_objects(self, objects: Iterable[HouseObject]) -> House:
        """The same house with other objects in it."""
        return replace(self, objects=tuple(objects))

    def room_at(self, x: float, y: float) -> HouseRoom | None:
        """The room around this point of the house's frame."""
        return next((room for room in self.rooms if point_in_polygon(x, y, room.polygon)), None)

    @staticmethod
    def load(path: str | Path, assets: str | Path | None = None) -> House:
        """Read a house or a ProcTHOR house.

        Args:
            path: the JSON file; a ProcTHOR house is recognised by its keys.
            assets: for a ProcTHOR house, the file with sizes and properties of its assets; by default
                `assets.json` beside the house or in the folder above it.
        Raises: HouseError: the file can't be read or is not a house; the message names the field.
        """
        from smallplan_training.simulators.house import procthor

        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise HouseError(f"{path}: can't be read: {error.strerror}") from error
        except ValueError as error:
            raise HouseError(f"{path}: not valid JSON: {error}") from error
        except RecursionError as error:
            raise HouseError(f"{path}: nested too deeply; a house has lists of flat objects") from error
        if procthor.is_procthor(data):
            return procthor.import_house(
                data, assets=procthor.find_assets(path, assets), name=path.stem, source=str(path)
            )
        return House.from_json(data, source=str(path))

    @staticmethod
    def from_json(data: Any, source: str = "house") -> House:
        """A house from its parsed JSON, checked. `source` is what messages call it."""
        _check_schema(data, source)
        house = House(
            name=data["name"],
            rooms=tuple(HouseRoom(r["id"], r["type"], tuple(_point(p) for p in r["polygon"])) for r in data["rooms"]),
            walls=tuple(Wall(_point(w["a"]), _point(w["b"])) for w in data["walls"]),
            doors=tuple(
                HouseDoor(
                    d["id"], _point(d["position"]), float(d["width"]), tuple(d["rooms"]), d["openable"], d["open"]
                )
                for d in data["doors"]
            ),
            furniture=tuple(
                Furniture(
                    f["id"],
                    f["category"],
                    _point(f["position"]),
                    _point(f["size"]),
                    float(f["yaw"]),
                    float(f["height"]),
                    f["openable"],
                    f["room"],
                )
                for f in data["furniture"]
            ),
            objects=tuple(
                HouseObject(
                    o["id"],
                    o["category"],
                    _point3(o["position"]),
                    _point3(o["size"]),
                    o.get("parent", ""),
                    o.get("relation", ""),
                )
                for o in data["objects"]
            ),
            labels=dict(data.get("labels", {})),
            generated=data.get("generated", False),
        )
        house.check(source)
        return house

    def to_json(self) -> dict[str, Any]:
        """The JSON that `from_json` reads; coordinates to the millimetre."""
        data: dict[str, Any] = {"name": self.name, "generated": self.generated}
        if self.labels:
            data["labels"] = dict(self.labels)
        for key in ("rooms", "walls", "doors", "furniture", "objects"):
            data[key] = [_rounded(asdict(item)) for item in getattr(self, key)]
        return data

    def save(self, path: str | Path) -> None:
        """Write the house, one element a line."""
        lines = []
        for key, value in self.to_json().items():
            if isinstance(value, list):
                items = ",\n".join(json.dumps(item, separators=(",", ":"), ensure_ascii=False) for item in value)
                lines.append(f"{json.dumps(key)}:[\n{items}\n]")
            else:
                lines.append(f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False)}")
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def check(self, source: str = "house") -> None:
        """Raise `HouseError`, naming the field, for what the schema can't express."""
        if not self.rooms:
            raise HouseError(f"{source}: rooms: a house needs at least one room, got none")
        self._check_ids(source)
        for index, room in enumerate(self.rooms):
            if room.area < 0.5:
                raise HouseError(
                    f"{source}: rooms[{index}].polygon: encloses {room.area:.2f} m²; expected at least 0.5"
                )
        for index, door in enumerate(self.doors):
            self._check_rooms(f"{source}: doors[{index}].rooms", door.rooms)
            if len(set(door.rooms)) < len(door.rooms):
                raise HouseError(
                    f"{source}: doors[{index}].rooms: {door.rooms[0]!r} twice; a door to the outside names one room"
                )
            self._door_segment(index, source)
        for index, piece in enumerate(self.furniture):
            self._check_rooms(f"{source}: furniture[{index}].room", (piece.room,))
        for index, item in enumerate(self.objects):
            self._check_parent(f"{source}: objects[{index}]", item)

    def _check_ids(self, source: str) -> None:
        seen: dict[str, str] = {}
        for kind in ("rooms", "doors", "furniture", "objects"):
            for index, item in enumerate(getattr(self, kind)):
                where = f"{kind}[{index}]"
                if item.id in seen:
                    raise HouseError(
                        f"{source}: {where}.id: {item.id!r} is already the id of {seen[item.id]}; ids must be unique"
                    )
                seen[item.id] = where

    def _check_rooms(self, where: str, rooms: Iterable[str]) -> None:
        for room in rooms:
            if room not in self.room_by_id:
                raise HouseError(f"{where}: unknown room {room!r}; the rooms are {', '.join(sorted(self.room_by_id))}")

    def _check_parent(self, where: str, item: HouseObject) -> None:
        if bool(item.parent) != bool(item.relation):
            raise HouseError(
                f"{where}.relation: {item.relation!r} with parent {item.parent!r}; expected both or neither"
            )
        if not item.parent:
            return
        parent = self.furniture_by_id.get(item.parent)
        if parent is None:
            raise HouseError(f"{where}.parent: there is no furniture with id {item.parent!r}")
        if item.relation == "in" and not parent.openable:
            raise HouseError(
                f"{where}.parent: the object is in {item.parent!r}, which is not openable; expected a container"
            )

    def _door_segment(self, index: int, source: str = "") -> tuple[Point2, Point2]:
        door = self.doors[index]
        found = [segment for segment in (_segment_on_wall(door, wall) for wall in self.walls) if segment]
        if found:
            return min(found)[1:]
        where = f"{source or self.name}: doors[{index}].position"
        raise HouseError(
            f"{where}: the opening at {door.position}, {door.width} m wide, lies on no wall; "
            f"expected both ends within {ON_WALL} m of one"
        )


def point_in_polygon(x: float, y: float, polygon: Sequence[Point2]) -> bool:
    """Even-odd rule."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1]):  # type: ignore[operator]
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def _segment_on_wall(door: HouseDoor, wall: Wall) -> tuple[float, Point2, Point2] | None:
    """How far off the wall's line the door is, and its jambs, when it lies on this wall, else None."""
    (ax, ay), (bx, by), (x, y) = wall.a, wall.b, door.position
    length = math.hypot(bx - ax, by - ay)
    if length == 0:
        return None
    ux, uy = (bx - ax) / length, (by - ay) / length
    along, off = (x - ax) * ux + (y - ay) * uy, abs((x - ax) * uy - (y - ay) * ux)
    half = door.width / 2
    if off > ON_WALL or along - half < -ON_WALL or along + half > length + ON_WALL:
        return None
    return off, (x - half * ux, y - half * uy), (x + half * ux, y + half * uy)


@lru_cache(maxsize=1)
def _validator() -> Any:
    schema = json.loads(resources.files(__package__).joinpath("house.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _check_schema(data: Any, source: str) -> None:
    error = jsonschema.exceptions.best_match(_validator().iter_errors(data))
    if error is None:
        return
    where = _field(error.absolute_path)
    raise HouseError(f"{source}: {where + ': ' if where else ''}{_explain(error)}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _field(path: Iterable[str | int]) -> str:
    """`doors[3].width`"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explain(error: Any) -> str:
    """What was expected and what was received, in words."""
    rule, value = error.validator, _short(error.instance)
    if rule == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"the field {missing[0]!r} is missing"
    if rule == "additionalProperties":
        return str(error.message)
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "maximum": "<="}
    if rule in bounds:
        return f"expected a number {bounds[rule]} {error.validator_value}, got {value}"
    if rule == "type":
        limit = "".join(
            f" {sign} {error.schema[key]}" for key, sign in bounds.items() if key in error.schema and key != "maximum"
        )
        article = "an" if error.validator_value[0] in "aeiou" else "a"
        return f"expected {article} {error.validator_value}{limit}, got {value}"
    if rule in ("minItems", "maxItems", "minLength", "maxLength"):
        bound = "at least" if rule.startswith("min") else "at most"
        unit = "items" if rule.endswith("Items") else "characters"
        return f"expected {bound} {error.validator_value} {unit}, got {len(error.instance)}"
    return f"{error.message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _point(value: Sequence[float]) -> Point2:
    return (float(value[0]), float(value[1]))


def _point3(value: Sequence[float]) -> Point:
    return (float(value[0]), float(value[1]), float(value[2]))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
