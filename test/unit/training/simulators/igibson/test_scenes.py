"""Which scenes names mean, where iGibson finds a house, and what the commands say where there is no iGibson."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smallplan_planner.scene_graph import Pose
from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.simulators import factory
from smallplan_training.simulators.house.episodes import Episode, draw_episode
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import rasterise
from smallplan_training.simulators.igibson.challenge import SPLITS
from smallplan_training.simulators.igibson.scenes import resolve_scenes, scene_of, to_place, with_places


def data_set(folder: Path, scenes: Sequence[str]) -> Path:
    """A folder that is laid out as iGibson's data set."""
    (folder / "objects").mkdir(parents=True)
    (folder / "VERSION").write_text("2.2.2")
    for scene in scenes:
        urdf = folder / "scenes" / scene / "urdf"
        urdf.mkdir(parents=True)
        (urdf / f"{scene}_best.urdf").touch()
    return folder


@pytest.fixture(autouse=True)
def no_igibson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SMALLPLAN_IGIBSON_VENV", str(tmp_path / "nothing"))
    monkeypatch.delenv("IGIBSON_DATASET_PATH", raising=False)


def test_without_the_data_set_splits_are_our_houses() -> None:
    assert [path.name for path in resolve_scenes(["test"], 2)] == ["test-1.json", "test-2.json"]
    with pytest.raises(UserError, match="there is no scene 'Rs_int'"):
        resolve_scenes(["Rs_int"])


def test_with_the_data_set_splits_are_the_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = data_set(tmp_path / "data", [*SPLITS["train"], *SPLITS["test"]])
    monkeypatch.setenv("IGIBSON_DATASET_PATH", str(root))
    assert [path.name for path in resolve_scenes(["test"])] == list(SPLITS["test"])
    assert [path.name for path in resolve_scenes(["train"], 3)] == list(SPLITS["train"][:3])
    assert resolve_scenes(["Rs"]) == resolve_scenes(["Rs_int"]) == [root / "scenes" / "Rs_int"]
    assert resolve_scenes(["val"])[0].name == "val-1.json"
    with pytest.raises(UserError, match="--max-scenes is 0"):
        resolve_scenes(["test"], 0)


def test_a_data_set_without_some_scenes_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGIBSON_DATASET_PATH", str(data_set(tmp_path / "some", ["Rs_int", "Merom_0_int"])))
    with pytest.raises(UserError, match=r"Benevolence_0_int, .*are missing"):
        resolve_scenes(["train"])
    assert resolve_scenes(["test"])[0].name == "test-1.json"  # it holds none of these: another data set


def test_a_house_is_found_in_its_pack(two_rooms: House) -> None:
    scene = scene_of(two_rooms)
    assert scene.pack and (scene.dataset / "scenes" / scene.scene).is_dir()
    assert set(scene.names) == {"table", "cupboard", "drawer", "middle", "front"}  # objects are placed by episode
    assert scene == scene_of(two_rooms.with_objects(()))


def test_a_house_of_the_data_set_is_found_there(
    two_rooms: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = data_set(tmp_path / "data", [two_rooms.name])
    monkeypatch.setenv("IGIBSON_DATASET_PATH", str(root))
    scene = scene_of(two_rooms)
    assert (scene.dataset, scene.scene, scene.pack) == (root, two_rooms.name, False)
    assert scene.names["mug"] == "mug"  # it is there already


def episode(house: House) -> Episode:
    return Episode(house, Pose(1.0, 2.0, 0.0), "spoon", 3.0, 0, rasterise(house))


def test_an_episodes_objects_are_placed_in_a_pack(two_rooms: House) -> None:
    scene, drawn = scene_of(two_rooms), episode(two_rooms)
    told = to_place(drawn, scene)
    assert [item["category"] for item in told] == ["mug", "spoon", "rug"]
    mug, spoon, _ = told
    assert mug["position"][2] - mug["size"][2] / 2 == pytest.approx(0.45, abs=0.01)  # on the table
    assert 0 < spoon["position"][2] < 0.6  # in the drawer
    placed = with_places(drawn, scene, {mug["name"]: (2.25, 3.4, 0.5)})
    assert placed.house.objects[0].position == (2.25, 3.4, 0.5)
    assert placed.house.objects[1].position == two_rooms.objects[1].position
    assert placed.thing_of[mug["name"]] == len(two_rooms.furniture)
    assert placed.thing_of[scene.names["drawer"]] == 2
    assert placed.door_of[scene.names["front"]] == 1
    assert placed.leaf_of(None, 0) == scene.names["middle"] and placed.leaf_of(1, None) == scene.names["cupboard"]


def test_only_what_is_not_there_is_placed(two_rooms: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGIBSON_DATASET_PATH", str(data_set(tmp_path / "data", [two_rooms.name])))
    assert to_place(episode(two_rooms), scene_of(two_rooms)) == []
    drawn = draw_episode(replace(two_rooms, generated=True), 1)
    spawned = [item for item in drawn.house.objects if item not in two_rooms.objects]
    told = to_place(drawn, scene_of(drawn.house))
    assert len(spawned) == len(two_rooms.objects)
    assert [(item["category"], item["position"]) for item in told] == [(o.category, o.position) for o in spawned]


@pytest.mark.parametrize("command", ["evaluate --policy greedy", "collect --output {folder}/samples.jsonl"])
def test_without_igibson_the_remedy_is_told(
    command: str, house_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.format(folder=tmp_path).split()
    assert cli.main([*words, "--simulator", "igibson", "--scenes", str(house_file)]) == cli.USER_ERROR
    assert "run `make igibson`" in capsys.readouterr().err


def test_the_embedded_simulator_needs_no_igibson(house_file: Path) -> None:
    assert factory.resolve_scenes("house", [str(house_file)]) == [house_file]
    house = factory.load_scene("house", house_file)
    env = factory.make_env("house", voronoi=True)
    assert env.reset(seed=1, options={"episode": draw_episode(house, 1)})[1]["voronoi"] is not None
