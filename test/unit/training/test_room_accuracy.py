"""Rooms as they were named against what they are: the truth is the house's, and never in the graph."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from smallplan_planner.policies import GreedyPolicy
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training import cli
from smallplan_training.rollout import EpisodeRecord, run_episode
from smallplan_training.room_accuracy import RoomAccuracy, room_accuracy, true_type
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode, draw_episode
from smallplan_training.simulators.house.house import House


@pytest.fixture(scope="module")
def episode(small_house: House) -> Episode:
    return draw_episode(small_house, 1)


class Namer(GreedyPolicy):
    """The greedy policy with one word for every room."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.asked: list[tuple[str, ...]] = []
        self.seen: set[str] = set()

    def decide(self, situation: Situation) -> Answer:
        self.seen |= {room.name for room in situation.view.rooms}
        return super().decide(situation)

    def classify_room(self, labels: Iterable[str]) -> str:
        self.asked.append(tuple(labels))
        return self.label


def run(episode: Episode, policy: GreedyPolicy, classify_rooms: str) -> EpisodeRecord:
    config = SearchConfig(max_steps=30, classify_rooms=classify_rooms)
    return run_episode(HouseSearchEnv(max_steps=10**6), episode, policy, config)


def test_discovered_rooms_lie_in_true_ones(episode: Episode) -> None:
    record = run(episode, GreedyPolicy(), "rule")
    types = [true_type(room, record.graph, episode) for room in record.graph.rooms]
    assert types and set(types) <= {room.type for room in episode.house.rooms}
    assert all(room.label == "" for room in record.graph.rooms), "the truth does not leave the house"
    assert {room_id for room_id, _ in record.room_labels} == {room.id for room in record.graph.rooms}


def test_the_rules_labels_are_counted_as_the_rules(episode: Episode) -> None:
    counted = room_accuracy(run(episode, GreedyPolicy(), "rule"), episode)
    assert counted.rooms >= 2 and counted.right >= counted.rooms - 1
    assert (counted.right, counted.uncertain) == (counted.rule_right, counted.rule_uncertain)
    assert counted.agreed == counted.rooms


def test_a_policy_names_rooms_where_it_is_asked_to(episode: Episode) -> None:
    policy = Namer("garage")
    counted = room_accuracy(run(episode, policy, "model"), episode)
    assert policy.asked and "garage" in policy.seen
    assert counted.right == 0 and counted.uncertain < counted.rooms  # there is no garage in this house
    assert counted.rule_right >= counted.rooms - 1, "the rule is asked about the same rooms"
    silent = Namer("garage")
    run(episode, silent, "rule")
    assert not silent.asked


def test_an_uncertain_answer_is_neither_right_nor_a_name(episode: Episode) -> None:
    counted = room_accuracy(run(episode, Namer("other room"), "model"), episode)
    assert counted.uncertain == counted.rooms and counted.right == 0
    assert counted.shares()["accuracy_of_named"] == 0.0


def test_counts_add_up_and_become_shares() -> None:
    total = RoomAccuracy(4, 2, 1, 3, 0, 2) + RoomAccuracy(4, 4, 0, 3, 1, 3)
    report = total.report()
    assert report["rooms"] == 8
    assert (report["accuracy"], report["uncertain"], report["accuracy_of_named"]) == (75.0, 12.5, 85.71)
    assert (report["rule_accuracy"], report["rule_accuracy_of_named"]) == (75.0, 85.71)
    assert report["agreement_with_rule"] == 62.5


def test_evaluate_tells_how_rooms_were_named(house_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["evaluate", "--policy", "greedy", "--scenes", str(house_file), "--episodes", "1", "--max-steps", "6"]
    assert cli.main([*command, "--room-labels", "model", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["settings"]["room_labels"] == "model"
    assert report["rooms"]["rooms"] >= 1 and report["rooms"]["accuracy"] == report["rooms"]["rule_accuracy"]
    assert report["rooms"]["unreadable_answers"] == 0
