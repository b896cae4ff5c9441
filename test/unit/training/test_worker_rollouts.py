"""Searches in several workers: the same as in one process, and the workers keep what they hold."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import yaml  # noqa: E402

from smallplan_planner.resources import resource  # noqa: E402
from smallplan_training import worker_rollouts  # noqa: E402
from smallplan_training.base_model import LanguageModel, load_language_model  # noqa: E402
from smallplan_training.batch_rollout import Trajectory  # noqa: E402
from smallplan_training.scale_out import Workers  # noqa: E402
from smallplan_training.train_config import TrainConfig, build  # noqa: E402
from smallplan_training.train_rollouts import Rollouts  # noqa: E402
from smallplan_training.train_state import base_options  # noqa: E402
from smallplan_training.train_tasks import TaskSource  # noqa: E402
from smallplan_training.worker_rollouts import WorkerRollouts, make_rollouts  # noqa: E402
from unit.training.tiny_models import save_tiny  # noqa: E402


@pytest.fixture
def config(tmp_path: Path, house_file: Path) -> TrainConfig:
    torch.set_num_threads(1)
    recipe = yaml.safe_load(resource("config", "models/qwen2.5.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "float32.yaml"  # in bfloat16 a batch's shape may decide between two tokens
    path.write_text(yaml.safe_dump({**recipe, "cpu_dtype": "float32"}), encoding="utf-8")
    return build(
        TrainConfig,
        {
            "recipe": str(path),
            "base": str(save_tiny("qwen2.5", tmp_path / "base")),
            "tasks": {"scenes": [str(house_file)], "generated": 0.0, "max_steps": 2, "max_retries": 1},
            "rollouts": {"max_tokens": 4, "workers": 2},
        },
    )


@pytest.fixture
def trained(config: TrainConfig) -> LanguageModel:
    """A model whose adapters have moved."""
    lm = load_language_model(base_options(config, "cpu"))
    with torch.no_grad():
        for parameter in lm.trainable_parameters():
            parameter.add_(0.1)
    return lm


def told(trajectories: list[Trajectory]) -> list[Any]:
    return [
        (one.record.seed, one.record.result, [(t.completion.ids, t.reward, t.teacher_answer) for t in one.turns])
        for one in trajectories
    ]


def check_same(config: TrainConfig, lm: LanguageModel) -> None:
    """Three tasks in two parts, sampled and greedily, twice: the second time with other weights."""
    tasks = [TaskSource(config.tasks, 5).task(number) for number in range(3)]
    here, scaled = Rollouts(config, lm), make_rollouts(config, lm)
    assert isinstance(scaled, WorkerRollouts)
    try:
        for _ in range(2):
            assert told(scaled.sample(tasks, seed=7)) == told(here.sample(tasks, seed=7))
            assert told(scaled.greedy(tasks)) == told(here.greedy(tasks))
            with torch.no_grad():
                for parameter in lm.trainable_parameters():
                    parameter.neg_()
    finally:
        scaled.close()


def test_parts_join_to_what_one_process_does(
    config: TrainConfig, trained: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []

    def travelling(_: Workers, function: Any, tasks: Any) -> Any:
        for task in tasks:
            parts.append(len(task.tasks))
            sent, part = pickle.loads(pickle.dumps((function, task)))
            yield pickle.loads(pickle.dumps(sent(part)))

    monkeypatch.setattr(Workers, "map", travelling)
    check_same(config, trained)
    assert parts == [1, 2] * 4
    assert worker_rollouts._loaded.cache_info().misses == 1  # the base is loaded once


@pytest.mark.slow
def test_processes_do_what_one_does(config: TrainConfig, trained: LanguageModel) -> None:
    check_same(config, trained)


@pytest.mark.slow
def test_a_ray_cluster_does_what_one_process_does(config: TrainConfig, trained: LanguageModel) -> None:
    pytest.importorskip("ray")
    clustered = replace(config, rollouts=replace(config.rollouts, ray="local"))
    check_same(clustered, trained)


def test_one_worker_is_this_process(config: TrainConfig, trained: LanguageModel) -> None:
    alone = replace(config, rollouts=replace(config.rollouts, workers=1))
    assert type(make_rollouts(alone, trained)) is Rollouts
