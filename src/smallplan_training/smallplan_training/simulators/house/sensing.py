"""What can be seen from a pose: cells by rays, things by lines of sight. Vectorised, without any state.

Cells are seen along rays that stop at whatever is taller than the camera (1 m); lower furniture is seen over. A thing
is seen along lines at its own height, which everything taller blocks, but for itself and what it stands on.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from smallplan_training.simulators.house.raster import RESOLUTION

RANGE = 5.0
"""m, how far the robot sees."""
FIELD_OF_VIEW = math.radians(120)
CAMERA_HEIGHT = 1.0
"""m"""
SMALL = 0.3
"""m: smaller things are recognised within `SMALL_RANGE` only."""
SMALL_RANGE = 2.5
FULL_TURN = 2 * math.pi
NOBODY = -2
"""Is no cell's owner."""

STEPS = int(RANGE / RESOLUTION)
LINE_SAMPLES = int(STEPS * 1.2)
"""Points on a line of sight: less than a cell apart at full range, and always the same ones for the same line."""
RAYS = 2 * int(2 * math.pi * STEPS)  # two rays a cell at full range, so that no cell is skipped
REST_OF_TURN = FULL_TURN - FIELD_OF_VIEW + 4 * FULL_TURN / RAYS
"""rad: of a full turn what a view ahead leaves, and two rays more on either side, so that none is left out."""
_SQUARE = 2 * STEPS + 1
"""Cells, the side of the square that the rays can reach."""
_LINE = np.linspace(0.0, 1.0, LINE_SAMPLES)
_UP_TO = np.tri(STEPS, dtype=bool)
"""(STEPS, STEPS): row n is True for the steps of a ray up to the n-th."""


@cache
def _rays() -> NDArray[np.intp]:
    """(2 * RAYS, STEPS) the cells along each ray, nearest first, as flat indices of the square that the rays can reach.

    The angles are there twice, so that any view is one slice.
    """
    angles = np.arange(2 * RAYS) % RAYS * (2 * math.pi / RAYS)
    reach = np.arange(1, STEPS + 1)
    rows = np.rint(np.sin(angles)[:, None] * reach).astype(np.intp) + STEPS
    columns = np.rint(np.cos(angles)[:, None] * reach).astype(np.intp) + STEPS
    return rows * _SQUARE + columns


def visible_cells(
    tall: NDArray[np.bool_], row: int, column: int, yaw: float, angle: float = FIELD_OF_VIEW
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The window (rows, columns) around a cell, and which cells of it are seen from there, that one included.

    Args:
        tall: (H, W), True where something is taller than the camera.
        row, column: of the cell, which lies `STEPS` or more from the border.
        yaw: rad, direction of view; angle: rad, the width of the view.
    """
    first, count = 0, RAYS
    if angle < FULL_TURN:
        first = math.ceil((yaw - angle / 2) / (2 * math.pi) * RAYS) % RAYS
        count = int(angle / (2 * math.pi) * RAYS)
    rays = _rays()[first : first + count]
    window = (slice(row - STEPS, row + STEPS + 1), slice(column - STEPS, column + STEPS + 1))
    blocked = tall[window].ravel().take(rays)  # of a copy so small that the cache holds it
    blocked[:, -1] = True
    seen = np.zeros((_SQUARE, _SQUARE), dtype=bool)
    seen[STEPS, STEPS] = True
    seen.ravel()[rays[_UP_TO.take(blocked.argmax(axis=1), axis=0)]] = True
    return window, seen


def in_view(dx: NDArray[np.float64], dy: NDArray[np.float64], yaw: float, angle: float) -> NDArray[np.bool_]:
    """Whether points at these offsets from the camera (m) lie within the angle of view."""
    if angle >= FULL_TURN:
        return np.ones(dx.shape, dtype=bool)
    return np.asarray(dx * math.cos(yaw) + dy * math.sin(yaw) >= np.hypot(dx, dy) * math.cos(angle / 2) - 1e-9)


def lines_of_sight(
    height: NDArray[np.float32],
    owner: NDArray[np.int16],
    origin: tuple[float, float],
    targets: NDArray[np.float64],
    tops: NDArray[np.float64],
    excused: NDArray[np.int16],
) -> NDArray[np.bool_]:
    """(N,) whether each target is seen from one origin; see `lines_between`."""
    return lines_between(height, owner, np.array([origin]).T, targets, tops, excused)


def lines_between(
    height: NDArray[np.float32],
    owner: NDArray[np.int16],
    origins: NDArray[np.float64],
    targets: NDArray[np.float64],
    tops: NDArray[np.float64],
    excused: NDArray[np.int16],
) -> NDArray[np.bool_]:
    """(N,) whether each target is seen from its origin.

    Args:
        height, owner: (H, W), see `HouseRaster`.
        origins, targets: (2, N) columns and rows, in cells, fractional (the centre of cell c is c + 0.5); origins may
            be (2, 1), one for all targets.
        tops: (N,) or (1,) m: what is taller than this blocks the line.
        excused: (N,) or (1,) index of the furniture that doesn't block (the target itself, or its parent), or `NOBODY`.
    """
    if not targets.size:
        return np.zeros(0, dtype=bool)
    span = targets - origins
    columns, rows = (origins[:, :, None] + span[:, :, None] * _LINE).astype(np.int32)
    flat = (rows * np.int32(height.shape[1]) + columns).astype(np.intp)
    blocked = height.ravel().take(flat) > tops[:, None]
    blocked &= owner.ravel().take(flat) != excused[:, None]
    return np.asarray(~blocked.any(axis=1))
