from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from smallplan_planner.mapping import OCCUPIED, UNKNOWN, Detection, SceneGraphBuilder
from smallplan_planner.scene_graph import OpenState, SceneGraph
from unit.planner.mapping.drawn import Drawn, draw

HOUSE = """
#########################
#...........#...........#
#...........#...........#
#...........#...........#
#...........#...........#
#...........a...........#
#..@........a...........#
#...........a...........#
#...........a...........#
#...........#...........#
#...........#...........#
#########################
"""
RADIUS = 0.2


def house(text: str = HOUSE, passages: str = "") -> Drawn:
    return draw(text, 0.25, passages=passages)


def build(drawn: Drawn, detections: list[Detection], builder: SceneGraphBuilder | None = None) -> SceneGraph:
    graph = (builder or SceneGraphBuilder(RADIUS)).update(drawn.grid, detections, drawn.doors, drawn.robot, 1.5)
    graph.validate()
    return graph


def thing(key: str, x: float, y: float, **more: object) -> Detection:
    return replace(Detection(key, key, (x, y, 0.5)), **more)


def labels_of(graph: SceneGraph) -> dict[str, str]:
    return {item.id: item.label for item in graph.objects}


def test_the_graph_says_where_the_robot_is_and_when() -> None:
    drawn = house()
    graph = build(drawn, [])
    assert (graph.stamp, graph.frame_id, graph.robot_pose) == (1.5, "map", drawn.robot)
    assert graph.robot_room == "room_1" == graph.rooms[0].id
    assert graph.rooms[0].distance == 0.0 and graph.rooms[0].label == ""
    # The middle of the first room is 1.5 m from its left wall and lies in it.
    assert graph.rooms[0].center[0] == pytest.approx(1.6, abs=0.2)
    assert graph.rooms[1].distance == pytest.approx(2.4, abs=0.3)


def test_ids_are_given_nearest_first_and_stay() -> None:
    builder = SceneGraphBuilder(RADIUS)
    drawn = house()
    graph = build(drawn, [thing("zebra", 1.5, 1.4), thing("apple", 4.5, 1.4), thing("melon", 2.5, 1.4)], builder)
    assert [(o.id, o.label) for o in graph.objects] == [
        ("object_1", "zebra"),
        ("object_2", "melon"),
        ("object_3", "apple"),
    ]
    again = build(drawn, [thing("nearer", 1.0, 1.4), thing("apple", 4.5, 1.4), thing("zebra", 1.5, 1.4)], builder)
    assert [(o.id, o.label) for o in again.objects] == [
        ("object_1", "zebra"),
        ("object_3", "apple"),
        ("object_4", "nearer"),
    ]
    assert builder.key_of["object_4"] == "nearer" and builder.id_of["apple"] == "object_3"


def test_distances_end_within_a_metre_and_on_the_object_s_side_of_the_wall() -> None:
    builder = SceneGraphBuilder(RADIUS)
    drawn = house()
    # On the far side of the wall, right beside it: a metre from it there is floor of the robot's room.
    graph = build(drawn, [thing("near", 2.0, 1.4), thing("behind", 3.3, 0.4), thing("here", 0.9, 1.2)], builder)
    by_label = {item.label: item for item in graph.objects}
    assert by_label["here"].distance == 0.0
    assert by_label["near"].distance == pytest.approx(2.0 - drawn.robot.x - 1.0, abs=0.25)
    assert by_label["behind"].room == "room_2"
    assert by_label["behind"].distance > 2.2
    cell = builder.approach(by_label["behind"].id)
    assert cell is not None and builder.room_of(*drawn.grid.to_world(*cell)) == "room_2"
    assert math.dist(drawn.grid.to_world(*cell), (3.3, 0.4)) <= 1.0


