"""Meshes, bodies, and which way doors and drawers open."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from smallplan_training.simulators.house.house import Furniture, House, HouseDoor, HouseRoom, Wall
from smallplan_training.simulators.igibson.arrangement import stand
from smallplan_training.simulators.igibson.bodies import (
    OPEN_ANGLE,
    Body,
    Part,
    container,
    hinged_door,
    locked_door,
    solid,
)
from smallplan_training.simulators.igibson.building import door_body, wall_blocks
from smallplan_training.simulators.igibson.meshes import Block, block_between, decimal, mtl_text, obj_text
from smallplan_training.simulators.igibson.walls import wall_thickness


def parsed(text: str) -> tuple[np.ndarray, np.ndarray, list[list[tuple[int, int]]]]:
    """Vertices, normals and faces (indices of both) of an OBJ file."""
    rows = [line.split() for line in text.splitlines()]
    vertices = np.array([[float(v) for v in row[1:]] for row in rows if row[0] == "v"])
    normals = np.array([[float(v) for v in row[1:]] for row in rows if row[0] == "vn"])
    faces = [
        [tuple(int(number) - 1 for number in corner.split("//")) for corner in row[1:]] for row in rows if row[0] == "f"
    ]
    return vertices, normals, faces  # type: ignore[return-value]


def rectangle(part: Part, position: float) -> np.ndarray:
    """(N, 2): places all over a part, seen from above, in its body's frame, at this position of its joint."""
    found = []
    for block in part.blocks:
        for u in np.linspace(-0.5, 0.5, 9):
            for v in np.linspace(-0.5, 0.5, 5):
                x, y = block.centre[0] + u * block.size[0], block.centre[1] + v * block.size[1]
                if part.sliding:
                    x, y = x + part.axis[0] * position, y + part.axis[1] * position
                else:
                    c, s = math.cos(part.axis[2] * position), math.sin(part.axis[2] * position)
                    x, y = c * x - s * y, s * x + c * y
                found.append((x + part.origin[0], y + part.origin[1]))
    return np.array(found)


def inside(block: Block, x: float, y: float, z: float) -> bool:
    return all(abs(value - middle) < extent / 2 for value, middle, extent in zip((x, y, z), block.centre, block.size))


def room_with(*furniture: Furniture) -> House:
    corners = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0))
    walls = tuple(Wall(a, b) for a, b in zip(corners, corners[1:] + corners[:1]))
    return House("room", (HouseRoom("room-1", "kitchen", corners),), walls, (), furniture, ())


def piece(id_: str, x: float, y: float, width: float = 0.5, yaw: float = 0.0, category: str = "cabinet") -> Furniture:
    return Furniture(id_, category, (x, y), (width, 0.4), yaw, 0.8, True, "room-1")


class TestMeshes:
    @pytest.mark.parametrize("yaw", [0.0, 0.7])
    def test_boxes_are_closed_and_face_outwards(self, yaw: float) -> None:
        vertices, normals, faces = parsed(obj_text([Block((1.0, 2.0, 3.0), (0.5, 0.4, 2.0), yaw)]))
        volume = 0.0
        for face in faces:
            a, b, c = (vertices[corner] for corner, _ in face)
            volume += float(np.dot(a, np.cross(b, c))) / 6
            assert np.dot(np.cross(b - a, c - a), normals[face[0][1]]) > 0
        assert volume == pytest.approx(0.4, abs=1e-3)
        edges = [(f[i][0], f[(i + 1) % 3][0]) for f in faces for i in range(3)]
        assert sorted(edges) == sorted((b, a) for a, b in edges)

    def test_each_box_is_a_group_of_its_own(self) -> None:
        text = obj_text([Block((0, 0, 0), (1, 1, 1)), Block((3, 0, 0), (1, 1, 1))], material="wood")
        assert text.count("\no ") == 2
        assert text.splitlines()[0] == "mtllib wood.mtl"
        vertices, _, faces = parsed(text)
        assert {corner for face in faces[12:] for corner, _ in face} == set(range(8, 16))
        assert vertices[8:, 0].min() == pytest.approx(2.5)

    def test_kinds_have_colours_of_their_own(self) -> None:
        assert mtl_text("m", "mug") == mtl_text("m", "mug") != mtl_text("m", "plate")

    def test_no_negative_zero(self) -> None:
        assert decimal(-0.00001) == decimal(0.0) == "0.0000"


