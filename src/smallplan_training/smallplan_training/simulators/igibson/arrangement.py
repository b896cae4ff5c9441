"""How a house's furniture stands and where its objects come to rest, as bodies in the house's frame.

Objects are put on or into what the house says they are on or in; a house without its objects has the same furniture,
so objects can be put into a scene that was made without them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from smallplan_planner.names import normalise
from smallplan_planner.scene_graph import Point
from smallplan_training.simulators.house.house import Furniture, House, HouseObject, point_in_polygon
from smallplan_training.simulators.igibson.bodies import Body, container, solid
from smallplan_training.simulators.igibson.clearance import Obstacles, best_opening
from smallplan_training.simulators.igibson.stowing import Placed, Wanted, stow

HANGING = 0.05
"""m: what has no parent and starts higher above the floor than this hangs there."""
ON_TOP = 0.1
"""m: furniture that rises this far above other furniture at its place stands on that."""
LEAST_EXTENT = 0.005
"""m: physics can't hold anything thinner."""


@dataclass(frozen=True)
class Standing:
    """A piece of furniture as a body."""

    body: Body
    centre: Point  # of its bounding box, house frame
    yaw: float


@dataclass(frozen=True)
class RestPlace:
    """Where an object comes to rest, as a box."""

    position: Point  # centre, house frame
    size: Point
    yaw: float
    fixed: bool  # it hangs there


def stand(house: House) -> dict[str, Standing]:
    """Furniture id -> how it stands, with doors and drawers that open where there is room."""
    bottoms = {piece.id: _stands_at(piece, house.furniture) for piece in house.furniture}
    obstacles = Obstacles(house, bottoms)
    return {piece.id: _standing(piece, bottoms[piece.id], obstacles) for piece in house.furniture}


def rest_places(house: House, standing: dict[str, Standing] | None = None) -> dict[str, RestPlace]:
    """Object id -> where it comes to rest. `standing`: that of this furniture, where it is at hand already."""
    standing = stand(house) if standing is None else standing
    children: dict[tuple[str, str], list[HouseObject]] = defaultdict(list)
    for thing in house.objects:
        children[thing.parent, thing.relation].append(thing)
    places = {thing.id: _loose(thing) for thing in children.pop(("", ""), [])}
    for (parent, relation), things in children.items():
        piece = standing[parent]
        spots = piece.body.inside if relation == "in" else (piece.body.top,)
        wanted = [Wanted(_into(thing.position, piece), _thick(thing.size)) for thing in things]
        places |= {thing.id: _out_of(placed, piece) for thing, placed in zip(things, stow(wanted, spots))}
    return places


def _standing(piece: Furniture, bottom: float, obstacles: Obstacles) -> Standing:
    size = (piece.size[0], piece.size[1], max(piece.height - bottom, LEAST_EXTENT))
    centre = (*piece.position, bottom + size[2] / 2)
    if not piece.openable:
        return Standing(solid(size), centre, piece.yaw)
    variants = container(size, normalise(piece.category))
    return Standing(best_opening(variants, centre, piece.yaw, obstacles, piece.id), centre, piece.yaw)


def _stands_at(piece: Furniture, furniture: Sequence[Furniture]) -> float:
    """The height that a piece stands at: on other furniture (a microwave on a counter), or on the floor."""
    below = [
        other.height
        for other in furniture
        if other is not piece
        and other.height + ON_TOP <= piece.height
        and math.dist(piece.position, other.position) <= sum(other.size)
        and point_in_polygon(*piece.position, other.corners)
    ]
    return max(below, default=0.0)


def _loose(thing: HouseObject) -> RestPlace:
    """What has no parent: it hangs where it is, or stands on the floor."""
    size = _thick(thing.size)
    hangs = thing.position[2] - size[2] / 2 > HANGING
    x, y, z = thing.position
    return RestPlace((x, y, z if hangs else size[2] / 2), size, 0.0, hangs)


def _into(point: Point, piece: Standing) -> Point:
    """A point of the house's frame in the frame of a piece."""
    c, s = math.cos(piece.yaw), math.sin(piece.yaw)
    dx, dy = point[0] - piece.centre[0], point[1] - piece.centre[1]
    return c * dx + s * dy, c * dy - s * dx, point[2] - piece.centre[2]


def _out_of(placed: Placed, piece: Standing) -> RestPlace:
    """A place in the frame of a piece in the house's frame."""
    c, s = math.cos(piece.yaw), math.sin(piece.yaw)
    u, v, w = placed.position
    position = (piece.centre[0] + c * u - s * v, piece.centre[1] + s * u + c * v, piece.centre[2] + w)
    return RestPlace(position, placed.size, piece.yaw + (math.pi / 2 if placed.turned else 0.0), False)


def _thick(size: Point) -> Point:
    w, d, h = (max(extent, LEAST_EXTENT) for extent in size)
    return w, d, h
