"""Tasks by number: the same ones again, the shares that were asked for, houses that no split has."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from smallplan_training.errors import UserError
from smallplan_training.train_config import TaskConfig
from smallplan_training.train_tasks import FIRST_HOUSE_SEED, TaskSource, scene_tasks


def test_a_task_is_the_same_whenever_it_is_asked_for(house_file: Path) -> None:
    config = TaskConfig(scenes=(str(house_file),), generated=0.0, saver=0.5)
    one, other = TaskSource(config, 3), TaskSource(config, 3)
    first = [one.task(number) for number in range(4)]
    again = [other.task(number) for number in reversed(range(4))][::-1]
    for left, right in zip(first, again, strict=True):
        assert (left.mode, left.scene, left.episode.target) == (right.mode, right.scene, right.episode.target)
        assert left.episode.start == right.episode.start
    assert len({(task.episode.target, task.episode.start) for task in first}) > 1
    assert TaskSource(config, 4).task(0).episode.seed != first[0].episode.seed


def test_modes_have_their_share(house_file: Path) -> None:
    def savers(share: float) -> int:
        source = TaskSource(TaskConfig(scenes=(str(house_file),), generated=0.0, saver=share), 0)
        return sum(source.task(number).mode == "saver" for number in range(6))

    assert savers(0.0) == 0
    assert savers(1.0) == 6


def test_generated_houses_are_far_from_the_splits_and_serve_for_some_episodes() -> None:
    source = TaskSource(TaskConfig(scenes=(), generated=1.0, episodes_per_house=2), 0)
    one, two, three = (source.task(number).scene for number in (0, 1, 2))
    assert one == two != three
    assert int(one.removeprefix("house-")) >= FIRST_HOUSE_SEED


def test_validation_meets_what_evaluation_meets(house_file: Path) -> None:
    from smallplan_training.evaluate import episode_seed

    tasks = list(scene_tasks((str(house_file),), 2, 7))
    assert [task.episode.seed for task in tasks] == [episode_seed("small", index, 7) for index in (0, 1)]
    assert {task.mode for task in tasks} == {"normal"}


def test_scenes_that_do_not_exist_are_named() -> None:
    with pytest.raises(UserError, match="nowhere"):
        TaskSource(TaskConfig(scenes=("nowhere",), generated=0.5), 0)
