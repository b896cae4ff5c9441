"""An environment whose worker holds a world of boxes: the adapter with the real protocol, and without iGibson."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.client import CameraConfig, IGibsonClient, WorkerCommand
from smallplan_training.simulators.igibson.env import IGibsonSearchEnv
from smallplan_training.simulators.igibson.scenes import IGibsonScene

SCRIPT = Path(__file__).resolve().parents[4] / "fixtures" / "box_worker.py"
CAMERA = CameraConfig(width=160, height=120)


def scene_of(house: House) -> IGibsonScene:
    """The house as a scene that names its things as the house does."""
    items = [*house.furniture, *house.doors]
    return IGibsonScene(Path(), house.name, {item.id: item.id for item in items}, pack=False)


def command(house: House, folder: Path, fault: dict[str, Any] | None = None) -> WorkerCommand:
    """How a worker for this house is started; `fault`: see the script."""
    house.save(folder / f"{house.name}.json")
    paths = os.pathsep.join(path for path in sys.path if path)
    environ = {**os.environ, "PYTHONPATH": paths, "HOUSE": str(folder / f"{house.name}.json")}
    return WorkerCommand(Path(sys.executable), {**environ, "FAULT": json.dumps(fault or {})}, SCRIPT)


def make_client(house: House, folder: Path, fault: dict[str, Any] | None = None) -> IGibsonClient:
    """The way to a worker that has this house, and perhaps a fault."""
    return IGibsonClient(command(house, folder, fault), house.name, CAMERA)


def make_env(house: House, client: IGibsonClient, **arguments: Any) -> IGibsonSearchEnv:
    """An environment that searches this house."""
    return IGibsonSearchEnv([house], find_scene=scene_of, make_client=lambda _: client, **arguments)
