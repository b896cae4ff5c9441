"""Boxes as Wavefront OBJ: one `o` group for each box, because physics takes the convex hull of each group.

Text only, in metres, with outward normals; knows nothing of URDF or of what the boxes stand for.
"""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from smallplan_planner.scene_graph import Point

_CORNERS = tuple((x, y, z) for z in (-0.5, 0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)))
_SIDES = (
    ((0, 0, -1), (0, 3, 2, 1)),
    ((0, 0, 1), (4, 5, 6, 7)),
    ((0, -1, 0), (0, 1, 5, 4)),
    ((1, 0, 0), (1, 2, 6, 5)),
    ((0, 1, 0), (2, 3, 7, 6)),
    ((-1, 0, 0), (3, 0, 4, 7)),
)
"""Each side of a box: its normal, and its corners counter-clockwise as seen from outside."""


@dataclass(frozen=True)
class Block:
    """A box, turned by `yaw` about the vertical through its centre."""

    centre: Point
    size: Point
    yaw: float = 0.0


def block_between(low: Point, high: Point) -> Block:
    """The box with these two opposite corners."""
    centre = tuple((a + b) / 2 for a, b in zip(low, high))
    size = tuple(b - a for a, b in zip(low, high))
    return Block((centre[0], centre[1], centre[2]), (size[0], size[1], size[2]))


def obj_text(blocks: Sequence[Block], material: str = "") -> str:
    """The boxes as an OBJ file; with `material` they use it, out of the library `<material>.mtl`."""
    lines = [f"mtllib {material}.mtl"] if material else []
    for index, block in enumerate(blocks):
        c, s = math.cos(block.yaw), math.sin(block.yaw)
        lines.append(f"o block_{index}")
        for corner in _CORNERS:
            u, v, w = (offset * extent for offset, extent in zip(corner, block.size))
            x, y, z = block.centre[0] + c * u - s * v, block.centre[1] + s * u + c * v, block.centre[2] + w
            lines.append(f"v {decimal(x)} {decimal(y)} {decimal(z)}")
        for (nx, ny, nz), _ in _SIDES:
            lines.append(f"vn {decimal(c * nx - s * ny)} {decimal(s * nx + c * ny)} {decimal(nz)}")
        if material:
            lines.append(f"usemtl {material}")
        for side, (_, corners) in enumerate(_SIDES):
            a, b, e, f = (f"{index * 8 + corner + 1}//{index * 6 + side + 1}" for corner in corners)
            lines += [f"f {a} {b} {e}", f"f {a} {e} {f}"]
    return "\n".join(lines) + "\n"


_BUILDING = {"walls": (0.82, 0.8, 0.75), "floors": (0.6, 0.47, 0.33), "door": (0.5, 0.33, 0.2)}


def mtl_text(material: str, kind: str) -> str:
    """A material library with one plain colour, the same for the same kind of thing."""
    red, green, blue = colour_of(kind)
    return f"newmtl {material}\nKd {decimal(red)} {decimal(green)} {decimal(blue)}\nKa 0.2 0.2 0.2\nKs 0 0 0\n"


def colour_of(kind: str) -> tuple[float, float, float]:
    """Red, green and blue (0..1) of a kind of thing: muted, apart from those of most other kinds."""
    if kind in _BUILDING:
        return _BUILDING[kind]
    seed = zlib.crc32(kind.encode())
    return colorsys.hsv_to_rgb((seed % 360) / 360, 0.25 + (seed >> 9) % 40 / 100, 0.55 + (seed >> 17) % 40 / 100)


def decimal(value: float) -> str:
    """A length with a tenth of a millimetre; no negative zero, so that the same house gives the same bytes."""
    text = f"{value:.4f}"
    return "0.0000" if text == "-0.0000" else text
