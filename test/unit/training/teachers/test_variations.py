"""Imagined and varied situations stay honest prompts: what they offer they list, and matches follow."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from fixtures.graphs import PRIORS as SMALL_PRIORS
from fixtures.graphs import house
from smallplan_planner.names import MAX_NAME_LENGTH, matches_target, normalise
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PromptView, known_places, listed_matches
from smallplan_planner.search import Answer, SearchConfig, SearchEpisode
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import (
    from_record,
    made_up_word,
    mislead,
    random_target,
    refuse,
    remove,
    rename,
    retarget,
    to_record,
)

PRIORS = load_priors()
Vary = Callable[[PromptView, random.Random], PromptView]


def any_target(view: PromptView, rng: random.Random) -> PromptView:
    return retarget(view, random_target(view, PRIORS, rng, found=0.5), PRIORS)


def without(view: PromptView, rng: random.Random) -> PromptView:
    target = random_target(view, PRIORS, rng, found=1.0)
    return remove(retarget(view, target, PRIORS), target)


VARIATIONS: dict[str, Vary] = {
    "as imagined": lambda view, rng: view,
    "retarget": any_target,
    "rename": lambda view, rng: rename(view, rng, PRIORS, share=0.8),
    "renamed after it was asked for": lambda view, rng: rename(any_target(view, rng), rng, PRIORS, share=0.8),
    "remove": without,
    "refuse": refuse,
    "mislead": lambda view, rng: mislead(view, PRIORS, rng),
    "all": lambda view, rng: without(refuse(rename(view, rng, PRIORS), rng), rng),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_varied_situation_lists_all_that_it_speaks_of(name: str) -> None:
    for seed in range(25):
        rng = random.Random(seed)
        view = VARIATIONS[name](imagine(PRIORS, rng), rng)
        rooms = [room.name for room in view.rooms]
        things = {(room.name, obj.name): obj.state for room in view.rooms for obj in room.objects}
        assert len(set(rooms)) == len(rooms)
        assert len({thing for _, thing in things}) == sum(len(room.objects) for room in view.rooms)
        assert view.robot_room in rooms
        assert {(view.robot_room, near) for near in view.near} <= things.keys()
        assert {option.room for option in (*view.spaces, *view.doors)} <= set(rooms)
        assert {(option.room, option.name) for option in view.surfaces} <= things.keys()
        assert {things[option.room, option.name] for option in view.containers} <= {"closed"}
        assert [past.step for past in view.history] == sorted({past.step for past in view.history})
        now = view.history[-1].step + 1 if view.history else 0
        for room in view.rooms:
            assert 0 <= room.since <= now
            for obj in room.objects:
                steps = [step for step, _ in obj.before] + [obj.since]
                assert steps == sorted(set(steps)) and steps[0] >= room.since and steps[-1] <= now
        for past in view.history:
            opened = [obj for room in view.rooms for obj in room.objects if obj.before and obj.since == past.step + 1]
            if past.outcome == "opened" and past.command.partition(", ")[2].rstrip(")") in {name for _, name in things}:
                assert past.command.partition(", ")[2].rstrip(")") in {obj.name for obj in opened}
        assert set(view.matches or ()) <= things.keys()


def test_an_imagined_house_says_which_surfaces_were_seen_from_afar() -> None:
    rng = random.Random(0)
    views = [imagine(PRIORS, rng) for _ in range(60)]
    options = [option for view in views for option in view.surfaces]
    assert options and all(PRIORS.is_surface(re.sub(r"-\d+$", "", option.name)) for option in options)
    surfaces = [obj for view in views for room in view.rooms for obj in room.objects if PRIORS.is_surface(obj.name)]
    assert 0 < len(options) < 2 * len(surfaces)
    bare = [view for view in views if not view.surfaces]
    assert bare and len(bare) < len(views)


def test_retarget_finds_matches_and_knowledge_of_the_new_target() -> None:
    rng = random.Random(5)
    view = imagine(PRIORS, rng)
    listed = next(obj.name for room in view.rooms for obj in room.objects if "-" not in obj.name)
    asked = retarget(view, listed.title() + "_3", PRIORS)
    assert asked.target == listed
    assert asked.matches and asked.matches == listed_matches(asked, listed)
    assert retarget(view, "coat", PRIORS).hints == known_places(PRIORS, "coat") != known_places(PRIORS, "mug")
    unsaid = retarget(replace(view, matches=None, hints=None), listed, PRIORS)
    assert unsaid.matches is None and unsaid.hints is None


@pytest.mark.parametrize("seed", range(20))
def test_rename_keeps_the_structure(seed: int) -> None:
    rng = random.Random(seed)
    view = refuse(any_target(imagine(PRIORS, rng), rng), rng)
    new = rename(view, rng, PRIORS, share=0.8)
    assert [len(room.objects) for room in new.rooms] == [len(room.objects) for room in view.rooms]
    place = {room.name: index for index, room in enumerate(view.rooms)}
    new_place = {room.name: index for index, room in enumerate(new.rooms)}
    for old, option in zip(view.surfaces + view.containers, new.surfaces + new.containers):
        assert (new_place[option.room], option.distance) == (place[old.room], old.distance)
    assert new.hints == view.hints and new.target == view.target
    assert [past.outcome for past in new.history] == [past.outcome for past in view.history]
    names = {room.name for room in new.rooms} | {obj.name for room in new.rooms for obj in room.objects}
    listed = {room.name for room in view.rooms} | {obj.name for room in view.rooms for obj in room.objects}
    for old_past, past in zip(view.history, new.history, strict=True):
        old_words, words = (re.split(r"[(,)] ?", item.command)[1:-1] for item in (old_past, past))
        assert [word in names for word in words] == [word in listed for word in old_words]


def test_rooms_are_called_otherwise_in_some_situations_and_counters_stay() -> None:
    changed = kept = 0
    for seed in range(60):
        rng = random.Random(seed)
        view = imagine(PRIORS, rng)
        new = rename(view, rng, PRIORS, share=0.8)
        for old, room in zip(view.rooms, new.rooms):
            changed += old.name != room.name
            kept += old.name == room.name
            assert re.findall(r"-\d+$", old.name) == re.findall(r"-\d+$", room.name)
            assert not old.name.startswith("room") or room.name == old.name  # a room without a type has no other name
    assert changed > 20 and kept > 20


@pytest.mark.parametrize("seed", range(20))
def test_what_is_removed_is_gone_and_the_rest_stays(seed: int) -> None:
    rng = random.Random(seed)
    view = imagine(PRIORS, rng)
    target = random_target(view, PRIORS, rng, found=1.0)
    view = retarget(view, target, PRIORS)
    new = remove(view, target)
    assert view.matches and new.matches == () == listed_matches(new, view.target)
    gone = {name for _, name in view.matches}
    for old, room in zip(view.rooms, new.rooms):
        assert list(room.objects) == [obj for obj in old.objects if obj.name not in gone]
    for old_options, options in ((view.surfaces, new.surfaces), (view.containers, new.containers)):
        assert list(options) == [option for option in old_options if option.name not in gone]
    assert (new.spaces, new.doors, new.hints, new.target) == (view.spaces, view.doors, view.hints, view.target)
    assert remove(replace(view, matches=None), target).matches is None


def test_only_the_line_of_usual_places_misleads() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        view = imagine(PRIORS, rng)
        new = mislead(view, PRIORS, rng)
        assert new.hints and new.hints in [known_places(PRIORS, name) for name in PRIORS.objects]
        assert new.hints != known_places(PRIORS, new.target)
        assert replace(new, target=view.target, hints=view.hints, matches=view.matches) == view
        assert new.matches == listed_matches(new, new.target)


def test_refusals_are_of_what_is_open_explored_or_not_there() -> None:
    outcomes = set()
    for seed in range(80):
        rng = random.Random(seed)
        view = imagine(PRIORS, rng)
        new = refuse(view, rng)
        assert replace(new, history=view.history) == view
        refused = [past for past in new.history if past.outcome.startswith("invalid, ")]
        assert 1 <= len(refused) <= 3 and refused == list(new.history[-len(refused) :])
        opened = {(room.name, obj.name) for room in view.rooms for obj in room.objects if obj.state == "opened"}
        names = {obj.name for room in view.rooms for obj in room.objects}
        for past in refused:
            arguments = re.split(r"[(,)] ?", past.command)[1:-1]
            if past.outcome == "invalid, it is open already":
                assert tuple(arguments) in opened
            elif past.outcome == "invalid, the room has no unexplored space":
                assert arguments[0] not in {option.room for option in view.spaces}
            else:
                assert past.outcome == f"invalid, there is no object called  {arguments[1]}"
                assert arguments[1] not in names
            outcomes.add(past.outcome.partition(" called ")[0])
    assert len(outcomes) == 3


def test_refusals_are_in_the_words_of_a_real_search() -> None:
    episode = SearchEpisode("mug", SearchConfig(), SMALL_PRIORS)
    episode.observe(house())
    said = {}
    for command in ("go_to_and_open(kitchen, fridge)", "explore(kitchen)", "go_to_and_open(kitchen, zorblick)"):
        assert episode.choose(Answer(command)) is None
        past = episode.situation().view.history[-1]
        assert past.command == command
        said[past.outcome.replace("zorblick", "…")] = command
    rng = random.Random(0)
    written = {past.outcome for _ in range(80) for past in refuse(imagine(PRIORS, rng), rng).history}
    invented = {re.sub(r"called  .*", "called  …", words) for words in written if words.startswith("invalid")}
    assert invented == set(said)


def test_records_give_the_same_view_back() -> None:
    for name, vary in VARIATIONS.items():
        for seed in range(4):
            rng = random.Random(seed)
            view = vary(imagine(PRIORS, rng), rng)
            assert from_record(to_record(view)) == view, name


def test_made_up_words_are_words_now_and_then_with_a_number() -> None:
    rng = random.Random(0)
    words = [made_up_word(rng) for _ in range(400)]
    assert len(set(words)) > 300
    assert all(re.fullmatch(r"[a-z]+\d*( [a-z]+\d*| \d+)*", word) for word in words)
    assert all(normalise(word) and len(word) <= MAX_NAME_LENGTH for word in words)
    assert not any(matches_target(word, "mug") for word in words)
    numbered = sum(any(map(str.isdigit, word)) for word in words)
    assert 20 < numbered < 120
