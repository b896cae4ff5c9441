"""The mapper over whole explorations of random houses: what must hold at every step, and at the end."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from scipy import ndimage

from smallplan_planner.mapping import FREE, UNKNOWN, OccupancyGrid, SceneGraphBuilder
from unit.planner.mapping.houses import RADIUS, RESOLUTION, Explorer, House, random_house

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_house_is_mapped_whole_and_nothing_flips_on_the_way(seed: int) -> None:
    explorer = Explorer(random_house(seed), seed)
    house, builder = explorer.house, explorer.builder
    place_of_room: dict[str, tuple[int, int]] = {}
    key_of: dict[str, str] = {}
    for _ in range(80):
        graph = explorer.update()
        graph.validate()
        reachable = np.isfinite(builder.field.distances)
        assert (builder.segmentation.labels[reachable] > 0).all()
        assert builder.room_of(*explorer.xy) == graph.robot_room
        assert len(builder.voronoi) > 0 and nx.is_connected(builder.voronoi)
        for room in graph.rooms:
            place = house.room_of(*room.center[:2])
            assert place_of_room.setdefault(room.id, place) == place
        for graph_id, key in builder.key_of.items():
            assert key_of.setdefault(graph_id, key) == key and builder.id_of[key] == graph_id
        for door in graph.doors:
            truly = {house.room_of(*point) for point in _both_sides(house, builder.key_of[door.id])}
            assert {place_of_room[room] for room in door.rooms} <= truly
        if not explorer.go_on(graph):
            break
    else:
        pytest.fail("the exploration did not come to an end")
    # Two glimpses of one room through two doors are two rooms for a while, not in the end.
    assert len({place_of_room[room.id] for room in graph.rooms}) == len(graph.rooms)
    for item in graph.objects:
        assert place_of_room[item.room] == house.room_of(*item.position[:2])
    # Everything that can be reached has been seen, and is in the graph.
    truly_reachable = _reachable(house.truth, explorer)
    assert not (truly_reachable & (explorer.known == UNKNOWN)).any()
    rows, cols = np.nonzero(truly_reachable)
    places = {house.room_of((c + 0.5) * RESOLUTION, (r + 0.5) * RESOLUTION) for r, c in zip(rows[::7], cols[::7])}
    in_walls = {house.room_of(*point) for door in house.doors for point in [door.center]}
    assert places - in_walls <= set(place_of_room.values()) <= places | in_walls


def _both_sides(house: House, key: str) -> list[tuple[float, float]]:
    door = next(door for door in house.doors if door.key == key)
    (x, y), across = door.center, door.a[1] != door.b[1]
    return [(x + 0.3, y), (x - 0.3, y)] if across else [(x, y + 0.3), (x, y - 0.3)]


def _reachable(truth: np.ndarray, explorer: Explorer) -> np.ndarray:
    parts, _ = ndimage.label(OccupancyGrid(truth, RESOLUTION).traversable(RADIUS), np.ones((3, 3)))
    return parts == parts[explorer.builder.field.start]


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_order_and_keys_of_the_input_make_no_difference(seed: int) -> None:
    explorer = Explorer(random_house(seed), seed)
    other = SceneGraphBuilder(RADIUS)
    rng = np.random.default_rng(seed)
    secret = {item.key: f"{rng.integers(10**9)}" for item in (*explorer.house.objects, *explorer.house.doors)}
    for _ in range(6):
        graph = explorer.update()
        grid, objects, doors, pose, stamp = explorer.observation()
        renamed = [replace(item, key=secret[item.key], parent=secret.get(item.parent, "")) for item in objects]
        disguised = [replace(door, key=secret[door.key]) for door in doors]
        renamed = [renamed[index] for index in rng.permutation(len(renamed))]
        disguised = [disguised[index] for index in rng.permutation(len(disguised))]
        assert repr(other.update(grid, renamed, disguised, pose, stamp)) == repr(graph)
        if not explorer.go_on(graph):
            break


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_where_the_grid_has_its_origin_and_its_edges_makes_no_difference(seed: int) -> None:
    explorer = Explorer(random_house(seed), seed)
    other = SceneGraphBuilder(RADIUS)
    rng = np.random.default_rng(seed)
    for _ in range(6):
        graph = explorer.update()
        grid, objects, doors, pose, stamp = explorer.observation()
        left, below, right, above = rng.integers(0, 9, 4)
        data = np.pad(grid.data, ((below, above), (left, right)), constant_values=UNKNOWN)
        moved = OccupancyGrid(data, RESOLUTION, (-left * RESOLUTION, -below * RESOLUTION))
        shifted = other.update(moved, objects, doors, pose, stamp)
        assert [room.id for room in shifted.rooms] == [room.id for room in graph.rooms]
        assert [(o.id, o.room) for o in shifted.objects] == [(o.id, o.room) for o in graph.objects]
        assert [(f.id, f.room, f.leads_out) for f in shifted.frontiers] == [
            (f.id, f.room, f.leads_out) for f in graph.frontiers
        ]
        assert np.allclose([o.distance for o in shifted.objects], [o.distance for o in graph.objects], equal_nan=True)
        if not explorer.go_on(graph):
            break


def test_the_graph_tells_nothing_of_what_is_not_in_the_input() -> None:
    explorer = Explorer(random_house(3), 3)
    explorer.look()
    observation = explorer.observation()
    graph = SceneGraphBuilder(RADIUS).update(*observation)
    assert len(graph.objects) == len(observation[1]) < len(explorer.house.objects)
    assert (observation[0].data == FREE).sum() < (explorer.house.truth == FREE).sum()
    assert [item.id for item in graph.objects] == [f"object_{n + 1}" for n in range(len(graph.objects))]
