"""Where objects come to rest."""

from __future__ import annotations

import itertools
import math

import pytest

from smallplan_training.simulators.house.house import Furniture, House, HouseObject, HouseRoom
from smallplan_training.simulators.igibson.arrangement import rest_places, stand
from smallplan_training.simulators.igibson.bodies import Spot
from smallplan_training.simulators.igibson.stowing import Placed, Wanted, stow

SHELF = Spot(0.0, (-0.3, -0.2), (0.3, 0.2), 0.4)
TABLE = Spot(0.0, (-0.3, -0.2), (0.3, 0.2))


def extent(placed: Placed) -> tuple[float, float]:
    return (placed.size[1], placed.size[0]) if placed.turned else (placed.size[0], placed.size[1])


def apart(a: Placed, b: Placed) -> bool:
    flat = any(
        abs(a.position[axis] - b.position[axis]) >= (extent(a)[axis] + extent(b)[axis]) / 2 - 1e-9 for axis in (0, 1)
    )
    return flat or abs(a.position[2] - b.position[2]) >= (a.size[2] + b.size[2]) / 2 - 1e-9


class TestStowing:
    def test_a_free_place_is_kept(self) -> None:
        (placed,) = stow([Wanted((0.1, -0.05, 0.2), (0.1, 0.1, 0.2))], [SHELF])
        assert placed.position[:2] == (0.1, -0.05)
        assert placed.size == (0.1, 0.1, 0.2)
        assert 0.1 < placed.position[2] < 0.11

    def test_things_do_not_overlap_and_stay_inside(self) -> None:
        things = [Wanted((0.25, 0.15, 0.1), (0.12, 0.1, 0.1 + 0.01 * number)) for number in range(9)]
        placed = stow(things, [SHELF])
        assert all(apart(a, b) for a, b in itertools.combinations(placed, 2))
        for item in placed:
            assert all(abs(item.position[axis]) + extent(item)[axis] / 2 <= (0.3, 0.2)[axis] + 1e-9 for axis in (0, 1))

    def test_the_shelf_is_the_nearest_one_with_room(self) -> None:
        upper = Spot(0.5, SHELF.low, SHELF.high, 0.4)
        wanted = Wanted((0.0, 0.0, 0.6), (0.5, 0.35, 0.2))
        first, second = stow([wanted, wanted], [SHELF, upper])
        assert first.position[2] > 0.5 > second.position[2]
        assert second.size == wanted.size

    def test_what_is_too_large_is_turned_or_shrunk(self) -> None:
        turned, shrunk = (stow([Wanted((0, 0, 0), size)], [SHELF])[0] for size in ((0.3, 0.5, 0.1), (0.9, 0.9, 0.9)))
        assert turned.turned
        assert turned.size == (0.3, 0.5, 0.1)
        assert shrunk.size[0] <= 0.6
        assert shrunk.size[1] <= 0.4
        assert shrunk.size[2] < 0.4

    def test_a_full_container_shrinks_what_comes_last(self) -> None:
        placed = stow([Wanted((0, 0, 0), (0.4, 0.35, 0.3)) for _ in range(2)], [SHELF])
        assert placed[0].size == (0.4, 0.35, 0.3)
        assert placed[1].size[0] < 0.4
        assert apart(*placed)

    def test_a_full_table_is_piled_up_and_nothing_shrinks(self) -> None:
        placed = stow([Wanted((0, 0, 0), (0.5, 0.35, 0.3)) for _ in range(3)], [TABLE])
        assert {item.size for item in placed} == {(0.5, 0.35, 0.3)}
        assert [round(item.position[2], 2) for item in placed] == [0.15, 0.45, 0.75]

    def test_large_things_are_placed_before_small_ones(self) -> None:
        small, large = stow([Wanted((0, 0, 0), (0.1, 0.1, 0.1)), Wanted((0, 0, 0), (0.3, 0.35, 0.3))], [TABLE])
        assert large.position[:2] == (0.0, 0.0)
        assert small.position[2] < 0.1
        assert apart(small, large)

    def test_what_is_larger_than_the_table_lies_in_its_middle(self) -> None:
        (placed,) = stow([Wanted((0.2, 0.1, 0), (0.9, 0.1, 0.1))], [TABLE])
        assert placed.position[:2] == (0.0, 0.1)
        assert placed.size == (0.9, 0.1, 0.1)


def house_of(furniture: tuple[Furniture, ...], objects: tuple[HouseObject, ...]) -> House:
    room = HouseRoom("room-1", "kitchen", ((0.0, 0.0), (5.0, 0.0), (5.0, 5.0), (0.0, 5.0)))
    return House("one", (room,), (), (), furniture, objects)


class TestRestPlaces:
    counter = Furniture("counter", "counter", (2.0, 1.0), (1.2, 0.6), math.pi / 2, 0.9, False, "room-1")
    oven = Furniture("oven", "microwave", (2.0, 1.2), (0.5, 0.4), math.pi / 2, 1.2, True, "room-1")

    def test_furniture_stands_on_furniture(self) -> None:
        standing = stand(house_of((self.counter, self.oven), ()))
        assert standing["counter"].body.size[2] == pytest.approx(0.9)
        assert standing["oven"].body.size[2] == pytest.approx(0.3)
        assert standing["oven"].centre == pytest.approx((2.0, 1.2, 1.05))

    def test_objects_rest_on_and_in_what_the_house_says(self) -> None:
        objects = (
            HouseObject("mug", "mug", (2.05, 0.7, 1.5), (0.1, 0.08, 0.1), "counter", "on"),
            HouseObject("cup", "cup", (2.0, 1.2, 0.3), (0.1, 0.08, 0.1), "oven", "in"),
        )
        places = rest_places(house_of((self.counter, self.oven), objects))
        assert places["mug"].position == pytest.approx((2.05, 0.7, 0.954), abs=1e-3)
        assert places["mug"].yaw == pytest.approx(math.pi / 2)
        x, y, z = places["cup"].position
        assert (abs(x - 2.0) < 0.2, abs(y - 1.2) < 0.25, 0.9 < z < 1.1) == (True, True, True)
        assert not places["cup"].fixed

    def test_what_hangs_is_fixed_and_what_stands_is_on_the_floor(self) -> None:
        objects = (
            HouseObject("picture", "picture", (1.0, 0.1, 1.5), (0.5, 0.03, 0.4)),
            HouseObject("ball", "ball", (3.0, 3.0, 0.11), (0.2, 0.2, 0.2)),
        )
        places = rest_places(house_of((), objects))
        assert (places["picture"].position, places["picture"].fixed) == ((1.0, 0.1, 1.5), True)
        assert (places["ball"].position, places["ball"].fixed) == ((3.0, 3.0, 0.1), False)

    def test_places_do_not_depend_on_the_objects_of_other_furniture(self, small_house: House) -> None:
        places = rest_places(small_house)
        assert places.keys() == {thing.id for thing in small_house.objects}
        parent = next(thing.parent for thing in small_house.objects if thing.parent)
        kept = [thing for thing in small_house.objects if thing.parent == parent]
        assert rest_places(small_house.with_objects(kept)) == {thing.id: places[thing.id] for thing in kept}
