"""The prompt says what is known and open, in lines that no label can break."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from fixtures.graphs import PRIORS, house, scene_graphs
from smallplan_planner.actions import ActionKind, ActionRules, format_command, valid_actions
from smallplan_planner.names import NameBook
from smallplan_planner.priors import ObjectPrior, Place, Priors
from smallplan_planner.prompt import (
    PROMPT_VERSION,
    Helps,
    Hint,
    ObjectView,
    Option,
    PastAction,
    PromptView,
    RoomView,
    build_view,
    distance_word,
    known_places,
    listed_surfaces,
    render,
    split_containers,
)
from smallplan_planner.scene_graph import OpenState, SceneGraph

RULES = ActionRules(allow_close=True)


def view_of(graph: SceneGraph, target: str = "mug", **changes: object) -> PromptView:
    names = NameBook()
    names.update(graph)
    rules = changes.pop("rules", ActionRules())
    options = changes.pop("options", valid_actions(graph, rules))  # type: ignore[arg-type]
    return build_view(graph, names, target, rules=rules, options=options, priors=PRIORS, **changes)  # type: ignore[arg-type]


def user_lines(view: PromptView) -> list[str]:
    return render(view)[1].content.split("\n")


@pytest.mark.parametrize(
    ("distance", "word"),
    [
        (0.0, "very close"),
        (2.99, "very close"),
        (3.0, "near"),
        (9.99, "near"),
        (10.0, "far"),
        (20.0, "distant"),
        (1e6, "distant"),
        (math.nan, "unknown"),
    ],
)
def test_distances_are_said_in_words(distance: float, word: str) -> None:
    assert distance_word(distance) == word


def test_the_prompt_word_for_word() -> None:
    """Whoever changes a line changes the version: models are trained for one."""
    assert PROMPT_VERSION == "4"
    graph = house()
    history = [
        PastAction("explore(kitchen)", "explored"),
        PastAction("go_to_and_open(kitchen, fridge)", "opened", 1),
        PastAction("navigate(room-1, bed)", "failed, unreachable", 2),
    ]
    view = view_of(
        graph,
        history=history,
        discovered={"k": 0, "u": 1},
        sights={
            "cab": ((0, OpenState.CLOSED),),
            "fri": ((1, OpenState.CLOSED), (2, OpenState.OPEN)),
            "cab2": ((2, OpenState.CLOSED),),
            "bed": ((1, OpenState.NONE),),
        },
        surfaces=[graph.object_by_id["bed"], graph.object_by_id["cab"]],
    )
    system, user = render(view)
    assert (system.role, user.role) == ("system", "user")
    assert system.content.split("\n") == [
        "You plan for a robot that searches a house for an object. Its actions:",
        "navigate(room, object): go near an object and look.",
        "go_to_and_open(room, object): open a closed door or container.",
        "explore(room): look at unexplored space of a room.",
        "done(): end the search.",
        "Mode: normal, find it.",
        "Answer in three lines, Analysis: Reasoning: Command:",
    ]
    assert user.content.split("\n") == [
        "Task: find the mug.",
        "Usual places: kitchen (cabinet, counter).",
        "Log:",
        "kitchen: cabinet (closed)",
        "explore(kitchen): explored",
        "kitchen: fridge (closed)",
        "room-1: bed",
        "go_to_and_open(kitchen, fridge): opened",
        "kitchen: fridge (opened), cabinet-2 (closed)",
        "navigate(room-1, bed): failed, unreachable",
        "You are in kitchen.",
        "Unexplored space:",
        "far, room-1: leading out",
        "Closed doors:",
        "near, kitchen: door",
        "Closed containers:",
        "very close, kitchen: cabinet",
        "near, kitchen: cabinet-2",
        "Seen from afar:",
        "very close, kitchen: cabinet",
        "Use listed names only. Explore only rooms with unexplored space. Target listed: done().",
        "Task: find the mug. Found: none.",
    ]


def test_the_system_message_names_the_actions_that_the_robot_has() -> None:
    system = render(view_of(house()))[0]
    assert system.role == "system"
    assert "go_to_and_open(room, object)" in system.content
    assert "close(room" not in system.content
    assert "close(room" in render(view_of(house(), rules=RULES))[0].content
    assert "go_to_and_open" not in render(view_of(house(), rules=ActionRules(allow_open=False)))[0].content
    assert "Mode: saver" in render(view_of(house(), mode="saver"))[0].content


def test_matches_of_the_target_are_named_nearest_first_unless_that_is_off() -> None:
    graph = house()
    assert user_lines(view_of(graph, "cabinet"))[-1] == (
        "Task: find the cabinet. Found: cabinet in kitchen, cabinet-2 in kitchen."
    )
    assert user_lines(view_of(graph, "cab2"))[-1] == "Task: find the cabinet-2. Found: cabinet-2 in kitchen."  # an id
    off = user_lines(view_of(graph, "cabinet", helps=Helps(matches=False, hints=False)))
    assert off[-1] == "Task: find the cabinet."
    assert not any(line.startswith("Usual places") for line in off)


def test_hints_are_gathered_by_room_and_may_be_unknown() -> None:
    assert view_of(house()).hints == (Hint("kitchen", ("cabinet", "counter")),)
    assert "Usual places: not known." in user_lines(view_of(house(), "zebra"))


def test_up_to_six_usual_places_are_named_likeliest_first() -> None:
    chances = (0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02)
    places = tuple(Place("kitchen", f"piece {index}", "on", p) for index, p in enumerate(chances))
    priors = Priors((), {}, {"mug": ObjectPrior((0.1, 0.1, 0.1), places)})
    hints = known_places(priors, "mug")
    assert hints == (Hint("kitchen", tuple(f"piece {index}" for index in range(6))),)


def test_only_what_is_open_is_listed() -> None:
    graph = house()
    rules = ActionRules(blocked=frozenset({"cab", "f1", "f2", "d1"}))
    view = view_of(graph, rules=rules)
    assert [option.name for option in view.containers] == ["cabinet-2"]
    assert view.spaces == () and view.doors == ()
    assert "Unexplored space: none" in user_lines(view)
    assert "Closed doors: none" in user_lines(view)


def test_surfaces_are_listed_nearest_first_one_of_unknown_distance_last() -> None:
    graph = house()
    far, near, unknown = (graph.object_by_id[id_] for id_ in ("bed", "fri", "cab2"))
    unknown = unknown._replace(distance=math.nan)
    view = view_of(graph, surfaces=[unknown, far, near])
    assert view.surfaces == (
        Option("kitchen", "very close", "fridge"),
        Option("room-1", "near", "bed"),
        Option("kitchen", "unknown", "cabinet-2"),
    )
    assert "Seen from afar: none" in user_lines(view_of(graph))


def test_a_door_between_two_rooms_is_listed_under_both() -> None:
    graph = house()
    doors = tuple(door._replace(openable=True) for door in graph.doors)
    assert [option.name for option in view_of(replace(graph, doors=doors)).doors] == ["door", "door-2", "door-2"]


def test_rooms_stand_in_the_order_of_their_discovery_and_one_without_things_is_said() -> None:
    view = view_of(house(), discovered={"k": 7, "u": 3})
    assert [room.name for room in view.rooms] == ["room-1", "kitchen"]
    assert "Nothing seen in" not in "\n".join(user_lines(view))
    empty = replace(view, rooms=(replace(view.rooms[0], objects=()), view.rooms[1]))
    lines = user_lines(empty)
    assert lines[lines.index("You are in kitchen.") + 1] == "Nothing seen in room-1."
    assert not any(line.startswith("room-1: ") for line in lines)


def test_what_happens_is_added_to_the_log_and_nothing_in_it_changes() -> None:
    """Whatever comes to light, is opened, closed again or refused: the log so far stays, letter by letter."""
    graph, names = house(), NameBook()
    names.update(graph)
    steps = [OpenState.CLOSED, OpenState.OPEN, OpenState.CLOSED, OpenState.OPEN]
    before: list[str] = []
    for now in range(len(steps)):
        sights = {"cab": tuple(enumerate(steps[: now + 1])), "cab2": ((min(now, 2), OpenState.CLOSED),)}
        seen = replace(graph, objects=tuple(obj for obj in graph.objects if obj.id != "cab2" or now >= 2))
        history = [PastAction(f"explore(room-{step})", "explored", step) for step in range(now)]
        view = view_of(seen, history=history, sights=sights)
        lines = user_lines(view)
        log = lines[lines.index("Log:") + 1 : lines.index("You are in kitchen.")]
        assert log[: len(before)] == before and len(log) > len(before)
        before = log
    assert before[-1] == "kitchen: cabinet (opened)"
    assert before.count("kitchen: cabinet (closed), cabinet-2 (closed)") == 1


def test_closed_containers_of_unusual_kinds_are_told_by_room_with_the_distance_of_each() -> None:
    def containers(room: str, **distances: str) -> tuple[Option, ...]:
        return tuple(Option(room, distance, name.replace("_", " ")) for name, distance in distances.items())

    options = (
        *containers("kitchen", fridge="very close", cabinet="very close"),
        *containers("office", safe="near", desk_drawer="near", locker="far"),
        *containers("bedroom", wardrobe="unknown"),
    )
    rooms = tuple(
        RoomView(room, tuple(ObjectView(o.name, "closed") for o in options if o.room == room))
        for room in ("office", "kitchen", "bedroom")
    )
    view = PromptView("mug", "normal", (), rooms, containers=options, hints=(Hint("kitchen", ("cabinet", "locker")),))
    assert split_containers(view) == (
        (options[1], options[4]),
        (options[0], options[2], options[3], options[5]),
    )
    lines = user_lines(replace(view, containers=(*options, Option("office", "far", "chest"))))
    start = lines.index("Closed containers:")
    assert lines[start + 1 : start + 7] == [
        "very close, kitchen: cabinet",
        "far, office: locker",
        "others very close: kitchen",
        "others near: office",
        "others far: chest",
        "others unknown: bedroom",
    ]
    unknown = user_lines(replace(view, hints=()))
    assert "very close, kitchen: fridge, cabinet" in unknown and not any("others" in line for line in unknown)
    only = user_lines(replace(view, containers=options[:1]))
    assert only[only.index("Closed containers:") + 1] == "others very close: kitchen"


def test_surfaces_of_unusual_kinds_are_listed_when_nothing_else_is_left() -> None:
    counter, shelf = Option("kitchen", "near", "counter"), Option("kitchen", "far", "shelf")
    view = PromptView("mug", "normal", (), (), surfaces=(counter, shelf), hints=(Hint("kitchen", ("counter",)),))
    assert listed_surfaces(view) == (counter,)
    assert listed_surfaces(replace(view, hints=())) == listed_surfaces(replace(view, hints=None)) == (counter, shelf)
    unusual = replace(view, surfaces=(shelf,))
    assert listed_surfaces(unusual) == (shelf,)
    assert listed_surfaces(replace(unusual, spaces=(Option("kitchen", "far"),))) == ()


def test_what_is_near_the_robot_is_said() -> None:
    graph = house()
    objects = tuple(obj._replace(distance=0.5) if obj.id == "fri" else obj for obj in graph.objects)
    assert "You are in kitchen, near fridge." in user_lines(view_of(replace(graph, objects=objects)))
    assert "You are in no known room." in user_lines(view_of(replace(graph, robot_room="")))


def test_a_decision_heeds_the_last_five_actions_and_older_ones_that_failed() -> None:
    history = [PastAction("fly(moon)", "invalid, no such action")]
    history += [PastAction(f"explore(room-{i})", "explored", i + 1) for i in range(8)]
    view = view_of(house(), history=history)
    assert view.remembered == (history[0], *history[-5:])
    lines = user_lines(view)
    assert [line for line in lines if line.startswith(("fly", "explore"))] == [
        f"{past.command}: {past.outcome}" for past in history
    ]
    assert view.after("done()", "invalid, no").history[-1] == PastAction("done()", "invalid, no", 9)


@settings(max_examples=150)
@given(graph=scene_graphs())
def test_no_label_breaks_a_line_or_brings_in_markup(graph: SceneGraph) -> None:
    """Each line is what it would be if things were called by harmless words of the same number of names."""
    view = view_of(graph, surfaces=graph.objects)
    text = "\n".join(message.content for message in render(view))
    assert len(text.splitlines()) == len(text.split("\n"))  # no other line break, whatever Unicode calls one
    for markup in ("<|", "|>", "[INST]", "{{", '"', "\\", "\r", "\x1b", "\u202e"):
        assert markup not in text
    lines = user_lines(view)
    assert sum(line.startswith("Task: find the ") for line in lines) == 2
    listed = [*view.spaces, *view.doors, *view.containers, *view.surfaces]
    assert len(lines) <= len(graph.rooms) + len(listed) + 11  # at most one line for each option
    seen = [room for room in view.rooms if room.objects]
    rooms = lines[lines.index("Log:") + 1 :][: len(seen)]
    for room, line in zip(seen, rooms, strict=True):
        assert line.startswith(f"{room.name}: ")
        assert len(line[len(room.name) + 2 :].split(", ")) == len(room.objects)
    assert lines[len(seen) + 3].startswith("You are in ")


@settings(max_examples=100)
@given(graph=scene_graphs())
def test_every_option_can_be_read_off_the_prompt(graph: SceneGraph) -> None:
    """A model that answers only with listed names can give every open command."""
    names = NameBook()
    names.update(graph)
    view = view_of(graph, rules=RULES)
    listed = {(room.name, obj.name) for room in view.rooms for obj in room.objects}
    doors = {option.name for option in view.doors}
    for action in valid_actions(graph, RULES):
        command = format_command(action, names)
        if action.kind is ActionKind.EXPLORE:
            assert names.name(action.room_id) in {option.room for option in view.spaces}, command
        elif action.kind is ActionKind.GO_TO_AND_OPEN and action.target_id in graph.door_by_id:
            assert names.name(action.target_id) in doors, command
        elif action.kind is not ActionKind.DONE and action.target_id in graph.object_by_id:
            assert (names.name(action.room_id), names.name(action.target_id)) in listed, command
