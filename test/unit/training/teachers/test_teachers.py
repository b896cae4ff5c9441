"""The expert answers only from what a prompt shows, in words that fit it; variations stay honest prompts."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import matches_target
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import ObjectView, Option, PastAction, PromptView, RoomView, known_places, render
from smallplan_planner.response import parse_response
from smallplan_training.teachers.expert import ExpertTeacher, option_command
from smallplan_training.teachers.imagined import KINDS, imagine
from smallplan_training.teachers.variations import (
    from_record,
    made_up_word,
    random_target,
    rename,
    retarget,
    to_record,
)

PRIORS = load_priors()
TEACHER = ExpertTeacher()


def varied(seed: int) -> PromptView:
    rng = random.Random(seed)
    view = rename(imagine(PRIORS, rng), rng, PRIORS)
    return retarget(view, random_target(view, PRIORS, rng), PRIORS)


def options_of(view: PromptView) -> set[str]:
    commands = {option_command(ActionKind.EXPLORE, option) for option in view.spaces}
    return commands | {option_command(ActionKind.GO_TO_AND_OPEN, option) for option in (*view.doors, *view.containers)}


def house(target: str = "mug", kitchen: str = "near", bedroom: str = "near") -> PromptView:
    """A kitchen and a bedroom, each with something closed."""
    return PromptView(
        target=target,
        mode="normal",
        kinds=KINDS,
        rooms=(
            RoomView("kitchen", (ObjectView("cabinet", "closed"),)),
            RoomView("bedroom", (ObjectView("wardrobe", "closed"), ObjectView("bed"))),
        ),
        robot_room="bedroom",
        containers=(Option("kitchen", kitchen, "cabinet"), Option("bedroom", bedroom, "wardrobe")),
        hints=known_places(PRIORS, target),
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_answer_is_an_open_option_in_words_of_the_prompt(seed: int) -> None:
    view = varied(seed)
    response = TEACHER.answer(view, random.Random(seed))
    assert parse_response(response.render()) == response
    listed = {obj.name for room in view.rooms for obj in room.objects}
    if view.matches:
        assert response.command == "done()"
    elif response.command.startswith("navigate"):
        assert response.command.split(", ")[1].rstrip(")") in listed
    else:
        assert response.command in options_of(view) | {"done()"}
        assert (response.command == "done()") == (not options_of(view))
    prompt = " ".join(message.content for message in render(view))
    for name in re.findall(r"[\w ]+?-\d+", response.analysis + response.reasoning):
        assert name.split(" in ")[-1].split(": ")[-1].strip() in prompt


@pytest.mark.parametrize("seed", range(10))
def test_the_action_does_not_depend_on_the_words_seed(seed: int) -> None:
    view = varied(seed)
    assert len({TEACHER.answer(view, random.Random(words)).command for words in range(8)}) == 1


def test_common_knowledge_decides_between_equally_near_containers() -> None:
    assert TEACHER.answer(house("mug"), random.Random(0)).command == "go_to_and_open(kitchen, cabinet)"
    assert TEACHER.answer(house("coat"), random.Random(0)).command == "go_to_and_open(bedroom, wardrobe)"


def test_distance_decides_for_a_target_that_nobody_knows() -> None:
    near_kitchen = house("zorbel", kitchen="very close", bedroom="far")
    near_bedroom = house("zorbel", kitchen="far", bedroom="very close")
    assert TEACHER.answer(near_kitchen, random.Random(0)).command == "go_to_and_open(kitchen, cabinet)"
    assert TEACHER.answer(near_bedroom, random.Random(0)).command == "go_to_and_open(bedroom, wardrobe)"


def test_the_same_command_is_never_proposed_a_third_time_running() -> None:
    twice = (PastAction("go_to_and_open(kitchen, cabinet)", "failed, blocked"),) * 2
    view = replace(house("mug"), history=twice)
    assert TEACHER.answer(view, random.Random(0)).command == "go_to_and_open(bedroom, wardrobe)"
    only = replace(view, containers=view.containers[:1])
    assert TEACHER.answer(only, random.Random(0)).command == "done()"


def test_a_door_between_known_rooms_is_not_worth_opening() -> None:
    one = (Option("bedroom", "far", "door"),)
    two = (Option("kitchen", "near", "door-2"), Option("bedroom", "near", "door-2"))
    view = replace(house("towel"), containers=(), doors=(*two, *one))
    assert TEACHER.answer(view, random.Random(0)).command == "go_to_and_open(bedroom, door)"


def test_without_options_it_looks_at_usual_surfaces_once_and_then_gives_up() -> None:
    rooms = (RoomView("kitchen", (ObjectView("counter"), ObjectView("counter-2"), ObjectView("stove"))),)
    view = replace(house("mug"), rooms=rooms, containers=(), robot_room="kitchen", near=("counter",))
    first = TEACHER.answer(view, random.Random(0)).command
    assert first == "navigate(kitchen, counter-2)"
    assert TEACHER.answer(replace(view, history=(PastAction(first, "arrived"),)), random.Random(0)).command == "done()"


def test_retarget_finds_matches_and_knowledge_of_the_new_target() -> None:
    view = retarget(house("mug"), "Bed_3", PRIORS)
    assert view.target == "bed"
    assert view.matches == (("bedroom", "bed"),)
    assert retarget(house("mug"), "coat", PRIORS).hints != retarget(house("mug"), "mug", PRIORS).hints


@pytest.mark.parametrize("seed", range(30))
def test_rename_keeps_structure_and_distinct_names(seed: int) -> None:
    rng = random.Random(seed)
    view = imagine(PRIORS, rng)
    new = rename(view, rng, PRIORS, share=0.8)
    assert [len(room.objects) for room in new.rooms] == [len(room.objects) for room in view.rooms]
    names = [obj.name for room in new.rooms for obj in room.objects]
    assert len(set(names)) == len(names)
    assert {option.name for option in new.containers} <= set(names)
    assert [option.distance for option in new.containers] == [option.distance for option in view.containers]


def test_records_give_the_same_view_back() -> None:
    for seed in range(20):
        view = varied(seed)
        assert from_record(to_record(view)) == view


def test_made_up_words_are_words() -> None:
    rng = random.Random(0)
    words = {made_up_word(rng) for _ in range(200)}
    assert len(words) > 150
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", word) for word in words)
    assert not any(matches_target(word, "mug") for word in words)
