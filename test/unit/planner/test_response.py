"""The three lines of an answer, and what is said when they are not three."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallplan_planner.actions import ParseError
from smallplan_planner.response import Response, parse_response

words = st.text(alphabet=st.characters(categories=("L", "N", "P", "Zs")), max_size=40).map(str.strip)


@given(analysis=words, reasoning=words, command=words)
def test_what_is_rendered_is_parsed(analysis: str, reasoning: str, command: str) -> None:
    response = Response(analysis, reasoning, command)
    assert parse_response(response.render()) == response


def test_free_text_may_span_lines_and_name_the_heads() -> None:
    text = "\nAnalysis: The Command: line comes last.\nSecond line.\n Reasoning: because\n\nCommand:  done() \n"
    assert parse_response(text) == Response("The Command: line comes last.\nSecond line.", "because", "done()")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no line Analysis, Reasoning, Command"),
        ("Analysis: a\nReasoning: b", "no line Command"),
        ("Analysis: a\nCommand: done()", "no line Reasoning"),
        ("Reasoning: b\nAnalysis: a\nCommand: done()", "out of order"),
        ("Analysis: a\nReasoning: b\nCommand: done()\nI hope that helps", "text follows the command"),
        ("Well. Analysis: a\nReasoning: b\nCommand: done()", "out of order"),
        ("Analysis: a Reasoning: b Command: done()", "out of order"),
    ],
)
def test_what_is_missing_is_said(text: str, reason: str) -> None:
    with pytest.raises(ParseError, match=reason):
        parse_response(text)


def test_a_model_that_repeats_itself_is_read_in_time() -> None:
    for looping in ("\n", "\nReasoning: b", "\n Reasoning:\n\n", "\n" + " " * 20):
        assert parse_response("Analysis: a" + looping * 50_000 + "\nReasoning: b\nCommand: done()").command == "done()"
        with pytest.raises(ParseError):
            parse_response("Analysis: a\nReasoning: b\nCommand: done()" + looping * 50_000 + ".")


@given(text=st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        response = parse_response(text)
    except ParseError:
        return
    assert "\n" not in response.command
