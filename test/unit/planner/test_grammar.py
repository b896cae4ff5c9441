"""The grammar lets through the commands of the open actions and nothing else, by llama.cpp's own matcher."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.graphs import HOSTILE_LABELS, house, scene_graphs
from smallplan_planner.actions import ActionRules, format_command, parse_command, valid_actions
from smallplan_planner.grammar import ChoiceGrammar, CommandGrammar, build_grammar
from smallplan_planner.names import NameBook, sanitise
from smallplan_planner.scene_graph import Room, SceneGraph, SceneObject

RULES = ActionRules(allow_close=True)


class Matcher:
    """llama.cpp's grammar sampler, fed byte by byte."""

    def __init__(self, model_path: Any) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(model_path).encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.end = llama_cpp.llama_vocab_eos(self.vocab)
        names = {f"<0x{byte:02X}>".encode(): byte for byte in range(256)}
        self.token_of_byte: dict[int, int] = {}
        for token in range(llama_cpp.llama_vocab_n_tokens(self.vocab)):
            byte = names.get(llama_cpp.llama_vocab_get_text(self.vocab, token))
            if byte is not None:
                self.token_of_byte[byte] = token

    def matches(self, grammar: str, text: str) -> bool:
        sampler = llama_cpp.llama_sampler_init_grammar(self.vocab, grammar.encode(), b"root")
        assert sampler, f"llama.cpp can't read {grammar}"
        try:
            for token in [*(self.token_of_byte[byte] for byte in text.encode()), self.end]:
                if not self._allows(sampler, token):
                    return False
                llama_cpp.llama_sampler_accept(sampler, token)
            return True
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _allows(self, sampler: Any, token: int) -> bool:
        candidate = (llama_cpp.llama_token_data * 1)(llama_cpp.llama_token_data(token, 1.0, 0.0))
        array = llama_cpp.llama_token_data_array(candidate, 1, -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        return candidate[0].logit > -1e30


@pytest.fixture(scope="module")
def matcher(tiny_model: Any) -> Iterator[Matcher]:
    matcher = Matcher(tiny_model.path)
    yield matcher
    llama_cpp.llama_model_free(matcher.model)


def named(graph: SceneGraph) -> NameBook:
    names = NameBook()
    names.update(graph)
    return names


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=scene_graphs(), other=st.text(max_size=30))
def test_every_open_action_passes_and_means_itself_whatever_things_are_called(
    matcher: Matcher, graph: SceneGraph, other: str
) -> None:
    names, options = named(graph), valid_actions(graph, RULES)
    grammar = build_grammar(options, names)
    for action in options:
        command = format_command(action, names)
        assert matcher.matches(grammar.gbnf, " " + command)
        assert parse_command(command, graph, names, RULES) == action
    commands = {" " + command for command in grammar.commands}
    changed = [other, *(text for command in list(commands)[:3] for text in (command[:-1], command + ")", command[1:]))]
    for text in changed:
        assert matcher.matches(grammar.gbnf, text) == (text in commands)


def test_a_valid_command_of_something_that_is_not_open_is_rejected(matcher: Matcher) -> None:
    graph = house()
    grammar = build_grammar(valid_actions(graph, ActionRules()), named(graph))
    assert matcher.matches(grammar.gbnf, " go_to_and_open(kitchen, cabinet-2)")
    for command in ("go_to_and_open(kitchen, fridge)", "close(kitchen, fridge)", "explore(kitchen)", "explore(room-9)"):
        assert not matcher.matches(grammar.gbnf, f" {command}")
    assert not matcher.matches(grammar.gbnf, " go_to_and_open(kitchen, cabinet-2)\nCommand: done()")


def test_characters_that_mean_something_in_gbnf_are_escaped(matcher: Matcher) -> None:
    commands = (
        'say "hi"',
        "back\\slash",
        "line\nbreak",
        "[a-z]*",
        "(group) | other",
        "tab\t",
        "жук",
        "🍵",
        "\x1b\u202e",
    )
    grammar = CommandGrammar(commands)
    for command in commands:
        assert matcher.matches(grammar.gbnf, " " + command)
    assert not matcher.matches(grammar.gbnf, " a")
    assert not matcher.matches(grammar.gbnf, " other")


