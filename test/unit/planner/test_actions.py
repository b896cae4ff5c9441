"""Which actions are open, why others are refused, and that a command means the action that it was made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.graphs import house, scene_graphs
from smallplan_planner.actions import (
    DONE,
    Action,
    ActionKind,
    ActionRefused,
    ActionRules,
    ParseError,
    format_command,
    next_frontier,
    parse_command,
    refusal,
    valid_actions,
)
from smallplan_planner.names import NameBook
from smallplan_planner.scene_graph import SceneGraph

ALL = ActionRules(allow_close=True)


def named(graph: SceneGraph) -> NameBook:
    names = NameBook()
    names.update(graph)
    return names


def commands(rules: ActionRules, graph: SceneGraph | None = None) -> list[str]:
    graph = graph or house()
    names = named(graph)
    return [format_command(action, names) for action in valid_actions(graph, rules)]


def test_exactly_the_actions_whose_preconditions_hold_are_open() -> None:
    assert commands(ActionRules()) == [
        "explore(room-1)",
        "navigate(kitchen, cabinet)",
        "navigate(kitchen, cabinet-2)",
        "navigate(kitchen, fridge)",
        "navigate(room-1, bed)",
        "go_to_and_open(kitchen, door)",
        "go_to_and_open(kitchen, cabinet)",
        "go_to_and_open(kitchen, cabinet-2)",
        "done()",
    ]
    assert set(commands(ALL)) - set(commands(ActionRules())) == {"close(kitchen, fridge)"}
    assert not any("open" in command for command in commands(ActionRules(allow_open=False)))


def test_a_blocked_target_is_not_open() -> None:
    rules = ActionRules(blocked=frozenset({"cab", "f2", "d1"}))
    left = commands(rules)
    assert "go_to_and_open(kitchen, cabinet)" not in left
    assert "navigate(kitchen, cabinet)" not in left
    assert "go_to_and_open(kitchen, door)" not in left
    assert "explore(room-1)" in left  # by the other frontier
    assert "explore(room-1)" not in commands(ActionRules(blocked=frozenset({"f1", "f2"})))


def test_explore_takes_what_leads_out_first_then_the_nearest() -> None:
    graph = house()
    names = named(graph)
    assert parse_command("explore(room-1)", graph, names, ALL).target_id == "f2"
    assert parse_command("explore(room-1)", graph, names, ActionRules(blocked=frozenset({"f2"}))).target_id == "f1"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("explore(kitchen)", "the room has no unexplored space"),
        ("explore(attic)", "there is no room called 'attic'"),
        ("explore(cabinet)", "there is no such room"),
        ("navigate(room-1, cabinet)", "it is not in that room"),
        ("navigate(kitchen, mug)", "there is no object called 'mug'"),
        ("navigate(kitchen, door)", "a door is not an object to go to"),
        ("navigate(kitchen, room-1)", "there is no such object"),
        ("go_to_and_open(kitchen, fridge)", "it is open already"),
        ("go_to_and_open(room-1, bed)", "it can't be opened"),
        ("go_to_and_open(kitchen, door-2)", "it is locked"),
        ("go_to_and_open(room-1, door-2)", "it is locked"),  # listed under both its rooms
        ("close(kitchen, cabinet)", "it is not open"),
    ],
)
def test_a_refusal_says_why(command: str, reason: str) -> None:
    graph = house()
    with pytest.raises(ActionRefused, match=reason):
        parse_command(command, graph, named(graph), ALL)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "is not a command"),
        ("explore kitchen", "is not a command"),
        ("explore(kitchen) now", "is not a command"),
        ("explore(kitchen))", "is not a command"),
        ("fly(kitchen)", "there is no action 'fly'; expected one of navigate"),
        ("explore()", r"explore takes 1 arguments \(room\), got 0"),
        ("explore(kitchen, bed)", "got 2"),
        ("done(now)", "done takes 0 arguments"),
        ("navigate(kitchen,)", "there is no object called ''"),
        ("x" * 10_000, "…"),
    ],
)
def test_what_is_no_command_is_a_parse_error_or_refused(command: str, reason: str) -> None:
    graph = house()
    with pytest.raises(ActionRefused, match=reason) as caught:
        parse_command(command, graph, named(graph), ALL)
    assert isinstance(caught.value, ParseError) == ("''" not in reason)
    assert len(str(caught.value)) < 300


def test_robots_that_may_not_open_or_close_are_told_so() -> None:
    graph = house()
    with pytest.raises(ActionRefused, match="this robot does not open things"):
        parse_command("go_to_and_open(kitchen, cabinet)", graph, named(graph), ActionRules(allow_open=False))
    with pytest.raises(ActionRefused, match="this robot does not close things"):
        parse_command("close(kitchen, fridge)", graph, named(graph), ActionRules())


def test_spaces_around_names_don_t_matter() -> None:
    graph = house()
    expected = Action(ActionKind.GO_TO_AND_OPEN, "k", "cab2")
    for text in ("go_to_and_open(kitchen,cabinet-2)", "  go_to_and_open ( kitchen ,  cabinet-2 )\n"):
        assert parse_command(text, graph, named(graph), ALL) == expected
    assert parse_command("done( )", graph, named(graph), ALL) == DONE


@settings(max_examples=100)
@given(graph=scene_graphs(), allow_open=st.booleans(), allow_close=st.booleans())
def test_a_command_means_the_action_it_was_made_from(graph: SceneGraph, allow_open: bool, allow_close: bool) -> None:
    names, rules = named(graph), ActionRules(allow_open, allow_close)
    actions = valid_actions(graph, rules)
    assert actions[-1] == DONE
    written = [format_command(action, names) for action in actions]
    assert len(set(written)) == len(actions)
    for action, command in zip(actions, written):
        assert refusal(action, graph, rules) is None
        assert parse_command(command, graph, names, rules) == action


@settings(max_examples=100)
@given(graph=scene_graphs(), allow_open=st.booleans(), allow_close=st.booleans(), blocked=st.sets(st.integers(0, 40)))
def test_valid_is_what_nothing_can_be_said_against(
    graph: SceneGraph, allow_open: bool, allow_close: bool, blocked: set[int]
) -> None:
    targets = [item.id for item in (*graph.objects, *graph.doors, *graph.frontiers)]
    rules = ActionRules(allow_open, allow_close, frozenset(target for i, target in enumerate(targets) if i in blocked))
    frontiers = [next_frontier(graph, room.id, rules) for room in graph.rooms]
    spaces = [Action(ActionKind.EXPLORE, frontier.room, frontier.id) for frontier in frontiers if frontier is not None]
    kinds = (ActionKind.NAVIGATE, ActionKind.GO_TO_AND_OPEN, ActionKind.CLOSE)
    others = [Action(kind, room.id, target) for kind in kinds for room in graph.rooms for target in targets]
    fine = [action for action in (*spaces, *others, DONE) if refusal(action, graph, rules) is None]
    assert sorted(valid_actions(graph, rules)) == sorted(fine)
    assert set(spaces) <= set(fine)


@settings(max_examples=200)
@given(
    graph=scene_graphs(),
    text=st.one_of(st.text(max_size=80), st.from_regex(r"[a-z_]{1,8}\([^)]{0,20}\)", fullmatch=True)),
)
def test_any_text_is_an_open_action_or_refused(graph: SceneGraph, text: str) -> None:
    try:
        action = parse_command(text, graph, named(graph), ALL)
    except ActionRefused as refused:
        assert str(refused)
    else:
        assert action in valid_actions(graph, ALL)


def test_an_action_on_what_has_gone_is_refused() -> None:
    graph = replace(house(), objects=())
    assert refusal(Action(ActionKind.NAVIGATE, "k", "cab"), graph, ALL) == "there is no such object"
    assert refusal(Action(ActionKind.NAVIGATE, "x", "cab"), graph, ALL) == "there is no such room"
