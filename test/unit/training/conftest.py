"""What several tests of the workstation's commands need: a small house, and llama.cpp's converter."""

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


@pytest.fixture(scope="module")
def converter() -> Path:
    """The folder of llama.cpp's converter; a test that needs it is skipped where it can't be had."""
    from smallplan_training import export  # here, since it needs llama.cpp and not all tests do
    from smallplan_training.errors import UserError

    try:
        return export.converter_dir()
    except UserError as error:
        pytest.skip(f"llama.cpp's converter is not to be had here: {error}")
