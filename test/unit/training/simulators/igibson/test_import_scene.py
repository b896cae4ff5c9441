"""Scenes of iGibson as houses: round trips of our own packs, a scene as the data set has it, and bad input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallplan_planner.resources import resource
from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House, HouseObject
from smallplan_training.simulators.house.raster import rasterise
from smallplan_training.simulators.igibson.import_scene import import_scene
from smallplan_training.simulators.igibson.outlines import outlines, room_cells, walls_around
from smallplan_training.simulators.igibson.pack import make_pack


def houses() -> list[House]:
    return [generate_house(11, n_rooms=4, name="made"), House.load(resource("config", "houses/val/val-1.json"))]


def shared_cells(a: House, b: House) -> float:
    """The share of a's cells that are in the room of the same id in b."""
    first, second = rasterise(a), rasterise(b)
    rows, columns = np.nonzero(first.room >= 0)
    same = 0
    for row, column in zip(rows[::5], columns[::5]):
        r, c = second.cell(*first.centre(row, column))
        found = second.room[r, c]
        same += found >= 0 and b.rooms[found].id == a.rooms[first.room[row, column]].id
    return same / len(rows[::5])


@pytest.fixture(scope="module", params=[0, 1], ids=["generated", "val"])
def round_trip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[House, House]:
    house = houses()[request.param]
    pack = make_pack(house, tmp_path_factory.mktemp("trip") / "pack")
    return house, import_scene(pack.folder / "scenes" / pack.scene)


