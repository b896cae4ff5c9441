"""Floor plans: which room covers which part of a rectangle, what type it is, and where the doors are.

A plan is drawn on a lattice of 0.3 m: an array of room numbers. Two kinds of plan are made, a recursive subdivision
and rooms along a corridor; a small room cut out of a corner makes an L of the larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from smallplan_training.simulators.house.house import HouseDoor, HouseRoom, Point2, Wall

UNIT = 0.3
"""m, the lattice."""
MIN_SIDE = 8
"""Units, the narrowest room but for corridors and corners cut out."""
CORNER_SIDE = (6, 9)
CORRIDOR_WIDTH = (4, 6)

AREA_PER_ROOM = (13.0, 20.0)
"""m²; the whole house stays within `AREA`."""
AREA = (40.0, 200.0)
P_CORRIDOR = 0.6
P_CORNER = 0.6
P_CLOSED = 0.5
P_PASSAGE = 0.35
"""For rooms that people join without a door (`OPEN_PAIRS`), else `P_PASSAGE_ELSEWHERE`."""
P_PASSAGE_ELSEWHERE = 0.06
P_EXTRA_DOOR = 0.15
OPEN_PAIRS = (
    {"kitchen", "dining room"},
    {"living room", "dining room"},
    {"living room", "hallway"},
    {"kitchen", "living room"},
)

SIZE_ORDER = (
    "garage",
    "living room",
    "kitchen",
    "bedroom",
    "dining room",
    "playroom",
    "office",
    "laundry room",
    "bathroom",
    "storage room",
    "pantry",
)
"""Large rooms first: types are dealt out to rooms by size."""
BASIC_TYPES = ("kitchen", "living room", "bedroom", "bathroom")
EXTRA_TYPES = {
    "bedroom": 3.0,
    "bathroom": 1.5,
    "office": 1.5,
    "dining room": 1.5,
    "laundry room": 1.0,
    "storage room": 0.7,
    "garage": 0.6,
    "pantry": 0.5,
    "playroom": 0.5,
}
MOST = {"bedroom": 4, "bathroom": 2}
"""Rooms of a type in one house; of other types there is one."""


@dataclass(frozen=True)
class FloorPlan:
    rooms: tuple[HouseRoom, ...]
    walls: tuple[Wall, ...]
    doors: tuple[HouseDoor, ...]


class PlanFailed(Exception):
    """This draw has no good plan; draw again."""


def draw_floor_plan(rng: np.random.Generator, n_rooms: int, room_types: Sequence[str]) -> FloorPlan:
    """A plan with this many rooms, of types out of `room_types`.

    Raises: PlanFailed: the draw did not work out.
    """
    area = float(np.clip(n_rooms * rng.uniform(*AREA_PER_ROOM), *AREA)) / UNIT**2
    ratio = rng.uniform(1.0, 1.8)
    width = max(2 * MIN_SIDE, round(np.sqrt(area * ratio)))
    depth = max(MIN_SIDE, round(area / width))
    corridor = n_rooms >= 4 and rng.random() < P_CORRIDOR
    corner = n_rooms >= 3 and rng.random() < P_CORNER
    leaves = n_rooms - corner
    cells = _along_corridor(rng, width, depth, leaves) if corridor else _subdivide(rng, width, depth, leaves)
    if corner:
        _cut_corner(rng, cells, leaves, spare=0 if corridor else -1)
    if not AREA[0] <= cells.size * UNIT**2 <= AREA[1]:
        raise PlanFailed
    types = _deal_types(rng, cells, n_rooms, corridor, room_types)
    rooms = tuple(HouseRoom(f"room-{index + 1}", types[index], _outline(cells == index)) for index in range(n_rooms))
    return FloorPlan(rooms, _walls(cells), _doors(rng, cells, types))


def _subdivide(rng: np.random.Generator, width: int, depth: int, leaves: int) -> NDArray[np.int16]:
    """Split the largest rectangle again and again, along its longer side."""
    parts = [(0, 0, depth, width)]
    while len(parts) < leaves:
        parts.sort(key=lambda p: (p[2] - p[0]) * (p[3] - p[1]))
        r0, c0, r1, c1 = parts.pop()
        rows, columns = r1 - r0, c1 - c0
        side = max(rows, columns)
        if side < 2 * MIN_SIDE:
            raise PlanFailed
        at = int(np.clip(round(side * rng.uniform(0.36, 0.64)), MIN_SIDE, side - MIN_SIDE))
        if columns >= rows:
            parts += [(r0, c0, r1, c0 + at), (r0, c0 + at, r1, c1)]
        else:
            parts += [(r0, c0, r0 + at, c1), (r0 + at, c0, r1, c1)]
    cells = np.zeros((depth, width), dtype=np.int16)
    for index, (r0, c0, r1, c1) in enumerate(parts):
        cells[r0:r1, c0:c1] = index
    return cells


def _along_corridor(rng: np.random.Generator, width: int, depth: int, leaves: int) -> NDArray[np.int16]:
    """A corridor (room 0) from side to side, or up to a room at its end, with rooms on both sides of it."""
    corridor = int(rng.integers(*CORRIDOR_WIDTH))
    if depth < 2 * MIN_SIDE + corridor:
        depth = 2 * MIN_SIDE + corridor
    first = int(np.clip(round((depth - corridor) * rng.uniform(0.4, 0.6)), MIN_SIDE, depth - corridor - MIN_SIDE))
    cells = np.zeros((depth, width), dtype=np.int16)
    index = 1
    at_the_end = leaves >= 5 and rng.random() < 0.4
    length = width
    if at_the_end:
        length = width - int(rng.integers(MIN_SIDE + 2, MIN_SIDE + 7))
        cells[:, length:] = index
        index += 1
    remaining = leaves - index
    upper = int(np.clip(round(remaining / 2 + rng.uniform(-0.6, 0.6)), 1, remaining - 1))
    for count, rows in ((upper, slice(0, first)), (remaining - upper, slice(first + corridor, depth))):
        for c0, c1 in _split_length(rng, length, count):
            cells[rows, c0:c1] = index
            index += 1
    return cells


def _split_length(rng: np.random.Generator, length: int, count: int) -> list[tuple[int, int]]:
    spare = length - count * MIN_SIDE
    if spare < 0:
        raise PlanFailed
    shares = rng.dirichlet(np.full(count, 3.0)) * spare
    ends = np.rint(np.cumsum(shares + MIN_SIDE)).astype(int)
    starts = [0, *ends[:-1]]
    return [(int(a), int(b)) for a, b in zip(starts, ends)]


def _cut_corner(rng: np.random.Generator, cells: NDArray[np.int16], index: int, spare: int) -> None:
    """Give a corner of a large rectangular room to a new room, `index`."""
    order = [int(i) for i in np.argsort(-np.bincount(cells.ravel())) if i != spare]
    for room in order[:3]:
        rows, columns = np.nonzero(cells == room)
        r0, r1, c0, c1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        height, width = (int(rng.integers(CORNER_SIDE[0], CORNER_SIDE[1] + 1)) for _ in range(2))
        if r1 - r0 - height < MIN_SIDE - 2 or c1 - c0 - width < MIN_SIDE - 2:
            continue
        top, left = rng.random(2) < 0.5
        cells[
            (r0 if top else r1 - height) : (r0 + height if top else r1),
            (c0 if left else c1 - width) : (c0 + width if left else c1),
        ] = index
        return
    raise PlanFailed


def _deal_types(
    rng: np.random.Generator, cells: NDArray[np.int16], n_rooms: int, corridor: bool, room_types: Sequence[str]
) -> list[str]:
    wanted = [name for name in BASIC_TYPES if name in room_types]
    count = n_rooms - corridor
    if count < len(wanted):
        wanted = ["kitchen", *(wanted[1:][int(i)] for i in rng.permutation(len(wanted) - 1))][:count]
    extras = {name: weight for name, weight in EXTRA_TYPES.items() if name in room_types}
    while len(wanted) < count:
        names = [name for name in extras if wanted.count(name) < MOST.get(name, 1)]
        if not names:
            raise PlanFailed
        weights = np.array([extras[name] / (1 + wanted.count(name)) ** 2 for name in names])
        wanted.append(str(rng.choice(names, p=weights / weights.sum())))
    rank = {name: SIZE_ORDER.index(name) + rng.normal(0, 0.7) for name in dict.fromkeys(wanted)}
    wanted.sort(key=lambda name: rank[name])
    areas = np.bincount(cells.ravel(), minlength=n_rooms)
    rooms = sorted(range(int(corridor), n_rooms), key=lambda i: -areas[i])
    types = ["hallway"] * n_rooms
    for room, name in zip(rooms, wanted):
        types[room] = name
    return types


def _outline(mask: NDArray[np.bool_]) -> tuple[Point2, ...]:
    """The corners of a simply connected set of cells, counter-clockwise, in metres."""
    padded = np.pad(mask, 1)
    step: dict[tuple[int, int], tuple[int, int]] = {}
    for r, c in zip(*np.nonzero(padded)):
        y, x = int(r) - 1, int(c) - 1
        if not padded[r - 1, c]:
            step[x, y] = (x + 1, y)
        if not padded[r, c + 1]:
            step[x + 1, y] = (x + 1, y + 1)
        if not padded[r + 1, c]:
            step[x + 1, y + 1] = (x, y + 1)
        if not padded[r, c - 1]:
            step[x, y + 1] = (x, y)
    start = min(step)
    corners, at, before = [], start, None
    while True:
        after = step[at]
        direction = (after[0] - at[0], after[1] - at[1])
        if direction != before:
            corners.append((at[0] * UNIT, at[1] * UNIT))
        at, before = after, direction
        if at == start:
            return tuple(corners)


@dataclass(frozen=True)
class _Border:
    """A straight piece of wall between two rooms (-1 = outside), in units: from `start` to `end` along the line."""

    rooms: tuple[int, int]
    vertical: bool
    line: int
    start: int
    end: int

    def point(self, along: float) -> Point2:
        return (self.line * UNIT, along * UNIT) if self.vertical else (along * UNIT, self.line * UNIT)


def _borders(cells: NDArray[np.int16]) -> list[_Border]:
    found = []
    padded = np.pad(cells, 1, constant_values=-1)
    for vertical, grid in ((False, padded), (True, padded.T)):
        for line in range(grid.shape[0] - 1):
            below, above = grid[line], grid[line + 1]
            pairs = [(int(a), int(b)) for a, b in zip(below, above)]
            start = 0
            for at in range(1, len(pairs) + 1):
                if at < len(pairs) and pairs[at] == pairs[start]:
                    continue
                a, b = pairs[start]
                if a != b:
                    found.append(_Border((min(a, b), max(a, b)), vertical, line, start - 1, at - 1))
                start = at
    return found


def _walls(cells: NDArray[np.int16]) -> tuple[Wall, ...]:
    """Borders, those that continue each other joined."""
    lines: dict[tuple[bool, int], list[list[int]]] = {}
    for border in sorted(_borders(cells), key=lambda b: (b.vertical, b.line, b.start)):
        spans = lines.setdefault((border.vertical, border.line), [])
        if spans and spans[-1][1] == border.start:
            spans[-1][1] = border.end
        else:
            spans.append([border.start, border.end])
    walls = []
    for (vertical, line), spans in lines.items():
        for start, end in spans:
            border = _Border((0, 0), vertical, line, start, end)
            walls.append(Wall(border.point(start), border.point(end)))
    return tuple(walls)


def _doors(rng: np.random.Generator, cells: NDArray[np.int16], types: list[str]) -> tuple[HouseDoor, ...]:
    """A spanning tree of doors between neighbours, a few more, and one locked door to the outside."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(types)))
    outer: list[_Border] = []
    for border in _borders(cells):
        length = (border.end - border.start) * UNIT
        a, b = border.rooms
        if length < 1.5:
            continue
        if a < 0:
            outer.append(border)
        elif not graph.has_edge(a, b) or graph.edges[a, b]["length"] < length:
            graph.add_edge(a, b, border=border, length=length, weight=_door_cost(rng, {types[a], types[b]}))
    if not nx.is_connected(graph):
        raise PlanFailed
    tree = nx.minimum_spanning_tree(graph)
    doors: list[HouseDoor] = []
    for a, b, data in sorted(graph.edges(data=True)):
        private = {types[a], types[b]} & {"bathroom", "pantry", "storage room"}
        if not tree.has_edge(a, b) and (private or rng.random() > P_EXTRA_DOOR):
            continue
        doors.append(_door(rng, data["border"], (a, b), {types[a], types[b]}, f"door-{len(doors) + 1}"))
    entrances = [border for border in outer if types[border.rooms[1]] in ("hallway", "living room", "kitchen")] or outer
    border = entrances[int(rng.integers(len(entrances)))]
    at = _along(rng, border, 0.9)
    doors.append(
        HouseDoor(f"door-{len(doors) + 1}", border.point(at), 0.9, (f"room-{border.rooms[1] + 1}",), False, False)
    )
    return tuple(doors)


