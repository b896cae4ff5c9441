"""Which scenes iGibson can search: those of its data set by name, and packs made on demand from our houses.

`train` and `test` are the split of the method (and of iGibson's challenge) where the data set is installed, and our
splits otherwise. The adapter holds every scene as a `House`: episodes are drawn in it and measured by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smallplan_planner.scene_graph import Point
from smallplan_training import scenes as house_scenes
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.episodes import SPAWNED, Episode
from smallplan_training.simulators.house.house import Furniture, House, HouseDoor, HouseObject, Point2
from smallplan_training.simulators.house.raster import HouseRaster
from smallplan_training.simulators.igibson.arrangement import RestPlace, rest_places
from smallplan_training.simulators.igibson.challenge import SPLITS, present
from smallplan_training.simulators.igibson.environment import dataset_folder
from smallplan_training.simulators.igibson.pack import cached_pack


@dataclass(frozen=True)
class IGibsonScene:
    """A scene as iGibson finds it."""

    dataset: Path  # the root that holds it
    scene: str  # its id
    names: Mapping[str, str]  # id in the house -> name in the scene, of furniture, doors, and objects that are there
    pack: bool  # it was made from the house


@dataclass(frozen=True)
class EpisodeScene:
    """An episode's house, as it stands in the worker: which thing is called what there."""

    house: House
    raster: HouseRaster
    start: Point2  # the centre of the start's cell, house's frame: the origin of the robot's
    names: Mapping[str, str]  # id in the house -> name in the scene, of everything

    @property
    def thing_of(self) -> dict[str, int]:
        """Name in the scene -> index among furniture and objects."""
        items: list[Furniture | HouseObject] = [*self.house.furniture, *self.house.objects]
        return {self.names[item.id]: index for index, item in enumerate(items) if item.id in self.names}

    @property
    def door_of(self) -> dict[str, int]:
        """Name in the scene -> index of the door; passages have no object."""
        doors = self.house.doors
        return {self.names[door.id]: index for index, door in enumerate(doors) if door.id in self.names}

    def leaf_of(self, furniture: int | None, door: int | None) -> str:
        """What the scene calls a piece of furniture or a door."""
        item = self.house.doors[door] if door is not None else self.house.furniture[furniture or 0]
        return self.names[item.id]


def resolve_scenes(names: Sequence[str], max_scenes: int | None = None) -> list[Path]:
    """House files and folders of data set scenes, for splits, names of scenes, and paths, in the order given.

    Raises `UserError` for what doesn't exist.
    """
    root = dataset_folder()
    found: list[Path] = []
    for name in names:
        wanted = _of_data_set(name, root)
        found += [path for path in wanted or house_scenes.resolve_scenes([name]) if path not in found]
    if max_scenes is not None and max_scenes < 1:
        raise UserError(f"--max-scenes is {max_scenes}; expected at least 1")
    return found[:max_scenes]


def load_scene(path: Path) -> House:
    """The house in a file, or what a folder of a data set's scene is as a house."""
    if not path.is_dir():
        return house_scenes.load_house(path)
    from smallplan_training.simulators.igibson.import_scene import import_scene

    return import_scene(path)


def scene_of(house: House) -> IGibsonScene:
    """Where iGibson finds this house: in its data set when it is from there, else in a pack, made if missing."""
    root = dataset_folder()
    if root is not None and (root / "scenes" / house.name / "urdf").is_dir():
        own = [item for item in house.objects if not item.id.startswith(SPAWNED)]  # an episode's are to be placed
        items: list[Furniture | HouseDoor | HouseObject] = [*house.furniture, *house.doors, *own]
        return IGibsonScene(root, house.name, {item.id: item.id for item in items}, pack=False)
    pack = cached_pack(house.with_objects(()))
    return IGibsonScene(pack.folder, pack.scene, pack.names, pack=True)


def to_place(episode: Episode, scene: IGibsonScene) -> list[dict[str, Any]]:
    """The episode's objects that are not in the scene, as the worker is told to place them.

    In a pack that is where its furniture has room for them, in other scenes where the house says.
    """
    places = rest_places(episode.house) if scene.pack else {}
    told = []
    for index, item in enumerate(episode.house.objects):
        if item.id not in scene.names:
            place = places.get(item.id) or RestPlace(item.position, item.size, 0.0, fixed=False)
            told.append({"name": f"placed_{index}", "category": item.category, **asdict(place)})
    return told


def with_places(episode: Episode, scene: IGibsonScene, places: Mapping[str, Point]) -> EpisodeScene:
    """The episode with its objects where they have come to rest; `places` by the names of `to_place`."""
    house, raster = episode.house, episode.raster
    objects, names = [], dict(scene.names)
    for index, item in enumerate(house.objects):
        name = f"placed_{index}"
        if name in places:
            item, names[item.id] = replace(item, position=places[name]), name
        objects.append(item)
    start = raster.centre(*raster.cell(episode.start.x, episode.start.y))
    return EpisodeScene(house.with_objects(objects), raster, start, names)


def _of_data_set(name: str, root: Path | None) -> list[Path]:
    """Folders of the data set's scenes that a name means; none where it means something else."""
    if root is None:
        return []
    if name in SPLITS:
        there = present(root, name)
        if there and len(there) < len(SPLITS[name]):
            missing = ", ".join(scene for scene in SPLITS[name] if scene not in there)
            raise UserError(f"{root}: of the split {name!r} {missing} are missing; install iGibson's data set anew")
        return [root / "scenes" / scene for scene in there]
    folders = [root / "scenes" / scene for scene in (name, f"{name}_int") if scene == Path(scene).name]
    return [folder for folder in folders if (folder / "urdf").is_dir()][:1]
