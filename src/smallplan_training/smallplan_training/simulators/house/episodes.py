"""Drawing an episode by MoMa-LLM's rules: start, target, further objects, and the shortest path to success.

Start: a uniform room, then a uniform free point in it. In a generated house one more object is spawned for each that
exists, its category uniform. Target: uniform over categories, none of it in the start room, reachable, and not seen
by the first full turn. The shortest path leads to the nearest pose from which an instance of the target is recognised
or from which its closed container can be opened, with interior doors open; a path of no length is drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.mapping.occupancy import DistanceField, cells_within
from smallplan_planner.names import matches_target
from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.scene_graph import Pose
from smallplan_training.simulators.house import sensing
from smallplan_training.simulators.house.house import Furniture, House, HouseObject
from smallplan_training.simulators.house.perception import SightLines
from smallplan_training.simulators.house.placement import ObjectPlacer
from smallplan_training.simulators.house.raster import NO_OWNER, RESOLUTION, SOLID, HouseRaster, fits, rasterise

SPAWNED = "spawned-"
"""How the ids of spawned objects begin."""
MAX_DRAWS = 200
REACH = 1.0
"""m: a target is reachable when the robot gets this near to it, and containers are opened from this near."""


class NoEpisode(ValueError):
    """No episode that meets the rules was found in this house."""


@dataclass(frozen=True)
class Episode:
    """One task. `house` holds the spawned objects, `start` is in the house's frame."""

    house: House
    start: Pose
    target: str  # what perception calls it
    shortest_path: float  # m
    seed: int
    raster: HouseRaster


def draw_episode(
    house: House, seed: int, raster: HouseRaster | None = None, priors: Priors | None = None, target: str | None = None
) -> Episode:
    """The episode of this seed in this house, the same one for the same arguments.

    Args:
        raster: of this house, if it has been made already.
        target: instead of a target that is drawn; the start is still drawn by the rules.
    Raises: NoEpisode: nothing in the house can be a target, or `target` can't.
    """
    raster = raster or rasterise(house)
    rng = np.random.default_rng(seed)
    if house.generated:
        house = _spawn(house, rng, priors or load_priors())
    view = _TrueView(house, raster)
    for _ in range(MAX_DRAWS):
        start = view.draw_start(rng)
        wanted = target if target is not None else view.draw_target(rng, start)
        if wanted is None:
            continue
        length = view.shortest_path(start, wanted)
        if length is not None:
            x, y = raster.centre(*start)
            return Episode(house, Pose(x, y, float(rng.uniform(-math.pi, math.pi))), wanted, length, seed, raster)
    if target is not None and not view.has(target):
        raise NoEpisode(f"{house.name}: there is no {target!r}; expected one of {', '.join(view.targets)}")
    what = "nothing can" if target is None else f"{target!r} can't"
    raise NoEpisode(f"{house.name}: {what} be a target: of {MAX_DRAWS} starts none had one out of sight and in reach")


def shortest_path(house: House, start: Pose, target: str, raster: HouseRaster | None = None) -> float | None:
    """Metres from a start (house frame) to the nearest pose that leads to success; None where there is none."""
    raster = raster or rasterise(house)
    return _TrueView(house, raster).length(raster.cell(start.x, start.y), target)


def _spawn(house: House, rng: np.random.Generator, priors: Priors) -> House:
    placer = ObjectPlacer(house, priors)
    spawned = [
        placer.draw(rng, placer.categories[int(rng.integers(len(placer.categories)))], f"{SPAWNED}{index + 1}")
        for index in range(len(house.objects))
    ]
    return house.with_objects([*house.objects, *spawned])


