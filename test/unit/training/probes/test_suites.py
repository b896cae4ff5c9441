"""Minimal pairs: they differ in the stated fact and in nothing else, and who knows the answers passes them all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields

import pytest

from smallplan_planner.names import UNCERTAIN_ROOM, matches_target, normalise, without_counter
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Option, PromptView
from smallplan_planner.synonyms import canonical
from smallplan_training.probe import make_pairs
from smallplan_training.probes.pairs import Question, ask, command_of, listed_options
from smallplan_training.probes.scenery import is_known, unseen_name, unseen_word
from smallplan_training.probes.suites import SUITES
from smallplan_training.teachers.expert import ExpertTeacher, option_command

PAIRS = 10
PLANNING = [name for name in SUITES if name != "room"]


def views(suite: str) -> Iterator[tuple[PromptView, PromptView]]:
    for pair in make_pairs(suite, PAIRS, 0):
        assert pair.first.view is not None and pair.second.view is not None
        yield pair.first.view, pair.second.view


def differing(one: PromptView, other: PromptView) -> set[str]:
    return {field.name for field in fields(PromptView) if getattr(one, field.name) != getattr(other, field.name)}


def options(view: PromptView) -> set[Option]:
    return {option for _, option in listed_options(view)}


def follow_the_line(view: PromptView) -> str:
    """The command that a reader of the usual places gives."""
    assert view.hints is not None
    (hint,) = view.hints
    named = [option_command(*each) for each in listed_options(view) if without_counter(each[1].room) == hint.room]
    return named[0]


def oracle(suite: str, question: Question) -> str:
    """An answer by rules that are not the suite's own."""
    if question.view is None:
        seen = question.messages[-1].content.partition("Seen: ")[2].partition(".")[0].split(", ")
        return load_priors().classify_room(seen)
    if suite == "usual-place":
        return f"Analysis: a\nReasoning: r\nCommand: {follow_the_line(question.view)}"
    return ExpertTeacher().answer(question.view).render()


@pytest.mark.parametrize("suite", SUITES)
def test_who_knows_the_answers_passes_and_a_constant_answer_never_does(suite: str) -> None:
    for pair in make_pairs(suite, PAIRS, 0):
        assert pair.first.is_right(oracle(suite, pair.first))
        assert pair.second.is_right(oracle(suite, pair.second))
        for text in ("", "kitchen", "Analysis:\nReasoning:\nCommand: done()", "Command: done()", "x" * 500):
            assert not (pair.first.is_right(text) and pair.second.is_right(text))


@pytest.mark.parametrize("suite", SUITES)
def test_a_seed_reproduces_the_pairs_and_another_one_does_not(suite: str) -> None:
    made = make_pairs(suite, 3, 1)
    make_pairs.cache_clear()
    assert make_pairs(suite, 3, 1) == made
    assert [pair.first.messages for pair in make_pairs(suite, 3, 2)] != [pair.first.messages for pair in made]
    assert len({pair.first.messages for pair in made}) == 3


@pytest.mark.parametrize("suite", PLANNING)
def test_the_target_is_listed_in_a_present_prompt_only(suite: str) -> None:
    for pair in views(suite):
        for index, view in enumerate(pair):
            names = [obj.name for room in view.rooms for obj in room.objects]
            listed = any(matches_target(without_counter(name), view.target) for name in names)
            assert listed == (suite.startswith("membership") and index == 0)
            assert len(set(names)) == len(names)
            assert {option.room for option in options(view)} <= {room.name for room in view.rooms}


