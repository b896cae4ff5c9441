"""A house as the maps of an iGibson scene: where one can walk, and which room is where.

Square 8-bit images with 0.01 m a pixel, their centre is the origin, columns run along +x and rows along +y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import House, Point2
from smallplan_training.simulators.igibson.walls import wall_thickness

PIXEL = 0.01
"""m, fixed by iGibson."""
FREE = 255
MARGIN = 1.0
"""m of nothing around the house."""
MOST_ROOMS = 255


@dataclass(frozen=True)
class SceneMaps:
    free: Image.Image  # FREE where nothing stands, doors open
    free_of_furniture: Image.Image  # FREE where there are neither walls nor locked doors
    room_instances: Image.Image  # 1 + index of the room, 0 = no room
    room_types: Image.Image  # 1 + index of the type, 0 = no room


def draw_maps(house: House, type_ids: Sequence[int]) -> SceneMaps:
    """The maps of a house; `type_ids` has the value of each room's type.

    Raises: UserError: the house has more rooms than the format can tell apart.
    """
    if len(house.rooms) > MOST_ROOMS:
        raise UserError(f"{house.name} has {len(house.rooms)} rooms; a scene has at most {MOST_ROOMS}")
    size = map_size(house)
    plan, instances, types = (_Drawing(size) for _ in range(3))
    for index, (room, type_id) in enumerate(zip(house.rooms, type_ids), start=1):
        plan.polygon(room.polygon, FREE)
        instances.polygon(room.polygon, index)
        types.polygon(room.polygon, type_id)
    furnished = _Drawing(size)
    furnished.image.paste(plan.image)
    for piece in house.furniture:
        furnished.polygon(piece.corners, 0)
    thickness = wall_thickness(house)
    for wall in house.walls:
        for drawing in (plan, furnished, instances, types):
            drawing.polygon(_band(wall.a, wall.b, thickness, thickness / 2), 0)
    for door, (a, b) in zip(house.doors, house.door_segments):
        if len(door.rooms) == 2 and (door.open or door.openable):
            for drawing in (plan, furnished):
                drawing.polygon(_band(a, b, thickness + 4 * PIXEL, 0.0), FREE)
    return SceneMaps(furnished.image, plan.image, instances.image, types.image)


def map_size(house: House) -> int:
    """Pixels along each side: whole metres on either side of the origin."""
    reach = max(abs(value) for room in house.rooms for point in room.polygon for value in point)
    return 2 * round(math.ceil(reach + MARGIN) / PIXEL)


class _Drawing:
    """One map under way, drawn in metres."""

    def __init__(self, size: int) -> None:
        self.image = Image.new("L", (size, size), 0)
        self._draw = ImageDraw.Draw(self.image)
        self._origin = size / 2 - 0.5

    def polygon(self, points: Sequence[Point2], value: int) -> None:
        self._draw.polygon([(x / PIXEL + self._origin, y / PIXEL + self._origin) for x, y in points], fill=value)


def _band(a: Point2, b: Point2, width: float, overhang: float) -> tuple[Point2, ...]:
    """The rectangle around the line from a to b."""
    length = max(math.hypot(b[0] - a[0], b[1] - a[1]), 1e-9)
    ux, uy = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    ends = ((a[0] - overhang * ux, a[1] - overhang * uy), (b[0] + overhang * ux, b[1] + overhang * uy))
    px, py = -uy * width / 2, ux * width / 2
    (ax, ay), (bx, by) = ends
    return ((ax - px, ay - py), (bx - px, by - py), (bx + px, by + py), (ax + px, ay + py))
