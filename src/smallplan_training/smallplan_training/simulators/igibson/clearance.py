"""How far doors and drawers open before they meet furniture or walls, and which way they open best.

Bodies are looked at from above, at the height of the part that moves. What has no room either way opens all the same:
then a simulator has to let it through what stands in its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.scene_graph import Point
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.bodies import Body, Part
from smallplan_training.simulators.igibson.walls import distances, wall_lines, wall_thickness

STEPS = 18
"""Positions of a joint that are looked at, between closed and open."""
TOUCH = 0.006
"""m that a part may reach into another body: neighbours stand flush."""
ENOUGH = 0.5
"""Share of its travel that a part must have, to be stopped there rather than to go through what is in its way."""


class Obstacles:
    """What stands in a house, as boxes from above."""

    def __init__(self, house: House, bottoms: dict[str, float]) -> None:
        pieces = house.furniture
        self._ids = np.array([piece.id for piece in pieces], dtype=object)
        self._centres = np.array([piece.position for piece in pieces]).reshape(-1, 2)
        self._turns = np.array([(np.cos(piece.yaw), np.sin(piece.yaw)) for piece in pieces]).reshape(-1, 2)
        self._halves = np.array([piece.size for piece in pieces]).reshape(-1, 2) / 2 - TOUCH
        self._spans = np.array([(bottoms[piece.id], piece.height) for piece in pieces]).reshape(-1, 2)
        self._walls, self._half_wall = wall_lines(house), wall_thickness(house) / 2

    def meets(self, points: NDArray[np.float64], low: float, high: float, owner: str, walls: bool) -> bool:
        """Whether any of the points (N, 2), between these heights, lies in something else than `owner`."""
        other = (self._ids != owner) & (self._spans[:, 0] < high) & (self._spans[:, 1] > low)
        delta = points[:, None] - self._centres[None, other]
        c, s = self._turns[other, 0], self._turns[other, 1]
        u = np.abs(delta[..., 0] * c + delta[..., 1] * s)
        v = np.abs(delta[..., 1] * c - delta[..., 0] * s)
        if ((u < self._halves[other, 0]) & (v < self._halves[other, 1])).any():
            return True
        return walls and bool((distances(points, self._walls) < self._half_wall - TOUCH).any())


def best_opening(
    variants: Sequence[Body], centre: Point, yaw: float, obstacles: Obstacles, owner: str = "", walls: bool = True
) -> Body:
    """The variant whose parts open furthest, each stopped where it meets something.

    Args:
        centre, yaw: where the body is, house frame.
        owner: the furniture that it is.
        walls: whether walls are in the way (a door is in one).
    """
    found = []
    for number, body in enumerate(variants):
        limits = [_limit(part, centre, yaw, obstacles, owner, walls) for part in body.parts]
        shares = [limit / part.upper for limit, part in zip(limits, body.parts)]
        found.append((-min(shares, default=1.0), -sum(shares), number, limits))
    _, _, number, limits = min(found)
    body = variants[number]
    parts = (
        replace(part, upper=limit) if limit >= ENOUGH * part.upper else part for limit, part in zip(limits, body.parts)
    )
    return replace(body, parts=tuple(parts))


def _limit(part: Part, centre: Point, yaw: float, obstacles: Obstacles, owner: str, walls: bool) -> float:
    """The position of the joint up to which the part meets nothing."""
    lows = np.array([np.array(block.centre) - np.array(block.size) / 2 for block in part.blocks]).min(0)
    highs = np.array([np.array(block.centre) + np.array(block.size) / 2 for block in part.blocks]).max(0)
    grid = np.meshgrid(np.linspace(lows[0], highs[0], 9), np.linspace(lows[1], highs[1], 3))
    points = np.column_stack([values.ravel() for values in grid])
    base = centre[2] + part.origin[2]
    free = 0.0
    for position in np.linspace(0.0, part.upper, STEPS + 1)[1:]:
        if part.sliding:
            moved = points + np.array(part.axis[:2]) * position
        else:
            moved = _turned(points, part.axis[2] * position)
        placed = _turned(moved + np.array(part.origin[:2]), yaw) + np.array(centre[:2])
        if obstacles.meets(placed, base + lows[2], base + highs[2], owner, walls):
            break
        free = float(position)
    return free


def _turned(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[c, s], [-s, c]]))
