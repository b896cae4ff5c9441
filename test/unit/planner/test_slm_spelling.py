"""Choices narrowed token by token. Tokens are made up: what counts is which are asked for, and which follow anyway."""

from __future__ import annotations

import random

from smallplan_planner.slm_spelling import Spellings

END = 0
EXPLORE, OPEN, KITCHEN, BATH, ROOM, COMMA, FRIDGE, SINK, CLOSE = range(1, 10)
COMMANDS = {
    "explore(kitchen)": [EXPLORE, KITCHEN, CLOSE, END],
    "explore(bathroom)": [EXPLORE, BATH, ROOM, CLOSE, END],
    "explore(bath)": [EXPLORE, BATH, CLOSE, END],
    "open(kitchen, fridge)": [OPEN, KITCHEN, COMMA, FRIDGE, CLOSE, END],
    "open(kitchen, sink)": [OPEN, KITCHEN, COMMA, SINK, CLOSE, END],
}


def spellings() -> Spellings:
    return Spellings((tokens, text) for text, tokens in COMMANDS.items())


def walk(left: Spellings, choose: random.Random) -> tuple[str, int]:
    """A choice made at random, and how many tokens were evaluated for it."""
    evaluated = 0
    while (choice := left.only) is None:
        evaluated += len(left.forced)
        left = left.after(choose.choice(left.open))
    return choice, evaluated


def test_a_choice_is_asked_for_where_they_differ_and_what_follows_anyway_comes_in_one_go() -> None:
    left = spellings()
    assert (left.only, left.forced, left.open) == (None, [], [EXPLORE, OPEN])
    left = left.after(OPEN)
    assert (left.only, left.forced, left.open) == (None, [OPEN, KITCHEN, COMMA], [FRIDGE, SINK])
    assert left.after(SINK).only == "open(kitchen, sink)"


def test_a_single_choice_is_decided_before_anything_is_written() -> None:
    alone = Spellings([(COMMANDS["explore(bath)"], "explore(bath)")])
    assert alone.only == "explore(bath)" and alone.longest == 0


def test_as_many_tokens_as_predicted_are_evaluated_at_most() -> None:
    assert spellings().longest == 3  # open ( kitchen ,
    rng = random.Random(0)
    seen = [walk(spellings(), rng) for _ in range(200)]
    assert {choice for choice, _ in seen} == set(COMMANDS)
    assert max(evaluated for _, evaluated in seen) == 3


def test_fewer_choices_are_decided_sooner() -> None:
    some = spellings().among({"explore(kitchen)", "open(kitchen, sink)"})
    assert (some.open, some.longest) == ([EXPLORE, OPEN], 0)
    assert some.after(OPEN).only == "open(kitchen, sink)"


def test_a_choice_may_be_the_beginning_of_another_as_an_end_token_tells_them_apart() -> None:
    left = Spellings([([1, END], "bed"), ([1, 2, END], "bed room")])
    assert (left.forced, left.open) == ([1], [END, 2])
    assert (left.after(END).only, left.after(2).only) == ("bed", "bed room")


def test_of_choices_that_are_spelled_alike_one_is_taken() -> None:
    """Some tokenizers know one token for all that they can't spell."""
    left = Spellings([([1, 9, END], "room ж"), ([1, 9, END], "room ы"), ([2, END], "hall")])
    assert left.open == [1, 2]
    assert left.after(1).only == "room ж"
