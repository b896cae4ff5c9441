from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smallplan_planner.actions import Action, ActionKind, OutcomeCode
from smallplan_planner.mapping.builder import SceneGraphBuilder
from smallplan_planner.mapping.occupancy import FREE
from smallplan_planner.scene_graph import OpenState, Pose, SceneGraph
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.robot import FULL_TURN_STEPS, OPEN_STEPS, Motion, SimulatedRobot


class Search:
    """A robot with its mapper, as the environment holds them."""

    def __init__(self, house: House, x: float = 1.0, y: float = 2.0, **options: Any) -> None:
        self.robot = SimulatedRobot(house, Pose(x, y, 0.0), **options)
        self.builder = SceneGraphBuilder()
        self.first = self.robot.look_around()
        self.graph = self._map()

    def act(self, kind: ActionKind, target_id: str) -> Motion:
        motion = self.robot.execute(Action(kind, "", target_id), self.builder)
        self.graph = self._map()
        return motion

    def labels(self) -> set[str]:
        return {obj.label for obj in self.graph.objects}

    def id_of(self, label: str) -> str:
        return next(obj.id for obj in self.graph.objects if obj.label == label)

    def door(self, openable: bool) -> str:
        return next(door.id for door in self.graph.doors if door.openable is openable)

    def _map(self) -> SceneGraph:
        perception = self.robot.perception
        return self.builder.update(perception.grid(), perception.detections, perception.doors, self.robot.pose, 0.0)


@pytest.fixture
def search(two_rooms: House) -> Search:
    return Search(two_rooms)


def test_the_first_turn_shows_this_room_alone(search: Search) -> None:
    assert search.labels() == {"coffee table", "cupboard", "mug"}
    assert search.first.low_level_steps == FULL_TURN_STEPS == 18
    states = {obj.label: (obj.openable, obj.state) for obj in search.graph.objects}
    assert states["cupboard"] == (True, OpenState.CLOSED)
    assert states["mug"] == (False, OpenState.NONE)
    assert [(door.openable, door.state) for door in search.graph.doors] == [
        (False, OpenState.CLOSED),
        (True, OpenState.CLOSED),
    ]
    assert all(room.label == "" for room in search.graph.rooms)


def test_positions_are_told_from_the_start(search: Search) -> None:
    mug = next(obj for obj in search.graph.objects if obj.label == "mug")
    assert mug.position == pytest.approx((2.2 - 1.0, 3.4 - 2.0, 0.5), abs=0.08)
    assert search.graph.robot_pose.position == (0.0, 0.0, 0.0)


def test_an_object_knows_what_it_is_on_once_both_are_seen(search: Search) -> None:
    mug = next(obj for obj in search.graph.objects if obj.label == "mug")
    assert (mug.parent, mug.relation) == (search.id_of("coffee table"), "on")


def test_what_is_small_is_recognised_from_near_only(house_json: dict[str, Any]) -> None:
    house_json["furniture"][0]["position"] = [3.4, 3.4]
    house_json["objects"][0]["position"] = [3.4, 3.4, 0.5]
    house = House.from_json(house_json)
    assert "mug" not in Search(house, 0.6, 0.6).labels()  # 3.9 m
    assert "coffee table" in Search(house, 0.6, 0.6).labels()
    assert "mug" in Search(house, 2.0, 2.5).labels()  # 1.7 m
    house_json["objects"][0]["size"] = [0.3, 0.1, 0.1]
    assert "mug" in Search(House.from_json(house_json), 0.6, 0.6).labels()


def test_the_map_holds_nothing_that_was_not_seen(search: Search) -> None:
    grid = search.robot.perception.grid()
    free = np.argwhere(grid.data == FREE)
    points = grid.to_worlds(free)
    assert points[:, 0].max() < 4.0 - 1.0  # nothing beyond the closed door
    assert len(points) * grid.resolution**2 > 10.0


def test_opening_the_door_shows_the_next_room(search: Search) -> None:
    motion = search.act(ActionKind.GO_TO_AND_OPEN, search.door(openable=True))
    assert motion.outcome.success
    assert {"drawer", "rug"} <= search.labels()
    assert "spoon" not in search.labels()
    door = next(door for door in search.graph.doors if door.openable)
    assert door.state is OpenState.OPEN
    assert len(search.graph.rooms) == 2


def test_opening_a_container_shows_what_is_in_it(search: Search) -> None:
    search.act(ActionKind.GO_TO_AND_OPEN, search.door(openable=True))
    motion = search.act(ActionKind.GO_TO_AND_OPEN, search.id_of("drawer"))
    assert motion.outcome.success
    spoon = next(obj for obj in search.graph.objects if obj.label == "spoon")
    assert (spoon.parent, spoon.relation) == (search.id_of("drawer"), "in")
    drawer = search.graph.object_by_id[search.id_of("drawer")]
    assert drawer.state is OpenState.OPEN
    x, y = search.robot.pose.x, search.robot.pose.y
    assert math.hypot(max(abs(x - 6.6) - 0.2, 0), max(abs(y - 1.0) - 0.2, 0)) <= 1.05


