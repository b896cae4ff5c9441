"""The adapter as a SearchEnv: the same checks as for the embedded simulator, over the real protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from smallplan_planner.actions import DONE, Action, ActionKind, ActionRules, Outcome, OutcomeCode, valid_actions
from smallplan_planner.mapping.occupancy import FREE, OCCUPIED
from smallplan_planner.scene_graph import OpenState, Pose
from smallplan_planner.search import ResultCode, SearchConfig
from smallplan_training.recording import EpisodeWatcher
from smallplan_training.report import render_page
from smallplan_training.rollout import run_episode
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.client import IGibsonClient
from smallplan_training.simulators.igibson.comparison import compare
from smallplan_training.simulators.igibson.env import IGibsonSearchEnv
from smallplan_training.simulators.search_env import EpisodeLost
from smallplan_training.teachers.expert import ExpertPolicy

from ..conftest import TWO_ROOMS
from ..walks import open_, random_walk
from .boxes import make_client, make_env

START = Pose(1.0, 2.0, 0.0)
SPOON = {"start": START, "target": "spoon"}

Make = Callable[..., IGibsonSearchEnv]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IGibsonClient]:
    """The way to one worker that serves all tests that want one without a fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with make_client(House.from_json(TWO_ROOMS), tmp_path_factory.mktemp("worker")) as client:
            yield client


