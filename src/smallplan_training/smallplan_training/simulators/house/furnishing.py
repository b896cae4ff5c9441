"""Furniture for the rooms of a floor plan: along the walls or free-standing, never in a doorway, always accessible.

Positions are searched on the house's cells (0.075 m) with integral images, so that each piece costs well under a
millisecond or two; after each piece the room must still be one connected space for the robot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from smallplan_planner.priors import FurniturePrior, Priors
from smallplan_training.simulators.house.floor_plan import FloorPlan
from smallplan_training.simulators.house.house import Furniture, House
from smallplan_training.simulators.house.raster import RESOLUTION, ROBOT_RADIUS, SOLID, HouseRaster, rasterise

SIZE_NOISE = 0.1
DOOR_CLEARANCE = 0.75
"""m in front of a door that stay free."""
ACCESS = 0.6
"""m: the robot must get this near to each piece."""
TRIES = 6
P_ROW = 0.85
"""Kitchens and stores: how often a piece goes right beside another one."""
ROW_ROOMS = ("kitchen", "laundry room", "storage room", "pantry", "garage")
FREE_STANDING = (
    "dining table",
    "coffee table",
    "table",
    "chair",
    "dining chair",
    "armchair",
    "stool",
    "bar stool",
    "ottoman",
    "kitchen island",
    "car",
    "pouf",
    "side chair",
)
AISLE = 0.6
"""m around free-standing pieces."""
ROOM_FOR_ONE = 0.8
"""m² of floor that a room of its size is expected to hold for each piece; small rooms get fewer pieces."""
SPARE_CONTAINERS = 0.25
"""Further pieces that open for each m² of floor, as far as they fit: a house has more cupboards than it needs."""
ONE_IS_ENOUGH = ("fridge", "oven", "microwave", "dishwasher", "washing machine", "dryer", "tv stand", "chest freezer")


@dataclass
class _RoomSpace:
    """The window of the house's cells around one room, while furniture is put into it."""

    free: NDArray[np.bool_]  # may be covered by furniture
    walkable: NDArray[np.bool_]  # may be walked on: free or doorway
    wall: NDArray[np.bool_]
    gates: list[tuple[int, int]]  # a cell inside each doorway that must stay reachable
    row: int
    column: int
    placed: list[tuple[int, int, int, int]] = field(default_factory=list)  # r0, c0, r1, c1


def furnish(plan: FloorPlan, rng: np.random.Generator, priors: Priors) -> tuple[Furniture, ...]:
    """Furniture for every room by the counts of the priors; what doesn't fit is left out."""
    raster = rasterise(House("plan", plan.rooms, plan.walls, plan.doors, (), ()))
    pieces: list[Furniture] = []
    for index, room in enumerate(plan.rooms):
        space = _room_space(raster, index, plan)
        for name in _wish_list(rng, priors, room.type, room.area):
            piece = _place(space, raster, rng, name, priors.furniture[name], room.id, room.type, len(pieces) + 1)
            if piece is not None:
                pieces.append(piece)
    return tuple(pieces)


def _wish_list(rng: np.random.Generator, priors: Priors, room_type: str, area: float) -> list[str]:
    """Names of pieces; what a room must have comes first, then large pieces before small ones."""
    must: list[str] = []
    may: list[str] = []
    for name, prior in priors.furniture.items():
        low, high = prior.rooms.get(room_type, (0, 0))
        must += [name] * low
        may += [name] * int(rng.integers(low, high + 1) - low)
    may = [may[int(i)] for i in rng.permutation(len(may))]
    openable = [name for name in must + may if priors.furniture[name].openable and name not in ONE_IS_ENOUGH]
    spare = (
        [openable[int(i)] for i in rng.integers(len(openable), size=round(area * SPARE_CONTAINERS))] if openable else []
    )
    space_for = max(len(must), round(area / ROOM_FOR_ONE))
    chosen = (must + may + spare)[:space_for]

    def floor_area(name: str) -> float:
        return priors.furniture[name].size[0] * priors.furniture[name].size[1]

    return sorted(chosen, key=lambda name: (name in FREE_STANDING, -floor_area(name)))


def _room_space(raster: HouseRaster, index: int, plan: FloorPlan) -> _RoomSpace:
    rows, columns = np.nonzero(raster.room == index)
    r0, r1, c0, c1 = rows.min() - 4, rows.max() + 5, columns.min() - 4, columns.max() + 5
    window = (slice(r0, r1), slice(c0, c1))
    inside = (raster.room[window] == index) & (raster.height[window] == 0)
    wall = raster.height[window] >= SOLID
    doorway = np.zeros(raster.height.shape, dtype=bool)
    gates = []
    room_id = plan.rooms[index].id
    for cells, door in zip(raster.door_cells, plan.doors):
        doorway.ravel()[cells] = True
        if room_id in door.rooms:
            gates.append(cells)
    doorway = doorway[window]
    # In front of a door: cells near it, but not beyond its ends.
    near = ndimage.distance_transform_edt(~doorway) * RESOLUTION < DOOR_CLEARANCE
    free = inside & ~near & ~doorway
    points = []
    for cells in gates:
        gr, gc = np.unravel_index(cells, raster.height.shape)
        points.append((round(float(gr.mean())) - int(r0), round(float(gc.mean())) - int(c0)))
    return _RoomSpace(free, inside | doorway, wall & ~doorway, points, int(r0), int(c0))