class _TrueView:
    """Where, in the true house with its interior doors open, the robot can be and see the target."""

    def __init__(self, house: House, raster: HouseRaster) -> None:
        self._house, self._raster = house, raster
        self._lines = SightLines.of(house, raster)
        self._items: tuple[Furniture | HouseObject, ...] = (*house.furniture, *house.objects)
        self._things_of: dict[str, list[int]] = {}
        for thing, item in enumerate(self._items):
            self._things_of.setdefault(house.label_of(item.category), []).append(thing)
        self.targets = sorted({house.label_of(item.category) for item in house.objects})
        self._instances_of: dict[str, list[int]] = {}
        free = fits(raster.height) & raster.robot_fits
        self._free_cells = [np.flatnonzero(free & (raster.room == index)) for index in range(len(house.rooms))]
        self._room_index = {room.id: index for index, room in enumerate(house.rooms)}
        self._poses_of: dict[int, NDArray[np.int64]] = {}

    def has(self, target: str) -> bool:
        return bool(self._instances(target))

    def draw_start(self, rng: np.random.Generator) -> tuple[int, int]:
        rooms = [cells for cells in self._free_cells if len(cells)]
        if not rooms:
            raise NoEpisode(f"{self._house.name}: the robot fits nowhere in this house")
        cells = rooms[int(rng.integers(len(rooms)))]
        row, column = divmod(int(cells[int(rng.integers(len(cells)))]), self._raster.height.shape[1])
        return row, column

    def draw_target(self, rng: np.random.Generator, start: tuple[int, int]) -> str | None:
        """A label of objects, uniform over those of which no instance is in the start room."""
        here = int(self._raster.room[start])
        for index in rng.permutation(len(self.targets)):
            target = self.targets[int(index)]
            if all(self._room_of(thing) != here for thing in self._instances(target)):
                return target
        return None

    def shortest_path(self, start: tuple[int, int], target: str) -> float | None:
        """`length`; None too when the first full turn shows it, it is out of reach, or the way has no length."""
        if self._in_sight(start, target):
            return None
        length = self.length(start, target)
        return length if length is not None and length > 0 and self._in_reach(start, target) else None

    def length(self, start: tuple[int, int], target: str) -> float | None:
        return self._way_to(start, [self._poses(thing) for thing in self._instances(target)])

    def _in_reach(self, start: tuple[int, int], target: str) -> bool:
        """Whether the robot can get to within `REACH` of an instance."""
        positions = [self._items[thing].position for thing in self._instances(target)]
        return self._way_to(start, [self._cells_around((p[0], p[1]), REACH, None) for p in positions]) is not None

    def _way_to(self, start: tuple[int, int], cells: list[NDArray[np.int64]]) -> float | None:
        """Metres to the nearest of these cells (flat indices), None when none can be reached."""
        if not cells:
            return None
        raster = self._raster
        field = DistanceField(raster.robot_fits, RESOLUTION, raster.corner, raster.centre(*start))
        length = float(field.distances.ravel()[np.unique(np.concatenate(cells))].min(initial=math.inf))
        return length if math.isfinite(length) else None

    def _instances(self, target: str) -> list[int]:
        """Everything, furniture too, that counts as the target."""
        if target not in self._instances_of:
            self._instances_of[target] = [
                thing for label, things in self._things_of.items() if matches_target(label, target) for thing in things
            ]
        return self._instances_of[target]

    def _in_sight(self, start: tuple[int, int], target: str) -> bool:
        """Whether a full turn at the start, with the doors as they are, shows an instance."""
        wanted = np.zeros(len(self._items), dtype=bool)
        wanted[self._instances(target)] = True
        wanted &= self._lines.container < 0
        origin = (start[1] + 0.5, start[0] + 0.5)
        seen = self._lines.seen_from(origin, 0.0, sensing.FULL_TURN, self._raster.height, self._raster.owner, wanted)
        return len(seen) > 0

    def _poses(self, thing: int) -> NDArray[np.int64]:
        """Flat indices of the cells from which this object is recognised, or its closed container opened."""
        if thing not in self._poses_of:
            container = int(self._lines.container[thing])
            self._poses_of[thing] = self._poses_to_open(container) if container >= 0 else self._poses_to_see(thing)
        return self._poses_of[thing]

    def _poses_to_open(self, furniture: int) -> NDArray[np.int64]:
        piece = self._house.furniture[furniture]
        cells = self._cells_around(piece.position, REACH, (*piece.size, piece.yaw))
        # The arm reaches the nearest point of the piece with no wall in between.
        return self._with_clear_line(cells, self._nearest_points(cells, furniture), SOLID - 0.01, furniture)

    def _poses_to_see(self, thing: int) -> NDArray[np.int64]:
        found = []
        for at in np.flatnonzero(self._lines.thing == thing):
            point = self._lines.points[:, at]
            x, y = self._raster.corner[0] + point[0] * RESOLUTION, self._raster.corner[1] + point[1] * RESOLUTION
            cells = self._cells_around((float(x), float(y)), float(self._lines.reach[at]), None)
            targets = np.broadcast_to(point[:, None], (2, len(cells)))
            found.append(
                self._with_clear_line(cells, targets, float(self._lines.top[at]), int(self._lines.excused[at]))
            )
        return np.unique(np.concatenate(found))

    def _cells_around(
        self, centre: tuple[float, float], radius: float, footprint: tuple[float, float, float] | None
    ) -> NDArray[np.int64]:
        raster = self._raster
        cells = cells_within(raster.height.shape, RESOLUTION, raster.corner, *centre, radius, footprint)
        return np.asarray(cells[raster.robot_fits.ravel()[cells]], dtype=np.int64)

    def _with_clear_line(
        self, cells: NDArray[np.int64], targets: NDArray[np.float64], top: float, excused: int
    ) -> NDArray[np.int64]:
        """Those cells that see their target; the line is drawn from the target, seeing is mutual."""
        if not len(cells):
            return cells
        raster, width = self._raster, self._raster.height.shape[1]
        sources = np.stack([cells % width + 0.5, cells // width + 0.5])
        seen = sensing.lines_between(
            raster.open_height, raster.owner, sources, targets, np.array([top]), np.array([excused], dtype=np.int16)
        )
        return cells[seen]

    def _nearest_points(self, cells: NDArray[np.int64], furniture: int) -> NDArray[np.float64]:
        """(2, N) columns and rows: the point of a footprint that is nearest to each cell."""
        piece, raster, width = self._house.furniture[furniture], self._raster, self._raster.height.shape[1]
        x = raster.corner[0] + (cells % width + 0.5) * RESOLUTION - piece.position[0]
        y = raster.corner[1] + (cells // width + 0.5) * RESOLUTION - piece.position[1]
        c, s = math.cos(piece.yaw), math.sin(piece.yaw)
        u = np.clip(c * x + s * y, -piece.size[0] / 2, piece.size[0] / 2)
        v = np.clip(c * y - s * x, -piece.size[1] / 2, piece.size[1] / 2)
        px, py = piece.position[0] + c * u - s * v, piece.position[1] + s * u + c * v
        return np.stack([(px - raster.corner[0]) / RESOLUTION, (py - raster.corner[1]) / RESOLUTION])

    def _room_of(self, thing: int) -> int:
        """Index of the room that a thing is in, its own or that of its parent, else by its position; -1 outside."""
        item = self._items[thing]
        if isinstance(item, Furniture):
            return self._room_index[item.room]
        if item.parent:
            return self._room_index[self._house.furniture_by_id[item.parent].room]
        row, column = self._raster.cell(item.position[0], item.position[1])
        height, width = self._raster.room.shape
        return int(self._raster.room[row, column]) if 0 <= row < height and 0 <= column < width else NO_OWNER
