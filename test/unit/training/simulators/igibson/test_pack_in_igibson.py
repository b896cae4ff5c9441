"""A scene pack in iGibson itself: it loads, stands still, and its doors and drawers are what the house says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.arrangement import stand
from smallplan_training.simulators.igibson.environment import IgibsonEnvironment, worker_environ
from smallplan_training.simulators.igibson.pack import Pack, make_pack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(small_house: House, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(small_house, tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def loaded(igibson: IgibsonEnvironment, made: Pack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What iGibson made of the pack."""
    out = tmp_path_factory.mktemp("loaded") / "scene.json"
    script = Path(__file__).with_name("load_pack.py")
    subprocess.run(
        [igibson.python, script, made.scene, out],
        env=worker_environ(made.folder),
        check=True,
        timeout=500,
        capture_output=True,
    )
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_everything_is_there_in_its_room(loaded: dict[str, Any], made: Pack, small_house: House) -> None:
    things = loaded["things"]
    assert things.keys() == {*made.names.values(), "walls", "floors"}
    assert len(loaded["rooms"]) == len(small_house.rooms)
    for piece in small_house.furniture:
        thing = things[made.names[piece.id]]
        assert thing["rooms"] == [thing["room_at"]]
        assert thing["room_at"].rpartition("_")[0] == small_house.room_by_id[piece.room].type.replace(" ", "_")


def test_things_stay_where_they_were_put(loaded: dict[str, Any], made: Pack, small_house: House) -> None:
    moved = {thing.id: loaded["things"][made.names[thing.id]]["moved"] for thing in small_house.objects}
    assert sum(distance < 0.03 for distance in moved.values()) >= 0.9 * len(moved), moved


def test_doors_and_drawers_are_as_in_the_house(loaded: dict[str, Any], made: Pack, small_house: House) -> None:
    things = loaded["things"]
    for id_, standing in stand(small_house).items():
        joints = things[made.names[id_]]["joints"]
        assert [upper for _, upper in joints.values()] == pytest.approx(
            [part.upper for part in standing.body.parts], abs=1e-3
        )
        assert all(position < 0.1 * upper for position, upper in joints.values())
    for door in small_house.doors:
        if not door.is_passage:
            joints = things[made.names[door.id]]["joints"]
            assert len(joints) == (1 if door.openable else 0)
            assert all((position > 0.8 * upper) == door.open for position, upper in joints.values())
