"""The mapper: one occupancy grid and everything detected so far in, one `SceneGraph` out.

`SceneGraphBuilder` keeps what makes a graph stable from one update to the next: ids in the order of first
sight, the segmentation into rooms, the frontiers, and the room that each object was first put in. Ids are
given by distance and position alone, so neither they nor their order reveal anything about what perception
calls things or has not found yet. The same builder serves the simulator and the robot.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import networkx as nx
import numpy as np

from smallplan_planner.mapping.detections import Detection, DoorDetection
from smallplan_planner.mapping.frontiers import FrontierCluster, FrontierTracker
from smallplan_planner.mapping.occupancy import UNKNOWN, BoolArray, CellArray, DistanceField, OccupancyGrid, PathSearch
from smallplan_planner.mapping.placement import ObjectPlacer, Placement
from smallplan_planner.mapping.rooms import Opening, RoomSegmenter, Segmentation
from smallplan_planner.mapping.voronoi import voronoi_graph
from smallplan_planner.scene_graph import (
    UNKNOWN_DISTANCE,
    Door,
    Frontier,
    OpenState,
    Pose,
    Room,
    SceneGraph,
    SceneObject,
)

log = logging.getLogger(__name__)

_Item = TypeVar("_Item", Detection, DoorDetection)

DOOR_APPROACH = 0.8  # m in front of a door from which it can be opened


class SceneGraphBuilder:
    """Builds the scene graph of a growing map. Feed it every observation of one episode, in order."""

    def __init__(self, robot_radius: float = 0.25, frame_id: str = "map") -> None:
        if not (math.isfinite(robot_radius) and robot_radius >= 0):
            raise ValueError(f"robot_radius must be >= 0 m, got {robot_radius}")
        self.robot_radius = robot_radius
        self.frame_id = frame_id
        self.key_of: dict[str, str] = {}
        """Graph id -> detection key, of objects and doors."""
        self.id_of: dict[str, str] = {}
        """Detection key -> graph id, of objects and doors."""
        self._object_ids: dict[str, str] = {}
        """Detection key -> graph id, of objects alone, in the order of their numbers."""
        self._counts = {"object": 0, "door": 0}
        self._segmenter = RoomSegmenter()
        self._frontiers = FrontierTracker()
        self._placer = ObjectPlacer()
        self._search = PathSearch()
        self._approach: dict[str, tuple[int, int] | None] = {}
        self._usable_items: dict[str, Detection | DoorDetection] = {}
        self._warned: set[str] = set()
        self._field: DistanceField | None = None
        self._mask: BoolArray | None = None  # (H, W) what the field leads over
        self._grid: OccupancyGrid | None = None
        self._rooms: Segmentation | None = None
        self._voronoi: nx.Graph | None = None

    def update(
        self,
        grid: OccupancyGrid,
        detections: Sequence[Detection],  # everything discovered so far, in its latest state
        doors: Sequence[DoorDetection],  # everything discovered so far, in its latest state
        robot: Pose,
        stamp: float,  # s, time of the observation
        scanned: bool = True,  # whether the robot has looked all around from this pose
    ) -> SceneGraph:
        """The scene graph of everything discovered so far; it passes `SceneGraph.validate`.

        Detections with numbers that are not finite, or absurd, are left out, with a warning. Raises ValueError when the
        robot is outside of the grid.
        """
        if not all(math.isfinite(value) for value in (robot.x, robot.y, robot.yaw, robot.z)):
            raise ValueError(f"the robot's pose is {robot}; finite numbers are expected")
        robot_xy = (robot.x, robot.y)
        detections = self._usable(detections)
        doors = self._usable(doors)
        # In an order that depends on where things are alone, so that the input's order and keys don't matter.
        doors = sorted(doors, key=lambda d: _door_order(d, robot_xy))

        field = self._distances(grid, robot_xy)
        rooms = self._segmenter.update(grid, doors, robot_xy, field)
        self._field, self._grid, self._rooms, self._voronoi = field, grid, rooms, None
        self._approach = {}

        detections = self._by_id(detections, robot_xy)
        placements = self._placer.update(grid, rooms, field, detections)
        frontiers = self._frontiers.update(grid, rooms, field, self._placer.covered, robot_xy if scanned else None)
        graph = SceneGraph(
            stamp=stamp,
            frame_id=self.frame_id,
            robot_pose=robot,
            robot_room=_room_id(rooms.robot_room),
            rooms=self._room_nodes(),
            objects=self._objects(detections, placements),
            doors=self._doors(rooms.openings),
            frontiers=tuple(self._frontier(frontier) for frontier in frontiers),
        )
        return graph

    @property
    def field(self) -> DistanceField:
        """Path distances from the robot, over what was traversable at the last update."""
        if self._field is None:
            raise RuntimeError("no map yet: call update() first")
        return self._field

    @property
    def segmentation(self) -> Segmentation:
        """The rooms on the grid of the last update."""
        if self._rooms is None:
            raise RuntimeError("no map yet: call update() first")
        return self._rooms

    @property
    def grid(self) -> OccupancyGrid:
        """The grid of the last update."""
        if self._grid is None:
            raise RuntimeError("no map yet: call update() first")
        return self._grid

    @property
    def voronoi(self) -> nx.Graph:
        """The navigation Voronoi graph of the last update, see `voronoi.voronoi_graph`; computed when asked for."""
        if self._voronoi is None:
            self._voronoi = voronoi_graph(np.isfinite(self.field.distances), self.grid, self.segmentation)
        return self._voronoi

    def room_of(self, x: float, y: float) -> str:
        """The id of the room that a point of the known map lies in, '' when it is unknown or outside."""
        row, col = self.grid.to_cell(x, y)
        if not self.grid.contains(row, col) or self.grid.data[row, col] == UNKNOWN:
            return ""
        return _room_id(self.segmentation.room_at(row, col))

    def approach(self, target_id: str) -> tuple[int, int] | None:
        """The cell to go to for an object, a door or a frontier of the last graph; None when it can't be reached.

        It is the one that the element's `distance` is measured to. Raises KeyError for an id that the last
        graph does not have.
        """
        return self._approach[target_id]

    def _distances(self, grid: OccupancyGrid, robot_xy: tuple[float, float]) -> DistanceField:
        """Path distances from the robot; those of the last update while it stays and can go where it could."""
        mask = grid.traversable(self.robot_radius)
        kept, old = self._field, self._mask
        stayed = kept is not None and kept.start == grid.to_cell(*robot_xy) and grid.has_cells_of(self.grid)
        if kept is not None and old is not None and stayed and np.array_equal(mask, old):
            return kept
        self._mask = mask
        return DistanceField(mask, grid.resolution, grid.origin, robot_xy, self._search)

    def _usable(self, items: Iterable[_Item]) -> list[_Item]:
        """The items whose numbers make sense, one per key (the last)."""
        kept = {}
        for item in items:
            if self._usable_items.get(item.key) is item:
                kept[item.key] = item
            elif item.is_usable():
                kept[item.key] = self._usable_items[item.key] = item
            elif item.key not in self._warned:
                self._warned.add(item.key)
                log.warning("left out of the map, because its numbers are not finite or far outside: %r", item)
        return list(kept.values())

    def _by_id(self, detections: Sequence[Detection], robot_xy: tuple[float, float]) -> list[Detection]:
        """The objects (one per key) in the order of their numbers; those that are new get theirs, the nearest first."""
        by_key = {detection.key: detection for detection in detections}
        new = [detection for key, detection in by_key.items() if key not in self._object_ids]
        for detection in sorted(new, key=lambda d: _object_order(d, robot_xy)):
            self._object_ids[detection.key] = self._id("object", detection.key)
        return [by_key[key] for key in self._object_ids if key in by_key]

    def _id(self, kind: str, key: str) -> str:
        """The id of a detection, given at first sight. Keys of objects and doors share one name space."""
        if key not in self.id_of:
            self._counts[kind] += 1
            self.id_of[key] = f"{kind}_{self._counts[kind]}"
            self.key_of[self.id_of[key]] = key
        return self.id_of[key]

    def _room_nodes(self) -> tuple[Room, ...]:
        rooms, grid = self.segmentation, self.grid
        found = []
        for number, cells in rooms.cells().items():
            rows, cols = np.divmod(cells, grid.shape[1])
            off_centre = (rows - rows.sum() / rows.size) ** 2 + (cols - cols.sum() / cols.size) ** 2
            middle = int(off_centre.argmin())
            center = (*grid.to_world(int(rows[middle]), int(cols[middle])), 0.0)
            distance = 0.0 if number == rooms.robot_room else float(self.field.distances.ravel().take(cells).min())
            found.append(Room(_room_id(number), "", center, distance if math.isfinite(distance) else UNKNOWN_DISTANCE))
        return tuple(found)

    def _objects(self, detections: Sequence[Detection], placements: Sequence[Placement]) -> tuple[SceneObject, ...]:
        found = []
        for detection, placed in zip(detections, placements):
            object_id = self._object_ids[detection.key]
            self._approach[object_id] = placed.approach
            found.append(
                SceneObject(  # its fields by position: naming them takes as long as all else here
                    object_id,
                    detection.label,
                    _room_id(placed.room),
                    detection.position,
                    self._distance_to(placed.approach),
                    detection.state,
                    detection.openable,
                    self._object_ids[placed.parent] if placed.parent else "",
                    detection.relation if placed.parent and detection.relation in ("on", "in") else "",
                )
            )
        return tuple(found)

    def _doors(self, openings: Sequence[Opening]) -> tuple[Door, ...]:
        found = []
        for opening in openings:
            door = opening.door
            if door.is_passage or not opening.rooms:
                continue
            door_id = self._id("door", door.key)
            cell = self.field.nearest_of(self._front_cells(opening))
            self._approach[door_id] = cell
            found.append(
                Door(
                    id=door_id,
                    rooms=tuple(_room_id(number) for number in opening.rooms),
                    position=(*door.center, 0.0),
                    state=door.state if door.state is not OpenState.NONE else OpenState.OPEN,
                    openable=door.openable,
                    distance=self._distance_to(cell),
                )
            )
        return tuple(sorted(found, key=lambda door: _number(door.id)))

    def _front_cells(self, opening: Opening) -> CellArray:
        """Flat indices of the cells right before and behind a door, in the rooms that it joins."""
        door, grid = opening.door, self.grid
        yaw = math.atan2(door.b[1] - door.a[1], door.b[0] - door.a[0])
        front = (door.length, 2 * DOOR_APPROACH, yaw)
        cells = grid.cells_within(*door.center, 0.0, front)
        numbers, rooms = self.segmentation.labels.ravel().take(cells), opening.rooms
        return cells[(numbers == rooms[0]) | (numbers == rooms[-1])]

    def _frontier(self, frontier: FrontierCluster) -> Frontier:
        frontier_id = f"frontier_{frontier.number}"
        self._approach[frontier_id] = frontier.cell
        return Frontier(
            frontier_id, _room_id(frontier.room), (*frontier.position, 0.0), frontier.leads_out, frontier.distance
        )

    def _distance_to(self, cell: tuple[int, int] | None) -> float:
        return UNKNOWN_DISTANCE if cell is None else self.field.distances.item(cell)


def _object_order(detection: Detection, robot_xy: tuple[float, float]) -> tuple[object, ...]:
    """Nearest first, then by position; what stands at the very same place is told apart by how it looks."""
    x, y, z = detection.position
    away = math.hypot(x - robot_xy[0], y - robot_xy[1])
    looks = (detection.size, detection.yaw, int(detection.state), detection.openable)
    return (away, x, y, z, *looks, detection.relation, detection.label)


def _door_order(door: DoorDetection, robot_xy: tuple[float, float]) -> tuple[object, ...]:
    x, y = door.center
    away = math.hypot(x - robot_xy[0], y - robot_xy[1])
    return (away, x, y, door.a, door.b, int(door.state), door.openable, door.is_passage)


def _room_id(number: int) -> str:
    return f"room_{number}"


def _number(graph_id: str) -> int:
    return int(graph_id.rsplit("_", 1)[1])