def test_a_thousand_objects_make_a_grammar_with_few_alternatives_at_a_time(matcher: Matcher) -> None:
    objects = tuple(SceneObject(f"o{i}", "thing" if i % 2 else f"thing{'abcdefgh'[i % 8]}", "r") for i in range(1000))
    graph = SceneGraph(robot_room="r", rooms=(Room("r", "store"),), objects=objects)
    grammar = build_grammar(valid_actions(graph, RULES), named(graph))
    assert len(grammar.commands) == 1001
    assert matcher.matches(grammar.gbnf, " navigate(store, thing-500)")
    assert not matcher.matches(grammar.gbnf, " navigate(store, thing-501)")
    depth, alternatives, most, quoted = 0, [1], 1, False
    for character in grammar.gbnf:  # no literal here holds a quote or a backslash
        quoted ^= character == '"'
        if quoted:
            continue
        if character == "(":
            depth += 1
            alternatives.append(1)
        elif character == ")":
            depth -= 1
            alternatives.pop()
        elif character == "|":
            alternatives[depth] += 1
            most = max(most, alternatives[depth])
    assert most <= 11  # digits and the end of a name


def test_complete_tells_the_only_command_left() -> None:
    grammar = CommandGrammar(("explore(küche)", "explore(kitchen)", "done()"))
    assert grammar.complete(b"") is None
    assert grammar.complete(b"d") == "done()"
    assert grammar.complete(b"explore(k") is None
    assert grammar.complete("explore(kü".encode()[:-1]) == "explore(küche)"  # within a character
    assert grammar.complete(b"fly") is None and grammar.complete(b"xplore(") is None
    assert ChoiceGrammar(("den", "den 2", "den")).complete(b"den") is None  # may be the end, or not
    assert ChoiceGrammar(("den", "den")).complete(b"d") == "den"
    assert CommandGrammar(("done()",)).complete(b"") == "done()"


def test_choices_stand_alone(matcher: Matcher) -> None:
    grammar = ChoiceGrammar(("kitchen", "living room", "laundry room"))
    assert all(matcher.matches(grammar.gbnf, choice) for choice in grammar.choices)
    assert not any(matcher.matches(grammar.gbnf, text) for text in (" kitchen", "kitchens", "l", "room", ""))
    assert grammar.complete(b"la") == "laundry room" and grammar.complete(b"l") is None


def test_a_grammar_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        CommandGrammar(())
    with pytest.raises(ValueError, match="no empty one"):
        CommandGrammar(("done()", ""))


@pytest.mark.parametrize("label", HOSTILE_LABELS, ids=range(len(HOSTILE_LABELS)))
def test_a_hostile_label_adds_no_command(matcher: Matcher, label: str) -> None:
    graph = SceneGraph(robot_room="r", rooms=(Room("r", label),), objects=(SceneObject("o", label, "r"),))
    grammar = build_grammar(valid_actions(graph, RULES), named(graph))
    assert len(grammar.commands) == 2
    assert matcher.matches(grammar.gbnf, " done()")
    assert matcher.matches(grammar.gbnf, f" {grammar.commands[0]}")
    assert not matcher.matches(grammar.gbnf, f" navigate({sanitise(label)}, nothing)")


def test_without_reasons_a_search_is_not_given_up() -> None:
    names = named(house())
    options = valid_actions(house(), RULES)
    given_up = build_grammar(options, names, target_listed=False)
    assert "done()" in given_up.commands
    assert set(given_up.in_haste.commands) == set(given_up.commands) - {"done()"}
    listed = build_grammar(options, names)
    assert listed.in_haste == listed, "the target is listed: done() is right"
    only = build_grammar(options[-1:], names, target_listed=False)
    assert only.in_haste.commands == ("done()",), "nothing else is left"


def test_what_an_answer_may_begin_with_is_what_one_of_the_choices_begins_with() -> None:
    grammar = CommandGrammar(("explore(küche)", "explore(hall)", "done()"))
    allowed = (b"", b" ", b" e", b" explore(", " explore(küche)".encode(), " explore(k\u00fc".encode()[:-1], b" done()")
    refused = (b"e", b"  ", b" x", b" explore(z", b" explore(hall) ", b" done() now", b"done()", b" done()\xff")
    assert all(grammar.allows(text) for text in allowed)
    assert not any(grammar.allows(text) for text in refused)
    assert ChoiceGrammar(("kitchen",)).allows(b"kit") and not ChoiceGrammar(("kitchen",)).allows(b" kit")
