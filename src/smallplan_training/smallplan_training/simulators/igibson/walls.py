"""How thick a house's walls are: a house only has their middle lines.

They are as thick as in the embedded simulator, unless the furniture stands nearer to their lines than that, as it
does in imported houses: physics would push apart what overlaps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import RESOLUTION

USUAL_THICKNESS = 2 * RESOLUTION
LEAST_THICKNESS = 0.02
STEP = 0.01
"""m that thicknesses are rounded to."""
MISPLACED = 0.1
"""The share of the furniture that may stand in walls."""


def wall_thickness(house: House) -> float:
    """m, the same for all walls of the house."""
    if not house.furniture or not house.walls:
        return USUAL_THICKNESS
    lines = wall_lines(house)
    shares = np.linspace(0.0, 1.0, 7)
    clear = []
    for piece in house.furniture:
        corners = np.array(piece.corners)
        sides = zip(corners, np.roll(corners, -1, axis=0))
        outline = np.concatenate([a + shares[:, None] * (b - a) for a, b in sides])
        clear.append(float(distances(outline, lines).min()))
    thickness = STEP * round(2 * float(np.quantile(clear, MISPLACED)) / STEP)
    return round(min(max(thickness, LEAST_THICKNESS), USUAL_THICKNESS), 4)


def wall_lines(house: House) -> NDArray[np.float64]:
    """(walls, 4): x and y of both ends of every wall that has a length."""
    return np.array([(*wall.a, *wall.b) for wall in house.walls if wall.a != wall.b]).reshape(-1, 4)


def distances(points: NDArray[np.float64], lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, walls): m from each point (N, 2) to each wall's line."""
    a, b = lines[:, :2], lines[:, 2:]
    along = b - a
    share = ((points[:, None] - a) * along).sum(-1) / (along**2).sum(-1)
    nearest = a + np.clip(share, 0.0, 1.0)[..., None] * along
    return np.asarray(np.linalg.norm(points[:, None] - nearest, axis=-1))
