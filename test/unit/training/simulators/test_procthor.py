from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.house import House, HouseError
from smallplan_training.simulators.house.procthor import is_procthor

SHARED = Path(os.environ.get("SMALLPLAN_SHARED", Path(__file__).parents[5] / "shared")) / "data" / "procthor"


def point(x: float, y: float, z: float) -> dict[str, float]:
    return {"x": x, "y": y, "z": z}


def wall(name: str, room: str, a: tuple[float, float], b: tuple[float, float]) -> dict[str, Any]:
    return {"id": name, "roomId": room, "polygon": [point(x, height, z) for height in (0, 2.5) for x, z in (a, b)]}


def room(name: str, kind: str, first: float, last: float) -> dict[str, Any]:
    corners = [(first, 0), (first, 5), (last, 5), (last, 0)]
    return {"id": name, "roomType": kind, "floorPolygon": [point(x, 0, z) for x, z in corners]}


def thing(name: str, asset: str, x: float, y: float, z: float, turn: float = 0, children: Any = ()) -> dict[str, Any]:
    place = {"position": point(x, y, z), "rotation": point(0, turn, 0)}
    return {"id": name, "assetId": asset, **place, "children": list(children)}


def hole(first: float, second: float) -> list[dict[str, float]]:
    return [point(first, 0, 0), point(second, 2.1, 0)]