class TestContainers:
    @pytest.mark.parametrize(
        ("size", "kind"),
        [
            ((0.5, 0.4, 0.8), "cabinet"),
            ((1.2, 0.6, 2.0), "wardrobe"),
            ((0.45, 0.45, 0.4), "drawer"),
            ((0.1, 0.1, 0.1), "box"),
        ],
    )
    def test_is_hollow_and_closed_until_it_opens(self, size: tuple[float, float, float], kind: str) -> None:
        for body in container(size, kind):
            blocks = [*body.base, *(_moved(block, part) for part in body.parts for block in part.blocks)]
            low = [min(b.centre[axis] - b.size[axis] / 2 for b in blocks) for axis in range(3)]
            high = [max(b.centre[axis] + b.size[axis] / 2 for b in blocks) for axis in range(3)]
            assert np.subtract(high, low) == pytest.approx(size, abs=0.02 * max(size))
            assert body.inside
            for spot in body.inside:
                for z in (spot.z + 0.02 * size[2], spot.z + 0.9 * spot.headroom):
                    for x, y in (spot.low, spot.high, (0.0, 0.0)):
                        assert not any(inside(block, x * 0.95, y * 0.95, z) for block in blocks), (spot, x, y, z)
                middle = spot.z + spot.headroom / 2
                assert any(inside(block, 0.01, size[1] / 2 - 0.001, middle) for block in blocks)

    @pytest.mark.parametrize("width", [0.5, 1.2])
    def test_doors_turn_out_of_the_way_of_what_is_inside(self, width: float) -> None:
        for body in container((width, 0.4, 0.8), "cabinet"):
            for part in body.parts:
                assert not part.sliding
                closed, opened = rectangle(part, 0.0), rectangle(part, part.upper)
                assert closed[:, 1].max() <= 0.2 + 1e-6
                assert opened[:, 1].max() > 0.4
                assert np.abs(opened[:, 0]).min() > width / 2 - 0.03
                assert np.abs(opened[:, 0]).max() <= width / 2  # and out of the way of its neighbours

    def test_wide_ones_have_two_doors(self) -> None:
        assert [part.joint for part in container((1.2, 0.4, 0.8), "cabinet")[0].parts] == ["left", "right"]
        assert {body.parts[0].joint for body in container((0.5, 0.4, 0.8), "cabinet")} == {"left", "right"}

    def test_a_drawer_slides_to_the_front_with_its_tray(self) -> None:
        (body,) = container((0.45, 0.45, 0.4), "desk drawer")
        (part,) = body.parts
        assert part.sliding
        assert rectangle(part, part.upper)[:, 1].max() == pytest.approx(0.225 + 0.85 * 0.45)
        spot = body.inside[0]
        assert any(inside(block, 0.0, 0.0, spot.z - 0.002) for block in part.blocks)

    def test_high_ones_have_doors_since_nobody_sees_into_their_drawers(self) -> None:
        assert not any(part.sliding for body in container((0.5, 0.5, 1.2), "drawer") for part in body.parts)


def _moved(block: Block, part: Part) -> Block:
    x, y, z = (a + b for a, b in zip(block.centre, part.origin))
    return Block((x, y, z), block.size)


class TestClearance:
    def test_the_hinge_is_on_the_side_that_is_free(self) -> None:
        blocker = Furniture("blocker", "box", (1.8, 0.9), (0.1, 0.1), 0.0, 0.8, False, "room-1")
        opened = {}
        for shift in (0.0, 0.4):
            moved = replace(blocker, position=(1.8 + shift, 0.9))
            body = stand(room_with(piece("cabinet", 2.0, 0.3), moved))["cabinet"].body
            opened[shift] = body.parts[0].joint
            assert body.parts[0].upper == pytest.approx(OPEN_ANGLE)
        assert opened == {0.0: "right", 0.4: "left"}

    def test_a_door_stops_at_the_wall(self) -> None:
        body = stand(room_with(piece("cabinet", 2.0, 3.0, width=1.9, yaw=0.0)))["cabinet"].body
        assert all(0.5 * OPEN_ANGLE <= part.upper < OPEN_ANGLE for part in body.parts)
        for part in body.parts:
            assert rectangle(part, part.upper)[:, 1].max() + 3.0 <= 4.0 - 0.075 + 0.02

    def test_what_is_under_or_over_a_door_does_not_stop_it(self) -> None:
        rug = Furniture("rug", "carpet", (2.0, 0.8), (1.0, 0.5), 0.0, 0.005, False, "room-1")
        body = stand(room_with(piece("cabinet", 2.0, 0.3), rug))["cabinet"].body
        assert body.parts[0].upper == pytest.approx(OPEN_ANGLE)

    def test_what_has_no_room_at_all_keeps_its_travel(self) -> None:
        blocker = Furniture("blocker", "box", (2.0, 0.7), (1.0, 0.35), 0.0, 0.8, False, "room-1")
        body = stand(room_with(piece("cabinet", 2.0, 0.3), blocker))["cabinet"].body
        assert body.parts[0].upper == pytest.approx(OPEN_ANGLE)


