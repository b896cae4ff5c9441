"""Labels are untrusted, names are safe, and each name means one thing for a whole episode."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.graphs import HOSTILE_LABELS, labels, scene_graphs
from smallplan_planner.names import MAX_NAME_LENGTH, NameBook, find_matches, matches_target, normalise, sanitise
from smallplan_planner.scene_graph import Room, SceneGraph, SceneObject


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Mug", "mug"),
        ("CoffeeMug", "coffee mug"),
        ("coffee_mug-2", "coffee mug"),
        ("TVStand", "tv stand"),
        ("table3", "table"),
        ("table 3 4", "table"),
        ("room 12", "room"),
        ("  floor   lamp ", "floor lamp"),
        ("ﬁsh tank", "fish tank"),
        ("чашка", "чашка"),
        ("☕", ""),
        ("\N{COUCH AND LAMP}\N{VARIATION SELECTOR-16}", ""),
        ("sofa \N{COUCH AND LAMP}\N{VARIATION SELECTOR-16} 2", "sofa"),
    ],
)
def test_normalise_splits_words_and_drops_a_trailing_number(label: str, words: str) -> None:
    assert normalise(label) == words


@settings(max_examples=300)
@given(label=labels)
def test_a_sanitised_label_is_short_and_made_of_words(label: str) -> None:
    name = sanitise(label)
    assert 0 < len(name) <= MAX_NAME_LENGTH
    assert name == name.strip()
    assert all(character == " " or unicodedata.category(character)[0] in "LMN" for character in name)
    assert "  " not in name


def test_a_label_without_a_word_gets_the_fallback() -> None:
    assert sanitise("☕🍵") == "object"
    assert sanitise("\n\t", "room") == "room"


@given(label=st.text(max_size=30))
def test_everything_with_a_word_matches_itself_and_nothing_matches_no_word(label: str) -> None:
    assert matches_target(label, label) == bool(normalise(label))
    assert not matches_target(label, "!?")


@pytest.mark.parametrize(
    ("label", "target", "matches"),
    [
        ("Mug", "mug", True),
        ("mug_3", "MUG", True),
        ("mugs", "mug", True),
        ("couch", "sofa", True),
        ("sofa", "Couch", True),
        ("cup", "mug", False),
        ("coffee table", "table", False),
        ("", "", False),
    ],
)
def test_a_label_matches_its_target(label: str, target: str, matches: bool) -> None:
    assert matches_target(label, target) is matches


def test_matches_come_nearest_first_and_unknown_distances_last() -> None:
    objects = tuple(
        SceneObject(id_, "Mug", "r", distance=distance)
        for id_, distance in (("a", math.nan), ("b", 5.0), ("d", 2.0), ("c", 2.0))
    )
    graph = SceneGraph(rooms=(Room("r"),), objects=(*objects, SceneObject("e", "fridge", "r")))
    assert [obj.id for obj in find_matches(graph, "mug")] == ["c", "d", "b", "a"]
    assert [obj.id for obj in find_matches(graph, "e")] == ["e"]  # an id
    assert find_matches(graph, "lamp") == []


@settings(max_examples=100)
@given(first=scene_graphs(), second=scene_graphs())
def test_names_and_ids_are_a_bijection_that_keeps(first: SceneGraph, second: SceneGraph) -> None:
    names = NameBook()
    names.update(first)
    ids = [item.id for items in (first.rooms, first.objects, first.doors) for item in items]
    given = {element_id: names.name(element_id) for element_id in ids}
    assert len(set(given.values())) == len(ids)
    assert all(names.find(name) == element_id for element_id, name in given.items())
    names.update(second)
    rooms = first.room_by_id
    for element_id, name in given.items():
        if element_id not in rooms:
            assert names.name(element_id) == name
            assert names.find(name) == element_id
    seen = {*ids, *(item.id for items in (second.rooms, second.objects, second.doors) for item in items)}
    assert len({names.name(element_id) for element_id in seen}) == len(seen)


def graph(*objects: str, room: str = "", others: tuple[str, ...] = ()) -> SceneGraph:
    rooms = (Room("r", room), *(Room(f"r{i}", label) for i, label in enumerate(others)))
    return SceneGraph(
        rooms=rooms, objects=tuple(SceneObject(f"id {label} {i}", label, "r") for i, label in enumerate(objects))
    )


def test_the_second_of_a_label_is_numbered_in_the_order_of_first_sight() -> None:
    names = NameBook()
    names.update(graph("mug", "Mug", "mug-7", "lamp"))
    assert [names.name(id_) for id_ in ("id mug 0", "id Mug 1", "id mug-7 2", "id lamp 3")] == [
        "mug",
        "mug-2",
        "mug-3",
        "lamp",
    ]
    names.update(graph("lamp", "mug"))  # others went out of the graph, and new ones came
    assert names.name("id mug 1") == "mug-4"
    assert names.find("mug-2") == "id Mug 1"


def test_a_label_can_not_take_the_name_of_a_numbered_one() -> None:
    names = NameBook()
    labels_seen = ("mug", "mug", "mug-2", "mug 2", "mug2")
    names.update(graph(*labels_seen))
    given = [names.name(f"id {label} {index}") for index, label in enumerate(labels_seen)]
    assert given == ["mug", "mug-2", "mug-3", "mug-4", "mug-5"]


def test_a_room_is_numbered_until_it_has_a_label_and_renamed_once() -> None:
    names = NameBook()
    names.update(graph(others=("",)))
    assert (names.name("r"), names.name("r0")) == ("room-1", "room-2")
    names.update(graph(others=("",)), {"r": "other room"})
    assert names.name("r") == "room-1"
    names.update(graph(others=("kitchen",)), {"r": "kitchen"})
    assert (names.name("r"), names.name("r0")) == ("kitchen", "kitchen-2")
    assert names.find("room-1") is None
    names.update(graph(room="bedroom", others=("kitchen",)))
    assert names.name("r") == "kitchen"
    third = graph(others=("kitchen", ""))
    names.update(third)
    assert names.name("r1") == "room-3"  # room-1 is not given again


@pytest.mark.parametrize("label", HOSTILE_LABELS, ids=range(len(HOSTILE_LABELS)))
def test_hostile_labels_stay_addressable(label: str) -> None:
    names = NameBook()
    base = graph(label, label, room=label)
    names.update(replace(base, doors=()))
    for id_ in ("r", f"id {label} 0", f"id {label} 1"):
        assert names.find(names.name(id_)) == id_
        assert len(names.name(id_)) <= MAX_NAME_LENGTH + 2
