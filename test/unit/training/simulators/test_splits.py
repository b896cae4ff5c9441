from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_planner.resources import resource
from smallplan_training.simulators.house import splits
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.splits import FIRST_SEED, ROOMS_OF, write_splits

FILES = {split: sorted(resource("config", f"houses/{split}").glob("*.json")) for split in ROOMS_OF}


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("val", 7), ("test", 7)])
def test_each_split_has_its_houses(split: str, count: int) -> None:
    assert len(FILES[split]) == count
    for path in FILES[split]:
        house = House.load(path)
        assert 3 <= len(house.rooms) <= 10
        assert 40 <= house.area <= 200
        assert house.generated
        assert path.stat().st_size < 150_000


def test_no_house_is_in_two_splits() -> None:
    walls = [House.load(path).walls for paths in FILES.values() for path in paths]
    assert len(set(walls)) == len(walls)
    seeds = [FIRST_SEED[split] + number for split, rooms in ROOMS_OF.items() for number in range(len(rooms))]
    assert len(set(seeds)) == len(seeds)


def test_writing_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "ROOMS_OF", {"train": (3,), "val": (4,)})
    first, second = write_splits(tmp_path / "a"), write_splits(tmp_path / "b")
    assert [path.name for path in first] == ["train-1.json", "val-1.json"]
    assert [path.read_text() for path in first] == [path.read_text() for path in second]