class TestDoors:
    @pytest.mark.parametrize("hinge", [-1, 1])
    @pytest.mark.parametrize("side", [-1, 1])
    def test_turns_in_its_frame_to_its_side(self, hinge: int, side: int) -> None:
        body = hinged_door(0.9, 0.15, hinge, side)
        (part,) = body.parts
        closed, opened = rectangle(part, 0.0), rectangle(part, part.upper)
        assert np.abs(closed[:, 1]).max() <= 0.075 + 1e-6
        assert closed[:, 0].max() - closed[:, 0].min() == pytest.approx(0.83, abs=0.02)
        assert (side * opened[:, 1]).max() > 0.8
        assert (hinge * opened[:, 0]).min() > 0.35
        assert body.size[0] == 0.9

    def test_opens_to_the_side_without_furniture(self) -> None:
        for y, side in ((2.5, -1), (1.5, 1)):
            rooms = (
                HouseRoom("a", "kitchen", ((0, 0), (4, 0), (4, 2), (0, 2))),
                HouseRoom("b", "bedroom", ((0, 2), (4, 2), (4, 4), (0, 4))),
            )
            door = HouseDoor("door", (2.0, 2.0), 0.9, ("a", "b"))
            box = Furniture("box", "table", (2.0, y), (2.0, 0.5), 0.0, 0.7, False, "a")
            house = House("two", rooms, (Wall((0.0, 2.0), (4.0, 2.0)),), (door,), (box,), ())
            part = door_body(house, 0).parts[0]
            assert side * rectangle(part, part.upper)[:, 1].mean() > 0.3

    def test_locked_doors_do_not_move_and_passages_have_none(self) -> None:
        assert locked_door(0.9, 0.15).parts == () == solid((1, 1, 1)).parts
        room = (HouseRoom("a", "kitchen", ((0, 0), (4, 0), (4, 2), (0, 2))),)
        outside = HouseDoor("out", (1.0, 0.0), 0.9, ("a",), openable=False)
        passage = HouseDoor("way", (3.0, 0.0), 1.0, ("a",), openable=False, open=True)
        house = House("one", room, (Wall((0.0, 0.0), (4.0, 0.0)),), (outside, passage), (), ())
        assert isinstance(door_body(house, 0), Body)
        assert door_body(house, 0).parts == ()
        with pytest.raises(ValueError, match="passage"):
            door_body(house, 1)
        blocks = wall_blocks(house)

        def solid_at(x: float, z: float) -> bool:
            return any(inside(block, x, 0.0, z) for block in blocks)

        assert [solid_at(x, 1.0) for x in (0.2, 1.0, 2.0, 3.0, 3.8)] == [True, False, True, False, True]
        assert [solid_at(x, 2.4) for x in (1.0, 3.0)] == [True, False]


class TestWalls:
    def test_are_thinner_where_furniture_stands_at_their_lines(self) -> None:
        row = [piece(f"p{number}", 0.6 * number, 0.3) for number in range(1, 6)]
        assert wall_thickness(room_with(*row)) == pytest.approx(0.15)
        assert wall_thickness(room_with(*(replace(item, position=(item.position[0], 0.225)) for item in row))) == 0.05
        across = replace(row[0], position=(2.0, 0.0))
        assert wall_thickness(room_with(*row, *(replace(row[1], id=f"q{n}") for n in range(9)), across)) == 0.15
        assert wall_thickness(room_with(across)) == 0.02


def test_boxes_between_corners() -> None:
    assert block_between((0, 0, 0), (1, 2, 4)) == Block((0.5, 1.0, 2.0), (1, 2, 4))