@pytest.mark.parametrize(("suite", "helped"), [("membership", False), ("membership-helped", True)])
def test_membership_exchanges_one_name(suite: str, helped: bool) -> None:
    shared = 0
    for present, absent in views(suite):
        assert differing(present, absent) == ({"rooms", "matches"} if helped else {"rooms"})
        assert bool(present.matches) == helped and not absent.matches
        old = [(room.name, obj) for room in present.rooms for obj in room.objects]
        new = [(room.name, obj) for room in absent.rooms for obj in room.objects]
        (index,) = (number for number, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        _, other = new[index]
        shared += bool(set(without_counter(other.name).split()) & set(present.target.split()))
    assert shared > PAIRS // 3


def test_copying_exchanges_the_only_options_name_for_one_that_no_vocabulary_has() -> None:
    for known, unknown in views("copying"):
        (one,), (other,) = options(known), options(unknown)
        assert one.distance == other.distance and one.leads_out == other.leads_out
        old, new = (without_counter(option.name or option.room) for option in (one, other))
        assert is_known(old, load_priors()) and not is_known(new, load_priors())
        first, second = (ask(view, ()).messages[1].content for view in (known, unknown))
        assert first.replace(old, new) == second.replace(old, new)


def test_nearer_exchanges_two_distances() -> None:
    for one, other in views("nearer"):
        assert differing(one, other) <= {"spaces", "containers", "surfaces"}
        before = sorted(option.distance for option in options(one))
        assert before == sorted(option.distance for option in options(other))
        assert len(options(one) - options(other)) == 2


def test_exhausted_exchanges_what_is_open() -> None:
    for one, other in views("exhausted"):
        assert differing(one, other) <= {"rooms", "spaces", "containers", "surfaces"}
        (gone,), (come,) = options(one) - options(other), options(other) - options(one)
        assert gone.distance == come.distance
        assert without_counter(gone.room) == without_counter(come.room)
        assert without_counter(gone.name) == without_counter(come.name)


def test_refused_adds_a_last_action_that_must_not_be_repeated() -> None:
    kinds = set()
    for pair in make_pairs("refused", 40, 0):
        one, other = pair.first.view, pair.second.view
        assert one is not None and other is not None
        assert other.history[:-1] == one.history
        last = other.history[-1]
        failed = last.outcome == "failed, unreachable"
        assert differing(one, other) == {"history"} | ({"spaces", "containers", "surfaces"} & differing(one, other))
        assert len(options(one) - options(other)) == failed
        assert not pair.second.is_right(f"Analysis:\nReasoning:\nCommand: {last.command}")
        assert pair.first.is_right(f"Analysis:\nReasoning:\nCommand: {last.command}") == failed
        kinds.add(last.outcome.split(", ")[1].split()[0])
    assert kinds == {"it", "the", "there", "unreachable"}


def test_mode_changes_the_mode_alone() -> None:
    for normal, saver in views("mode"):
        assert differing(normal, saver) == {"mode"}
        assert (normal.mode, saver.mode) == ("normal", "saver")


def test_room_keeps_what_is_not_typical() -> None:
    uncertain = 0
    for pair in make_pairs("room", 20, 0):
        assert pair.first.wanted != pair.second.wanted
        uncertain += pair.second.wanted == {UNCERTAIN_ROOM}
        assert pair.first.messages[0] == pair.second.messages[0]
    assert 0 < uncertain < 20


def test_usual_place_exchanges_the_line_and_leaves_the_priors_out_of_it() -> None:
    for one, other in views("usual-place"):
        assert differing(one, other) == {"hints"}
        assert len({option.distance for option in options(one)}) == 1
        assert len({*one.surfaces, *one.containers, *one.spaces}) == 2
        known = {place.room for place in load_priors().places(one.target)}
        assert known.isdisjoint(canonical(normalise(option.room)) for option in options(one))


def test_unseen_names_are_in_no_vocabulary() -> None:
    priors, rng = load_priors(), random.Random(0)
    words = {word for name in (*priors.rooms, *priors.furniture, *priors.objects) for word in name.split()}
    for _ in range(200):
        assert not set(unseen_word(priors, rng).split()) & words
        name = unseen_name(priors, rng)
        assert name not in {*priors.rooms, *priors.furniture, *priors.objects} and canonical(name) not in priors.objects
        assert name == normalise(name)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("Analysis: a\nReasoning: b\nCommand: go_to_and_open( kitchen ,fridge )", "go_to_and_open(kitchen, fridge)"),
        ("Analysis: a\nReasoning: b\nCommand: done()", "done()"),
        ("Analysis: a\nReasoning: b\nCommand: fly(kitchen)", None),
        ("Analysis: a\nReasoning: b\nCommand: explore kitchen", None),
        ("Command: done()", None),
    ],
)
def test_a_command_is_read_in_any_spacing_and_nothing_else(text: str, command: str | None) -> None:
    assert command_of(text) == command


def test_a_question_that_avoids_something_still_wants_a_command() -> None:
    view = make_pairs("membership", PAIRS, 0)[0].second.view
    assert view is not None
    question = ask(view, {"done()"}, avoid=True)
    assert not question.is_right("I don't know") and "anything but done()" in question.expected
    assert question.is_right("Analysis:\nReasoning:\nCommand: explore(kitchen)")
