from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from smallplan_planner.names import matches_target
from smallplan_planner.scene_graph import Pose
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode, draw_episode, shortest_path
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import RESOLUTION

HOUSE = generate_house(21, 6)


def test_an_episode_is_drawn_by_its_seed() -> None:
    one, same, other = draw_episode(HOUSE, 3), draw_episode(HOUSE, 3), draw_episode(HOUSE, 4)
    assert (one.start, one.target, one.shortest_path, one.house) == (
        same.start,
        same.target,
        same.shortest_path,
        same.house,
    )
    assert (one.start, one.house) != (other.start, other.house)


@pytest.mark.parametrize("seed", range(8))
def test_the_rules_hold(seed: int) -> None:
    episode = draw_episode(HOUSE, seed)
    house = episode.house
    assert len(house.objects) == 2 * len(HOUSE.objects)
    assert house.objects[: len(HOUSE.objects)] == HOUSE.objects
    here = house.room_at(episode.start.x, episode.start.y)
    assert here is not None
    rooms = {house.furniture_by_id[o.parent].room for o in house.objects if matches_target(o.category, episode.target)}
    assert rooms
    assert here.id not in rooms
    assert episode.shortest_path > 0
    env = HouseSearchEnv()
    graph, _ = env.reset(seed=0, options={"episode": episode})
    assert not any(matches_target(obj.label, episode.target) for obj in graph.objects)


def test_targets_are_spread_over_categories() -> None:
    targets = [draw_episode(HOUSE, seed).target for seed in range(30)]
    assert len(set(targets)) >= 12


def test_an_imported_house_keeps_its_objects(two_rooms: House) -> None:
    assert draw_episode(two_rooms, 0).house is two_rooms


def test_a_target_can_be_chosen_but_must_exist(two_rooms: House) -> None:
    assert draw_episode(two_rooms, 1, target="Spoon").target == "Spoon"
    with pytest.raises(NoEpisode, match="two-rooms: there is no 'piano'; expected one of "):
        draw_episode(two_rooms, 1, target="piano")


def test_a_house_without_objects_has_no_episode(two_rooms: House) -> None:
    with pytest.raises(NoEpisode, match="nothing can be a target"):
        draw_episode(two_rooms.with_objects(()), 0)


def test_the_shortest_path_leads_to_where_a_container_can_be_opened(two_rooms: House) -> None:
    # From (3, 2) straight through the closed door (it counts as open) until 1 m before the drawer's side at x = 7.4.
    length = shortest_path(replace(two_rooms), Pose(3.0, 2.0), "spoon")
    nearest = math.hypot(7.4 - 3.0, 2.8 - 2.0) - 1.0
    assert length is not None
    assert nearest - 2 * RESOLUTION <= length <= nearest * 1.09


def test_the_shortest_path_leads_to_where_the_target_is_recognised(house_json: dict[str, Any]) -> None:
    # A rug on the floor, 1.2 m long: recognised within 5 m of its middle at (6, 1), once the wall is out of the way.
    house = House.from_json(house_json)
    assert shortest_path(house, Pose(5.0, 2.0), "rug") == 0.0
    length = shortest_path(house, Pose(3.0, 3.0), "rug")  # the line to it crosses x = 4 at y = 2.33
    assert length == 0.0
    length = shortest_path(house, Pose(3.0, 3.6), "rug")  # here at y = 2.73: the opening ends at 2.45
    assert length is not None
    assert 0.0 < length < 1.5


def test_no_path_leads_to_what_is_locked_away(house_json: dict[str, Any]) -> None:
    house_json["doors"][0]["openable"] = False
    house = House.from_json(house_json)
    assert shortest_path(house, Pose(3.0, 2.0), "spoon") is None
    with pytest.raises(NoEpisode):
        draw_episode(house, 0, target="rug")


def test_furniture_of_the_same_name_counts_as_an_instance(house_json: dict[str, Any]) -> None:
    house_json["objects"][2]["category"] = "cupboard"  # one stands in the left room too
    house = House.from_json(house_json)
    assert shortest_path(house, Pose(1.0, 2.0), "cupboard") == 0.0