def test_furniture_against_a_thin_wall_is_in_the_room_that_it_opens_to() -> None:
    sofa = """
###########
#....#....#
#....#....#
#....##...#
#.@..##...#
#....##...#
#....#....#
#....#....#
#..bbb....#
###########
""".replace("b", ".", 2).replace("b", "a")
    drawn = draw(sofa, 0.25)
    # Its far edge reaches into the wall, and floor of the left room is as near as floor of its own.
    detection = thing("sofa", 1.56, 1.375, size=(0.45, 0.75, 0.8))
    assert build(drawn, [detection]).objects[0].room == "room_2"


def test_things_on_furniture_are_in_the_furniture_s_room() -> None:
    drawn = house()
    table = thing("table", 3.6, 2.4, size=(0.6, 0.4, 0.7))
    mug = thing("mug", 2.9, 2.4, parent="table", relation="on")
    graph = build(drawn, [mug, table])
    by_label = {item.label: item for item in graph.objects}
    assert by_label["mug"].room == by_label["table"].room == "room_2"
    assert by_label["mug"].parent == by_label["table"].id and by_label["mug"].relation == "on"


def test_parents_that_are_unknown_or_circular_are_left_out() -> None:
    lost = thing("lost", 1.0, 1.0, parent="nowhere", relation="in")
    circle = [thing("a", 1.1, 1.0, parent="b", relation="on"), thing("b", 1.2, 1.0, parent="a", relation="on")]
    itself = thing("c", 1.3, 1.0, parent="c", relation="in")
    child = thing("d", 1.4, 1.0, parent="a", relation="on")
    graph = build(house(), [lost, *circle, itself, child])
    parents = {item.label: (item.parent, item.relation) for item in graph.objects}
    assert parents["lost"] == parents["a"] == parents["b"] == parents["c"] == ("", "")
    assert parents["d"] == (next(o.id for o in graph.objects if o.label == "a"), "on")


def test_doors_join_the_rooms_known_and_passages_are_not_doors() -> None:
    graph = build(house(), [])
    (door,) = graph.doors
    assert door.id == "door_1" and door.rooms == ("room_1", "room_2") and door.state is OpenState.OPEN
    assert door.position[:2] == pytest.approx((3.125, 1.25))
    assert 1.0 < door.distance < 2.4
    passage = build(house(passages="a"), [])
    assert passage.doors == () and len(passage.rooms) == 2


def test_a_closed_door_has_one_room_until_the_other_is_known() -> None:
    text = "\n".join(line[:13] for line in HOUSE.splitlines()).replace("a", "A")
    builder = SceneGraphBuilder(RADIUS)
    (door,) = build(house(text), [], builder).doors
    assert door.rooms == ("room_1",) and door.state is OpenState.CLOSED and door.distance > 0
    (same,) = build(house(), [], builder).doors
    assert same.id == door.id and same.rooms == ("room_1", "room_2") and same.state is OpenState.OPEN


def test_a_door_between_unknown_spaces_is_left_out() -> None:
    drawn = house()
    far = replace(drawn.doors[0], key="far", a=(5.0, 9.0), b=(6.0, 9.0))
    graph = build(replace(drawn, doors=[*drawn.doors, far]), [])
    assert [door.id for door in graph.doors] == ["door_1"]


def test_what_can_not_be_reached_has_no_distance() -> None:
    builder = SceneGraphBuilder(RADIUS)
    graph = build(house(), [thing("vase", 5.0, 1.4)], builder)
    assert graph.objects[0].distance > 0
    graph = build(house(HOUSE.replace("a", "A")), [thing("vase", 5.0, 1.4)], builder)
    assert math.isnan(graph.objects[0].distance) and graph.objects[0].room == "room_2"
    assert math.isnan(graph.room_by_id["room_2"].distance)
    assert builder.approach(graph.objects[0].id) is None


