from __future__ import annotations

import math

import numpy as np
import pytest

from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import RESOLUTION, SOLID, rasterise


def test_the_raster_is_solid_outside_and_at_walls_and_closed_doors(two_rooms: House) -> None:
    raster = rasterise(two_rooms)
    height = {
        point: raster.height[raster.cell(*point)] for point in [(-1, 1), (4, 1), (4, 2), (0, 2), (1, 1), (2, 3.4)]
    }
    assert height == {
        (-1, 1): SOLID,
        (4, 1): SOLID,
        (4, 2): SOLID,
        (0, 2): SOLID,
        (1, 1): 0.0,
        (2, 3.4): np.float32(0.45),
    }
    assert raster.open_height[raster.cell(4, 2)] == 0.0
    assert raster.open_height[raster.cell(0, 2)] == SOLID  # locked
    assert raster.owner[raster.cell(2, 3.4)] == 0
    assert raster.room[raster.cell(6, 1)] == 1


def test_a_cell_and_its_centre_belong_together(two_rooms: House) -> None:
    raster = rasterise(two_rooms)
    row, column = raster.cell(1.23, 2.34)
    x, y = raster.centre(row, column)
    assert abs(x - 1.23) <= RESOLUTION / 2
    assert abs(y - 2.34) <= RESOLUTION / 2
    assert raster.cell(x, y) == (row, column)


def visible(house: House, x: float, y: float, yaw: float = 0.0, angle: float = sensing.FULL_TURN) -> np.ndarray:
    """(H, W) which cells are seen from a point of the house's frame."""
    raster = rasterise(house)
    seen = np.zeros(raster.height.shape, dtype=bool)
    window, mask = sensing.visible_cells(raster.height > sensing.CAMERA_HEIGHT, *raster.cell(x, y), yaw, angle)
    seen[window] = mask
    return seen


def test_a_full_turn_sees_the_room_and_nothing_behind_walls(two_rooms: House) -> None:
    raster, seen = rasterise(two_rooms), visible(two_rooms, 1.0, 2.0)
    left = (raster.room == 0) & (raster.height == 0)
    assert (seen & left).sum() > 0.9 * left.sum()
    assert not (seen & (raster.room == 1) & (raster.height == 0)).any()
    assert not (seen & (raster.room < 0)).any()


def test_every_cell_within_range_of_an_empty_space_is_seen() -> None:
    seen = np.zeros((160, 160), dtype=bool)
    window, mask = sensing.visible_cells(np.zeros((160, 160), dtype=bool), 80, 80, 0.0, sensing.FULL_TURN)
    seen[window] = mask
    rows, columns = np.mgrid[:160, :160]
    distance = np.hypot(rows - 80, columns - 80) * RESOLUTION
    assert seen[(distance < sensing.RANGE - RESOLUTION) & (distance > 0)].all()
    assert not seen[distance > sensing.RANGE + RESOLUTION].any()


@pytest.mark.parametrize("yaw", [0.0, 1.0, math.pi, -2.5])
def test_the_field_of_view_is_120_degrees(yaw: float) -> None:
    seen = np.zeros((160, 160), dtype=bool)
    window, mask = sensing.visible_cells(np.zeros((160, 160), dtype=bool), 80, 80, yaw, sensing.FIELD_OF_VIEW)
    seen[window] = mask
    rows, columns = np.nonzero(seen)
    off = np.abs(np.angle(np.exp(1j * (np.arctan2(rows - 80, columns - 80) - yaw))))
    far = np.hypot(rows - 80, columns - 80) > 20
    assert math.degrees(off[far].max()) == pytest.approx(60, abs=3)


def test_a_view_ahead_and_the_rest_of_the_turn_see_all_that_a_full_turn_sees() -> None:
    tall = np.random.default_rng(0).random((160, 160)) < 0.02
    _, everything = sensing.visible_cells(tall, 80, 80, 0.0, sensing.FULL_TURN)
    for yaw in np.arange(2 * sensing.RAYS) * math.pi / sensing.RAYS:  # on and between rays
        _, ahead = sensing.visible_cells(tall, 80, 80, yaw, sensing.FIELD_OF_VIEW)
        _, rest = sensing.visible_cells(tall, 80, 80, yaw + math.pi, sensing.REST_OF_TURN)
        assert np.array_equal(ahead | rest, everything)


def test_low_furniture_is_seen_over_and_tall_furniture_is_not(house_json: dict) -> None:
    house_json["furniture"][0] |= {"position": [2, 2], "size": [0.4, 0.4]}
    low = House.from_json(house_json)
    behind = rasterise(low).cell(3.0, 2.0)
    assert visible(low, 1.0, 2.0)[behind]
    house_json["furniture"][0]["height"] = 1.5
    assert not visible(House.from_json(house_json), 1.0, 2.0)[behind]


def line(
    house: House, origin: tuple[float, float], target: tuple[float, float], top: float, owner: int = sensing.NOBODY
) -> bool:
    raster = rasterise(house)
    points = [((x - raster.corner[0]) / RESOLUTION, (y - raster.corner[1]) / RESOLUTION) for x, y in (origin, target)]
    seen = sensing.lines_of_sight(
        raster.height,
        raster.owner,
        points[0],
        np.array([points[1]]).T,
        np.array([top]),
        np.array([owner], dtype=np.int16),
    )
    return bool(seen[0])


def test_a_line_of_sight_is_blocked_by_what_is_taller_than_the_target(house_json: dict) -> None:
    house_json["furniture"][0] |= {"position": [2, 2], "size": [0.4, 0.4]}  # 0.45 m high
    house = House.from_json(house_json)
    assert line(house, (1, 2), (3, 2), top=0.5)
    assert not line(house, (1, 2), (3, 2), top=0.4)
    assert line(house, (1, 2), (2, 2), top=0.4, owner=0)  # what it stands on does not hide it
    assert not line(house, (1, 2), (2, 2), top=0.4, owner=2)


def test_no_line_of_sight_crosses_a_wall_or_a_closed_door(two_rooms: House) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        origin, target = (
            (float(rng.uniform(0.2, 3.8)), float(rng.uniform(0.2, 3.8))),
            (4.2, float(rng.uniform(0.2, 3.8))),
        )
        assert not line(two_rooms, origin, target, top=2.5)
