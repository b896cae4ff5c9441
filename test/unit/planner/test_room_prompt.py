"""The question which room this is: what it lists, and which answers count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.graphs import HOSTILE_LABELS
from smallplan_planner.actions import ParseError
from smallplan_planner.priors import load_priors
from smallplan_planner.room_prompt import MAX_WORDS, parse_room, render_room, room_grammar, room_words

TYPES = ("kitchen", "living room", "bedroom")


def test_the_question_lists_what_was_seen_and_what_may_be_answered() -> None:
    system, user = render_room(["Fridge_2", "oven", "fridge", "WineGlass"], TYPES)
    assert system.content.endswith("one room type:\nkitchen, living room, bedroom, other room.")
    assert user.content == "Seen: fridge, oven, wine glass.\nRoom type:"


def test_the_number_of_things_does_not_change_the_question() -> None:
    assert render_room(["lamp", "bed"], TYPES) == render_room(["Lamp", "bed", "bed_3", "lamp"], TYPES)


def test_what_is_new_stands_behind_what_was_asked_about_before() -> None:
    """So the beginning of the question is in the KV cache when a room is asked about again."""
    before, after = (render_room(labels, TYPES)[1].content for labels in (["sink", "bed"], ["sink", "bed", "apple"]))
    assert after.startswith(before.partition(".")[0]) and "apple" in after
    many = [f"thing {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(MAX_WORDS + 5)]
    told = room_words(many)
    assert [word for word in many if word in told] == list(told)


def test_a_room_full_of_things_is_asked_about_in_bounds() -> None:
    assert len(room_words(f"thing {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200))) == MAX_WORDS
    assert all(len(word) <= 40 for word in room_words(["x" * 10_000]))


def test_where_nothing_was_seen_nothing_is_asked() -> None:
    with pytest.raises(ValueError, match="not asked about"):
        render_room(["", "?!"], TYPES)


@given(labels=st.lists(st.text(max_size=60) | st.sampled_from(HOSTILE_LABELS), min_size=1))
def test_no_label_breaks_the_question(labels: list[str]) -> None:
    if room_words(labels):
        text = render_room(labels, TYPES)[1].content
        assert text.startswith("Seen: ") and text.endswith(".\nRoom type:") and text.count("\n") == 1
        assert not set(text) & set("<>|{}\"'()[]`")


@pytest.mark.parametrize("text", ["kitchen", " Kitchen.", "living  room\n", "OTHER ROOM"])
def test_a_room_type_is_understood(text: str) -> None:
    assert parse_room(text, TYPES) in (*TYPES, "other room")


@pytest.mark.parametrize("text", ["", "a kitchen", "kitchen, bedroom", "pantry", "Analysis: kitchen", "x" * 500])
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ParseError, match=r"expected one of kitchen, living room, bedroom, other room") as caught:
        parse_room(text, TYPES)
    assert len(str(caught.value)) < 200


def test_the_grammar_lets_through_what_can_be_parsed() -> None:
    types = load_priors().rooms
    assert [parse_room(choice, types) for choice in room_grammar(types).choices] == [*types, "other room"]
