from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from gymnasium.utils.env_checker import check_env

from smallplan_planner.actions import DONE, Action, ActionKind, ActionRules, OutcomeCode, valid_actions
from smallplan_planner.scene_graph import Pose, SceneGraph
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.search_env import StepInfo

from .walks import open_, random_walk

START = Pose(1.0, 2.0, 0.0)


@pytest.fixture
def env(two_rooms: House) -> HouseSearchEnv:
    return HouseSearchEnv([two_rooms])


def spoon_search(env: HouseSearchEnv) -> tuple[SceneGraph, dict[str, Any]]:
    return env.reset(seed=0, options={"start": START, "target": "spoon"})


def test_gymnasium_accepts_it() -> None:
    check_env(HouseSearchEnv([generate_house(1, 3)]), skip_render_check=True)


def test_a_search_that_succeeds(env: HouseSearchEnv) -> None:
    graph, info = spoon_search(env)
    assert info["new_nodes"]
    for label in ("door", "drawer"):
        graph, reward, terminated, truncated, info = env.step(open_(graph, label))
        assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)
        assert info["outcome"].success
        assert info["distance"] > 0
    assert info["new_nodes"] == tuple(obj.id for obj in graph.objects if obj.label == "spoon")
    graph, reward, terminated, truncated, info = env.step(DONE)
    assert (reward, terminated, truncated, info["success"]) == (5.0, True, False, True)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(DONE)


def test_done_without_the_target_fails(env: HouseSearchEnv) -> None:
    spoon_search(env)
    _, reward, terminated, _, info = env.step(DONE)
    assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_an_episode_is_truncated_after_the_last_step(two_rooms: House) -> None:
    env = HouseSearchEnv([two_rooms], max_steps=2)
    graph, _ = spoon_search(env)
    graph, _, _, truncated, _ = env.step(open_(graph, "cupboard"))
    assert not truncated
    _, _, terminated, truncated, _ = env.step(open_(graph, "door"))
    assert (terminated, truncated) == (False, True)


@pytest.mark.parametrize(
    "action",
    [
        Action(ActionKind.EXPLORE, "room_99", "frontier_1"),
        Action(ActionKind.NAVIGATE, "room_1", "object_99"),
        Action(ActionKind.CLOSE, "room_1", "object_1"),
    ],
)
def test_an_invalid_action_fails_with_a_reason_and_without_motion(env: HouseSearchEnv, action: Action) -> None:
    before, _ = spoon_search(env)
    graph, _, _, _, info = env.step(action)
    assert info["outcome"].code is OutcomeCode.STALE_GOAL
    assert info["feedback"].startswith("It failed: ")
    assert graph.robot_pose == before.robot_pose
    assert info["low_level_steps"] == 0


def test_the_voronoi_graph_is_computed_when_asked_for(two_rooms: House) -> None:
    assert spoon_search(HouseSearchEnv([two_rooms]))[1]["voronoi"] is None
    graph = spoon_search(HouseSearchEnv([two_rooms], voronoi=True))[1]["voronoi"]
    assert isinstance(graph, nx.Graph)
    assert graph.number_of_nodes() > 3


def test_the_reward_can_be_replaced(two_rooms: House) -> None:
    def metres(action: Action, info: StepInfo) -> float:
        return -info["distance"]

    env = HouseSearchEnv([two_rooms], reward=metres)
    graph, _ = spoon_search(env)
    _, reward, _, _, info = env.step(open_(graph, "cupboard"))
    assert reward == -info["distance"] < 0


def test_sampled_actions_are_valid_on_the_latest_observation(env: HouseSearchEnv) -> None:
    graph, _ = env.reset(seed=4)
    for _ in range(10):
        action = env.action_space.sample()
        assert action in valid_actions(graph, ActionRules())
        if action.kind is not ActionKind.DONE:
            graph, *_ = env.step(action)


def test_a_house_is_taken_from_a_file(two_rooms: House, tmp_path: Path) -> None:
    two_rooms.save(tmp_path / "house.json")
    env = HouseSearchEnv()
    env.reset(seed=1, options={"house": tmp_path / "house.json"})
    assert env.episode.house.name == "two-rooms"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"goal": "mug"}, "options hold"),
        ({"start": START}, "'start' without 'target'"),
        ({"target": "unicorn"}, "there is no 'unicorn'; expected one of "),
    ],
)
def test_options_that_make_no_episode_are_refused(env: HouseSearchEnv, options: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, NoEpisode), match=error):
        env.reset(seed=0, options=options)


def test_observations_are_valid_graphs_without_room_types(env: HouseSearchEnv) -> None:
    for seed in range(3):
        env = HouseSearchEnv([generate_house(seed)], failure_rate=0.2)
        graph, _ = env.reset(seed=seed)
        rng = random.Random(seed)
        for _ in range(15):
            graph.validate()
            assert all(room.label == "" for room in graph.rooms)
            actions = [action for action in valid_actions(graph, ActionRules()) if action is not DONE]
            graph, *_ = env.step(rng.choice(actions))


def test_the_same_seed_is_the_same_search() -> None:
    house = generate_house(7, 6)
    one, other = (random_walk(HouseSearchEnv([house], failure_rate=0.3), 10) for _ in range(2))
    assert one == other