def test_an_object_seen_beyond_a_door_moves_to_its_room_as_soon_as_that_is_one() -> None:
    builder = SceneGraphBuilder(RADIUS)
    glimpse = "\n".join(line if "a" in line else line[:13] for line in HOUSE.splitlines()).replace("a..", "a. ")
    glimpse = "\n".join(line[:14] for line in glimpse.splitlines())
    vase = thing("vase", 3.4, 1.4)
    assert build(house(glimpse), [vase], builder).objects[0].room == "room_1"
    assert build(house(), [vase], builder).objects[0].room == "room_2"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_numbers_that_make_no_sense_are_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture, value: float
) -> None:
    builder = SceneGraphBuilder(RADIUS)
    drawn = house()
    broken = replace(drawn, doors=[*drawn.doors, replace(drawn.doors[0], key="bad door", a=(value, 0.0))])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            graph = build(broken, [thing("good", 1, 1), thing("bad", value, 1)], builder)
    assert [item.label for item in graph.objects] == ["good"] and len(graph.doors) == 1
    assert len(caplog.records) == 2 and "'bad'" in caplog.text and "'bad door'" in caplog.text


def test_an_opening_that_is_wider_than_any_is_left_out() -> None:
    drawn = house()
    broken = replace(drawn, doors=[*drawn.doors, replace(drawn.doors[0], key="bad door", a=(-1e5, 0.0), b=(1e5, 0.0))])
    assert build(broken, [], SceneGraphBuilder(RADIUS)).rooms == build(drawn, [], SceneGraphBuilder(RADIUS)).rooms


@pytest.mark.parametrize("x", [math.nan, math.inf, 99.0])
def test_a_robot_that_is_nowhere_is_an_error(x: float) -> None:
    drawn = house()
    with pytest.raises(ValueError, match=r"finite numbers are expected|outside of the occupancy grid"):
        build(replace(drawn, robot=replace(drawn.robot, x=x)), [])


def test_a_map_without_anything_free_still_makes_a_graph() -> None:
    drawn = house()
    drawn.grid.data[:] = UNKNOWN
    graph = build(drawn, [thing("vase", 5.0, 1.4)])
    assert graph.robot_room == graph.objects[0].room == "room_1"
    assert math.isnan(graph.objects[0].distance)


def test_objects_outside_of_the_grid_get_the_nearest_room() -> None:
    graph = build(house(), [thing("left", -40.0, 1.4), thing("right", 40.0, 1.4)])
    assert {item.label: item.room for item in graph.objects} == {"left": "room_1", "right": "room_2"}


def test_rooms_of_points() -> None:
    builder = SceneGraphBuilder(RADIUS)
    build(house(), [], builder)
    assert builder.room_of(1.0, 1.0) == "room_1" and builder.room_of(5.0, 1.0) == "room_2"
    assert builder.room_of(-1.0, 1.0) == ""


def test_before_the_first_map_there_is_nothing_to_ask() -> None:
    builder = SceneGraphBuilder()
    with pytest.raises(RuntimeError, match="call update"):
        _ = builder.field
    with pytest.raises(ValueError, match="robot_radius"):
        SceneGraphBuilder(robot_radius=math.nan)


def test_path_distances_are_kept_until_robot_or_floor_change() -> None:
    builder = SceneGraphBuilder(RADIUS)
    drawn = house()
    build(drawn, [], builder)
    before = builder.field
    build(drawn, [], builder)
    assert builder.field is before
    build(replace(drawn, robot=replace(drawn.robot, x=drawn.robot.x + 0.5)), [], builder)
    assert builder.field.distances[before.start] == pytest.approx(0.5)
    walled = replace(drawn.grid, data=drawn.grid.data.copy())
    walled.data[:, 8] = OCCUPIED
    build(replace(drawn, grid=walled), [], builder)
    assert np.isfinite(before.distances[6, 10]) and np.isinf(builder.field.distances[6, 10])


def test_the_input_is_not_changed() -> None:
    drawn = house()
    before = drawn.grid.data.copy()
    build(drawn, [thing("vase", 5.0, 1.4, size=(0.5, 0.5, 0.5))])
    assert np.array_equal(drawn.grid.data, before)
