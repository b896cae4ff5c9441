"""A search episode by hand: what ends it, what counts as a retry, what is taken out, what the history says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.graphs import HOSTILE_LABELS, PRIORS, house
from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode, format_command
from smallplan_planner.prompt import Option, render
from smallplan_planner.scene_graph import OpenState, Pose, Room, SceneGraph, SceneGraphError, SceneObject
from smallplan_planner.search import Answer, BadGoalError, ResultCode, RoomQuestion, SearchConfig, SearchEpisode

ARRIVED = Outcome(True, distance=2.0)
OPEN_CABINET = "go_to_and_open(kitchen, cabinet)"


def search(target: str = "mug", graph: SceneGraph | None = None, **config: int) -> SearchEpisode:
    episode = SearchEpisode(target, SearchConfig(**{"classify_rooms": "rule", **config}), PRIORS)  # type: ignore[arg-type]
    episode.observe(graph or house())
    return episode


def commands(episode: SearchEpisode) -> list[str]:
    return [format_command(action, episode.names) for action in episode.situation().options]


def with_mug(graph: SceneGraph) -> SceneGraph:
    return replace(graph, objects=(*graph.objects, SceneObject("m", "Mug", "k", (1.0, 0.0, 0.5), 1.5)))


def play(episode: SearchEpisode, command: str, outcome: Outcome = ARRIVED) -> None:
    assert episode.choose(Answer(command)) is not None, episode.last_refusal
    episode.report(outcome)


def test_a_search_that_finds_its_target() -> None:
    episode = search()
    play(episode, OPEN_CABINET)
    episode.observe(with_mug(house(stamp=1.0)))
    assert episode.result is None
    assert episode.choose(Answer("done()")) == Action(ActionKind.DONE)
    result = episode.result
    assert result is not None and result.success
    assert (result.code, result.object_id, result.position) == (ResultCode.NONE, "m", (1.0, 0.0, 0.5))
    assert (result.steps, result.retries, result.distance) == (1, 0, 2.0)
    assert result.message == "found mug in kitchen"


def test_done_without_the_target_is_not_found() -> None:
    episode = search()
    episode.choose(Answer("done()"))
    assert episode.result is not None
    assert (episode.result.success, episode.result.code) == (False, ResultCode.NOT_FOUND)
    assert "4 discovered objects" in episode.result.message


def test_when_nothing_but_done_is_left_the_model_is_not_asked() -> None:
    empty = SceneGraph(robot_room="k", rooms=(Room("k", "kitchen"),))
    episode = search(graph=empty)
    assert episode.result is not None and episode.result.code is ResultCode.NOT_FOUND
    with pytest.raises(RuntimeError, match="before the result"):
        episode.situation()


@pytest.mark.parametrize("target", ["", "   ", "!?☕", "m" * 201, "mug " * 300])
def test_a_target_that_nobody_can_search_for_is_refused(target: str) -> None:
    with pytest.raises(BadGoalError, match="expected an object's name, 1 to 200 characters") as caught:
        SearchEpisode(target, SearchConfig(), PRIORS)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"max_retries": -1}, {"mode": "fast"}])
def test_limits_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchConfig(**wrong)  # type: ignore[arg-type]


def test_a_graph_that_is_no_use_is_refused_and_the_old_one_kept() -> None:
    episode = search()
    before = commands(episode)
    with pytest.raises(SceneGraphError, match="no rooms"):
        episode.observe(SceneGraph())
    assert commands(episode) == before


def test_the_step_limit_ends_a_search() -> None:
    episode = search(max_steps=2)
    play(episode, OPEN_CABINET)
    play(episode, "navigate(kitchen, fridge)")
    assert episode.result is not None and episode.result.code is ResultCode.MAX_STEPS
    assert episode.result.steps == 2


def test_refused_answers_are_retries_and_too_many_are_stuck() -> None:
    episode = search(max_retries=2)
    for index in range(3):
        assert episode.result is None
        assert episode.choose(Answer(f"explore(attic-{index})")) is None
        assert "there is no room called" in episode.last_refusal
    assert episode.result is not None and episode.result.code is ResultCode.STUCK
    assert episode.result.retries == 2


def test_motion_resets_the_count_of_retries_in_place_but_not_their_sum() -> None:
    episode = search(max_retries=1)
    for index in range(3):
        assert episode.choose(Answer(f"fly({index})")) is None
        play(episode, ("navigate(kitchen, fridge)", OPEN_CABINET)[index % 2])
    assert episode.result is None
    assert episode.retries == 3


def test_an_answer_that_could_not_be_parsed_is_a_retry_with_its_reason() -> None:
    episode = search()
    assert episode.choose(Answer("", parse_error="the answer can't be parsed: no line Command")) is None
    assert episode.last_refusal == "the answer can't be parsed: no line Command"
    assert "no command: invalid, no line Command" in render(episode.situation().view)[1].content


def test_the_same_command_three_times_running_is_stuck_and_not_offered() -> None:
    episode = search()
    play(episode, "navigate(kitchen, fridge)")
    play(episode, "navigate(kitchen, fridge)")
    assert "navigate(kitchen, fridge)" not in commands(episode)
    assert "done()" in commands(episode)
    assert episode.choose(Answer("navigate(kitchen, fridge)")) is None
    assert episode.result is not None and episode.result.code is ResultCode.STUCK
    assert "3 times running" in episode.result.message


@pytest.mark.parametrize(
    "code", [OutcomeCode.UNREACHABLE, OutcomeCode.BLOCKED, OutcomeCode.NOT_OPENABLE, OutcomeCode.NO_MANIPULATOR]
)
def test_a_target_that_failed_is_out_until_something_has_changed(code: OutcomeCode) -> None:
    episode = search()
    play(episode, OPEN_CABINET, Outcome(False, code))
    episode.observe(house(stamp=1.0))
    assert OPEN_CABINET not in commands(episode)
    assert episode.retries == 1
    episode.observe(house(stamp=2.0, x=0.5))  # the robot has moved
    assert OPEN_CABINET in commands(episode)


def test_the_way_that_a_failed_action_went_does_not_free_its_target() -> None:
    episode = search()
    play(episode, OPEN_CABINET, Outcome(False, OutcomeCode.BLOCKED, distance=0.6))
    episode.observe(house(stamp=1.0, x=0.6))  # where it failed
    assert OPEN_CABINET not in commands(episode)
    episode.observe(house(stamp=2.0, x=1.2))
    assert OPEN_CABINET in commands(episode)


def test_a_change_near_a_failed_target_brings_it_back_and_one_far_away_does_not() -> None:
    def changed(graph: SceneGraph, id_: str) -> SceneGraph:
        objects = tuple(obj._replace(state=OpenState.CLOSED) if obj.id == id_ else obj for obj in graph.objects)
        return replace(graph, objects=objects)

    episode = search()
    play(episode, OPEN_CABINET, Outcome(False, OutcomeCode.BLOCKED))
    episode.observe(changed(house(stamp=1.0), "bed"))  # 7 m away
    assert OPEN_CABINET not in commands(episode)
    episode.observe(changed(house(stamp=2.0), "fri"))  # beside it
    assert OPEN_CABINET in commands(episode)


def from_afar(episode: SearchEpisode) -> list[str]:
    """The names of what the prompt says is seen from afar only."""
    return [option.name for option in episode.situation().view.surfaces]


def test_what_usually_bears_things_is_listed_until_the_robot_was_near() -> None:
    episode = search()  # the first cabinet is 1 m away, the other one 4 m, the bed 8 m, and a fridge bears nothing
    assert episode.situation().view.surfaces == (
        Option("kitchen", "near", "cabinet-2"),
        Option("bedroom", "near", "bed"),
    )
    assert "Seen from afar:\nnear, kitchen: cabinet-2\n" in render(episode.situation().view)[1].content
    episode.observe(house(stamp=1.0, x=2.5))
    assert from_afar(episode) == ["bed"]
    episode.observe(house(stamp=2.0, x=-9.0))  # what was seen from near stays seen
    assert from_afar(episode) == ["bed"]


@pytest.mark.parametrize(
    ("x", "room", "seen"),
    [
        (6.0, "u", True),  # the bed stands at x = 8 m
        (5.9, "u", False),
        (7.0, "k", False),  # it is behind the wall
        (7.0, "", False),
    ],
)
def test_from_near_is_two_metres_in_the_same_room(x: float, room: str, seen: bool) -> None:
    episode = search()
    episode.observe(replace(house(stamp=1.0, x=x), robot_room=room))
    assert ("bed" not in from_afar(episode)) == seen


def test_the_height_of_a_thing_does_not_keep_it_afar() -> None:
    high = SceneObject("h", "cabinet", "k", (0.5, 0.0, 2.4), 0.5)
    graph = replace(house(), objects=(*house().objects, high))
    assert from_afar(search(graph=graph)) == ["cabinet-2", "bed"]


def test_what_the_robot_failed_to_go_to_is_no_surface_to_look_at_until_something_has_changed() -> None:
    episode = search()
    play(episode, "navigate(kitchen, cabinet-2)", Outcome(False, OutcomeCode.UNREACHABLE))
    episode.observe(house(stamp=1.0))
    assert from_afar(episode) == ["bed"]
    episode.observe(house(stamp=2.0, x=0.5))
    assert from_afar(episode) == ["cabinet-2", "bed"]


@pytest.mark.parametrize(("relation", "listed"), [("on", True), ("in", False)])
def test_a_thing_of_unknown_kind_that_bears_something_is_a_surface(relation: str, listed: bool) -> None:
    bearer = SceneObject("z", "zorblick", "u", (8.0, 4.0, 0.0), 9.0)
    pen = SceneObject("p", "pen", "u", (8.0, 4.0, 0.5), 9.0, parent="z", relation=relation)
    graph = replace(house(), objects=(*house().objects, bearer, pen))
    assert ("zorblick" in from_afar(search(graph=graph))) == listed
    assert "pen" not in from_afar(search(graph=graph))


def test_trouble_of_the_executor_is_a_retry_and_the_third_ends_the_search() -> None:
    episode = search()
    for index, code in enumerate((OutcomeCode.TIMEOUT, OutcomeCode.FAILED, OutcomeCode.TIMEOUT)):
        assert episode.result is None
        play(episode, ("navigate(kitchen, fridge)", OPEN_CABINET)[index % 2], Outcome(False, code, "motor"))
    assert episode.result is not None and episode.result.code is ResultCode.EXECUTOR_FAILED
    assert episode.result.retries == 2
    assert episode.result.message == "the executor failed 3 times; the last: failed, timeout: motor"


def test_an_executor_that_fails_without_a_word_is_told_by_its_code() -> None:
    episode = search()
    for command in (OPEN_CABINET, "navigate(kitchen, fridge)", OPEN_CABINET):
        play(episode, command, Outcome(False, OutcomeCode.FAILED))
    assert episode.result is not None
    assert episode.result.message == "the executor failed 3 times; the last: failed, failed"


def test_a_failure_that_travelled_is_a_step_and_no_retry() -> None:
    episode = search()
    play(episode, OPEN_CABINET, Outcome(False, OutcomeCode.BLOCKED, distance=3.0))
    assert (episode.steps, episode.retries, episode.distance) == (1, 0, 3.0)


@pytest.mark.parametrize("distance", [float("nan"), float("inf"), -1.0])
def test_an_executor_that_reports_no_distance_adds_none(distance: float) -> None:
    episode = search()
    play(episode, OPEN_CABINET, Outcome(True, distance=distance))
    assert episode.distance == 0.0


def test_the_history_tells_what_was_tried() -> None:
    episode = search()
    play(episode, OPEN_CABINET)
    play(episode, "navigate(bedroom, bed)", Outcome(False, OutcomeCode.UNREACHABLE))
    episode.choose(Answer("explore(attic)"))
    lines = render(episode.situation().view)[1].content.split("\n")
    start = lines.index(f"{OPEN_CABINET}: opened")
    assert lines[start + 1] == "navigate(bedroom, bed): failed, unreachable"
    assert lines[start + 2].startswith("explore(attic): invalid, ")


def test_the_log_tells_what_was_seen_behind_which_action() -> None:
    """Things on the way and things that somebody else opened included; what was told once stays as it was told."""
    graph = house()
    bed = graph.object_by_id["bed"]
    episode = search(graph=replace(graph, objects=tuple(obj for obj in graph.objects if obj != bed)))
    before = render(episode.situation().view)[1].content.partition("\nYou are in")[0]
    assert episode.choose(Answer(OPEN_CABINET)) is not None
    episode.observe(graph)  # the bed comes into sight on the way
    episode.report(Outcome(True))
    opened = tuple(obj._replace(state=OpenState.OPEN) if obj.id in ("cab", "cab2") else obj for obj in graph.objects)
    episode.observe(replace(graph, objects=opened))
    log = render(episode.situation().view)[1].content.partition("\nYou are in")[0]
    assert log.startswith(before)
    assert log.removeprefix(before).split("\n")[1:] == [
        f"{OPEN_CABINET}: opened",
        "kitchen: cabinet (opened), cabinet-2 (opened)",
        "bedroom: bed",
    ]


def test_rooms_without_a_label_are_classified_and_the_history_follows() -> None:
    graph = house()
    episode = search(graph=replace(graph, objects=graph.objects[:-1]))  # the bed was not seen yet
    assert episode.names.name("u") == "room-1"
    play(episode, "explore(room-1)")
    episode.observe(graph)
    text = render(episode.situation().view)[1].content
    assert episode.names.name("u") == "bedroom"
    assert "explore(bedroom): explored" in text
    assert "room-1" not in text


# Rooms that the policy names


def unlabelled(*labels: str) -> SceneGraph:
    """The house with these things in the room that perception has not labelled."""
    things = tuple(SceneObject(f"x{i}", label, "u", (5.0, 1.0, 0.0), 5.0) for i, label in enumerate(labels))
    return replace(house(), objects=(*house().objects[:-1], *things))


def asked(*labels: str) -> SearchEpisode:
    episode = SearchEpisode("mug", SearchConfig(classify_rooms="model"), PRIORS)
    episode.observe(unlabelled(*labels))
    return episode


def test_a_room_without_a_label_is_a_question_and_named_as_it_is_answered() -> None:
    episode = asked("bed", "lamp")
    assert episode.rooms_to_classify() == (RoomQuestion("u", ("bed", "lamp")),)
    episode.classify("u", "office")
    assert episode.rooms_to_classify() == ()
    assert episode.names.name("u") == "office"
    assert "office: bed, lamp" in render(episode.situation().view)[1].content


def test_a_room_is_asked_about_again_only_when_other_things_are_in_it() -> None:
    episode = asked("bed")
    episode.classify("u", "bedroom")
    for same in (unlabelled("bed"), unlabelled("Bed_2", "bed")):
        episode.observe(same)
        assert episode.rooms_to_classify() == ()
    episode.observe(unlabelled("bed", "toilet"))
    assert [question.labels for question in episode.rooms_to_classify()] == [("bed", "toilet")]
    episode.classify("u", "bathroom")
    assert episode.room_labels["u"] == "bathroom"
    assert episode.names.name("u") == "bedroom"  # a name changes once


def test_a_room_in_which_nothing_was_seen_is_uncertain_without_a_question() -> None:
    episode = asked()
    assert episode.rooms_to_classify() == ()
    assert episode.room_labels == {"u": "other room"} and episode.names.name("u") == "room-1"
    episode.observe(unlabelled("bed"))
    assert [question.room_id for question in episode.rooms_to_classify()] == ["u"]


def test_who_does_not_answer_gets_room_numbers_and_is_asked_again() -> None:
    episode = asked("bed")
    assert "room-1: bed" in render(episode.situation().view)[1].content
    assert episode.rooms_to_classify()
    episode.classify_by_rule()
    assert "bedroom: bed" in render(episode.situation().view)[1].content


def test_a_label_of_perceptions_is_never_a_question() -> None:
    episode = asked("bed")
    labelled = unlabelled("bed")
    rooms = tuple(room._replace(label=room.label or "nursery") for room in labelled.rooms)
    episode.observe(replace(labelled, rooms=rooms))
    assert episode.rooms_to_classify() == () and episode.names.name("u") == "nursery"
    assert "u" not in episode.room_labels


def test_a_search_that_has_ended_asks_nothing() -> None:
    episode = SearchEpisode("mug", SearchConfig(classify_rooms="model"), PRIORS)
    episode.observe(replace(unlabelled("bed"), doors=(), frontiers=(), objects=(SceneObject("b", "bed", "u"),)))
    for question in episode.rooms_to_classify():
        episode.classify(question.room_id, "bedroom")
    episode.finish(ResultCode.CANCELED, "enough")
    episode.observe(unlabelled("toilet"))
    assert episode.rooms_to_classify() == ()


def test_a_classifier_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="classify_rooms is 'oracle'; expected one of model, rule"):
        SearchConfig(classify_rooms="oracle")


def test_calls_out_of_turn_are_errors() -> None:
    episode = SearchEpisode("mug", SearchConfig(), PRIORS)
    with pytest.raises(RuntimeError, match="first observation"):
        episode.situation()
    with pytest.raises(RuntimeError, match="needs an observation"):
        episode.choose(Answer("done()"))
    episode.observe(house())
    with pytest.raises(RuntimeError, match="action under way"):
        episode.report(Outcome(True))
    episode.choose(Answer(OPEN_CABINET))
    with pytest.raises(RuntimeError, match="no action under way"):
        episode.choose(Answer(OPEN_CABINET))


def test_a_search_can_be_ended_from_outside() -> None:
    episode = search(graph=with_mug(house()))
    episode.finish(ResultCode.CANCELED, "cancelled by the client")
    assert episode.result is not None and not episode.result.success
    assert (episode.result.code, episode.result.message) == (ResultCode.CANCELED, "cancelled by the client")


answers = st.one_of(
    st.sampled_from(
        (
            OPEN_CABINET,
            "navigate(kitchen, fridge)",
            "explore(bedroom)",
            "explore(attic)",
            "go_to_and_open(kitchen, door)",
        )
    ),
    st.sampled_from(HOSTILE_LABELS),
    st.text(max_size=40),
)


@settings(max_examples=60)
@given(
    played=st.lists(st.tuples(answers, st.sampled_from(list(OutcomeCode)), st.floats(0, 3)), min_size=70, max_size=70)
)
def test_every_search_ends_whatever_is_answered(played: list[tuple[str, OutcomeCode, float]]) -> None:
    episode = search(max_steps=8, max_retries=3)
    x = 0.0
    for count, (command, code, distance) in enumerate(played):
        if episode.result is not None:
            break
        text = render(episode.situation().view)[1].content
        assert "<|" not in text and "\x1b" not in text
        action = episode.choose(Answer(command))
        if action is not None and episode.result is None:
            x += distance
            episode.report(Outcome(code is OutcomeCode.NONE, code, distance=distance))
            if episode.result is None:
                episode.observe(replace(house(stamp=count + 1.0), robot_pose=Pose(x, 0.0)))
    assert episode.result is not None
    assert episode.result.steps <= 8
