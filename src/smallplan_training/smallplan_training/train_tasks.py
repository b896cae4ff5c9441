"""The searches that stage 2 runs and those that it is validated on: task number n is the same whenever it is asked for.

So a run's position in its tasks is one number, and processes share them out without a word.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from smallplan_training.errors import UserError
from smallplan_training.evaluate import episode_seed
from smallplan_training.simulators.factory import HOUSE, load_rastered, resolve_scenes
from smallplan_training.simulators.house.episodes import Episode, NoEpisode, draw_episode
from smallplan_training.simulators.house.generator import generate_house
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import HouseRaster, rasterise
from smallplan_training.train_config import TaskConfig

FIRST_HOUSE_SEED = 4_000_000_000  # far from those of the splits and of the default model's pretraining
_MAX_DRAWS = 20  # houses in which nothing can be searched for are rare
_KEPT_HOUSES = 16


@dataclass(frozen=True)
class Task:
    """One search and the mode that its prompt names."""

    number: int
    scene: str
    episode: Episode
    mode: str  # "normal" | "saver"


class TaskSource:
    """Endless tasks by number. `seed` shuffles everything that is drawn."""

    def __init__(self, config: TaskConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._scenes = tuple(resolve_scenes(config.simulator, config.scenes)) if config.generated < 1 else ()

    def task(self, number: int) -> Task:
        """Task `number`, from 0; the same one for the same configuration and seed."""
        config = self._config
        mode = "saver" if random.Random(f"mode/{self._seed}/{number}").random() < config.saver else "normal"
        for attempt in range(_MAX_DRAWS):
            house, raster = self._house(number // config.episodes_per_house, attempt)
            seed = episode_seed(house.name, number + attempt, self._seed)
            try:
                return Task(number, house.name, draw_episode(house, seed, raster), mode)
            except NoEpisode:
                continue
        raise UserError(f"task {number}: {_MAX_DRAWS} houses had nothing to search for; give others in tasks.scenes")

    def _house(self, block: int, attempt: int) -> tuple[House, HouseRaster]:
        rng = random.Random(f"house/{self._seed}/{block}/{attempt}")
        if rng.random() < self._config.generated:
            return _generate(FIRST_HOUSE_SEED + rng.randrange(1_000_000_000))
        return load_rastered(self._config.simulator, rng.choice(self._scenes))


def scene_tasks(
    scenes: tuple[str, ...], episodes: int, seed: int, mode: str = "normal", simulator: str = HOUSE
) -> Iterator[Task]:
    """The episodes that `smallplan evaluate` draws in these scenes with this seed."""
    paths = resolve_scenes(simulator, scenes)
    for number, (path, index) in enumerate((path, n) for path in paths for n in range(episodes)):
        house, raster = load_rastered(simulator, path)
        try:
            episode = draw_episode(house, episode_seed(house.name, index, seed), raster)
        except NoEpisode as error:
            raise UserError(str(error)) from error
        yield Task(number, house.name, episode, mode)


@lru_cache(maxsize=_KEPT_HOUSES)
def _generate(seed: int) -> tuple[House, HouseRaster]:
    house = generate_house(seed)
    return house, rasterise(house)
