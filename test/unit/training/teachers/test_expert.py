"""The expert answers only from what a prompt shows, in words that fit it, and in the mode that it says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from smallplan_planner.actions import ActionKind, Outcome
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import (
    Hint,
    ObjectView,
    Option,
    PastAction,
    PromptView,
    RoomView,
    known_places,
    listed_matches,
)
from smallplan_planner.response import parse_response
from smallplan_planner.scene_graph import Pose, Room, SceneGraph, SceneObject
from smallplan_planner.search import SearchConfig, SearchEpisode
from smallplan_training.teachers.expert import ExpertPolicy, ExpertTeacher, option_command
from smallplan_training.teachers.imagined import KINDS, imagine
from smallplan_training.teachers.variations import mislead, random_target, refuse, remove, rename, retarget

PRIORS = load_priors()
TEACHER = ExpertTeacher()
CABINET, WARDROBE = "go_to_and_open(kitchen, cabinet)", "go_to_and_open(bedroom, wardrobe)"


def varied(seed: int) -> PromptView:
    """An imagined situation, varied in one of the ways in which those of the training are."""
    rng = random.Random(seed)
    view = rename(imagine(PRIORS, rng), rng, PRIORS)
    if seed % 3 == 0:
        view = replace(view, mode="saver")
    if seed % 4 == 0:
        view = replace(view, matches=None)
    if seed % 5 == 0:
        view = refuse(view, rng)
    if seed % 6 == 0:
        return mislead(view, PRIORS, rng)
    target = random_target(view, PRIORS, rng, found=0.3)
    view = retarget(view, target, PRIORS)
    return remove(view, target) if seed % 8 == 0 else view


def options_of(view: PromptView) -> dict[str, Option]:
    """Each command that takes an option, and what it takes."""
    kinds = ((ActionKind.EXPLORE, view.spaces), (ActionKind.NAVIGATE, view.surfaces))
    kinds += ((ActionKind.GO_TO_AND_OPEN, (*view.doors, *view.containers)),)
    return {option_command(kind, option): option for kind, options in kinds for option in options}


def house(target: str = "mug", kitchen: str = "near", bedroom: str = "near") -> PromptView:
    """A kitchen and a bedroom, each with something closed."""
    return PromptView(
        target=target,
        mode="normal",
        kinds=KINDS,
        rooms=(
            RoomView("kitchen", (ObjectView("cabinet", "closed"),)),
            RoomView("bedroom", (ObjectView("wardrobe", "closed"), ObjectView("bed"))),
        ),
        robot_room="bedroom",
        containers=(Option("kitchen", kitchen, "cabinet"), Option("bedroom", bedroom, "wardrobe")),
        hints=known_places(PRIORS, target),
    )


def with_surface(view: PromptView, room: str, name: str, distance: str) -> PromptView:
    """The same, and the only thing to do besides: look at this from near."""
    rooms = (*view.rooms, RoomView(room, (ObjectView(name),)))
    return replace(view, rooms=rooms, surfaces=(Option(room, distance, name),))


@pytest.mark.parametrize("seed", range(96))
def test_the_answer_is_an_open_option_in_words_of_the_prompt(seed: int) -> None:
    view = varied(seed)
    response = TEACHER.answer(view)
    assert parse_response(response.render()) == response
    options = options_of(view)
    matches = listed_matches(view, view.target)
    if matches:
        assert response.command == "done()"
        assert response.analysis in [f"{name} is in {room}." for room, name in matches]
        return
    if response.command == "done()":
        assert not options or "no place left" in response.reasoning or view.mode == "saver"
    else:
        chosen = options[response.command]
        reminder = "saver. " if view.mode == "saver" else ""
        thing = f"{chosen.name} in {chosen.room}" if chosen.name else chosen.room
        assert response.reasoning.startswith(f"{reminder}{thing}: ")
    head = f"No {view.target} yet. Options: "
    if response.analysis.startswith(head):
        described = {f"{option.name or option.room}, {option.distance}" for option in options.values()}
        compared = [part.rpartition(", ")[0] for part in response.analysis[len(head) : -1].split("; ")]
        assert set(compared) <= described
        assert len(compared) <= 4  # the best of each sort
        if response.command != "done()":
            assert f"{chosen.name or chosen.room}, {chosen.distance}" in compared


@pytest.mark.parametrize("seed", range(12))
def test_the_same_prompt_has_the_same_words(seed: int) -> None:
    random.seed(seed)
    answers = {TEACHER.answer(varied(seed)).render(), ExpertTeacher().answer(varied(seed)).render()}
    random.seed(seed + 1)
    assert {TEACHER.answer(varied(seed)).render()} == answers


def test_common_knowledge_decides_between_equally_near_containers() -> None:
    assert TEACHER.answer(house("mug")).command == CABINET
    assert TEACHER.answer(house("coat")).command == WARDROBE


def test_saver_opens_what_is_at_hand_and_gives_up_what_is_not() -> None:
    at_hand = replace(house("coat", kitchen="very close", bedroom="near"), mode="saver", robot_room="kitchen")
    away = replace(house("mug", kitchen="distant", bedroom="near"), mode="saver")
    cabinet_only = replace(away, containers=at_hand.containers[:1], target="coat", hints=at_hand.hints)
    wardrobe_only = replace(away, containers=away.containers[1:])
    assert TEACHER.answer(cabinet_only).command == CABINET  # unlikely, but at hand
    assert TEACHER.answer(wardrobe_only).command == "done()"
    assert TEACHER.answer(replace(wardrobe_only, mode="normal")).command == WARDROBE


def test_saver_passes_over_the_likelier_that_is_not_worth_its_way() -> None:
    """A space is likelier to show something than one drawer of many, but it is not at hand."""
    view = house("mug", bedroom="very close")
    view = replace(
        view,
        containers=view.containers[1:],
        spaces=(Option("bathroom", "near"),),
        rooms=(*view.rooms, RoomView("bathroom", (), True)),
    )
    assert TEACHER.answer(view).command == "explore(bathroom)"
    assert TEACHER.answer(replace(view, mode="saver")).command == WARDROBE


def test_distance_decides_for_a_target_that_nobody_knows() -> None:
    near_kitchen = house("zorbel", kitchen="very close", bedroom="far")
    near_bedroom = house("zorbel", kitchen="far", bedroom="very close")
    assert TEACHER.answer(near_kitchen).command == CABINET
    assert TEACHER.answer(near_bedroom).command == WARDROBE


def test_usual_places_that_differ_from_common_knowledge_are_believed() -> None:
    told = replace(house("mug"), hints=(Hint("bedroom", ("wardrobe",)),))
    assert TEACHER.answer(told).command == WARDROBE
    assert "a usual place, so" in TEACHER.answer(told).reasoning
    both = (Hint("bedroom", ("wardrobe",)), Hint("kitchen", ("cabinet",)))
    assert TEACHER.answer(replace(house("mug"), hints=both)).command == WARDROBE  # likeliest first
    unknown = replace(house("zorbel"), hints=(Hint("kitchen", ("cabinet",)),))
    assert TEACHER.answer(unknown).command == CABINET
    surface = with_surface(replace(told, hints=(Hint("kitchen", ("stove",)),)), "kitchen", "stove", "far")
    assert TEACHER.answer(surface).command == "navigate(kitchen, stove)"


def test_places_that_are_said_not_to_be_known_are_not_and_unsaid_ones_are() -> None:
    view = house("mug", kitchen="near", bedroom="very close")
    assert TEACHER.answer(replace(view, hints=())).command == WARDROBE
    assert TEACHER.answer(replace(view, hints=None)).command == TEACHER.answer(view).command == CABINET


def test_a_small_target_is_looked_for_where_it_is_usually_put() -> None:
    view = with_surface(house("mug"), "kitchen", "counter", "very close")
    response = TEACHER.answer(view)
    assert response.command == "navigate(kitchen, counter)"
    assert "; counter, very close, fair" in response.analysis
    assert response.reasoning == "counter in kitchen: a usual place, so I look there."
    far = with_surface(house("mug"), "kitchen", "counter", "distant")
    assert TEACHER.answer(far).command == CABINET
    unusual = with_surface(house("mug"), "bathroom", "sink", "near")
    assert TEACHER.answer(unusual).command == CABINET


@pytest.mark.parametrize(
    ("target", "room", "surface"), [("pillow", "bedroom", "bed"), ("towel", "bathroom", "towel rack")]
)
def test_a_large_target_is_recognised_from_afar_so_nobody_looks_again(target: str, room: str, surface: str) -> None:
    view = with_surface(house(target), room, surface, "very close")
    assert all(candidate.kind is not ActionKind.NAVIGATE for candidate in TEACHER.candidates(view))
    assert not TEACHER.answer(view).command.startswith("navigate")
    assert TEACHER.answer(replace(view, containers=())).command == "done()"


def test_a_target_of_unknown_size_may_be_small() -> None:
    view = with_surface(replace(house("zorbel"), containers=()), "kitchen", "counter", "near")
    assert TEACHER.answer(view).command == "navigate(kitchen, counter)"


def test_a_surface_is_looked_at_once_in_a_search() -> None:
    def graph(stamp: float, x: float) -> SceneGraph:
        things = (
            SceneObject("c", "counter", "k", (6.0, 0.0, 0.0), 6.0 - x),
            SceneObject("s", "stove", "k", (0.5, 0.0, 0.0), x),
        )
        return SceneGraph(
            stamp=stamp, robot_pose=Pose(x, 0.0), robot_room="k", rooms=(Room("k", "kitchen"),), objects=things
        )

    episode = SearchEpisode("mug", SearchConfig(), PRIORS)
    episode.observe(graph(0.0, 0.0))
    policy = ExpertPolicy()
    first = policy.decide(episode.situation())
    assert first.command == "navigate(kitchen, counter)"
    assert episode.choose(first) is not None
    episode.report(Outcome(True, distance=5.0))
    episode.observe(graph(1.0, 5.0))
    assert policy.decide(episode.situation()).command == "done()"


def test_what_was_tried_in_vain_counts_less() -> None:
    failed = PastAction(CABINET, "failed, blocked")
    other = Option("kitchen", "near", "cabinet-2")
    view = replace(house("mug"), containers=(Option("kitchen", "near", "cabinet"), other))
    assert TEACHER.answer(view).command == CABINET
    older = (failed, failed, *(PastAction(f"explore(room-{i})", "explored") for i in range(4)))
    again = replace(view, history=(*older, failed, PastAction("explore(bedroom)", "explored")))
    assert TEACHER.answer(again).command == "go_to_and_open(kitchen, cabinet-2)"


def test_all_usual_places_count() -> None:
    """The sixth of them is still worth more than where the target is not kept."""
    name = next(name for name, prior in PRIORS.objects.items() if len(prior.places) == 6)
    places = PRIORS.places(name)
    assert len(places) == sum(len(hint.furniture) for hint in known_places(PRIORS, name)) == 6
    for place in places:
        thing, room = place.furniture, place.room
        rooms = (RoomView(room, (ObjectView(thing),)), RoomView("garage", (ObjectView("zorbel", "closed"),)))
        option, other = Option(room, "near", thing), Option("garage", "near", "zorbel")
        inside = place.relation == "in"
        view = replace(house(name), rooms=rooms, containers=(other, option) if inside else (other,))
        view = replace(view, surfaces=() if inside else (option,))
        kind = ActionKind.GO_TO_AND_OPEN if inside else ActionKind.NAVIGATE
        assert TEACHER.answer(view).command == option_command(kind, option), place


SAVER_CASES = [
    # (target, room and thing with a chance that is told, the chance, where each mode stops)
    ("wardrobe", "bedroom", ActionKind.GO_TO_AND_OPEN, "slight", {"near", "far", "distant", "unknown"}),
    ("desk", "room-1", ActionKind.NAVIGATE, "weak", {"distant"}),
    ("counter", "kitchen", ActionKind.NAVIGATE, "fair", set()),
]


@pytest.mark.parametrize(("thing", "room", "kind", "chance", "too_far"), SAVER_CASES)
@pytest.mark.parametrize("distance", ["very close", "near", "far", "distant", "unknown"])
def test_saver_gives_up_where_normal_goes_on(
    thing: str, room: str, kind: ActionKind, chance: str, too_far: set[str], distance: str
) -> None:
    option = Option(room, distance, thing)
    rooms = (RoomView(room, (ObjectView(thing),)),)
    is_surface = kind is ActionKind.NAVIGATE
    view = replace(house("mug"), rooms=rooms, robot_room=room, containers=() if is_surface else (option,))
    view = replace(view, surfaces=(option,) if is_surface else ())
    normal, saver = (TEACHER.answer(replace(view, mode=mode)) for mode in ("normal", "saver"))
    assert normal.analysis == saver.analysis == f"No mug yet. Options: {thing}, {distance}, {chance}."
    assert normal.command == option_command(kind, option)
    assert saver.command == ("done()" if distance in too_far else normal.command)
    assert (saver.reasoning == "saver. Not worth the way, so I stop.") == (distance in too_far)


def test_what_is_closed_comes_before_a_look_where_the_target_is_not_kept() -> None:
    """A thing lies on any of many surfaces, most of them half seen: each is hardly worth a look."""
    rooms = (RoomView("bedroom", (ObjectView("wardrobe", "closed"), ObjectView("bed"))),)
    wardrobe, bed = Option("bedroom", "distant", "wardrobe"), Option("bedroom", "very close", "bed")
    view = replace(house("mug"), rooms=rooms, containers=(wardrobe,), surfaces=(bed,))
    answer = TEACHER.answer(view)
    assert answer.command == WARDROBE
    assert "Options: wardrobe, distant, slight." in answer.analysis
    assert TEACHER.answer(replace(view, containers=())).command == "navigate(bedroom, bed)"


def test_what_is_poor_and_near_comes_last_in_saver_but_is_not_given_up() -> None:
    rooms = (RoomView("bathroom"), RoomView("room-1", (ObjectView("desk"),)))
    space, desk = Option("bathroom", "near"), Option("room-1", "far", "desk")
    view = replace(house("mug"), rooms=rooms, containers=(), spaces=(space,), surfaces=(desk,), mode="saver")
    both = TEACHER.answer(view)
    assert "Options: desk, far, weak; bathroom, near, poor." in both.analysis
    assert both.command == "navigate(room-1, desk)"
    looked_at, explored = (rated[0] for rated in TEACHER.rate(view)[1:3])
    assert explored.worth[1] > looked_at.worth[1]  # by its way alone it would come first
    assert TEACHER.answer(replace(view, surfaces=())).command == "explore(bathroom)"


def test_saver_takes_the_nearer_of_two_where_normal_takes_the_better() -> None:
    view = replace(
        house("vacuum cleaner"),
        rooms=(RoomView("bedroom", (ObjectView("wardrobe", "closed"),)), RoomView("garage", (ObjectView("cupboard"),))),
        containers=(Option("garage", "very close", "cupboard"), Option("bedroom", "distant", "wardrobe")),
    )
    assert TEACHER.answer(view).command == WARDROBE
    assert TEACHER.answer(replace(view, mode="saver")).command == "go_to_and_open(garage, cupboard)"


def test_the_same_command_is_never_proposed_a_third_time_running() -> None:
    twice = (PastAction(CABINET, "failed, blocked"),) * 2
    view = replace(house("mug"), history=twice)
    assert TEACHER.answer(view).command == WARDROBE
    only = replace(view, containers=view.containers[:1])
    assert TEACHER.answer(only).command == "done()"


def test_a_door_between_known_rooms_is_not_worth_opening() -> None:
    one = (Option("bedroom", "far", "door"),)
    two = (Option("kitchen", "near", "door-2"), Option("bedroom", "near", "door-2"))
    view = replace(house("towel"), containers=(), doors=(*two, *one))
    assert TEACHER.answer(view).command == "go_to_and_open(bedroom, door)"


def test_a_target_that_is_listed_is_found_whether_the_prompt_says_so_or_not() -> None:
    view = replace(house("bed"), matches=None)
    assert TEACHER.answer(view).command == "done()"
    assert TEACHER.answer(replace(view, matches=(("bedroom", "bed"),))) == TEACHER.answer(view)
    assert TEACHER.answer(remove(view, "bed")).command != "done()"
