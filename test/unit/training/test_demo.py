"""What the demo says and draws, without ROS; `test/e2e` runs it whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from smallplan_planner.scene_graph import Room, SceneGraph, SceneObject
from smallplan_training import cli, demo
from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.house import House

DRIVEN = [(0.0, 0.0), (1.0, 0.0), (1.0, 2.0), (4.0, 2.0)]


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([0.0, 1.0, 6.0], [DRIVEN[1:2], DRIVEN[2:]]),
        ([0.0, 3.02, 3.02, 6.0], [DRIVEN[1:3], [], DRIVEN[3:]]),  # the second did not move
        ([0.0, 0.0], [[]]),
        ([0.0], []),
    ],
)
def test_the_path_is_cut_where_actions_ended(reached: list[float], expected: list[list[tuple[float, float]]]) -> None:
    assert demo._cut(DRIVEN, reached) == [tuple(part) for part in expected]


def test_no_path_at_all() -> None:
    assert demo._cut([(0.0, 0.0)], [0.0, 0.0]) == [()]


def test_the_headline_says_what_was_found_where(small_house: House) -> None:
    episode = draw_episode(small_house, 0)
    rooms = (Room("r"),)
    objects = (
        SceneObject("c", "KitchenCounter", "r"),
        SceneObject("m", "mug", "r", parent="c", relation="on"),
        SceneObject("p", "pan", "r"),
    )
    graph = SceneGraph(rooms=rooms, objects=objects)
    result = SimpleNamespace(error_msg="found mug-2 in kitchen", object_id="m", steps=6, distance=14.21, success=True)
    line = demo._headline(result, graph, episode)
    shortest = f"(shortest {episode.shortest_path:.1f} m)"
    assert line == f"found mug-2 on kitchen counter in kitchen · 6 actions · 14.2 m {shortest}"
    result = SimpleNamespace(error_msg="found pan in kitchen", object_id="p", steps=1, distance=1.0, success=True)
    assert demo._headline(result, graph, episode).startswith("found pan in kitchen · 1 action · 1.0 m")
    result = SimpleNamespace(error_msg="gave up", object_id="", steps=0, distance=0.0, success=False)
    assert demo._headline(result, None, episode).startswith("gave up · 0 actions · 0.0 m")


def test_parameters_keep_their_types(tmp_path: Path) -> None:
    command = demo._node_command("sim_node", "a.module", {"target": "on", "seed": 3, "speed": 2.0}, tmp_path)
    written = yaml.safe_load(Path(command[-1]).read_text())
    assert written == {"sim_node": {"ros__parameters": {"target": "on", "seed": 3, "speed": 2.0}}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--house", "no/house.json"], "no/house.json"),
        (["--house", "{house}", "--target", "zeppelin"], "there is no 'zeppelin'; expected one of "),
        (["--house", "{house}", "--speed", "-1"], "--speed is -1"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, house_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(house=house_file) for word in arguments]
    assert cli.main(["demo", "--policy", "greedy", *given]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
