"""A small house for the tests of the workstation's commands: generated once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House


@pytest.fixture(scope="session")
def small_house() -> House:
    return generate_house(3, n_rooms=3, name="small")


@pytest.fixture(scope="session")
def house_file(small_house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("houses") / "small.json"
    small_house.save(path)
    return path
