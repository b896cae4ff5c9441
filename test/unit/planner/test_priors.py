"""The typed form of the priors: what a place, a room and a word mean, and clear answers to broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.graphs import PRIORS
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.priors import load_priors, parse_priors
from smallplan_planner.resources import resource
from smallplan_planner.synonyms import canonical, load_synonyms, words_for


def test_places_are_those_of_the_thing_most_likely_first() -> None:
    places = PRIORS.places("Blue_Mug-2")
    assert [(place.furniture, place.p) for place in places] == [("cabinet", 0.7), ("counter", 0.3)]
    assert PRIORS.places("mug tree") == () == PRIORS.places("zebra") == PRIORS.places("")
    for name in load_priors().objects:
        chances = [place.p for place in load_priors().places(name)]
        assert chances == sorted(chances, reverse=True)


def test_words_mean_types() -> None:
    priors = load_priors()
    assert priors.furniture_type("Refrigerator") == "fridge" and priors.furniture_type("mug") == ""
    assert priors.room_type("Kitchen_3") == "kitchen" and priors.room_type("other room") == ""


def test_surfaces_are_what_things_are_put_on() -> None:
    priors = load_priors()
    assert priors.is_surface("counter") and priors.is_surface("CounterTop_3") and priors.is_surface("couch")
    assert not priors.is_surface("fridge")  # things are put into it
    assert not priors.is_surface("mug") and not priors.is_surface("zebra") and not priors.is_surface("")


def test_sizes_are_those_of_the_thing() -> None:
    assert PRIORS.size("Blue_Mug-2") == (0.1, 0.1, 0.1)
    assert PRIORS.size("mug tree") is None and PRIORS.size("cabinet") is None  # furniture is no thing to search for
    assert load_priors().size("cushions") == load_priors().objects["cushion"].size


@pytest.mark.parametrize(
    ("seen", "room"),
    [
        (["Oven", "fridge", "cabinet"], "kitchen"),
        (["toilet", "Shower"], "bathroom"),
        (["bed", "wardrobe"], "bedroom"),
        ([], UNCERTAIN_ROOM),
        (["zebra", ""], UNCERTAIN_ROOM),
        (["chair"], UNCERTAIN_ROOM),
    ],
)
def test_a_room_is_what_its_things_say(seen: list[str], room: str) -> None:
    assert load_priors().classify_room(seen) == room
    assert load_priors().classify_room(seen[::-1] * 2) == room  # neither order nor number counts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rooms: [kitchen",
        "[]",
        "rooms: [kitchen]\nobjects: {}",
        "rooms: [kitchen]\nfurniture: [bed]\nobjects: {}",
        "rooms: [kitchen]\nfurniture: {bed: {size: [1, 2], openable: false, surface: true, rooms: {}}}\nobjects: {}",
        "rooms: [kitchen]\nfurniture: {}\nobjects: {mug: {size: [1, 1, 1], places: [{room: kitchen}]}}",
    ],
)
def test_a_file_that_holds_no_priors_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml: not a priors file"):
        parse_priors(path)


def test_the_projects_priors_are_read() -> None:
    assert parse_priors(resource("config", "priors.yaml")) == load_priors()


def test_the_first_search_reads_no_file() -> None:
    for read in (load_priors, load_synonyms):
        read.cache_clear()
    load_priors()
    assert load_synonyms.cache_info().currsize == 1


def test_synonyms_stand_for_one_word() -> None:
    assert canonical("couch") == canonical("sofa") == canonical("sofas") == "sofa"
    assert canonical("glass") == "glass"  # no plural
    assert canonical("zebras") == "zebra"
    words = words_for("couch")
    assert words[0] == "couch" and "settee" in words and len(set(words)) == len(words)