# Two rooms, 4 m x 5 m and 3 m x 5 m, x to the right and z ahead.
DATA: dict[str, Any] = {
    "proceduralParameters": {},
    "metadata": {},
    "windows": [],
    "rooms": [room("room|1", "Kitchen", 0, 4), room("room|2", "Bedroom", 4, 7)],
    "walls": [
        wall("w1", "room|1", (0, 0), (0, 5)),
        wall("w2", "room|1", (0, 5), (4, 5)),
        wall("w3", "room|1", (4, 5), (4, 0)),
        wall("w4", "room|1", (4, 0), (0, 0)),
        wall("w5", "room|2", (4, 0), (4, 5)),
        wall("w6", "room|2", (4, 5), (7, 5)),
        wall("w7", "room|2", (7, 5), (7, 0)),
        wall("w8", "room|2", (7, 0), (4, 0)),
    ],
    "doors": [
        {"id": "d1", "room0": "room|1", "room1": "room|2", "wall0": "w3", "wall1": "w5", "openable": True, "openness": 0, "holePolygon": hole(0.5, 1.5)},  # noqa: E501
        {"id": "d2", "room0": "room|1", "room1": "room|2", "wall0": "w5", "wall1": "w3", "holePolygon": hole(0.5, 2.0)},
        {"id": "d3", "room0": "room|1", "room1": "room|1", "wall0": "w1", "wall1": "w1", "openable": True, "openness": 1, "holePolygon": hole(2.0, 3.0)},  # noqa: E501
    ],
    "objects": [
        thing("Fridge|1|0", "Fridge_1", 0.5, 0.9, 4.5, 90, [
            thing("Egg|1|1", "Egg_1", 0.5, 1.2, 4.5), thing("Box|1|2", "Box_1", 0.5, 1.9, 4.5)
        ]),
        thing("Shelf|1|3", "Shelf_1", 2.0, 0.5, 4.8, 180, [thing("Mug|1|4", "Mug_1", 2.0, 0.4, 4.8)]),
        thing("BaseballBat|2|5", "Bat_1", 6.5, 0.05, 0.5),
        thing("Painting|2|6", "Painting_1", 6.98, 1.5, 3.0, 270),
        thing("Ghost|2|7", "Ghost_1", 5.0, 0.5, 1.0),
    ],
}  # fmt: skip
ASSETS: dict[str, Any] = {
    "Fridge_1": {"type": "Fridge", "size": [0.6, 1.8, 0.8], "props": ["Static", "CanOpen", "Receptacle"]},
    "Egg_1": {"type": "Egg", "size": [0.05, 0.06, 0.05], "props": ["CanPickup"]},
    "Box_1": {"type": "Box", "size": [0.3, 0.2, 0.3], "props": ["CanPickup", "CanOpen", "Receptacle"]},
    "Shelf_1": {"type": "ShelvingUnit", "size": [1.0, 1.0, 0.3], "props": ["Moveable", "Receptacle"]},
    "Mug_1": {"type": "Mug", "size": [0.1, 0.1, 0.1], "props": ["CanPickup"]},
    "Bat_1": {"type": "BaseballBat", "size": [0.1, 0.1, 0.9], "props": [None]},
    "Painting_1": {"type": "Painting", "size": [0.8, 0.6, 0.03], "props": ["Static"]},
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a ProcTHOR house, with its assets one folder up; returns the house's path."""

    def write_files(data: Any = DATA, assets: Any = ASSETS) -> Path:
        (tmp_path / "houses").mkdir(exist_ok=True)
        path = tmp_path / "houses" / "house_x.json"
        path.write_text(json.dumps(data))
        if assets is not None:
            (tmp_path / "assets.json").write_text(json.dumps(assets))
        return path

    return write_files


def test_it_is_recognised_by_its_keys(two_rooms: House) -> None:
    assert is_procthor(DATA)
    assert not is_procthor(two_rooms.to_json())
    assert not is_procthor([])


def test_rooms_and_walls(write: Any) -> None:
    house = House.load(write())
    assert house.name == "house_x"
    assert not house.generated
    assert [(room.type, room.area) for room in house.rooms] == [("Kitchen", 20.0), ("Bedroom", 15.0)]
    assert len(house.walls) == 7  # the one between the rooms is listed from both sides


def test_doors_passages_and_the_way_outside(write: Any) -> None:
    door, passage, front = House.load(write()).doors
    assert (door.openable, door.open, door.rooms) == (True, False, ("room|1", "room|2"))
    assert door.position == pytest.approx((4.0, 4.0))  # measured from the wall's first point, (4, 5)
    assert door.width == pytest.approx(1.0)
    assert passage.is_passage
    assert passage.position == pytest.approx((4.0, 1.25))  # the same wall from the other side
    assert (front.openable, front.open, front.rooms) == (False, False, ("room|1",))


def test_containers_and_what_is_in_or_on_them(write: Any) -> None:
    house = House.load(write())
    fridge, shelf = house.furniture_by_id["Fridge|1|0"], house.furniture_by_id["Shelf|1|3"]
    assert (fridge.openable, fridge.category, fridge.room) == (True, "Fridge", "room|1")
    assert fridge.height == pytest.approx(1.8)
    assert not shelf.openable
    relations = {item.id: (item.parent, item.relation) for item in house.objects}
    assert relations["Egg|1|1"] == ("Fridge|1|0", "in")
    assert relations["Box|1|2"] == ("Fridge|1|0", "on")
    assert relations["Mug|1|4"] == ("Shelf|1|3", "on")  # an open shelf hides nothing


def test_a_turn_is_clockwise_in_the_house_and_counter_clockwise_here(write: Any) -> None:
    fridge = House.load(write()).furniture_by_id["Fridge|1|0"]
    assert fridge.yaw == pytest.approx(-math.pi / 2)
    xs, ys = zip(*fridge.corners)
    assert (max(xs) - min(xs), max(ys) - min(ys)) == pytest.approx((0.8, 0.6))


def test_loose_and_hanging_things_are_objects(write: Any) -> None:
    objects = {item.id: item for item in House.load(write()).objects}
    assert objects["Painting|2|6"].parent == ""
    assert 6.7 <= objects["Painting|2|6"].position[0] <= 6.88  # off the wall, in its room
    assert "BaseballBat|2|5" not in objects  # nobody can pick it up: it stands there like furniture


def test_a_thing_of_an_unknown_asset_is_left_out_with_a_warning(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    house = House.load(write())
    assert all("Ghost" not in item.id for item in (*house.furniture, *house.objects))
    assert "left out Ghost|2|7: its asset Ghost_1 is unknown" in caplog.text


def test_missing_assets_are_told(write: Any, tmp_path: Path) -> None:
    path = write(assets=None)
    with pytest.raises(
        HouseError, match=r"house_x\.json: a ProcTHOR house needs its assets' sizes, found no .*assets\.json"
    ):
        House.load(path)
    (tmp_path / "elsewhere.json").write_text(json.dumps(ASSETS))
    assert House.load(path, assets=tmp_path / "elsewhere.json").furniture


@pytest.mark.parametrize(("key", "field"), [("doors", "wall0"), ("rooms", "floorPolygon"), ("objects", "position")])
def test_a_missing_field_is_named(write: Any, key: str, field: str) -> None:
    data = copy.deepcopy(DATA)
    del data[key][0][field]
    with pytest.raises(HouseError, match=f"house_x.json: .*{field}"):
        House.load(write(data))


def test_episodes_can_be_drawn(write: Any) -> None:
    house = House.load(write())
    episode = draw_episode(house, 0)
    assert episode.house is house
    assert episode.target in {item.category for item in house.objects}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs real ProcTHOR houses in {SHARED}")
@pytest.mark.parametrize("name", ["house_0", "house_1"])
def test_real_houses(name: str) -> None:
    house = House.load(SHARED / "houses" / f"{name}.json")
    assert len(house.rooms) == 4
    assert any(door.rooms == ("room|7",) and not door.openable for door in house.doors)
    assert all(house.room_by_id[piece.room] is house.room_at(*piece.position) for piece in house.furniture)
    assert draw_episode(house, 0).shortest_path > 0
