"""iGibson itself: a pack of the two rooms is loaded, searched and compared with the embedded simulator."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smallplan_planner.actions import DONE, Action, ActionKind, OutcomeCode
from smallplan_planner.scene_graph import Pose
from smallplan_planner.search import SearchConfig
from smallplan_training import cli
from smallplan_training.rollout import run_episode
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.comparison import compare
from smallplan_training.simulators.igibson.env import IGibsonSearchEnv
from smallplan_training.simulators.igibson.environment import IgibsonEnvironment
from smallplan_training.teachers.expert import ExpertPolicy

from ..conftest import TWO_ROOMS
from ..walks import open_

SPOON = {"start": Pose(1.0, 2.0, 0.0), "target": "spoon"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def rooms() -> House:
    return House.from_json(TWO_ROOMS)


@pytest.fixture(scope="module")
def env(
    igibson: IgibsonEnvironment, rooms: House, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IGibsonSearchEnv]:
    """An environment whose worker has loaded the two rooms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        env = IGibsonSearchEnv([rooms], max_steps=10**9)
        yield env
        env.close()


def test_a_search_by_hand(env: IGibsonSearchEnv) -> None:
    graph, info = env.reset(seed=0, options=SPOON)
    assert {obj.label for obj in graph.objects} == {"coffee table", "mug", "cupboard"}
    assert len(graph.rooms) == 1 and len(graph.doors) == 2
    assert env.picture is not None and env.picture.std() > 5  # it shows something
    mug = next(obj for obj in graph.objects if obj.label == "mug")
    assert mug.relation == "on"
    graph, *_, info = env.step(open_(graph, "door"))
    assert info["outcome"].success
    assert len(graph.rooms) == 2
    assert "spoon" not in {obj.label for obj in graph.objects}
    graph, *_, info = env.step(open_(graph, "drawer"))
    assert info["outcome"].success
    assert "spoon" in {obj.label for obj in graph.objects}
    assert env.step(DONE)[4]["success"]


def test_both_simulators_agree(env: IGibsonSearchEnv, rooms: House) -> None:
    env.reset(seed=0, options=SPOON)
    agreement = compare(env.episode, HouseSearchEnv(max_steps=10**9), env, ExpertPolicy())
    assert agreement.actions >= 2 and agreement.carried_out == 1.0
    assert agreement.cells > 0.9 and agreement.rooms > 0.9
    assert agreement.objects > 0.9 and agreement.doors == 1.0
    assert abs(agreement.path) < 0.1


def test_objects_settle_on_what_they_are_put_on(env: IGibsonSearchEnv) -> None:
    env.reset(seed=0, options=SPOON)
    thing = next(item for item in env.robot.state.house.objects if item.category == "mug")
    assert thing.position[2] - thing.size[2] / 2 == pytest.approx(0.45, abs=0.02)  # the table's height
    assert math.dist(thing.position[:2], (2.2, 3.4)) < 0.1


def test_the_robot_stops_before_a_wall(env: IGibsonSearchEnv) -> None:
    env.reset(seed=0, options=SPOON)
    client = env.client
    reached = client.drive(np.array([[1.0, 2.0 + 0.1 * step] for step in range(1, 40)]))
    assert 10 <= reached < 20  # the wall is at y = 4
    assert client.look([0.0]).cameras[0, 1, 3] == pytest.approx(2.0 + 0.1 * reached, abs=0.01)


def test_a_locked_door_stays_shut(env: IGibsonSearchEnv) -> None:
    graph, _ = env.reset(seed=0, options=SPOON)
    locked = next(door for door in graph.doors if not door.openable)
    info = env.step(Action(ActionKind.GO_TO_AND_OPEN, locked.rooms[0], locked.id))[4]
    assert info["outcome"].code is OutcomeCode.STALE_GOAL
    assert env.client.move(env.scene.names["front"], opening=True) == 0.0  # it has no joint


def test_a_worker_that_is_killed_loses_an_episode_only(env: IGibsonSearchEnv) -> None:
    env.reset(seed=0, options=SPOON)
    episode = env.episode
    assert env.client._worker is not None
    env.client._worker._process.kill()
    assert run_episode(env, episode, ExpertPolicy(), SearchConfig()).result.success  # reset takes another one


def test_a_worker_that_ends_leaves_nothing_in_the_data_set(env: IGibsonSearchEnv) -> None:
    env.reset(seed=0, options=SPOON)
    copies = env.scene.dataset / "scene_instances"
    before = set(copies.iterdir())
    env.close()
    assert len(before - set(copies.iterdir())) == 1  # others are of those that were killed


def test_the_command_line_searches_in_igibson(igibson: IgibsonEnvironment, rooms: House, tmp_path: Path) -> None:
    rooms.save(tmp_path / "rooms.json")
    command = ["evaluate", "--simulator", "igibson", "--policy", "expert", "--scenes", str(tmp_path / "rooms.json")]
    assert cli.main([*command, "--episodes", "1", "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["sr"] == 100.0
    assert report["settings"]["simulator"] == "igibson"