def test_passing_a_closed_container_by_shows_nothing_of_it(search: Search) -> None:
    search.act(ActionKind.GO_TO_AND_OPEN, search.door(openable=True))
    assert search.act(ActionKind.NAVIGATE, search.id_of("drawer")).outcome.success
    assert "spoon" not in search.labels()


def test_closing_what_is_open(search: Search) -> None:
    cupboard = search.id_of("cupboard")
    assert search.act(ActionKind.CLOSE, cupboard).outcome.code is OutcomeCode.NOT_OPENABLE
    search.act(ActionKind.GO_TO_AND_OPEN, cupboard)
    assert search.act(ActionKind.GO_TO_AND_OPEN, cupboard).outcome.code is OutcomeCode.NOT_OPENABLE
    assert search.act(ActionKind.CLOSE, cupboard).outcome.success
    assert search.graph.object_by_id[cupboard].state is OpenState.CLOSED


def test_a_closed_door_is_in_the_way_again(search: Search) -> None:
    door = search.door(openable=True)
    search.act(ActionKind.GO_TO_AND_OPEN, door)
    search.act(ActionKind.NAVIGATE, search.id_of("drawer"))
    drawer = search.id_of("drawer")
    search.act(ActionKind.NAVIGATE, search.id_of("mug"))
    assert search.act(ActionKind.CLOSE, door).outcome.success
    assert search.act(ActionKind.NAVIGATE, drawer).outcome.code is OutcomeCode.UNREACHABLE


@pytest.mark.parametrize(
    ("pick", "code"),
    [
        (lambda s: s.door(openable=False), OutcomeCode.NOT_OPENABLE),
        (lambda s: s.id_of("mug"), OutcomeCode.NOT_OPENABLE),
        (lambda s: "object_999", OutcomeCode.STALE_GOAL),
    ],
)
def test_what_can_not_be_opened_costs_no_motion(
    search: Search, pick: Callable[[Search], str], code: OutcomeCode
) -> None:
    motion = search.act(ActionKind.GO_TO_AND_OPEN, pick(search))
    assert motion.outcome.code is code
    assert motion.outcome.message
    assert (motion.outcome.distance, motion.low_level_steps) == (0.0, 0)
    assert search.robot.pose.position == (0.0, 0.0, 0.0)


def test_navigate_ends_near_and_facing(search: Search) -> None:
    mug = search.graph.object_by_id[search.id_of("mug")]
    motion = search.act(ActionKind.NAVIGATE, mug.id)
    pose = search.robot.pose
    assert math.dist(pose.position[:2], mug.position[:2]) <= 1.1
    heading = math.atan2(mug.position[1] - pose.y, mug.position[0] - pose.x)
    assert abs(math.remainder(pose.yaw - heading, 2 * math.pi)) < 0.1
    lengths = np.hypot(*np.diff(motion.path, axis=0).T)
    assert motion.outcome.distance == pytest.approx(lengths.sum())
    assert tuple(motion.path[-1]) == (pose.x, pose.y)


def test_low_level_steps_count_travel_turns_and_opening(search: Search) -> None:
    motion = search.act(ActionKind.GO_TO_AND_OPEN, search.id_of("cupboard"))
    travel = math.ceil(motion.outcome.distance / 0.1 - 1e-9)
    turns = motion.low_level_steps - travel - FULL_TURN_STEPS - OPEN_STEPS
    assert 0 <= turns <= 30
    assert search.robot.low_level_steps == FULL_TURN_STEPS + motion.low_level_steps
    assert search.robot.distance == motion.outcome.distance > 0


def test_failures_are_drawn_by_the_seed(two_rooms: House) -> None:
    def codes(seed: int, rate: float) -> list[OutcomeCode]:
        search = Search(two_rooms, seed=seed, failure_rate=rate)
        ids = [search.id_of("mug"), search.id_of("cupboard")] * 6
        return [search.act(ActionKind.NAVIGATE, target).outcome.code for target in ids]

    assert codes(1, 0.0) == [OutcomeCode.NONE] * 12
    assert set(codes(1, 1.0)) == {OutcomeCode.FAILED, OutcomeCode.BLOCKED}
    assert codes(1, 0.5) == codes(1, 0.5) != codes(2, 0.5)


def test_a_failure_without_motion_leaves_the_robot_where_it_is(two_rooms: House) -> None:
    search = Search(two_rooms, failure_rate=1.0)
    for _ in range(8):
        before = search.robot.pose
        motion = search.act(ActionKind.NAVIGATE, search.id_of("mug"))
        assert not motion.outcome.success
        if motion.outcome.code is OutcomeCode.FAILED:
            assert search.robot.pose == before


@pytest.mark.parametrize("start", [(2.0, 0.4), (-3.0, 2.0), (500.0, 2.0), (4.0, 1.0)])
def test_a_start_where_the_robot_does_not_fit_is_refused(two_rooms: House, start: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="can't start at"):
        SimulatedRobot(two_rooms, Pose(*start))


def test_an_open_door_is_looked_through(house_json: dict[str, Any]) -> None:
    house_json["doors"][0]["open"] = True
    search = Search(House.from_json(house_json), 3.0, 2.0)
    assert "drawer" in search.labels()


def test_labels_are_those_of_the_vocabulary(two_rooms: House) -> None:
    assert "zorb" in Search(replace(two_rooms, labels={"mug": "zorb"})).labels()
