"""Samples of rooms: balanced, right by the rule, and in more words than the rule knows."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import ObjectView, PromptView, RoomView
from smallplan_planner.room_prompt import parse_room, room_words
from smallplan_training.samples import Sample
from smallplan_training.teachers.room_samples import AT_A_GLANCE, room_samples, room_samples_of

PRIORS = load_priors()


def words_of(sample: Sample) -> list[str]:
    return sample.messages[1].content.removeprefix("Seen: ").removesuffix(".\nRoom type:").split(", ")


def test_samples_repeat_with_their_seed() -> None:
    first, again, other = (list(islice(room_samples(PRIORS, seed), 30)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_type_is_there_and_one_in_five_is_uncertain() -> None:
    counts = Counter(sample.answer for sample in islice(room_samples(PRIORS, 0), 1300))
    assert set(counts) == {*PRIORS.rooms, "other room"}
    assert 0.18 < counts["other room"] / 1300 < 0.26
    assert min(counts.values()) > 1300 / len(PRIORS.rooms) / 2


def test_the_answer_is_the_rules_on_what_the_question_lists() -> None:
    samples = list(islice(room_samples(PRIORS, 3), 300))
    assert all(parse_room(sample.answer, PRIORS.rooms) == sample.answer for sample in samples)
    assert all(PRIORS.classify_room(words_of(sample)) == sample.answer for sample in samples)


def test_many_rooms_hold_things_that_nobody_knows_and_some_hold_nothing_else() -> None:
    unknown = Counter[str]()
    for sample in islice(room_samples(PRIORS, 4), 400):
        known = [word for word in words_of(sample) if PRIORS.classify_room([word], 0.0) != "other room"]
        unknown["some"] += len(known) < len(words_of(sample))
        unknown["only"] += not known
    assert unknown["some"] > 150 and unknown["only"] > 5


def test_rooms_that_were_met_are_asked_about_once() -> None:
    kitchen = RoomView("room-1", (ObjectView("fridge", "closed"), ObjectView("oven-2"), ObjectView("zork")))
    views = [
        PromptView("mug", "normal", (), (kitchen, RoomView("room-2"))),
        PromptView("mug", "saver", (), (RoomView("kitchen", kitchen.objects[::-1]),)),
    ]
    samples = list(room_samples_of(views, PRIORS, 0))
    whole = next(sample for sample in samples if words_of(sample) == ["fridge", "oven", "zork"])
    assert whole.answer == "kitchen"
    asked = [tuple(words_of(sample)) for sample in samples]
    assert len(set(asked)) == len(asked), "a room without things is not asked about, nor is one twice"


def test_rooms_that_were_met_are_also_asked_about_by_their_first_things() -> None:
    things = ("bed", "wardrobe", "desk", "oven", "fridge", "sink", "towel", "mug", "sofa")
    views = [PromptView("mug", "normal", (), (RoomView("room-1", tuple(map(ObjectView, things))),))] * 60
    asked = {tuple(words_of(sample)): sample.answer for sample in room_samples_of(views, PRIORS, 0)}
    glances = {tuple(room_words(things[:count])) for count in range(1, AT_A_GLANCE + 1)}
    assert set(asked) == {*glances, tuple(room_words(things))}
    assert all(answer == PRIORS.classify_room(words) for words, answer in asked.items())
