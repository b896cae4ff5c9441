from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smallplan_training.simulators.house.house import House, HouseError


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The JSON with one field set; `path` is like `doors.0.width`, a value of `...` deletes it."""
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at: Any = data
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data


def test_a_door_near_a_corner_is_in_the_wall_whose_line_it_is_on(house_json: dict[str, Any]) -> None:
    house_json["doors"][0]["position"] = [4, 3.88]
    house_json["doors"][0]["width"] = 0.5
    jambs = House.from_json(house_json).door_segments[0]
    assert [x for x, _ in jambs] == [4.0, 4.0]


def test_a_saved_house_loads_as_the_same_house(two_rooms: House, tmp_path: Path) -> None:
    two_rooms.save(tmp_path / "house.json")
    assert House.load(tmp_path / "house.json") == two_rooms


def test_area_rooms_and_door_segments(two_rooms: House) -> None:
    assert two_rooms.area == pytest.approx(32.0)
    assert two_rooms.room_at(1, 1) is two_rooms.rooms[0]
    assert two_rooms.room_at(5, 1) is two_rooms.rooms[1]
    assert two_rooms.room_at(9, 1) is None
    assert sorted(two_rooms.door_segments[0]) == [(4.0, pytest.approx(1.55)), (4.0, pytest.approx(2.45))]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("doors.0.width", "wide", r"doors\[0\]\.width: expected a number > 0, got 'wide'"),
        ("doors.0.width", 0, r"doors\[0\]\.width: expected a number > 0, got 0"),
        ("doors.0.width", ..., r"doors\[0\]: the field 'width' is missing"),
        ("rooms", ..., r"house: the field 'rooms' is missing"),
        ("rooms", [], r"rooms: a house needs at least one room"),
        ("rooms.0.polygon", [[0, 0], [1, 0]], r"rooms\[0\]\.polygon: expected at least 3 items, got 2"),
        ("rooms.0.polygon", [[0, 0], [1, 0], [2, 0]], r"rooms\[0\]\.polygon: encloses 0\.00 m²"),
        ("rooms.1.id", "left", r"rooms\[1\]\.id: 'left' is already the id of rooms\[0\]"),
        ("doors.0.position", [2, 2], r"doors\[0\]\.position: .* lies on no wall"),
        ("doors.0.position", [4, 3.8], r"doors\[0\]\.position: .* lies on no wall"),
        ("doors.0.rooms", ["left", "cellar"], r"doors\[0\]\.rooms: unknown room 'cellar'"),
        ("doors.0.rooms", ["left", "left"], r"doors\[0\]\.rooms: 'left' twice"),
        ("furniture.2.room", "cellar", r"furniture\[2\]\.room: unknown room 'cellar'"),
        ("furniture.0.height", -1, r"furniture\[0\]\.height: expected a number > 0, got -1"),
        ("objects.1.parent", "chest", r"objects\[1\]\.parent: there is no furniture with id 'chest'"),
        ("objects.1.parent", "table", r"objects\[1\]\.parent: .*'table', which is not openable"),
        ("objects.0.relation", "under", r"objects\[0\]\.relation: 'under' is not one of"),
        ("objects.0.relation", "", r"objects\[0\]\.relation: '' with parent 'table'"),
        ("objects.0.colour", "red", r"objects\[0\]: .*'colour' was unexpected"),
        ("walls.0.a", [0, 0, 0], r"walls\[0\]\.a: expected at most 2 items, got 3"),
    ],
)
def test_what_is_wrong_is_named(house_json: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(HouseError, match=message):
        House.from_json(changed(house_json, path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"name": "x"', "not valid JSON"),
        ('{"name": NaN}', "NaN is not a number"),
        ("[]", "expected an object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_house_file_is_told_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(HouseError, match=f"broken.json: .*{message}"):
        House.load(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(HouseError, match=r"none\.json: can't be read"):
        House.load(tmp_path / "none.json")


def test_a_file_is_written_with_one_element_a_line(two_rooms: House, tmp_path: Path) -> None:
    two_rooms.save(tmp_path / "house.json")
    lines = (tmp_path / "house.json").read_text().splitlines()
    elements = sum(len(value) for value in two_rooms.to_json().values() if isinstance(value, list))
    assert (
        sum(json.loads(line.rstrip(",")) is not None for line in lines if line.startswith("{") and len(line) > 1)
        == elements
    )
