"""Small random houses and an all-round range sensor, for property tests of the mapper."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from smallplan_planner.mapping import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    Detection,
    DoorDetection,
    OccupancyGrid,
    SceneGraphBuilder,
)
from smallplan_planner.scene_graph import OpenState, Pose, SceneGraph

RESOLUTION = 0.1
WALL = 2  # cells
RADIUS = 0.25


@dataclass
class House:
    """Rooms on a lattice. `room_of` gives the true lattice cell of a point."""

    truth: np.ndarray  # (H, W) FREE or OCCUPIED
    doors: list[DoorDetection]
    objects: list[Detection]
    rows: list[int]  # first cells of the walls along y
    cols: list[int]

    def room_of(self, x: float, y: float) -> tuple[int, int]:
        edges = [np.asarray(walls) * RESOLUTION + WALL * RESOLUTION / 2 for walls in (self.cols, self.rows)]
        return (int(np.searchsorted(edges[0], x)), int(np.searchsorted(edges[1], y)))

    def open(self, key: str) -> None:
        index = next(i for i, door in enumerate(self.doors) if door.key == key)
        door = self.doors[index] = replace(self.doors[index], state=OpenState.OPEN)
        grid = OccupancyGrid(self.truth, RESOLUTION)
        yaw = math.atan2(door.b[1] - door.a[1], door.b[0] - door.a[0])
        self.truth.ravel()[grid.cells_within(*door.center, 0.0, (door.length, WALL * RESOLUTION, yaw))] = FREE


def random_house(seed: int) -> House:
    rng = np.random.default_rng(seed)
    cols = np.cumsum([1, *rng.integers(28, 42, rng.integers(1, 4))]).tolist()
    rows = np.cumsum([1, *rng.integers(28, 42, rng.integers(1, 3))]).tolist()
    truth = np.full((rows[-1] + WALL + 1, cols[-1] + WALL + 1), FREE, np.int8)
    for col in cols:
        truth[:, col : col + WALL] = OCCUPIED
    for row in rows:
        truth[row : row + WALL, :] = OCCUPIED
    truth[: rows[0]], truth[:, : cols[0]], truth[rows[-1] + WALL :], truth[:, cols[-1] + WALL :] = (OCCUPIED,) * 4
    house = House(truth, [], [], rows, cols)
    for j, row in enumerate(rows[:-1]):
        for i, col in enumerate(cols[:-1]):
            if i:
                begin = int(rng.integers(row + WALL + 3, rows[j + 1] - 12))
                _add_door(house, rng, (col, begin), along_x=False)
            if j and (i == 0 or rng.random() < 0.4):
                begin = int(rng.integers(col + WALL + 3, cols[i + 1] - 12))
                _add_door(house, rng, (begin, row), along_x=True)
    for j, row in enumerate(rows[:-1]):
        for i, col in enumerate(cols[:-1]):
            for _ in range(int(rng.integers(0, 5))):
                _add_furniture(house, rng, (col + WALL, row + WALL), (cols[i + 1], rows[j + 1]))
    return house


def _add_door(house: House, rng: np.random.Generator, begin: tuple[int, int], along_x: bool) -> None:
    col, row = begin
    closed, passage = rng.random() < 0.3, rng.random() < 0.2
    width = 9
    if along_x:
        house.truth[row : row + WALL, col : col + width] = OCCUPIED if closed else FREE
        a, b = (col, row + WALL / 2), (col + width, row + WALL / 2)
    else:
        house.truth[row : row + width, col : col + WALL] = OCCUPIED if closed else FREE
        a, b = (col + WALL / 2, row), (col + WALL / 2, row + width)
    state = OpenState.CLOSED if closed else OpenState.OPEN
    jambs = [(x * RESOLUTION, y * RESOLUTION) for x, y in (a, b)]
    house.doors.append(DoorDetection(f"d{len(house.doors)}", *jambs, state, True, passage and not closed))


def _add_furniture(house: House, rng: np.random.Generator, low: tuple[int, int], high: tuple[int, int]) -> None:
    """A piece of furniture against a wall, with things on it, where it stands in nobody's way."""
    width, depth = int(rng.integers(4, 12)), int(rng.integers(3, 7))
    side = int(rng.integers(4))
    if side % 2:
        width, depth = depth, width
    col = {0: None, 1: low[0], 2: None, 3: high[0] - width}[side]
    row = {0: low[1], 1: None, 2: high[1] - depth, 3: None}[side]
    col = int(rng.integers(low[0], high[0] - width)) if col is None else col
    row = int(rng.integers(low[1], high[1] - depth)) if row is None else row
    x, y = (col + width / 2) * RESOLUTION, (row + depth / 2) * RESOLUTION
    if any(math.dist(door.center, (x, y)) < 1.6 for door in house.doors):
        return
    if (
        house.truth[max(row - 6, low[1]) : row + depth + 6, max(col - 6, low[0]) : col + width + 6] == OCCUPIED
    ).mean() > 0.45:
        return
    if (house.truth[row : row + depth, col : col + width] == OCCUPIED).any():
        return
    house.truth[row : row + depth, col : col + width] = OCCUPIED
    key = f"f{len(house.objects)}"
    size = (width * RESOLUTION, depth * RESOLUTION, 0.9)
    house.objects.append(Detection(key, "cabinet", (x, y, 0.45), size, 0.0, OpenState.CLOSED, True))
    for index in range(int(rng.integers(3))):
        at = (x + rng.uniform(-0.4, 0.4) * size[0], y + rng.uniform(-0.4, 0.4) * size[1], 0.95)
        house.objects.append(Detection(f"{key}.{index}", "mug", at, (0.1, 0.1, 0.1), parent=key, relation="on"))


