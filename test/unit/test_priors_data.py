"""The knowledge in `config/priors.yaml` and `config/synonyms.yaml`: well-formed, consistent, and like a home."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from smallplan_planner.names import normalise
from smallplan_planner.synonyms import canonical

CONFIG = Path(__file__).resolve().parents[2] / "config"
PRIORS: dict[str, Any] = yaml.safe_load((CONFIG / "priors.yaml").read_text(encoding="utf-8"))
SYNONYMS: dict[str, Any] = yaml.safe_load((CONFIG / "synonyms.yaml").read_text(encoding="utf-8"))
FURNITURE: dict[str, Any] = PRIORS["furniture"]
OBJECTS: dict[str, Any] = PRIORS["objects"]
ROOMS: list[str] = PRIORS["rooms"]

# Least and most openable pieces in a room of each type, and the area in m2 of a typical room of that type.
CLOSED_PIECES = {
    "kitchen": (10, 16), "living room": (3, 6), "bedroom": (4, 8), "bathroom": (2, 4), "office": (3, 6),
    "dining room": (2, 4), "laundry room": (2, 4), "hallway": (1, 2), "storage room": (3, 8), "garage": (3, 8),
}  # fmt: skip
TYPICAL_AREA = {
    "kitchen": 17, "living room": 24, "bedroom": 18, "bathroom": 8, "hallway": 8, "office": 12, "dining room": 14,
    "laundry room": 7, "pantry": 6, "storage room": 9, "garage": 20, "playroom": 12,
}  # fmt: skip

# The types of things that ProcTHOR places in its houses.
PROCTHOR_TYPES = """
AlarmClock AluminumFoil Apple ArmChair BaseballBat BasketBall Bed Blinds Book Boots Bottle Bowl Box Bread ButterKnife
CD Candle Cart CellPhone Chair Cloth ClothesDryer CoffeeMachine CoffeeTable CounterTop CreditCard Cup Desk DeskLamp
Desktop DiningTable DishSponge DogBed Doorframe Doorway Dresser Dumbbell Egg Faucet FloorLamp Footstool Fork Fridge
GarbageBag GarbageCan HandTowel HandTowelHolder HousePlant Kettle KeyChain Knife Ladle Laptop LaundryHamper Lettuce
LightSwitch Microwave Mug Newspaper Ottoman Painting Pan PaperTowelRoll Pen Pencil PepperShaker Pillow Plate Plunger
Pot Potato RemoteControl RoomDecor Safe SaltShaker ScrubBrush ShelvingUnit ShowerCurtain ShowerHead SideTable Sink
SoapBar SoapBottle Sofa Spatula Spoon SprayBottle Statue Stool TVStand TableTopDecor TeddyBear Television TennisRacket
TissueBox Toaster Toilet ToiletPaper ToiletPaperHanger Tomato Towel TowelHolder VacuumCleaner Vase WashingMachine Watch
WateringCan Window WineBottle
"""


def pieces_in(room: str) -> dict[str, Any]:
    """The kinds of furniture that a room of that type may have."""
    return {kind: piece for kind, piece in FURNITURE.items() if room in piece["rooms"]}


def test_there_is_enough_of_each():
    assert 10 <= len(ROOMS) <= 14
    assert 45 <= len(FURNITURE) <= 65
    assert 180 <= len(OBJECTS) <= 240


def test_names_are_distinct_and_written_as_labels_are_compared():
    names = [*ROOMS, *FURNITURE, *OBJECTS]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if not name.isascii() or normalise(name) != name] == []


@pytest.mark.parametrize("kind", FURNITURE)
def test_furniture_is_well_formed(kind: str):
    piece = FURNITURE[kind]
    assert set(piece) == {"size", "openable", "surface", "rooms"}
    assert len(piece["size"]) == 3 and all(0.1 <= length <= 2.5 for length in piece["size"])
    assert isinstance(piece["openable"], bool) and isinstance(piece["surface"], bool)
    assert piece["rooms"]
    for room, (least, most) in piece["rooms"].items():
        assert room in ROOMS
        assert 0 <= least <= most and most >= 1


@pytest.mark.parametrize("name", OBJECTS)
def test_places_of_an_object(name: str):
    places = OBJECTS[name]["places"]
    shares = [place["p"] for place in places]
    assert 3 <= len(places) <= 6
    assert math.isclose(sum(shares), 1.0, abs_tol=1e-6)
    assert shares == sorted(shares, reverse=True) and shares[-1] > 0
    assert len({(place["room"], place["furniture"], place["relation"]) for place in places}) == len(places)
    assert 1 <= len({place["room"] for place in places}) <= 4
    for place in places:
        piece = FURNITURE[place["furniture"]]
        assert place["room"] in piece["rooms"]
        assert place["relation"] in ("in", "on")
        assert piece["openable"] if place["relation"] == "in" else piece["surface"]


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_fits_where_it_is_kept(name: str):
    size = OBJECTS[name]["size"]
    assert len(size) == 3 and all(0.005 <= length <= 2.0 for length in size)
    for place in OBJECTS[name]["places"]:
        room_for_it = FURNITURE[place["furniture"]]["size"]
        n = 3 if place["relation"] == "in" else 2  # on top only the footprint counts
        assert all(a <= b for a, b in zip(sorted(size[:n]), sorted(room_for_it[:n]))), place


@pytest.mark.parametrize("room", CLOSED_PIECES)
def test_rooms_have_as_much_closed_furniture_as_homes_have(room: str):
    counts = [piece["rooms"][room] for piece in pieces_in(room).values() if piece["openable"]]
    least, most = CLOSED_PIECES[room]
    assert least <= sum(count[0] for count in counts)
    assert sum(count[1] for count in counts) <= most


@pytest.mark.parametrize("room", ROOMS)
def test_furniture_leaves_room_to_walk(room: str):
    floor = sum(sum(p["rooms"][room]) / 2 * p["size"][0] * p["size"][1] for p in pieces_in(room).values())
    assert 0 < floor <= 0.35 * TYPICAL_AREA[room]


def test_about_half_of_the_small_objects_are_in_something_closed():
    small = [entry for entry in OBJECTS.values() if max(entry["size"]) <= 0.4]
    closed = sum(place["p"] for entry in small for place in entry["places"] if place["relation"] == "in")
    assert 0.45 <= closed / len(small) <= 0.6


def test_no_word_stands_in_two_places():
    groups = [*SYNONYMS["synonyms"].items(), *SYNONYMS["rooms"].items()]
    words = Counter(
        [
            *(word for word, _ in groups),
            *(other for _, others in groups for other in others),
        ]
    )
    assert [word for word, count in words.items() if count > 1] == []
    heads = {word for word, _ in groups} | {*ROOMS, *FURNITURE, *OBJECTS}
    assert [other for _, others in groups for other in others if other in heads] == []


def test_synonyms_are_written_as_labels_are_compared():
    groups = {**SYNONYMS["synonyms"], **SYNONYMS["rooms"]}
    words = [*groups, *(other for others in groups.values() for other in others)]
    assert [word for word in words if not isinstance(word, str) or normalise(word) != word] == []


def test_rooms_of_both_files_are_the_same():
    assert set(SYNONYMS["rooms"]) == set(ROOMS)


def test_every_category_stands_for_itself():
    assert [name for name in [*ROOMS, *FURNITURE, *OBJECTS] if canonical(name) != name] == []


@pytest.mark.parametrize("label", PROCTHOR_TYPES.split())
def test_procthor_types_have_a_word(label: str):
    assert canonical(normalise(label)) in {*FURNITURE, *OBJECTS, *SYNONYMS["synonyms"]}


@pytest.mark.parametrize(
    ("said", "meant"),
    [("couch", "sofa"), ("Refrigerator", "fridge"), ("CellPhone", "phone"), ("GarbageCan", "trash can"),
     ("CounterTop", "counter"), ("KeyChain", "keys"), ("TVStand", "tv stand"), ("bottom_cabinet_12", "cabinet"),
     ("potted plant", "house plant"), ("knives", "knife"), ("T-shirt", "t shirt"), ("LivingRoom", "living room")],
)  # fmt: skip
def test_other_words_for_the_same_thing(said: str, meant: str):
    assert canonical(normalise(said)) == meant


@pytest.mark.parametrize(
    ("one", "other"),
    [("mug", "cup"), ("SoapBar", "SoapBottle"), ("Knife", "ButterKnife"), ("Pot", "Pan"), ("Towel", "HandTowel"),
     ("Bottle", "WineBottle"), ("Pen", "Pencil"), ("Watch", "clock"), ("glass", "glasses"), ("desk lamp", "floor lamp"),
     ("hair dryer", "dryer"), ("toothbrush", "toothpaste"), ("bathroom", "toilet"), ("Pillow", "cushion")],
)  # fmt: skip
def test_different_things_stay_apart(one: str, other: str):
    assert canonical(normalise(one)) != canonical(normalise(other))
