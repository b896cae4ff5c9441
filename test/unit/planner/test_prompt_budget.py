"""What a prompt keeps when not all of it fits: what matters for the target, and it says what it lacks."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.crowded import crowded_graph
from fixtures.graphs import PRIORS, scene_graphs
from smallplan_planner.generation import PromptBudget, SlmError
from smallplan_planner.grammar import build_grammar
from smallplan_planner.policies import SlmPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import LAST_ACTIONS, LeftOut, Message, PastAction, PromptView, listed_surfaces, render
from smallplan_planner.prompt_budget import fit, fit_room, fit_situation
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.room_prompt import MAX_WORDS, render_room
from smallplan_planner.scene_graph import SceneGraph, SceneObject
from smallplan_planner.search import SearchConfig, SearchEpisode, Situation
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import random_target, retarget

LISTS = ("rooms", "history", "spaces", "doors", "containers", "surfaces", "matches")


def count_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def size(view: PromptView) -> int:
    return count_characters(render(view))


def imagined_views(count: int) -> Iterator[PromptView]:
    priors, rng = load_priors(), random.Random(7)
    for number in range(count):
        view = imagine(priors, rng)
        target = random_target(view, priors, rng, found=0.5)
        yield retarget(replace(view, matches=None if number % 3 == 0 else ()), target, priors)


def fitted(view: PromptView, budget: int) -> PromptView:
    return fit(view, count_characters, PromptBudget(budget, budget), load_priors())


def least_budget(view: PromptView) -> int:
    """The size of what is always kept, as the refusal of an empty budget tells it."""
    with pytest.raises(SlmError) as caught:
        fitted(view, 0)
    return int(str(caught.value).split("raise n_ctx by ")[1].split(" ")[0])


def shown(view: PromptView, name: str) -> tuple[Any, ...]:
    """What the prompt shows of one of `LISTS`."""
    return (listed_surfaces(view) if name == "surfaces" else getattr(view, name)) or ()


def listed(view: PromptView) -> set[tuple[object, ...]]:
    """Everything that a prompt names, and where."""
    return {
        *((room.name, obj) for room in view.rooms for obj in room.objects),
        *((room.name,) for room in view.rooms),
        *(("past", past) for past in view.history),
        *((name, option) for name in LISTS[2:6] for option in shown(view, name)),
        *(("match", *match) for match in view.matches or ()),
    }


def search_in(graph: SceneGraph, target: str) -> SearchEpisode:
    episode = SearchEpisode(target, SearchConfig(classify_rooms="rule"), load_priors())
    episode.observe(graph)
    return episode


def with_mug(graph: SceneGraph, room: str) -> SceneGraph:
    return replace(graph, objects=(*graph.objects, SceneObject("m", "mug", room, (30.0, 30.0, 0.0), 40.0)))


@lru_cache(maxsize=1)
def crowded() -> Situation:
    return search_in(crowded_graph(), "mug").situation()


# Any view


def test_a_view_that_fits_stays_as_it_is() -> None:
    for view in imagined_views(100):
        assert fitted(view, size(view)) is view
        assert "more" not in render(view)[1].content.replace(view.target, "")
        if least_budget(view) < size(view):
            assert fitted(view, size(view) - 1) != view


def test_what_does_not_fit_is_cut_to_the_budget_and_counted() -> None:
    for view in imagined_views(20):
        least, most = least_budget(view), size(view)
        for budget in range(least, most, 1 + (most - least) // 5):
            cut = fitted(view, budget)
            assert size(cut) <= budget
            assert cut == fitted(view, budget)
            assert listed(cut) < listed(view)
            for name in LISTS:
                whole, kept = shown(view, name), shown(cut, name)
                assert len(kept) + getattr(cut.left_out, name) == len(whole)
                assert [item for item in whole if item in kept] == list(kept) or name == "rooms"  # in their order
            whole_rooms = {room.name: room for room in view.rooms}
            for room in cut.rooms:
                assert len(room.objects) + room.left_out == len(whole_rooms[room.name].objects)


def test_more_room_keeps_the_same_and_more() -> None:
    for view in imagined_views(12):
        least, most = least_budget(view), size(view)
        before: set[tuple[object, ...]] = set()
        for budget in range(least, most + 1, 1 + (most - least) // 60):
            now = listed(fitted(view, budget))
            assert before <= now
            before = now
        assert listed(fitted(view, most)) == listed(view)


def test_a_thing_that_is_kept_stands_everywhere_it_stood() -> None:
    for view in imagined_views(40):
        cut = fitted(view, (least_budget(view) + size(view)) // 2)
        objects = {obj.name for room in cut.rooms for obj in room.objects}
        for name in ("containers", "surfaces"):
            assert [o.name for o in shown(cut, name)] == [o.name for o in shown(view, name) if o.name in objects]
        assert [name for _, name in cut.matches or ()] == [n for _, n in view.matches or () if n in objects]
        rooms = {room.name for room in cut.rooms}
        options = (*cut.spaces, *cut.doors, *cut.containers, *cut.surfaces)
        assert {option.room for option in options} | {cut.robot_room} <= rooms
        assert set(cut.near) <= objects


@settings(max_examples=60)
@given(graph=scene_graphs(), share=st.floats(0.0, 1.0))
def test_no_graph_breaks_the_choice(graph: SceneGraph, share: float) -> None:
    episode = SearchEpisode("mug", SearchConfig(classify_rooms="rule"), PRIORS)
    episode.observe(graph)
    if episode.result is None:
        view = episode.situation().view
        budget = int(size(view) * share)
        try:
            cut = fit(view, count_characters, PromptBudget(budget, budget), PRIORS)
        except SlmError:
            budget = least_budget(view)
            cut = fit(view, count_characters, PromptBudget(budget, budget), PRIORS)
        assert size(cut) <= budget
        assert (cut.matches or ())[:1] == (view.matches or ())[:1]


def test_parts_that_are_always_kept_and_do_not_fit_are_an_error_with_the_remedy() -> None:
    view = next(imagined_views(1))
    least = least_budget(view)
    with pytest.raises(SlmError, match=rf": {least} tokens, and {least - 5} are left .* raise n_ctx by 5 or more"):
        fitted(view, least - 5)
    assert size(fitted(view, least)) <= least


def test_a_prompt_is_as_long_as_the_model_can_read_unless_what_is_always_kept_is_longer() -> None:
    for view in imagined_views(10):
        least, most = least_budget(view), size(view)
        middle = (least + most) // 2
        assert fit(view, count_characters, PromptBudget(10 * most, middle), load_priors()) == fitted(view, middle)
        for readable in (-5, 0, least // 2):
            short = fit(view, count_characters, PromptBudget(10 * most, readable), load_priors())
            assert short == fitted(view, least)


# The words


def test_the_prompt_says_in_each_list_what_it_lacks() -> None:
    view = replace(crowded().view, history=tuple(PastAction(f"explore(x-{i})", "invalid, no", i) for i in range(200)))
    text = render(fitted(view, 6000))[1].content
    log, after = text.split("\nYou are in ")
    lines = after.split("\n")
    assert log.count("more") >= 10 and "kitchen: " in log
    assert re.fullmatch(r"and \d+ more actions", log.split("\n")[-1])
    for head, following in (
        ("Closed containers:", "Seen from afar"),
        ("Seen from afar:", "Use listed"),
    ):
        start = lines.index(head)
        end = next(i for i, line in enumerate(lines) if line.startswith(following))
        assert lines[end - 1].startswith("and ") and lines[end - 1].endswith(" more")
        assert end - start > 2
    assert max(map(len, text.split("\n"))) < 2500


def test_rooms_that_are_left_out_are_counted() -> None:
    text = render(fitted(crowded().view, 1500))[1].content
    assert " more rooms\nYou are in kitchen" in text


# What matters


def test_a_listed_target_is_kept_however_little_fits() -> None:
    view = search_in(with_mug(crowded_graph(), "room59"), "mug").situation().view
    for cut in (fitted(view, least_budget(view)), fitted(replace(view, matches=None), 1200)):
        assert any(obj.name == "mug" for room in cut.rooms for obj in room.objects)
    assert "Found: mug in playroom-5." in render(fitted(view, least_budget(view)))[1].content


def test_of_many_matches_the_nearest_are_kept_and_the_others_counted() -> None:
    labels = Counter(obj.label for obj in crowded_graph().objects)
    view = search_in(crowded_graph(), labels.most_common(1)[0][0]).situation().view
    assert view.matches is not None and len(view.matches) > 20
    cut = fitted(view, least_budget(view) + 500)
    assert cut.matches and 1 < len(cut.matches) < len(view.matches)
    assert cut.matches == view.matches[: len(cut.matches)]
    assert render(cut)[1].content.endswith(f", and {len(view.matches) - len(cut.matches)} more.")


def test_the_nearest_option_of_each_kind_comes_first_then_usual_places_then_exits() -> None:
    view = crowded().view
    few = fitted(view, least_budget(view) + 400)
    for name in LISTS[2:6]:
        assert shown(few, name)[:1] == shown(view, name)[:1]
    hints = {(hint.room, furniture) for hint in view.hints or () for furniture in hint.furniture}
    assert ("kitchen", "cabinet") in hints

    def usual(shown: PromptView) -> int:
        return sum(o.room.startswith("kitchen") and o.name.startswith("cabinet") for o in shown.containers)

    more = fitted(view, least_budget(view) + 1500)
    assert usual(view) > 5 and usual(more) == usual(view)
    assert len(more.containers) < len(view.containers) / 4 and more.left_out.doors > 0
    still_more = fitted(view, least_budget(view) + 6500)
    assert still_more.left_out.doors == still_more.left_out.rooms == 0
    assert not any(option.leads_out for option in set(view.spaces) - set(still_more.spaces))
    assert still_more.left_out.containers > 0


def test_other_options_are_kept_nearest_first() -> None:
    cut = fitted(crowded().view, 9000)
    assert cut.left_out.containers > 0
    words = [option.distance for option in cut.containers if not option.name.startswith("cabinet")]
    assert words.count("very close") + words.count("near") > words.count("distant")
    near = [o for o in crowded().view.containers if o.distance in ("very close", "near")]
    assert set(near) <= set(cut.containers)


def test_the_robots_own_room_comes_before_what_else_is_far_and_can_not_be_used() -> None:
    view = crowded().view
    cut = fitted(view, size(view) * 9 // 10)
    assert cut.left_out == LeftOut()  # all that can be done is there
    missing = {room.name: room.left_out for room in cut.rooms}
    assert sum(missing.values()) > 100 and missing[view.robot_room] == 0
    usual = [room.name for room in view.rooms if room.name.startswith("kitchen")]
    assert sum(missing[name] for name in usual) == 0  # where mugs are kept


def test_of_the_refusals_the_latest_are_kept() -> None:
    past = tuple(PastAction(f"explore(room-{number})", "invalid, it is locked", number) for number in range(150))
    view = replace(next(imagined_views(1)), history=past)
    cut = fitted(view, least_budget(view) + 1000)
    assert 10 <= len(cut.history) < 150
    assert cut.history == past[-len(cut.history) :]
    assert fitted(view, least_budget(view)).history == past[-LAST_ACTIONS:]


def test_of_the_older_actions_those_that_came_to_something_go_first() -> None:
    past = tuple(
        PastAction(f"explore(room-{number})", "invalid, it is locked" if number % 2 else "explored", number)
        for number in range(60)
    )
    view = replace(next(imagined_views(1)), history=past)
    cut = fitted(view, size(view) - 200)
    gone = set(past) - set(cut.history)
    assert gone and not any(one.failed for one in gone)
    assert max(one.step for one in gone) < min(one.step for one in cut.history if not one.failed)


def test_a_situation_is_cut_to_what_its_reader_can_read_and_else_as_it_was() -> None:
    class Reader:
        budget = 10**6

        def count_tokens(self, messages: Sequence[Message]) -> int:
            return count_characters(messages)

        def prompt_budget(self, grammar: object = None) -> PromptBudget:
            return PromptBudget(self.budget, self.budget)

    whole, reader = crowded(), Reader()
    assert fit_situation(whole, reader, None, load_priors()) is whole
    reader.budget = 4000
    cut = fit_situation(whole, reader, None, load_priors())
    assert cut.view == fitted(whole.view, 4000) != whole.view
    assert replace(cut, view=whole.view) == whole, "the actions that are open stay open"
    assert fit_situation(cut, reader, None, load_priors()) == cut
    without = replace(whole, view=replace(whole.view, spaces=(), doors=(), containers=()))
    assert not without.exhausted, "what is left out of the prompt is there all the same"


# Rooms


def test_the_question_about_a_crowded_room_names_what_tells_most() -> None:
    labels = [f"gizmo {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)] + ["fridge", "oven", "sink"]
    types = load_priors().rooms
    text = render_room(labels, types)[1].content
    assert f", and {303 - MAX_WORDS} more.\n" in text
    assert {"fridge", "oven", "sink"} <= set(text.removeprefix("Seen: ").split(", "))
    few = count_characters(render_room(["sink"], types)) + 60
    messages = fit_room(labels, types, count_characters, PromptBudget(few, few))
    text = messages[1].content
    assert "fridge, " in text and "oven" in text and text.endswith(" more.\nRoom type:")
    assert fit_room(labels, types, count_characters, PromptBudget(10_000, 10_000)) == render_room(labels, types)


def test_a_question_about_a_room_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(SlmError, match=r"with one thing in it: .* and 50 are left"):
        fit_room(["fridge", "oven"], load_priors().rooms, count_characters, PromptBudget(50, 50))


# A real model


@pytest.mark.parametrize("n_ctx", [2048, 4096])
def test_the_default_model_decides_in_a_crowded_building(n_ctx: int) -> None:
    from smallplan_planner.slm import AnswerLimits, Slm

    with Slm(resource("models", DEFAULT_MODEL), n_ctx=n_ctx, n_threads=1, limits=AnswerLimits(40, 40)) as slm:
        policy = SlmPolicy(slm)
        for graph in (crowded_graph(), with_mug(crowded_graph(), "room59")):
            episode = search_in(graph, "mug")
            situation = episode.situation()
            answer = policy.decide(situation)
            readable = slm.prompt_budget(build_grammar(situation.options, situation.names)).readable
            assert readable - 40 < answer.prompt_tokens <= readable < n_ctx
            assert (", and " in answer.prompt) and ("Found: mug in playroom-5." in answer.prompt) == bool(
                situation.matches
            )
            assert episode.choose(answer) is not None and episode.retries == 0
        labels = [f"{obj.label} {chr(97 + i % 26)}{chr(97 + i // 26)}" for i, obj in enumerate(graph.objects[:500])]
        assert policy.classify_room(labels) in (*load_priors().rooms, "other room")


def test_a_context_too_small_for_what_is_always_kept_is_an_error(tiny_slm: Any) -> None:
    class Small:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_slm, name)

        def prompt_budget(self, _: object) -> PromptBudget:
            return PromptBudget(40, 40)

    with pytest.raises(SlmError, match="raise n_ctx by"):
        SlmPolicy(Small()).decide(crowded())


def test_the_tokens_that_are_counted_are_those_of_the_prompt(tiny_slm: Any) -> None:
    first, second = (render(view) for view in imagined_views(2))
    counts = [tiny_slm.count_tokens(messages) for messages in (first, second)]
    assert counts == [len(tiny_slm.tokenize_chat(messages)) for messages in (first, second)]
    for messages, count in ((first, counts[0]), (second, counts[1]), (second, counts[1])):
        made = tiny_slm.generate(messages)
        assert (made.prompt_tokens, made.prompt) == (count, tiny_slm.render_chat(messages))
    budget = tiny_slm.prompt_budget()
    assert counts[0] < budget.readable <= budget.most < 2048


def test_a_model_says_how_long_prompts_it_was_trained_with(tiny_slm: Any, tmp_path: Path) -> None:
    from fixtures.tiny_gguf import write_tiny_gguf
    from smallplan_planner.slm import Slm

    assert tiny_slm.prompt_budget().readable == tiny_slm.prompt_budget().most  # n_ctx is what it was trained with
    for key, n_ctx, readable in (("150", 1024, 150), ("9999", 1024, 688), ("0", 4096, 1712), ("many", 4096, 1712)):
        write_tiny_gguf(tmp_path / "tiny.gguf", keys={"smallplan.prompt_tokens": key})
        with Slm(tmp_path / "tiny.gguf", n_ctx=n_ctx, n_threads=1) as slm:
            answer = 96 + 128 + 96 + 16
            assert slm.prompt_budget() == PromptBudget(n_ctx - answer, readable)
