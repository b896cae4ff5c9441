"""What each policy decides, and that the model's answers reach the episode whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.graphs import PRIORS, house, scene_graphs
from smallplan_planner.actions import ActionKind, Outcome
from smallplan_planner.generation import Generation, PromptBudget, SlmDeadlineError
from smallplan_planner.grammar import FreeLine, Grammar
from smallplan_planner.policies import GreedyPolicy, RandomPolicy, SlmPolicy, classify_rooms
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, render
from smallplan_planner.room_prompt import render_room
from smallplan_planner.scene_graph import SceneGraph, SceneObject
from smallplan_planner.search import SearchConfig, SearchEpisode, Situation


def situation(graph: SceneGraph | None = None, target: str = "mug") -> Situation:
    episode = SearchEpisode(target, SearchConfig(classify_rooms="rule"), PRIORS)
    episode.observe(graph or house())
    return episode.situation()


@dataclass
class ScriptedGenerator:
    """Answers what it was told to, and remembers what it was asked."""

    answer: Generation
    budget: int = 100_000  # characters of a prompt
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def generate(
        self,
        messages: Sequence[Message],
        grammar: Grammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        self.asked.append((messages, grammar, deadline, cancel))
        return self.answer

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages)

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        return PromptBudget(self.budget, self.budget)


def test_greedy_takes_what_is_nearest_of_frontiers_doors_and_containers() -> None:
    graph = house()
    assert GreedyPolicy().decide(situation(graph)).command == "go_to_and_open(kitchen, cabinet)"
    objects = tuple(obj._replace(distance=3.5) if obj.id == "cab" else obj for obj in graph.objects)
    assert GreedyPolicy().decide(situation(replace(graph, objects=objects))).command == "go_to_and_open(kitchen, door)"
    doors = tuple(door._replace(openable=False) for door in graph.doors)
    bare = replace(graph, objects=(), doors=doors)
    assert GreedyPolicy().decide(situation(bare)).command == "explore(room-1)"


def test_greedy_is_done_once_the_target_is_listed_or_nothing_is_left() -> None:
    assert GreedyPolicy().decide(situation(target="fridge")).command == "done()"
    graph = replace(house(), doors=(), frontiers=(), objects=(SceneObject("b", "bed", "u"),))
    assert GreedyPolicy().decide(situation(graph)).command == "done()"


def test_greedy_is_done_when_all_that_is_left_may_not_be_repeated() -> None:
    episode = SearchEpisode("mug", SearchConfig(classify_rooms="rule"), PRIORS)
    episode.observe(replace(house(), objects=(), doors=()))
    for _ in range(2):
        assert episode.choose(GreedyPolicy().decide(episode.situation())) is not None
        episode.report(Outcome(True, distance=1.0))
    assert [action.kind for action in episode.situation().options] == [ActionKind.DONE]
    assert GreedyPolicy().decide(episode.situation()).command == "done()"


def test_random_takes_every_open_action_and_is_repeated_by_its_seed() -> None:
    now = situation()
    policy = RandomPolicy(3)
    drawn = [policy.decide(now).command for _ in range(300)]
    assert {"explore(bedroom)", "navigate(bedroom, bed)", "go_to_and_open(kitchen, door)"} <= set(drawn)
    assert len(set(drawn)) == len(now.options) - 1  # all but done()
    again = RandomPolicy(3)
    assert drawn == [again.decide(now).command for _ in range(300)]
    assert policy.decide(situation(target="bed")).command == "done()"


@settings(max_examples=60)
@given(graph=scene_graphs(), seed=st.integers(0, 5))
def test_baselines_answer_only_open_actions(graph: SceneGraph, seed: int) -> None:
    for policy in (GreedyPolicy(), RandomPolicy(seed)):
        episode = SearchEpisode("zebra", SearchConfig(classify_rooms="rule"), PRIORS)
        episode.observe(graph)
        if episode.result is None:
            assert episode.choose(policy.decide(episode.situation())) is not None
            assert episode.retries == 0


def test_the_model_is_asked_the_prompt_under_the_grammar_of_the_open_actions() -> None:
    made = Generation("", "the prompt", "a", "b", "explore(room-1)", 11, 7, 5, 0.2, 0.1)
    generator, cancel, now = ScriptedGenerator(made), threading.Event(), situation()
    answer = SlmPolicy(generator, deadline=2.5).decide(now, cancel)
    [(messages, grammar, deadline, seen)] = generator.asked
    assert messages == render(now.view)
    assert len(grammar.commands) == len(now.options)
    assert 0 < deadline <= 2.5 and seen is cancel
    assert (answer.command, answer.analysis, answer.reasoning) == ("explore(room-1)", "a", "b")
    assert (answer.source, answer.prompt, answer.parse_error) == ("slm", "the prompt", "")
    assert (answer.prompt_tokens, answer.reused_tokens, answer.generated_tokens) == (11, 7, 5)
    assert answer.latency > 0


def test_without_the_grammar_an_answer_is_parsed_or_says_why_not() -> None:
    good = ScriptedGenerator(Generation("Analysis: a\nReasoning: b\nCommand: fly(moon)", "p"))
    answer = SlmPolicy(good, use_grammar=False).decide(situation())
    assert good.asked[0][1] is None
    assert (answer.analysis, answer.reasoning, answer.command, answer.parse_error) == ("a", "b", "fly(moon)", "")
    bad = ScriptedGenerator(Generation("I would look in the kitchen.", "p"))
    answer = SlmPolicy(bad, use_grammar=False).decide(situation())
    assert answer.command == ""
    assert "no line Analysis" in answer.parse_error


def test_a_room_is_asked_for_under_the_grammar_of_room_types() -> None:
    generator, cancel = ScriptedGenerator(Generation("bathroom", "p")), threading.Event()
    policy = SlmPolicy(generator, deadline=2.5)
    assert policy.classify_room(["bed", "Zork_2"], cancel) == "bathroom"  # the model's word, not the rule's
    [(messages, grammar, deadline, seen)] = generator.asked
    assert messages == render_room(["bed", "zork"], load_priors().rooms)
    assert grammar.choices == (*load_priors().rooms, "other room")
    assert 0 < deadline <= 2.5 and seen is cancel


def test_a_room_in_which_nothing_was_seen_costs_no_generation() -> None:
    generator = ScriptedGenerator(Generation("bathroom", "p"))
    assert SlmPolicy(generator).classify_room(["?"]) == "other room"
    assert generator.asked == []


def test_without_the_grammar_an_answer_that_is_no_room_is_uncertain_and_counted() -> None:
    generator = ScriptedGenerator(Generation("I think it is a bedroom", "p"))
    policy = SlmPolicy(generator, use_grammar=False)
    assert policy.classify_room(["bed"]) == "other room"
    generator.answer = Generation(" Bedroom.\n", "p")
    assert policy.classify_room(["bed"]) == "bedroom"
    assert (policy.unreadable_rooms, policy.rooms_asked) == (1, 2)
    assert isinstance(generator.asked[0][1], FreeLine)


def test_the_baselines_name_rooms_by_the_rule() -> None:
    for policy in (GreedyPolicy(), RandomPolicy()):
        episode = SearchEpisode("mug", SearchConfig(classify_rooms="model"), PRIORS)
        episode.observe(house())
        assert episode.rooms_to_classify()
        classify_rooms(episode, policy)
        assert episode.names.name("u") == "bedroom" and not episode.rooms_to_classify()


def test_what_stops_the_generator_reaches_the_caller() -> None:
    class Late(ScriptedGenerator):
        def generate(self, *_: Any, **__: Any) -> Generation:
            raise SlmDeadlineError("late")

    with pytest.raises(SlmDeadlineError):
        SlmPolicy(Late(Generation("", ""))).decide(situation())


@settings(max_examples=15)
@given(graph=scene_graphs())
def test_a_real_model_under_the_grammar_is_never_refused(tiny_slm: Any, graph: SceneGraph) -> None:
    episode = SearchEpisode("zebra", SearchConfig(classify_rooms="rule"), PRIORS)
    episode.observe(graph)
    if episode.result is None:
        answer = SlmPolicy(tiny_slm).decide(episode.situation())
        assert episode.choose(answer) is not None
        assert episode.retries == 0
        assert answer.prompt_tokens > 0 and answer.prompt.count("<|user|>") == 1


def test_policies_work_without_llama_cpp() -> None:
    code = "import smallplan_planner.policies, sys; assert not {'llama_cpp', 'rclpy'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


def test_an_answer_that_was_cut_says_so_in_its_reasoning() -> None:
    for reasoning, shown in (("It is", "It is [cut to meet the deadline]"), ("", "[cut to meet the deadline]")):
        made = Generation("", "the prompt", "a", reasoning, "explore(room-1)", cut=True)
        answer = SlmPolicy(ScriptedGenerator(made)).decide(situation())
        assert (answer.command, answer.source, answer.reasoning) == ("explore(room-1)", "slm", shown)


def test_a_question_may_have_a_deadline_of_its_own() -> None:
    generator = ScriptedGenerator(Generation("kitchen", "", command="done()"))
    policy = SlmPolicy(generator, deadline=100.0)
    policy.decide(situation(), deadline=7.0)
    policy.classify_room(["fridge"], deadline=5.0)
    policy.decide(situation())
    assert [asked[2] for asked in generator.asked] == [pytest.approx(most, abs=3.0) for most in (7.0, 5.0, 100.0)]
    assert all(asked[2] <= most for asked, most in zip(generator.asked, (7.0, 5.0, 100.0)))


def test_giving_up_takes_reasons_and_finding_does_not() -> None:
    generator = ScriptedGenerator(Generation("", "", command="done()"))
    SlmPolicy(generator).decide(situation(target="zebra"))
    SlmPolicy(generator).decide(situation(target="fridge"))
    unlisted, listed = (asked[1].in_haste.commands for asked in generator.asked)
    assert "done()" not in unlisted and "done()" in listed