def _place(
    space: _RoomSpace,
    raster: HouseRaster,
    rng: np.random.Generator,
    name: str,
    prior: FurniturePrior,
    room_id: str,
    room_type: str,
    number: int,
) -> Furniture | None:
    noise = rng.uniform(1 - SIZE_NOISE, 1 + SIZE_NOISE, 3)
    width, depth, height = (float(extent * factor) for extent, factor in zip(prior.size, noise))
    w, d = (max(2, round(extent / RESOLUTION)) for extent in (width, depth))
    standing = name in FREE_STANDING
    candidates = _free_spots(space, w, d) if standing else _wall_spots(space, w, d)
    if not len(candidates):
        return None
    order = rng.permutation(len(candidates))
    if not standing and room_type in ROW_ROOMS and space.placed and rng.random() < P_ROW:
        order = order[np.argsort(-_contact(space, candidates[order]), kind="stable")]
    for at in order[:TRIES]:
        r, c, quarter = (int(v) for v in candidates[at])
        rows, columns = (d, w) if quarter % 2 == 0 else (w, d)
        box = (r, c, r + rows, c + columns)
        if not _still_connected(space, box):
            continue
        space.placed.append(box)
        space.free[r : r + rows, c : c + columns] = False
        space.walkable[r : r + rows, c : c + columns] = False
        x = raster.corner[0] + (space.column + c + columns / 2) * RESOLUTION
        y = raster.corner[1] + (space.row + r + rows / 2) * RESOLUTION
        return Furniture(
            id=f"{name.replace(' ', '-')}-{number}",
            category=name,
            position=(x, y),
            size=(w * RESOLUTION, d * RESOLUTION),
            yaw=(0.0, -math.pi / 2, math.pi, math.pi / 2)[quarter],
            height=height,
            openable=prior.openable,
            room=room_id,
        )
    return None


def _integral(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    table[1:, 1:] = mask.astype(np.int32).cumsum(0).cumsum(1)
    return table


def _box_sums(table: NDArray[np.int32], rows: int, columns: int) -> NDArray[np.int32]:
    """[r, c] = how many cells of the box with its first corner at (r, c) are set."""
    return np.asarray(
        table[rows:, columns:] - table[:-rows, columns:] - table[rows:, :-columns] + table[:-rows, :-columns]
    )


def _wall_spots(space: _RoomSpace, w: int, d: int) -> NDArray[np.int64]:
    """(N, 3) row, column, quarter turn of boxes whose back lies along a wall."""
    free, wall = _integral(space.free), _integral(space.wall)
    found = []
    for quarter in range(4):
        rows, columns = (d, w) if quarter % 2 == 0 else (w, d)
        if rows + 2 > space.free.shape[0] or columns + 2 > space.free.shape[1]:
            continue
        fits = _box_sums(free, rows, columns) == rows * columns
        backed = np.zeros_like(fits)
        if quarter in (0, 2):  # back to -y, to +y
            strip = _box_sums(wall, 1, columns) == columns
            if quarter == 0:
                backed[1:] = strip[: fits.shape[0] - 1]
            else:
                backed[: strip.shape[0] - rows] = strip[rows:]
        else:  # back to -x, to +x
            strip = _box_sums(wall, rows, 1) == rows
            if quarter == 1:
                backed[:, 1:] = strip[:, : fits.shape[1] - 1]
            else:
                backed[:, : strip.shape[1] - columns] = strip[:, columns:]
        r, c = np.nonzero(fits & backed)
        found.append(np.column_stack([r, c, np.full(len(r), quarter)]))
    return np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64)


def _free_spots(space: _RoomSpace, w: int, d: int) -> NDArray[np.int64]:
    """(N, 3) boxes with an aisle all around."""
    aisle = round(AISLE / RESOLUTION)
    free = _integral(space.free)
    found = []
    for quarter in (0, 1):
        rows, columns = (d, w) if quarter == 0 else (w, d)
        big_r, big_c = rows + 2 * aisle, columns + 2 * aisle
        if big_r > space.free.shape[0] or big_c > space.free.shape[1]:
            continue
        r, c = np.nonzero(_box_sums(free, big_r, big_c) == big_r * big_c)
        found.append(np.column_stack([r + aisle, c + aisle, np.full(len(r), quarter)]))
    return np.concatenate(found) if found else np.zeros((0, 3), dtype=np.int64)


def _contact(space: _RoomSpace, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """How near each spot is to the pieces that stand already (0 = far, 1 = side by side)."""
    boxes = np.array(space.placed)
    distance = np.abs(candidates[:, :1] - boxes[:, 0]) + np.abs(candidates[:, 1:2] - boxes[:, 1])
    return np.asarray(1.0 / (1.0 + distance.min(axis=1)))


def _still_connected(space: _RoomSpace, box: tuple[int, int, int, int]) -> bool:
    """Whether the robot still gets from every doorway to every piece once this box is filled."""
    r0, c0, r1, c1 = box
    walkable = space.walkable.copy()
    walkable[r0:r1, c0:c1] = False
    fits = ndimage.distance_transform_edt(walkable) * RESOLUTION > ROBOT_RADIUS + 1.5 * RESOLUTION
    labels, count = ndimage.label(fits, structure=np.ones((3, 3)))
    if count == 0:
        return False
    sizes = np.bincount(labels.ravel())[1:]
    main = int(sizes.argmax()) + 1
    if sizes.sum() - sizes[main - 1] > 30:
        return False
    reach = labels == main
    near = round(0.45 / RESOLUTION)
    for r, c in space.gates:
        if not reach[max(0, r - near) : r + near + 1, max(0, c - near) : c + near + 1].any():
            return False
    access = round(ACCESS / RESOLUTION)
    return all(
        reach[max(0, a - access) : b + access, max(0, e - access) : f + access].any()
        for a, e, b, f in [*space.placed, box]
    )