@pytest.fixture
def make(two_rooms: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: IGibsonClient) -> Iterator[Make]:
    """Environments in the two rooms; what has a fault is closed in the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: list[IGibsonClient] = []

    def env(fault: dict[str, Any] | None = None, **arguments: Any) -> IGibsonSearchEnv:
        if fault is not None:
            made.append(make_client(two_rooms, tmp_path, fault))
        return make_env(two_rooms, sound if fault is None else made[-1], **arguments)

    yield env
    for client in made:
        client.close()


def test_gymnasium_accepts_it(make: Make) -> None:
    check_env(make(), skip_render_check=True)


def test_a_search_that_succeeds(make: Make) -> None:
    env = make()
    graph, info = env.reset(seed=0, options=SPOON)
    assert {obj.label for obj in graph.objects} == {"coffee table", "mug", "cupboard"}
    assert len(graph.rooms) == 1
    for label in ("door", "drawer"):
        graph, reward, terminated, truncated, info = env.step(open_(graph, label))
        assert (info["outcome"].success, reward, terminated, truncated) == (True, 0.0, False, False)
        assert info["distance"] > 0
    assert [obj.label for obj in graph.objects if obj.id in info["new_nodes"]] == ["spoon"]
    assert len(graph.rooms) == 2
    graph.validate()
    _, reward, terminated, _, info = env.step(DONE)
    assert (reward, terminated, info["success"]) == (5.0, True, True)


def test_it_knows_what_the_embedded_simulator_knows(make: Make, two_rooms: House) -> None:
    env, embedded = make(), HouseSearchEnv([two_rooms])
    for step in ("reset", "door"):
        if step == "reset":
            (graph, info), (other, other_info) = (one.reset(seed=0, options=SPOON) for one in (env, embedded))
        else:
            graph, *_, info = env.step(open_(graph, step))
            other, *_, other_info = embedded.step(open_(other, step))
        ours, theirs = env.robot.perception.known, embedded.robot.perception.known
        both = (ours >= 0) & (theirs >= 0)
        assert (ours == theirs)[both].mean() > 0.95
        assert both.sum() > 0.85 * (theirs >= 0).sum()
        assert {obj.label for obj in graph.objects} >= {obj.label for obj in other.objects}
        assert [(door.state, door.openable) for door in graph.doors] == [
            (door.state, door.openable) for door in other.doors
        ]
        assert info["distance"] == pytest.approx(other_info["distance"], rel=0.1, abs=0.1)


def test_nothing_is_seen_in_closed_containers_or_behind_doors(make: Make) -> None:
    graph, _ = make().reset(seed=0, options={"start": Pose(6.0, 2.0, 0.0), "target": "mug"})
    labels = {obj.label for obj in graph.objects}
    assert "drawer" in labels
    assert not labels & {"spoon", "mug", "coffee table"}


def test_small_things_are_recognised_from_near_only(make: Make) -> None:
    far, _ = make().reset(seed=0, options={"start": Pose(3.6, 0.4, 0.0), "target": "spoon"})
    assert {obj.label for obj in far.objects} == {"coffee table", "cupboard"}  # the mug is 3.3 m away
    near, _ = make().reset(seed=0, options={"start": Pose(2.9, 2.4, 0.0), "target": "spoon"})
    assert "mug" in {obj.label for obj in near.objects}


def test_what_is_opened_is_open_and_can_be_closed(make: Make) -> None:
    rules = ActionRules(allow_close=True)
    env = make(rules=rules)
    graph, _ = env.reset(seed=0, options=SPOON)
    graph, *_ = env.step(open_(graph, "cupboard"))
    cupboard = next(obj for obj in graph.objects if obj.label == "cupboard")
    assert cupboard.state is OpenState.OPEN
    graph, *_, info = env.step(Action(ActionKind.CLOSE, cupboard.room, cupboard.id))
    assert info["outcome"].success
    assert next(obj for obj in graph.objects if obj.label == "cupboard").state is OpenState.CLOSED


def test_nothing_of_the_closed_leaf_stays_in_an_open_doorway(make: Make) -> None:
    env = make()
    graph, _ = env.reset(seed=0, options=SPOON)
    known, raster = env.robot.perception.known, env.episode.raster
    beside, jamb = raster.cell(3.87, 2.0), raster.cell(3.87, 2.5)
    assert beside not in zip(*np.unravel_index(raster.door_cells[0], known.shape))
    known[beside] = known[jamb] = OCCUPIED
    env.step(open_(graph, "door"))
    assert (known[beside], known[jamb]) == (FREE, OCCUPIED)


def test_the_same_seed_is_the_same_search(make: Make) -> None:
    env = make(failure_rate=0.3)
    assert random_walk(env, 4) == random_walk(env, 4) == random_walk(make(failure_rate=0.3), 4)


def test_the_voronoi_graph_a_picture_and_valid_graphs(make: Make) -> None:
    env = make(voronoi=True)
    graph, info = env.reset(seed=3)
    assert isinstance(info["voronoi"], nx.Graph) and info["voronoi"].number_of_nodes() > 3
    assert env.picture is not None and env.picture.ndim == 3 and env.picture.dtype == np.uint8
    for _ in range(3):
        action = next(one for one in valid_actions(graph, ActionRules()))
        if action is DONE:
            break
        graph, *_ = env.step(action)
        graph.validate()
        assert all(room.label == "" for room in graph.rooms)


def test_an_expert_finds_the_target(make: Make) -> None:
    env = make(max_steps=10**9)
    env.reset(seed=0, options=SPOON)
    record = run_episode(env, env.episode, ExpertPolicy(), SearchConfig())
    assert record.result.success


def test_a_worker_that_dies_loses_the_episode_and_not_the_run(make: Make, tmp_path: Path) -> None:
    env = make({"kind": "move", "do": "die", "once": str(tmp_path / "once")}, max_steps=10**9)
    graph, _ = env.reset(seed=0, options=SPOON)
    with pytest.raises(EpisodeLost, match="while it was to move"):
        env.step(open_(graph, "door"))
    graph, _ = env.reset(seed=0, options=SPOON)
    assert env.step(open_(graph, "door"))[4]["outcome"] == Outcome(True, distance=pytest.approx(2.2, abs=0.4))


def test_a_lost_episode_is_reported_as_such(make: Make, tmp_path: Path) -> None:
    env = make({"kind": "move", "do": "die", "once": str(tmp_path / "once")}, max_steps=10**9)
    env.reset(seed=0, options=SPOON)
    episode = env.episode
    lost = run_episode(env, episode, ExpertPolicy(), SearchConfig())
    assert (lost.result.code, lost.result.success) == (ResultCode.EXECUTOR_UNAVAILABLE, False)
    assert "the episode is lost: the worker ended with code 7" in lost.result.message
    last = lost.decisions[-1].outcome
    assert last is not None and last.code is OutcomeCode.FAILED
    assert run_episode(env, episode, ExpertPolicy(), SearchConfig()).result.success


def test_a_reset_tries_another_worker_once(make: Make, tmp_path: Path) -> None:
    env = make({"kind": "reset", "do": "die", "once": str(tmp_path / "once")})
    assert env.reset(seed=0, options=SPOON)[0].rooms
    with pytest.raises(EpisodeLost):
        make({"kind": "reset", "do": "die"}).reset(seed=0, options=SPOON)


def test_a_recording_holds_what_the_camera_showed(make: Make) -> None:
    env = make(max_steps=10**9)
    env.reset(seed=0, options=SPOON)
    watcher = EpisodeWatcher(env, ExpertPolicy())
    record = run_episode(env, env.episode, watcher, SearchConfig())
    recording = watcher.recording("expert", env.episode, record)
    pictures = [step["picture"].partition(";base64,") for step in recording["steps"]]
    assert len(pictures) == len(record.decisions) and {kind for kind, *_ in pictures} == {"data:image/jpeg"}
    with Image.open(io.BytesIO(base64.b64decode(pictures[0][2]))) as image:
        assert image.size == (160, 120)
    assert pictures[0] != pictures[1]
    assert pictures[0][2] in render_page("a title", [], [], [recording])


@pytest.mark.parametrize("kind", ["reset", "move"])
def test_an_episode_that_is_lost_is_not_compared(make: Make, kind: str) -> None:
    env = make(max_steps=10**9)
    env.reset(seed=0, options=SPOON)
    broken = make({"kind": kind, "do": "die"}, max_steps=10**9)
    assert compare(env.episode, HouseSearchEnv(max_steps=10**9), broken, ExpertPolicy()) is None


def test_both_simulators_are_led_through_the_same_search(make: Make, two_rooms: House) -> None:
    env = make(max_steps=10**9)
    env.reset(seed=0, options=SPOON)
    agreement = compare(env.episode, HouseSearchEnv(max_steps=10**9), env, ExpertPolicy())
    assert agreement is not None
    assert agreement.actions >= 2 and agreement.carried_out == 1.0
    assert min(agreement.cells, agreement.rooms, agreement.objects, agreement.doors) > 0.9
    assert 0 < agreement.igibson_m == pytest.approx(agreement.embedded_m, rel=0.1)
    assert abs(agreement.path) < 0.1