def _door_cost(rng: np.random.Generator, types: set[str]) -> float:
    """Which neighbours are joined first: hallways join everything, nobody crosses a bathroom."""
    cost = rng.uniform(0.0, 1.0)
    if "hallway" in types:
        cost -= 2.0
    elif "living room" in types:
        cost -= 0.5
    if types & {"bathroom", "pantry", "storage room", "garage"}:
        cost += 1.0
    if "bedroom" in types and "bathroom" not in types and "hallway" not in types:
        cost += 0.3
    return cost


def _door(rng: np.random.Generator, border: _Border, rooms: tuple[int, int], types: set[str], name: str) -> HouseDoor:
    length = (border.end - border.start) * UNIT
    p_passage = P_PASSAGE if types in OPEN_PAIRS else 0.0 if types & {"bathroom", "bedroom"} else P_PASSAGE_ELSEWHERE
    ids = (f"room-{rooms[0] + 1}", f"room-{rooms[1] + 1}")
    if rng.random() < p_passage:
        width = round(min(rng.uniform(1.0, 1.8), length - 0.6), 2)
        return HouseDoor(name, border.point(_along(rng, border, width)), width, ids, openable=False, open=True)
    width = float(rng.choice([0.85, 0.9, 1.0]))
    return HouseDoor(name, border.point(_along(rng, border, width)), width, ids, True, bool(rng.random() > P_CLOSED))


def _along(rng: np.random.Generator, border: _Border, width: float) -> float:
    """Where along the border (units) the middle of an opening goes."""
    margin = (width / 2 + 0.25) / UNIT
    return float(rng.uniform(border.start + margin, border.end - margin))
