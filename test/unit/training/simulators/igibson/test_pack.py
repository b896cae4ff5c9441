"""Scene packs: complete, consistent, the same bytes for the same house."""

from __future__ import annotations

import errno
import json
import math
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson import pack as pack_module
from smallplan_training.simulators.igibson.pack import Pack, cached_pack, category_name, make_pack


@pytest.fixture(scope="module")
def made(small_house: House, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(small_house, tmp_path_factory.mktemp("packs") / "pack")


def scene_folder(pack: Pack) -> Path:
    return pack.folder / "scenes" / pack.scene


def scene_links(pack: Pack) -> dict[str, tuple[ET.Element, ET.Element]]:
    """Name -> the link and the joint of everything in the scene."""
    root = ET.parse(scene_folder(pack) / "urdf" / f"{pack.scene}_best.urdf").getroot()
    joints = {joint.find("child").attrib["link"]: joint for joint in root.iter("joint")}  # type: ignore[union-attr]
    return {link.attrib["name"]: (link, joints[link.attrib["name"]]) for link in root.iter("link") if link.get("model")}


def numbers(text: str) -> list[float]:
    return [float(value) for value in text.split(" ")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestFiles:
    def test_the_same_house_gives_the_same_bytes(self, made: Pack, small_house: House, tmp_path: Path) -> None:
        again = make_pack(replace(small_house), tmp_path / "again")
        assert files_of(again.folder) == files_of(made.folder)

    def test_every_model_is_complete(self, made: Pack) -> None:
        categories = (made.folder / "metadata" / "categories.txt").read_text().split()
        assert len(categories) == len(set(categories)) <= 500
        for name, (link, _) in scene_links(made).items():
            category, model = link.attrib["category"], link.attrib["model"]
            assert category in categories
            building = category in ("walls", "floors")
            home = scene_folder(made) if building else made.folder / "objects" / category / model
            urdf = home / "urdf" / f"{model}_{category}.urdf" if building else home / f"{model}.urdf"
            root = ET.parse(urdf).getroot()
            for part in root.iter("link"):
                assert len(part.findall("collision")) == 1
                for mesh in part.iter("mesh"):
                    assert (home / mesh.attrib["filename"]).is_file()
            for joint in root.iter("joint"):
                limit, axis = joint.findall("limit"), joint.findall("axis")
                assert (len(limit), len(axis)) == (1, 1)
                assert float(limit[0].attrib["upper"]) > float(limit[0].attrib["lower"]) == 0
            if not building:
                size = json.loads((home / "misc" / "metadata.json").read_text())["bbox_size"]
                assert numbers(link.attrib["bounding_box"]) == size, name

    def test_materials_are_where_the_meshes_look_for_them(self, made: Pack) -> None:
        meshes = list(made.folder.rglob("*_vm.obj"))
        assert meshes
        for mesh in meshes:
            library, used = (
                next(line.split()[1] for line in mesh.read_text().splitlines() if line.startswith(word))
                for word in ("mtllib", "usemtl")
            )
            assert f"newmtl {used}\n" in (mesh.parent / library).read_text()

    def test_version(self, made: Pack) -> None:
        assert (made.folder / "VERSION").read_text().strip() == "2.2.2"


class TestScene:
    def test_everything_of_the_house_is_in_it_where_it_is_in_the_house(self, made: Pack, small_house: House) -> None:
        links = scene_links(made)
        doors = {door.id: door for door in small_house.doors if not door.is_passage}
        things = {*small_house.furniture_by_id, *(thing.id for thing in small_house.objects)}
        assert made.names.keys() == doors.keys() | things
        assert links.keys() == set(made.names.values()) | {"walls", "floors"}
        for furniture in small_house.furniture:
            link, joint = links[made.names[furniture.id]]
            origin = joint.find("origin")
            assert origin is not None
            x, y, z = numbers(origin.attrib["xyz"])
            assert (x, y) == pytest.approx(furniture.position, abs=1e-3)
            assert numbers(origin.attrib["rpy"])[2] == pytest.approx(furniture.yaw, abs=1e-3)
            w, d, h = numbers(link.attrib["bounding_box"])
            assert (w, d, z + h / 2) == pytest.approx((*furniture.size, furniture.height), abs=1e-3)
            assert joint.attrib["type"] == "fixed"
            assert link.attrib["category"] == category_name(furniture.category)
        for thing in small_house.objects:
            assert links[made.names[thing.id]][1].attrib["type"] == "floating"

    def test_what_opens_in_the_house_opens_in_the_scene(self, made: Pack, small_house: House) -> None:
        for furniture in small_house.furniture:
            name = made.names[furniture.id]
            path = made.folder / "objects" / category_name(furniture.category) / name / f"{name}.urdf"
            assert bool(list(ET.parse(path).getroot().iter("joint"))) == furniture.openable

    def test_doors_stand_open_or_closed_as_in_the_house(self, made: Pack, small_house: House) -> None:
        states = {}
        for door in small_house.doors:
            if not door.is_passage:
                link, _ = scene_links(made)[made.names[door.id]]
                joints = json.loads(link.get("joint_states", "{}"))
                states[door.id] = [position > 1.0 for position, _ in joints.values()]
                assert all(name.startswith(f"{made.names[door.id]}_") for name in joints)
        assert states == {d.id: [d.open] if d.openable else [] for d in small_house.doors if not d.is_passage}


class TestMaps:
    def image(self, pack: Pack, name: str) -> np.ndarray:
        return np.asarray(Image.open(scene_folder(pack) / "layout" / name))

    def at(self, image: np.ndarray, x: float, y: float) -> int:
        return int(image[math.floor(y / 0.01) + len(image) // 2, math.floor(x / 0.01) + len(image) // 2])

    def test_rooms(self, made: Pack, small_house: House) -> None:
        instances, types = (self.image(made, f"floor_{kind}seg_0.png") for kind in ("ins", "sem"))
        assert instances.shape[0] == instances.shape[1] == types.shape[0]
        assert instances.shape[0] % 100 == 0
        assert instances.min() == 0
        names = (made.folder / "metadata" / "room_categories.txt").read_text().splitlines()
        for number, room in enumerate(small_house.rooms, start=1):
            rows, columns = np.nonzero(instances == number)
            assert len(rows) * 0.0001 == pytest.approx(room.area, rel=0.15)
            half = len(instances) / 2
            x, y = (float(values.mean() + 0.5 - half) * 0.01 for values in (columns, rows))
            assert small_house.room_at(x, y) == room
            assert names[self.at(types, x, y) - 1] == room.type.replace(" ", "_")
        for wall in small_house.walls:
            middle = [(a + b) / 2 for a, b in zip(wall.a, wall.b)]
            assert self.at(instances, *middle) == 0

    def test_where_one_can_walk(self, made: Pack, small_house: House) -> None:
        free, bare = (self.image(made, f"floor_trav_{kind}0.png") for kind in ("", "no_obj_"))
        for piece in small_house.furniture:
            assert self.at(free, *piece.position) == 0
        assert any(self.at(bare, *piece.position) == 255 for piece in small_house.furniture)
        for door in small_house.doors:
            expected = 255 if len(door.rooms) == 2 else 0
            assert (self.at(free, *door.position), self.at(bare, *door.position)) == (expected, expected)


class TestMaking:
    def test_a_folder_with_something_in_it_is_refused(self, small_house: House, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(UserError, match="not empty"):
            make_pack(small_house, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_load_reads_what_was_made(self, made: Pack, tmp_path: Path) -> None:
        assert Pack.load(made.folder) == made
        with pytest.raises(UserError, match="export-igibson"):
            Pack.load(tmp_path)

    def test_ids_that_look_alike_stay_apart(self, small_house: House, tmp_path: Path) -> None:
        first, second = small_house.objects[:2]
        objects = [
            type(first)("mug|1", first.category, first.position, first.size, first.parent, first.relation),
            type(first)("mug-1", first.category, second.position, second.size, second.parent, second.relation),
        ]
        pack = make_pack(small_house.with_objects(objects), tmp_path / "pack")
        assert len({pack.names["mug|1"], pack.names["mug-1"]}) == 2

    def test_the_cache_is_filled_once_for_each_house(
        self, small_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        bare = replace(small_house, furniture=small_house.furniture[:1], objects=())
        calls: list[object] = []
        write = pack_module._PackWriter.write

        def counted(writer: pack_module._PackWriter) -> Pack:
            calls.append(writer)
            return write(writer)

        monkeypatch.setattr(pack_module._PackWriter, "write", counted)
        assert cached_pack(bare) == cached_pack(House.from_json(bare.to_json()))
        assert len(calls) == 1
        assert cached_pack(replace(bare, furniture=small_house.furniture[:2])).folder != cached_pack(bare).folder
        assert len(calls) == 2
        assert len(list((tmp_path / "smallplan" / "igibson" / "packs").iterdir())) == 2

    def test_the_packs_that_were_used_longest_ago_make_room(
        self, small_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(pack_module, "_KEPT_PACKS", 2)
        houses = [replace(small_house, furniture=small_house.furniture[:n], objects=()) for n in (1, 2, 3)]
        first, second = (cached_pack(house).folder for house in houses[:2])
        unfinished = first.with_name(".pack-killed")
        unfinished.mkdir()
        for age, folder in enumerate((second, first, unfinished), 2):
            os.utime(folder, (86400.0 / age, 86400.0 / age))
        assert cached_pack(houses[0]).folder == first  # used again
        third = cached_pack(houses[2]).folder
        assert set(first.parent.iterdir()) == {first, third}

    def test_a_cache_that_cannot_be_written_is_named(
        self, small_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(UserError, match="XDG_CACHE_HOME"):
            cached_pack(small_house)

    def test_a_cache_that_is_full_is_named_and_keeps_nothing_half_made(
        self, small_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(pack_module._PackWriter, "_write_names", full)
        with pytest.raises(UserError, match="No space left on device; set XDG_CACHE_HOME"):
            cached_pack(small_house)
        assert not any((tmp_path / "smallplan" / "igibson" / "packs").iterdir())

    def test_the_command_writes_a_pack_and_says_how_to_use_it(
        self, house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "pack"
        assert cli.main(["export-igibson", str(house_file), "--folder", str(folder)]) == 0
        assert f"IGIBSON_DATASET_PATH={folder}" in capsys.readouterr().out
        assert Pack.load(folder).scene == "small_int"
        assert cli.main(["export-igibson", str(house_file), "--folder", str(folder)]) == cli.USER_ERROR
