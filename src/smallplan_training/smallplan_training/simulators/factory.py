"""Which simulator a command searches in: the embedded one, or iGibson, with what each of them calls a scene.

iGibson is imported only when it is asked for, and its absence is told before anything begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from smallplan_training import scenes
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.env import NO_LIMIT, HouseSearchEnv
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import HouseRaster, rasterise

HOUSE = "house"
IGIBSON = "igibson"
SIMULATORS = (HOUSE, IGIBSON)
_KEPT_SCENES = 16


def add_simulator_argument(parser: argparse.ArgumentParser) -> None:
    """`--simulator house|igibson`."""
    parser.add_argument(
        "--simulator",
        choices=SIMULATORS,
        default=HOUSE,
        help="the embedded one, or iGibson with its scenes or packs made of houses (default: %(default)s)",
    )


def make_env(simulator: str = HOUSE, *, failure_rate: float = 0.0, voronoi: bool = False) -> HouseSearchEnv:
    """An environment that searches by the search's own rules; `close` it when it is not needed any more."""
    if simulator == HOUSE:
        return HouseSearchEnv(max_steps=NO_LIMIT, failure_rate=failure_rate, voronoi=voronoi)
    from smallplan_training.simulators.igibson.env import IGibsonSearchEnv

    return IGibsonSearchEnv(max_steps=NO_LIMIT, failure_rate=failure_rate, voronoi=voronoi)


def resolve_scenes(simulator: str, names: Sequence[str], max_scenes: int | None = None) -> list[Path]:
    """Files or folders of the scenes that the names mean; raises `UserError`, also where the simulator can't run."""
    if simulator == HOUSE:
        return scenes.resolve_scenes(names, max_scenes)
    from smallplan_training.simulators.igibson.environment import find_environment, missing_for_rendering
    from smallplan_training.simulators.igibson.scenes import resolve_scenes as resolve_igibson

    find_environment()
    missing = missing_for_rendering()
    if missing:
        raise UserError(f"iGibson can't render here: {missing}")
    return resolve_igibson(names, max_scenes)


def load_scene(simulator: str, path: Path) -> House:
    """The scene as a house; raises `UserError` that names file and field."""
    if simulator == HOUSE:
        return scenes.load_house(path)
    from smallplan_training.simulators.igibson.scenes import load_scene as load_igibson

    return load_igibson(path)


@lru_cache(maxsize=_KEPT_SCENES)
def load_rastered(simulator: str, path: Path) -> tuple[House, HouseRaster]:
    """The scene as a house, with its grids, as episodes are drawn in; kept, since they come scene by scene.

    Raises as `load_scene` does.
    """
    house = load_scene(simulator, path)
    return house, rasterise(house)
