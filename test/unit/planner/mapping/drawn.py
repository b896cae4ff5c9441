"""Maps drawn in ASCII, for tests: '#' occupied, '.' free, ' ' unknown, '@' the robot on a free cell.

The first line is the top of the map (largest y). Letters mark openings: the cells of one letter are free
(lower case) or occupied (upper case, a closed door) and lie on one straight line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smallplan_planner.mapping import FREE, OCCUPIED, UNKNOWN, DistanceField, DoorDetection, OccupancyGrid
from smallplan_planner.scene_graph import OpenState, Pose


@dataclass
class Drawn:
    grid: OccupancyGrid
    robot: Pose
    doors: list[DoorDetection]

    def field(self, robot_radius: float = 0.0) -> DistanceField:
        return DistanceField(
            self.grid.traversable(robot_radius), self.grid.resolution, self.grid.origin, (self.robot.x, self.robot.y)
        )


def draw(text: str, resolution: float = 0.25, origin: tuple[float, float] = (0.0, 0.0), passages: str = "") -> Drawn:
    lines = text.strip("\n").splitlines()
    width = max(len(line) for line in lines)
    rows = [line.ljust(width) for line in reversed(lines)]
    data = np.full((len(rows), width), UNKNOWN, np.int8)
    cells: dict[str, list[tuple[int, int]]] = {}
    for row, line in enumerate(rows):
        for col, mark in enumerate(line):
            if mark == "#" or mark.isupper():
                data[row, col] = OCCUPIED
            elif mark != " ":
                data[row, col] = FREE
            cells.setdefault(mark, []).append((row, col))
    grid = OccupancyGrid(data, resolution, origin)
    x, y = grid.to_world(*cells["@"][0])
    doors = []
    for mark, where in cells.items():
        if mark.isalpha():
            first, last = grid.to_world(*where[0]), grid.to_world(*where[-1])
            half = resolution / 2
            along_x = where[0][0] == where[-1][0] and (len(where) > 1 or not _beside_free(data, *where[0]))
            a = (first[0] - half, first[1]) if along_x else (first[0], first[1] - half)
            b = (last[0] + half, last[1]) if along_x else (last[0], last[1] + half)
            state = OpenState.CLOSED if mark.isupper() else OpenState.OPEN
            doors.append(DoorDetection(f"door {mark.lower()}", a, b, state, is_passage=mark in passages))
    return Drawn(grid, Pose(x, y), doors)


def _beside_free(data: np.ndarray, row: int, col: int) -> bool:
    """Whether the cells to the left and right are free: a door of one cell in a wall that runs along y."""
    return bool(data[row, col - 1] == FREE or data[row, col + 1] == FREE)
