"""Stage 2's searches in several processes, on this machine or on a Ray cluster.

Each worker holds the base and a copy of the adapters, which travel with every call. It searches a part of the tasks;
what is drawn depends on the seed and a task's place in the whole list, so the parts join to what one process would
have done, rounding apart: a batch's shape may change the last digit, and in bfloat16 that can change a draw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import torch

from smallplan_training.base_model import LanguageModel, load_language_model
from smallplan_training.batch_rollout import Trajectory
from smallplan_training.scale_out import Workers
from smallplan_training.train_config import TrainConfig
from smallplan_training.train_rollouts import Rollouts, summed
from smallplan_training.train_state import base_options
from smallplan_training.train_tasks import Task


@dataclass(frozen=True)
class _Part:
    """Tasks for one worker. `seed` None: greedily."""

    tasks: tuple[Task, ...]
    first: int
    seed: int | None


class WorkerRollouts(Rollouts):
    """`Rollouts` whose searches run in `rollouts.workers` processes; prompts alone are answered here."""

    def __init__(self, config: TrainConfig, lm: LanguageModel) -> None:
        super().__init__(config, lm)
        own = config.rollouts
        backend, address = ("ray", own.ray) if own.ray else ("local", "")
        self._workers = Workers(own.workers, backend, address, own.gpus)
        self._device = str(lm.device) if not own.ray else "auto" if own.gpus else "cpu"
        self._usage: list[dict[str, float]] = []

    def sample(self, tasks: Sequence[Task], seed: int, first: int = 0) -> list[Trajectory]:
        """As `Rollouts.sample`."""
        return list(self._run(_Part(tuple(tasks), first, seed)))

    def greedy(self, tasks: Sequence[Task]) -> list[Trajectory]:
        """As `Rollouts.greedy`."""
        return list(self._run(_Part(tuple(tasks), 0, None)))

    def take_usage(self) -> dict[str, float]:
        """As `Rollouts.take_usage`, of all workers."""
        usage, self._usage = summed(self._usage), []
        return usage

    def close(self) -> None:
        """End the workers."""
        super().close()
        self._workers.close()

    def _run(self, whole: _Part) -> Iterator[Trajectory]:
        weights = {name: tensor.numpy() for name, tensor in self._lm.trainable_state().items()}
        search = partial(_search, self._config, self._device, weights)
        for trajectories, usage in self._workers.map(search, _split(whole, self._config.rollouts.workers)):
            self._usage.append(usage)
            yield from trajectories


def make_rollouts(config: TrainConfig, lm: LanguageModel) -> Rollouts:
    """Here, or in the processes that the configuration wants."""
    scaled = config.rollouts.workers > 1 or config.rollouts.ray
    return WorkerRollouts(config, lm) if scaled else Rollouts(config, lm)


def _split(whole: _Part, count: int) -> list[_Part]:
    """At most `count` parts, one after the other, of nearly the same size; none is empty."""
    tasks = whole.tasks
    count = min(count, len(tasks))
    ends = [len(tasks) * number // count for number in range(count + 1)] if count else []
    return [_Part(tasks[low:high], whole.first + low, whole.seed) for low, high in pairwise(ends)]


def _search(
    config: TrainConfig, device: str, weights: Mapping[str, np.ndarray], part: _Part
) -> tuple[list[Trajectory], dict[str, float]]:
    """In a worker: the searches of its part, and what the teacher was asked for."""
    lm, rollouts = _loaded(config, device)
    lm.load_trainable_state({name: torch.tensor(array) for name, array in weights.items()})
    tasks = part.tasks
    made = rollouts.greedy(tasks) if part.seed is None else rollouts.sample(tasks, part.seed, part.first)
    return made, rollouts.take_usage()


@lru_cache(maxsize=1)
def _loaded(config: TrainConfig, device: str) -> tuple[LanguageModel, Rollouts]:
    """What a worker keeps from one call to the next."""
    if not config.rollouts.ray:  # Ray sees to it by itself
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.rollouts.workers))
    lm = load_language_model(base_options(config, device))
    return lm, Rollouts(config, lm)
