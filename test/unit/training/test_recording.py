"""A recorded episode tells what happened, and nothing of the truth as if it had been discovered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smallplan_planner.policies import GreedyPolicy
from smallplan_planner.prompt import render
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training.errors import UserError
from smallplan_training.recording import EpisodeWatcher, read_recordings, write_recordings
from smallplan_training.rollout import EpisodeRecord, run_episode
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.house import House


@pytest.fixture(scope="module")
def recorded(small_house: House) -> tuple[dict[str, Any], EpisodeRecord]:
    env, episode = HouseSearchEnv(max_steps=100), draw_episode(small_house, 5)
    watcher = EpisodeWatcher(env, GreedyPolicy())
    record = run_episode(env, episode, watcher, SearchConfig())
    return watcher.recording("greedy", episode, record), record


def cells_of(recording: dict[str, Any]) -> np.ndarray:
    seen = recording["seen"]
    flat = np.concatenate([np.full(count, value) for value, count in seen["runs"]])
    return flat.reshape(seen["rows"], seen["columns"])


def test_steps_are_the_decisions(recorded: tuple[dict[str, Any], EpisodeRecord]) -> None:
    recording, record = recorded
    assert [step["command"] for step in recording["steps"]] == [d.answer.command for d in record.decisions]
    assert recording["steps"][-1]["dist_m"] == pytest.approx(record.result.distance, abs=0.01)
    assert recording["result"]["code"] == record.result.code.name
    for step in recording["steps"]:
        assert step["user"].startswith(f"Task: find the {record.target}") and "Its actions" in step["system"]
        assert step["outcome"] in ("executed", "failed", "refused", "done")


def test_the_prompt_is_the_one_that_was_read(small_house: House) -> None:
    class Reads(GreedyPolicy):
        """Only half of the rooms."""

        def decide(self, situation: Situation) -> Answer:
            some = replace(situation.view, rooms=situation.view.rooms[::2])
            return replace(super().decide(situation), view=some)

    env, episode = HouseSearchEnv(max_steps=100), draw_episode(small_house, 5)
    watcher = EpisodeWatcher(env, Reads())
    record = run_episode(env, episode, watcher, SearchConfig(max_steps=3))
    steps = watcher.recording("reads", episode, record)["steps"]
    read = [decision.answer.view for decision in record.decisions]
    assert [[step["system"], step["user"]] for step in steps] == [
        [message.content for message in render(view)] for view in read if view is not None
    ]


def test_the_way_starts_at_the_start_and_is_as_long_as_was_travelled(
    recorded: tuple[dict[str, Any], EpisodeRecord],
) -> None:
    recording, record = recorded
    points = np.array([recording["start"], *(point for step in recording["steps"] for point in step["path"])])
    assert np.allclose(recording["steps"][0]["robot"][:2], recording["start"], atol=0.02)
    assert np.hypot(*np.diff(points, axis=0).T).sum() == pytest.approx(record.result.distance, rel=0.05)


def test_what_is_known_grows_from_step_to_step(recorded: tuple[dict[str, Any], EpisodeRecord]) -> None:
    recording, record = recorded
    first_known = cells_of(recording)
    assert (first_known == 0).any() and (first_known == -1).any()
    assert first_known.max() <= len(record.decisions)
    robot = np.array(recording["steps"][0]["robot"][:2]) - recording["seen"]["corner"]
    column, row = (robot / recording["seen"]["cell"]).astype(int)
    assert first_known[row, column] == 0


def test_things_are_recorded_when_they_were_discovered(recorded: tuple[dict[str, Any], EpisodeRecord]) -> None:
    recording, record = recorded
    for number, decision in enumerate(record.decisions):
        known = {room.name for room in decision.view.rooms}
        known |= {item.name for room in decision.view.rooms for item in room.objects}
        shown = set()
        for thing in recording["things"]:
            before = [span for span in thing["spans"] if span[0] <= number]
            if before and before[-1][1] is not None and thing["kind"] in ("room", "object"):
                shown.add(before[-1][1])
        assert shown == known


def test_the_truth_holds_each_instance_of_the_target(
    recorded: tuple[dict[str, Any], EpisodeRecord], small_house: House
) -> None:
    recording, record = recorded
    assert {target["label"] for target in recording["house"]["targets"]} == {record.target}
    assert len(recording["house"]["rooms"]) == len(small_house.rooms)
    assert len(recording["house"]["furniture"]) == len(small_house.furniture)


@pytest.mark.parametrize("name", ["episodes.jsonl", "episodes.jsonl.gz"])
def test_what_is_written_is_read(recorded: tuple[dict[str, Any], EpisodeRecord], tmp_path: Path, name: str) -> None:
    recording, _ = recorded
    write_recordings(tmp_path / name, [recording, recording])
    assert read_recordings(tmp_path / name) == [recording, recording]
    assert len(json.dumps(recording)) < 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not JSON"),
        (b'\n{"format": "other"}\n', "line 2: not an episode of the format"),
        (b"[1]", "line 1: not an episode"),
        (b"\x1f\x8bnonsense", "can't be read"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.jsonl.*{message}"):
        read_recordings(path)


def test_no_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl"):
        read_recordings(tmp_path / "none.jsonl")
