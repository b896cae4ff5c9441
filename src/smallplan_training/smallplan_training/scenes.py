"""Which houses and which model a command means: splits by name, files by path, the default model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.house import House, HouseError

SPLITS = ("train", "val", "test")


def resolve_scenes(names: Sequence[str], max_scenes: int | None = None) -> list[Path]:
    """House files for splits and paths (a folder means the JSON files in it), in the order given, sorted within each.

    Raises `UserError` for what doesn't exist and when nothing is left.
    """
    scenes: list[Path] = []
    for name in names:
        scenes += [path for path in _files_of(name) if path not in scenes]
    if max_scenes is not None:
        if max_scenes < 1:
            raise UserError(f"--max-scenes is {max_scenes}; expected at least 1")
        scenes = scenes[:max_scenes]
    if not scenes:
        raise UserError("no scenes were given; expected train, val, test, or house files")
    return scenes


def load_house(path: Path) -> House:
    """The house in a file, ProcTHOR's format included; raises `UserError` that names file and field."""
    try:
        return House.load(path)
    except HouseError as error:
        raise UserError(str(error)) from error


def default_model() -> Path:
    """The model that the project ships; raises `UserError` when it isn't there."""
    try:
        return resource("models", DEFAULT_MODEL)
    except FileNotFoundError as error:
        raise UserError(f"the default model is not there; give one with --model. {error}") from error


def _files_of(name: str) -> list[Path]:
    if name in SPLITS:
        try:
            folder = resource("config", f"houses/{name}")
        except FileNotFoundError as error:
            raise UserError(f"the houses of the split {name!r} are not there: {error}") from error
    else:
        folder = Path(name)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"there is no scene {name!r}; expected {', '.join(SPLITS)}, a house file, or a folder of them")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"the folder {name!r} has no JSON files; expected houses")
    return files
