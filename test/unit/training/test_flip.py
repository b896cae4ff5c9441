"""Minimal pairs: one fact differs, the expert follows it, a policy that does not read is found out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Hint, ObjectView, Option, PromptView, RoomView
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.flip import (
    FLIPS,
    Pair,
    ask,
    count_names,
    flip_distance,
    make_pairs,
    plain_words,
    record_situations,
    report,
    speaks_of,
)
from smallplan_training.teachers.expert import ExpertPolicy, ExpertTeacher
from smallplan_training.teachers.variations import retarget


@pytest.fixture(scope="module")
def situations(house_file: Path) -> list[Situation]:
    return record_situations([house_file], episodes=40, seed=0, config=SearchConfig())


@pytest.fixture(scope="module")
def pairs(situations: list[Situation]) -> list[Pair]:
    return make_pairs(situations, 9, seed=0)


def test_pairs_are_spread_over_the_kinds_and_change_the_command(pairs: list[Pair]) -> None:
    assert [pair.kind for pair in pairs] == [*FLIPS] * 3
    assert all(pair.before.command != pair.after.command for pair in pairs)


def options_of(view: PromptView) -> list[tuple[str, Option]]:
    lists = {"space": view.spaces, "door": view.doors, "container": view.containers, "surface": view.surfaces}
    return [(kind, option) for kind, options in lists.items() for option in options]


def test_a_distance_flip_exchanges_two_distances_and_nothing_else(pairs: list[Pair]) -> None:
    for pair in pairs:
        if pair.kind != "distance":
            continue
        old, new = pair.situation.view, pair.flipped
        lists = {name: getattr(old, name) for name in ("spaces", "doors", "containers", "surfaces")}
        assert replace(new, **lists) == old
        before, after = set(options_of(old)), set(options_of(new))
        gone = {option.name or option.room: option.distance for _, option in before - after}
        come = {option.name or option.room: option.distance for _, option in after - before}
        assert len(gone) == 2 and gone.keys() == come.keys()
        assert sorted(gone.values()) == sorted(come.values())


def test_a_thing_that_is_listed_twice_moves_in_both_lists() -> None:
    dresser, nightstand = Option("bedroom", "near", "dresser"), Option("bedroom", "very close", "nightstand")
    view = replace(VIEW, doors=(), containers=(dresser,), surfaces=(nightstand, dresser))
    flipped = flip_distance(retarget(view, "watch", load_priors()), ExpertTeacher(), random.Random(0))
    assert flipped is not None
    assert flipped.containers == (dresser._replace(distance="very close"),)
    assert flipped.surfaces == (dresser._replace(distance="very close"), nightstand._replace(distance="near"))


def test_a_found_flip_adds_the_target_to_one_room(pairs: list[Pair]) -> None:
    for pair in pairs:
        if pair.kind != "found":
            continue
        assert pair.after.command == "done()"
        assert pair.flipped.matches is not None and not pair.situation.view.matches
        (room, name), *_ = pair.flipped.matches
        assert ObjectView(name) in next(r for r in pair.flipped.rooms if r.name == room).objects


def test_a_target_flip_keeps_the_scene(pairs: list[Pair]) -> None:
    for pair in pairs:
        if pair.kind == "target":
            assert pair.flipped.target != pair.situation.view.target
            assert pair.flipped.rooms == pair.situation.view.rooms and not pair.flipped.matches


def test_the_expert_follows_always_and_writes_names_of_its_prompt(pairs: list[Pair]) -> None:
    result = report("expert", pairs, [ask(ExpertPolicy(), pair) for pair in pairs])
    assert result["flips"]["all"]["pairs"] == 9
    for key in ("right_before", "changed", "command_follows", "reasoning_follows"):
        assert result["flips"]["all"][key] == 100.0
    assert result["names"]["exist"] == 100.0 and result["names"]["written"] > 20


def test_a_policy_that_does_not_read_is_found_out(pairs: list[Pair]) -> None:
    class Parrot:
        def decide(self, situation: Situation) -> Answer:
            return Answer("explore(attic)", "The zeppelin is in attic.", "It is nice there.")

    result = report("parrot", pairs, [ask(Parrot(), pair) for pair in pairs])
    assert result["flips"]["all"]["changed"] == result["flips"]["all"]["command_follows"] == 0.0
    assert result["flips"]["all"]["reasoning_follows"] == 0.0
    assert result["flips"]["all"]["command_follows_when_right_before"] is None
    assert result["names"]["exist"] < 50


def test_too_few_situations_are_said(situations: list[Situation]) -> None:
    with pytest.raises(UserError, match="of 500 pairs could be made"):
        make_pairs(situations[:3], 500, seed=0)


VIEW = PromptView(
    target="mug",
    mode="normal",
    kinds=(),
    rooms=(RoomView("kitchen", (ObjectView("fridge", "closed"), ObjectView("fridge-2"))), RoomView("room-1")),
    doors=(Option("kitchen", "near", "door-3"),),
    hints=(Hint("living room", ("coffee table",)),),
)


@pytest.mark.parametrize(
    ("text", "found", "missing"),
    [
        ("fridge in kitchen is near.", 2, 0),
        ("fridge-2 and door-3 in kitchen.", 3, 0),
        ("The coffee table in living room.", 2, 0),
        ("fridge-3 in kitchen.", 1, 1),  # the number is part of the name
        ("room-1 is near, room-2 is far.", 1, 1),
        ("The purple sofa is in kitchen.", 1, 1),  # one name of two words
        ("The sofa, the lamp.", 0, 2),
        ("The mugs.", 0, 1),
        ("", 0, 0),
    ],
)
def test_counting_names(text: str, found: int, missing: int) -> None:
    plain = {"in", "is", "near", "far", "and", "the"}
    assert count_names(text, VIEW, plain) == (found, missing)


def test_plain_words_hold_no_names(situations: list[Situation]) -> None:
    plain = plain_words(situation.view for situation in situations)
    assert {"so", "open", "it", "not"} <= plain
    assert not plain & {"kitchen", "fridge", "bedroom", "mug"}


@pytest.mark.parametrize(
    ("reasoning", "command", "expected"),
    [
        ("fridge in kitchen: often kept there.", "go_to_and_open(kitchen, fridge)", True),
        ("fridge-2 in kitchen: often kept there.", "go_to_and_open(kitchen, fridge)", False),
        ("space in kitchen", "explore(kitchen)", True),
        ("space in bedroom", "explore(kitchen)", False),
        ("The mug is there.", "done()", True),
        ("Nothing is left.", "done()", False),
    ],
)
def test_speaking_of_a_command(reasoning: str, command: str, expected: bool) -> None:
    assert speaks_of(reasoning, command, VIEW) is expected


def test_command_writes_json(house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "flip.json"
    options = ["--policy", "expert", "--scenes", str(house_file), "--episodes", "5", "--prompts", "3"]
    assert cli.main(["probe-flip", *options, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["prompts"] == 3
    assert "command follows" in capsys.readouterr().out
