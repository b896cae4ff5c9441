"""Where objects lie: drawn from the priors, perturbed once per house, with some of them misplaced.

The same draw fills a generated house and spawns the further objects of an episode, so a house keeps its habits.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.priors import Place, Priors
from smallplan_training.simulators.house.house import Furniture, House, HouseObject

CONCENTRATION = 4.0
"""How near a house keeps to the priors (Dirichlet; larger = nearer)."""
P_MISPLACED = 0.15
INSIDE_FACTOR = 1.0
"""Weight of places inside of something against those on something."""
SIZE_NOISE = 0.15


class ObjectPlacer:
    """Draws objects for one house. Deterministic in the house's name and the generator that is passed in."""

    def __init__(self, house: House, priors: Priors) -> None:
        self._priors = priors
        types = {room.id: room.type for room in house.rooms}
        self._by_place: dict[tuple[str, str], list[Furniture]] = {}
        for piece in house.furniture:
            self._by_place.setdefault((types[piece.room], piece.category), []).append(piece)
        self._surfaces = [
            piece
            for piece in house.furniture
            if piece.category in priors.furniture and priors.furniture[piece.category].surface
        ]
        self._containers = [piece for piece in house.furniture if piece.openable]
        self._places = self._perturb(np.random.default_rng(zlib.crc32(house.name.encode())))
        self.categories = tuple(name for name in priors.objects if name in self._places)

    def draw(self, rng: np.random.Generator, category: str, object_id: str) -> HouseObject:
        """One object of this category (out of `categories`) at a place drawn for it."""
        piece, relation = self._misplaced(rng) if rng.random() < P_MISPLACED else self._placed(rng, category)
        noise = rng.uniform(1 - SIZE_NOISE, 1 + SIZE_NOISE)
        w, d, h = (round(extent * noise, 3) for extent in self._priors.objects[category].size)
        u, v = rng.uniform(-0.4, 0.4, 2) * piece.size
        c, s = math.cos(piece.yaw), math.sin(piece.yaw)
        z = piece.height + h / 2 if relation == "on" else piece.height * rng.uniform(0.2, 0.8)
        position = (piece.position[0] + c * u - s * v, piece.position[1] + s * u + c * v, float(z))
        return HouseObject(object_id, category, position, (w, d, h), piece.id, relation)

    def _perturb(self, rng: np.random.Generator) -> dict[str, tuple[Sequence[Place], NDArray[np.float64]]]:
        """For each category the places that this house has, and this house's probabilities of them."""
        places: dict[str, tuple[Sequence[Place], NDArray[np.float64]]] = {}
        for name, prior in self._priors.objects.items():
            weights = rng.dirichlet(np.array([max(place.p, 1e-3) for place in prior.places]) * CONCENTRATION)
            kept = [
                (place, weight * (INSIDE_FACTOR if place.relation == "in" else 1.0))
                for place, weight in zip(prior.places, weights)
                if self._feasible(place)
            ]
            total = sum(weight for _, weight in kept)
            if total > 0:
                places[name] = ([place for place, _ in kept], np.array([weight for _, weight in kept]) / total)
        return places

    def _feasible(self, place: Place) -> bool:
        pieces = self._by_place.get((place.room, place.furniture), [])
        return bool(pieces) and (place.relation == "on" or pieces[0].openable)

    def _placed(self, rng: np.random.Generator, category: str) -> tuple[Furniture, str]:
        places, weights = self._places[category]
        place = places[int(rng.choice(len(places), p=weights))]
        pieces = self._by_place[place.room, place.furniture]
        return pieces[int(rng.integers(len(pieces)))], place.relation

    def _misplaced(self, rng: np.random.Generator) -> tuple[Furniture, str]:
        use_container = self._containers and (not self._surfaces or rng.random() < 0.5)
        pool, relation = (self._containers, "in") if use_container else (self._surfaces, "on")
        return pool[int(rng.integers(len(pool)))], relation