class TestRoundTrip:
    def test_rooms(self, round_trip: tuple[House, House]) -> None:
        house, back = round_trip
        assert [(room.id, room.type) for room in back.rooms] == [(room.id, room.type) for room in house.rooms]
        assert shared_cells(house, back) >= 0.95
        assert [len(room.polygon) for room in back.rooms] == [len(room.polygon) for room in house.rooms]
        assert (back.name, back.generated, back.labels) == (house.name, house.generated, house.labels)

    def test_doors(self, round_trip: tuple[House, House]) -> None:
        house, back = round_trip
        for door in house.doors:
            found = [other for other in back.doors if math.dist(other.position, door.position) < 0.05]
            assert len(found) == 1, door
            assert found[0].width == pytest.approx(door.width, abs=0.06)
            assert set(found[0].rooms) == set(door.rooms)
            assert (found[0].openable, found[0].open) == (door.openable, door.open)
            assert door.is_passage or found[0].id == door.id
        assert len(back.doors) == len(house.doors)

    def test_furniture(self, round_trip: tuple[House, House]) -> None:
        house, back = round_trip
        assert back.furniture_by_id.keys() == house.furniture_by_id.keys()
        for piece in house.furniture:
            other = back.furniture_by_id[piece.id]
            assert (other.category, other.openable, other.room) == (piece.category, piece.openable, piece.room)
            have = (*other.position, *other.size, other.height)
            assert have == pytest.approx((*piece.position, *piece.size, piece.height), abs=2e-3)
            assert math.cos(other.yaw - piece.yaw) == pytest.approx(1.0, abs=1e-4)

    def test_objects(self, round_trip: tuple[House, House]) -> None:
        house, back = round_trip
        kept = {thing.id: (thing.category, thing.parent, thing.relation) for thing in back.objects}
        assert kept == {thing.id: (thing.category, thing.parent, thing.relation) for thing in house.objects}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A scene as the data set has it: two rooms and a wall, with a door, a passage, an entrance and some things."""
    folder = tmp_path / "ig_dataset" / "scenes" / "Home_int"
    layout = folder / "layout"
    layout.mkdir(parents=True)
    (folder / "urdf").mkdir()
    metadata = tmp_path / "ig_dataset" / "metadata"
    metadata.mkdir()
    (tmp_path / "ig_dataset" / "VERSION").write_text("2.0.6\n")
    (metadata / "room_categories.txt").write_text("bathroom\nkitchen\nhome_office\n")

    def box(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, value: int) -> None:
        c0, r0, c1, r1 = (round(v * 100) + 500 for v in (x0, y0, x1, y1))
        image[r0:r1, c0:c1] = value

    rooms, types, bare = (np.zeros((1000, 1000), dtype=np.uint8) for _ in range(3))
    for image, left, right in ((rooms, 4, 7), (types, 2, 3), (bare, 255, 255)):
        box(image, -4.0, -2.0, -0.05, 2.0, left)
        box(image, 0.05, -2.0, 4.0, 2.0, right)
    box(bare, -0.05, 0.5, 0.05, 1.4, 255)  # the door's opening
    box(bare, -0.05, -1.6, 0.05, -0.4, 255)  # the passage
    for name, image in (("insseg", rooms), ("semseg", types), ("trav_no_obj", bare)):
        Image.fromarray(image).save(layout / f"floor_{name}_0.png")
    things = [
        ("door_1", "door", "0.9 0.1 2.0", "0.02 0.95 1.0", 1.5708, ""),
        ("door_2", "door", "0.1 1.0 2.0", "-4.03 0.0 1.0", 0.0, ""),
        ("fridge_1", "fridge", "0.8 0.7 1.8", "-3.5 1.5 0.9", 0.0, ""),
        ("table_1", "breakfast_table", "1.2 0.8 0.7", "2.0 0.0 0.35", 0.5, ""),
        ("milk_1", "milk", "0.1 0.1 0.2", "-3.5 1.4 1.0", 0.0, ""),
        ("laptop_1", "laptop", "0.3 0.2 0.02", "2.1 0.1 0.72", 0.0, ""),
        ("picture_1", "picture", "0.6 0.05 0.5", "2.0 1.9 1.6", 0.0, ""),
        ("sink_1", "sink", "0.5 0.4 0.2", "-2.0 1.6 0.8", 0.0, ""),
        ("mirror_1", "mirror", "0.6 0.05 0.7", "2.0 0.0 1.1", 0.0, ""),
        ("window_1", "window", "1.0 0.1 1.0", "4.0 0.0 1.5", 0.0, ""),
    ]
    write_scene(folder, things)
    return folder


def write_scene(folder: Path, things: list[tuple[str, str, str, str, float, str]]) -> None:
    rows = ['<link name="walls" category="walls" model="Home_int"/>']
    rows.append('<joint name="j_walls" type="fixed"><origin xyz="0 0 0"/><child link="walls"/></joint>')
    for name, category, size, position, yaw, extra in things:
        rows.append(f'<link name="{name}" category="{category}" model="m1" bounding_box="{size}" {extra}/>')
        origin = f'<origin xyz="{position}" rpy="0 0 {yaw}"/>'
        rows.append(f'<joint name="j_{name}" type="fixed">{origin}<child link="{name}"/></joint>')
    text = '<robot name="home"><link name="world"/>' + "".join(rows) + "</robot>"
    (folder / "urdf" / f"{folder.name}_best.urdf").write_text(text)


def test_what_hangs_over_furniture_in_a_pack_is_not_on_it(tmp_path: Path) -> None:
    house = generate_house(11, n_rooms=2, name="made")
    low = min(house.furniture, key=lambda piece: piece.height)
    picture = HouseObject("picture", "picture", (*low.position, low.height + 0.4), (0.3, 0.02, 0.6))
    pack = make_pack(house.with_objects([picture]), tmp_path / "pack")
    (back,) = import_scene(pack.folder / "scenes" / pack.scene).objects
    assert (back.parent, back.relation) == ("", "")
    assert back.position == pytest.approx(picture.position, abs=1e-3)


class TestDataSet:
    def test_rooms_and_walls(self, scene: Path) -> None:
        house = import_scene(scene)
        assert house.name == "Home_int"
        assert [(room.id, room.type) for room in house.rooms] == [("room-4", "kitchen"), ("room-7", "office")]
        for room, (low, high) in zip(house.rooms, ((-4.05, 0.0), (0.0, 4.05))):
            xs, ys = zip(*room.polygon)
            assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((low, high, -2.05, 2.05), abs=0.03)
            assert len(room.polygon) == 4
        assert len(house.walls) == 5

    def test_doors_and_passages(self, scene: Path) -> None:
        door, entrance, passage = import_scene(scene).doors
        assert (door.id, set(door.rooms), door.openable, door.open) == ("door_1", {"room-4", "room-7"}, True, False)
        assert door.position == pytest.approx((0.0, 0.95), abs=0.03)
        assert (entrance.rooms, entrance.openable, entrance.open) == (("room-4",), False, False)
        assert passage.is_passage
        assert passage.position == pytest.approx((0.0, -1.0), abs=0.05)
        assert passage.width == pytest.approx(1.2, abs=0.06)

    def test_things(self, scene: Path) -> None:
        house = import_scene(scene)
        assert {piece.id: (piece.category, piece.openable, piece.room) for piece in house.furniture} == {
            "fridge_1": ("fridge", True, "room-4"),
            "table_1": ("dining table", False, "room-7"),
            "sink_1": ("sink", False, "room-4"),
        }
        assert house.furniture_by_id["table_1"].yaw == pytest.approx(0.5)
        assert {item.id: (item.category, item.parent, item.relation) for item in house.objects} == {
            "milk_1": ("milk", "fridge_1", "in"),
            "laptop_1": ("laptop", "table_1", "on"),
            "picture_1": ("picture", "", ""),
            "mirror_1": ("mirror", "", ""),  # it hangs, though it is over the table
        }

    def test_episodes_spawn_objects_where_the_priors_know_the_furniture(self, scene: Path) -> None:
        house = import_scene(scene)
        assert house.generated
        assert len(draw_episode(house, seed=1).house.objects) == 2 * len(house.objects)
        write_scene(scene, [("piano_1", "piano", "1.5 0.6 1.0", "2 0 0.5", 0.0, "")])
        assert not import_scene(scene).generated

    def test_maps_with_a_palette_are_read_by_their_values(self, scene: Path) -> None:
        path = scene / "layout" / "floor_insseg_0.png"
        image = Image.open(path)
        coloured = Image.frombytes("P", image.size, image.tobytes())
        coloured.putpalette([255 - value // 3 for value in range(768)])
        coloured.save(path)
        assert [room.id for room in import_scene(scene).rooms] == ["room-4", "room-7"]

    def test_states_scales_and_things_that_lie_on_their_side(self, scene: Path) -> None:
        metadata = scene.parent.parent / "objects" / "stool" / "m1" / "misc"
        metadata.mkdir(parents=True)
        (metadata / "metadata.json").write_text(json.dumps({"bbox_size": [0.2, 0.2, 0.3]}))
        open_ = "joint_states='{\"door_1_j\": [1.2, 0.0]}'"
        write_scene(scene, [("door_1", "door", "0.9 0.1 2.0", "0.02 0.95 1.0", 1.5708, open_)])
        path = scene / "urdf" / "Home_int_best.urdf"
        more = (
            '<link name="stool_1" category="stool" model="m1" scale="2 2 2"/><joint name="j" type="floating">'
            '<origin xyz="1 1 0.2" rpy="1.5708 0 0"/><child link="stool_1"/></joint>'
        )
        path.write_text(path.read_text().replace("</robot>", more + "</robot>"))
        house = import_scene(scene)
        assert house.doors[0].open
        assert house.furniture[0].size == pytest.approx((0.4, 0.6), abs=1e-3)
        assert house.furniture[0].height == pytest.approx(0.4, abs=1e-3)

    def test_what_lies_on_an_object_belongs_to_its_furniture(self, scene: Path) -> None:
        things = [
            ("table_1", "breakfast_table", "1.2 0.8 0.7", "2.0 0.0 0.35", 0.0, ""),
            ("book_1", "notebook", "0.3 0.3 0.2", "2.0 0.0 0.8", 0.0, ""),
            ("cup_1", "cup", "0.1 0.1 0.1", "2.0 0.0 0.95", 0.0, ""),
        ]
        write_scene(scene, things)
        assert {item.parent for item in import_scene(scene).objects} == {"table_1"}

    def test_the_command(self, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "home.json"
        assert cli.main(["import-igibson", str(scene), "--out", str(out)]) == 0
        assert "2 rooms" in capsys.readouterr().out
        assert House.load(out) == import_scene(scene)


class TestBadInput:
    def test_a_category_that_nobody_knows(self, scene: Path, tmp_path: Path) -> None:
        write_scene(scene, [("zorb_1", "zorb", "1 1 1", "2 0 0.5", 0.0, "")])
        with pytest.raises(UserError, match=r"Home_int_best\.urdf.*'zorb'.*igibson\.yaml.*--categories"):
            import_scene(scene)
        table = tmp_path / "mine.yaml"
        text = resource("config", "igibson.yaml").read_text().replace("left_out: [", "left_out: [zorb, ")
        table.write_text(text)
        assert import_scene(scene, table).furniture == ()

    @pytest.mark.parametrize("name", ["insseg", "semseg", "trav_no_obj"])
    def test_a_missing_map(self, scene: Path, name: str) -> None:
        (scene / "layout" / f"floor_{name}_0.png").unlink()
        with pytest.raises(UserError, match=rf"floor_{name}_0\.png is missing"):
            import_scene(scene)

    @pytest.mark.parametrize("version", ["2.0.5", "2.2.3", "new"])
    def test_a_wrong_version(self, scene: Path, version: str) -> None:
        (scene.parent.parent / "VERSION").write_text(version)
        with pytest.raises(UserError, match=rf"VERSION.*'{version}'.*2\.0\.6.*2\.2\.3"):
            import_scene(scene)

    def test_a_folder_that_is_no_scene(self, scene: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such folder"):
            import_scene(tmp_path / "nothing")
        with pytest.raises(UserError, match="VERSION"):
            import_scene(tmp_path)
        shutil.rmtree(scene / "urdf")
        with pytest.raises(UserError, match=r"Home_int_best\.urdf is missing"):
            import_scene(scene)

    def test_maps_and_urdf_that_are_broken(self, scene: Path) -> None:
        urdf = scene / "urdf" / "Home_int_best.urdf"
        good = urdf.read_text()
        urdf.write_text(good.replace('bounding_box="0.8 0.7 1.8"', ""))
        with pytest.raises(UserError, match=r"fridge_1.*bounding_box"):
            import_scene(scene)
        urdf.write_text("<robot>")
        with pytest.raises(UserError, match="URDF"):
            import_scene(scene)
        urdf.write_text(good)
        (scene / "layout" / "floor_semseg_0.png").write_text("no image")
        with pytest.raises(UserError, match=r"floor_semseg_0\.png.*image"):
            import_scene(scene)

    def test_a_room_type_that_is_not_listed(self, scene: Path) -> None:
        (scene.parent.parent / "metadata" / "room_categories.txt").write_text("bathroom\n")
        with pytest.raises(UserError, match=r"semseg.*type 2.*room_categories\.txt"):
            import_scene(scene)

    def test_a_table_of_categories_that_is_none(self, scene: Path, tmp_path: Path) -> None:
        table = tmp_path / "mine.yaml"
        table.write_text("rooms: {}\ncategories: {doors: [door], objects: [door]}\n")
        with pytest.raises(UserError, match=r"mine\.yaml.*door"):
            import_scene(scene, table)


class TestOutlines:
    def test_nearly_right_angles_become_right_and_others_stay(self) -> None:
        rooms = np.zeros((800, 800), dtype=np.uint8)
        rng = np.random.default_rng(0)
        for column in range(100, 500):  # an L with ragged edges
            top = 600 if column < 300 else 350
            rooms[100 + rng.integers(0, 3) : top - rng.integers(0, 3), column] = 1
        rows, columns = np.mgrid[0:800, 0:800]
        rooms[(columns >= 570) & (columns < 770) & (rows >= 100) & (rows < columns - 370)] = 2
        polygons = outlines(room_cells(rooms, 0.01))
        corners = polygons[1]
        assert len(corners) == 6
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in zip(corners, corners[1:] + corners[:1]))
        slopes = [math.atan2(abs(b[1] - a[1]), abs(b[0] - a[0])) for a, b in zip(polygons[2], polygons[2][1:])]
        assert any(math.radians(35) < slope < math.radians(55) for slope in slopes)

    def test_a_corner_that_is_cut_off_is_made_whole(self) -> None:
        rooms = np.zeros((600, 600), dtype=np.uint8)
        rooms[100:500, 100:500] = 1
        rows, columns = np.mgrid[0:600, 0:600]
        rooms[rows + columns < 212] = 0
        (corners,) = outlines(room_cells(rooms, 0.01)).values()
        assert len(corners) == 4

    def test_rooms_meet_in_one_wall(self) -> None:
        rooms = np.zeros((600, 600), dtype=np.uint8)
        rooms[100:500, 100:300] = 1
        rooms[100:500, 320:500] = 2
        polygons = list(outlines(room_cells(rooms, 0.01)).values())
        shared = set(polygons[0]) & set(polygons[1])
        assert len(shared) == 2
        assert [x for x, _ in shared] == pytest.approx([0.1, 0.1], abs=0.02)
        assert len(walls_around(polygons)) == 5
