"""Generates houses: a floor plan, furniture, objects, all from one seed.

The constants here and in `floor_plan.py`, `furnishing.py` and `placement.py` tune how hard a search is; how many
cupboards a kitchen has and where things are kept stands in `config/priors.yaml`.

    python -m smallplan_training.simulators.house.generator 7 house.json   # house number 7, and house.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from smallplan_planner.priors import Priors, load_priors
from smallplan_training.simulators.house.floor_plan import PlanFailed, draw_floor_plan
from smallplan_training.simulators.house.furnishing import furnish
from smallplan_training.simulators.house.house import House, HouseObject
from smallplan_training.simulators.house.placement import ObjectPlacer

ROOMS = (2, 10)
CATEGORIES = (15, 40)
"""Kinds of objects in a house, from the smallest house to the largest."""
INSTANCES = (1, 1, 1, 1, 1, 1, 2, 2, 3)
"""How many objects of a kind, drawn uniformly from these."""
MAX_OBJECTS = 60
MIN_OBJECTS = 20
MAX_DRAWS = 200

Vocabulary = Callable[[str], str]
"""What perception calls a category in this house: a synonym, or a made-up word."""


def generate_house(
    seed: int,
    n_rooms: int | None = None,
    vocabulary: Vocabulary | None = None,
    priors: Priors | None = None,
    name: str = "",
) -> House:
    """A house, the same one for the same arguments.

    Args:
        n_rooms: 2 to 10; drawn when None.
        vocabulary: renames categories; the house's `labels` keeps the result.
        priors: which things are where; those of the project by default.
    """
    priors = priors or load_priors()
    rng = np.random.default_rng(seed)
    wanted = n_rooms if n_rooms is not None else int(rng.integers(ROOMS[0], ROOMS[1] + 1))
    if not ROOMS[0] <= wanted <= ROOMS[1]:
        raise ValueError(f"n_rooms is {wanted}; expected {ROOMS[0]} to {ROOMS[1]}")
    for _ in range(MAX_DRAWS):
        try:
            plan = draw_floor_plan(rng, wanted, priors.rooms)
        except PlanFailed:
            continue
        house = House(
            name or f"house-{seed}", plan.rooms, plan.walls, plan.doors, furnish(plan, rng, priors), (), generated=True
        )
        house = house.with_objects(_draw_objects(house, rng, priors))
        return _relabel(house, vocabulary) if vocabulary else house
    raise RuntimeError(f"no floor plan with {wanted} rooms in {MAX_DRAWS} draws (seed {seed})")


def _draw_objects(house: House, rng: np.random.Generator, priors: Priors) -> list[HouseObject]:
    placer = ObjectPlacer(house, priors)
    share = (len(house.rooms) - ROOMS[0]) / (ROOMS[1] - ROOMS[0])
    count = round(CATEGORIES[0] + share * (CATEGORIES[1] - CATEGORIES[0]) + rng.uniform(-3, 3))
    count = int(np.clip(count, CATEGORIES[0], min(CATEGORIES[1], len(placer.categories))))
    chosen = [placer.categories[int(i)] for i in rng.permutation(len(placer.categories))[:count]]
    wanted = [category for category in chosen for _ in range(int(rng.choice(INSTANCES)))][:MAX_OBJECTS]
    while len(wanted) < MIN_OBJECTS:
        wanted.append(chosen[int(rng.integers(len(chosen)))])
    return [
        placer.draw(rng, category, f"{category.replace(' ', '-')}-{index + 1}") for index, category in enumerate(wanted)
    ]


def _relabel(house: House, vocabulary: Vocabulary) -> House:
    categories = {item.category for item in house.objects} | {piece.category for piece in house.furniture}
    labels = {category: vocabulary(category) for category in sorted(categories)}
    return replace(house, labels={category: label for category, label in labels.items() if label != category})


def main() -> None:
    """Write one generated house and its plan view."""
    from smallplan_training.simulators.house.plan_view import save_plan_view

    parser = argparse.ArgumentParser(description=generate_house.__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("output", type=Path, help="the JSON to write; a PNG is written beside it")
    parser.add_argument("--rooms", type=int, help="2 to 10; drawn when left out")
    arguments = parser.parse_args()
    house = generate_house(arguments.seed, arguments.rooms)
    house.save(arguments.output)
    save_plan_view(house, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