class Explorer:
    """A robot that maps a house: it looks around, and goes to the nearest frontier or opens a door."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.builder = SceneGraphBuilder(RADIUS)
        self.known = np.full(house.truth.shape, UNKNOWN, np.int8)
        self.seen_keys: set[str] = set()
        free = np.argwhere(OccupancyGrid(house.truth, RESOLUTION).traversable(RADIUS))
        row, col = free[np.random.default_rng(seed).integers(len(free))]
        self.xy = ((col + 0.5) * RESOLUTION, (row + 0.5) * RESOLUTION)
        self.steps = 0

    def look(self) -> None:
        angles = np.linspace(0, 2 * math.pi, 540, endpoint=False)
        reach = np.arange(0, 5.0, RESOLUTION / 2)
        rows = ((self.xy[1] + reach * np.sin(angles)[:, None]) / RESOLUTION).astype(int)
        cols = ((self.xy[0] + reach * np.cos(angles)[:, None]) / RESOLUTION).astype(int)
        rows = np.clip(rows, 0, self.known.shape[0] - 1)
        cols = np.clip(cols, 0, self.known.shape[1] - 1)
        blocked = self.house.truth[rows, cols] == OCCUPIED
        visible = np.cumsum(blocked, axis=1) - blocked == 0
        seen = np.zeros(self.known.shape, bool)
        seen[rows[visible], cols[visible]] = True
        self.known[seen] = self.house.truth[seen]
        grid = OccupancyGrid(self.known, RESOLUTION)
        for door in self.house.doors:
            yaw = math.atan2(door.b[1] - door.a[1], door.b[0] - door.a[0])
            if seen.ravel()[grid.cells_within(*door.center, 0.0, (door.length, WALL * RESOLUTION, yaw))].any():
                self.seen_keys.add(door.key)
        for item in self.house.objects:
            whole = next(other for other in self.house.objects if other.key == (item.parent or item.key))
            cells = grid.cells_within(*whole.position[:2], 0.0, whole.footprint)
            if seen.ravel()[cells].any():
                self.seen_keys.add(item.key)

    def observation(self) -> tuple[OccupancyGrid, list[Detection], list[DoorDetection], Pose, float]:
        grid = OccupancyGrid(self.known.copy(), RESOLUTION)
        objects = [item for item in self.house.objects if item.key in self.seen_keys]
        doors = [door for door in self.house.doors if door.key in self.seen_keys]
        return (grid, objects, doors, Pose(*self.xy), float(self.steps))

    def update(self) -> SceneGraph:
        self.look()
        self.steps += 1
        return self.builder.update(*self.observation())

    def go_on(self, graph: SceneGraph) -> bool:
        """Move to where something may be new; False when there is nothing left to explore or open."""
        if graph.frontiers:
            self.xy = min(graph.frontiers, key=lambda frontier: (frontier.distance, frontier.id)).position[:2]
            return True
        closed = [door for door in graph.doors if door.state is OpenState.CLOSED and not math.isnan(door.distance)]
        if not closed:
            return False
        nearest = min(closed, key=lambda door: (door.distance, door.id))
        cell = self.builder.approach(nearest.id)
        assert cell is not None
        self.xy = self.builder.grid.to_world(*cell)
        self.house.open(self.builder.key_of[nearest.id])
        return True
