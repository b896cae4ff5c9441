"""The teacher of stage 2 as the configuration wants it: cached, counted, and only with answers that can be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from fixtures.endpoint import running_endpoint
from smallplan_training import train_rollouts
from smallplan_training.base_model import load_language_model
from smallplan_training.batch_rollout import Trajectory
from smallplan_training.train_config import RolloutConfig, TaskConfig, TrainConfig, build
from smallplan_training.train_rollouts import Rollouts, even_shares, means, summed
from smallplan_training.train_state import base_options
from smallplan_training.train_tasks import TaskSource
from unit.training.tiny_models import save_tiny


def test_an_endpoints_answers_are_counted_and_none_is_paid_for_twice(
    tmp_path: Path, house_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_endpoint() as endpoint:
        config = build(
            TrainConfig,
            {
                "base": str(save_tiny("qwen2.5", tmp_path / "base")),
                "tasks": {"scenes": [str(house_file)], "generated": 0.0, "max_steps": 1, "max_retries": 0},
                "rollouts": {"max_tokens": 2},
                "teacher": {"name": "openai", "model": "big", "base_url": endpoint.url, "prompt_price": 2.0,
                            "completion_price": 10.0, "cache": str(tmp_path / "cache")},
            },
        )  # fmt: skip
        rollouts = Rollouts(config, load_language_model(base_options(config, "cpu")))
        tasks = [TaskSource(config.tasks, 0).task(0)]
        assert rollouts.take_usage() == dict.fromkeys(
            ("teacher_requests", "teacher_cached", "teacher_tokens", "teacher_cost"), 0.0
        )
        turns = len(rollouts.sample(tasks, 1)[0].turns)
        used = rollouts.take_usage()
        assert (used["teacher_requests"], used["teacher_tokens"]) == (turns, 1200 * turns)
        assert used["teacher_cost"] == pytest.approx(0.004 * turns)
        rollouts.sample(tasks, 1)
        used = rollouts.take_usage()
        assert (used["teacher_requests"], used["teacher_cached"], used["teacher_cost"]) == (0, turns, 0)
        assert len(endpoint.requests) == turns


def test_processes_learn_from_as_many_turns_each() -> None:
    trajectories = [Trajectory(cast(Any, n), (cast(Any, n),) * n) for n in (9, 1, 5, 4, 3, 0)]
    parts = even_shares(trajectories, 2)
    assert [sum(len(one.turns) for one in part) for part in parts] == [12, 10]
    assert sorted(one.record for part in parts for one in part) == [0, 1, 3, 4, 5, 9]
    assert even_shares(trajectories[:1], 2) == [trajectories[:1], []]


def test_figures_of_processes_are_summed_or_averaged() -> None:
    parts = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    assert summed(parts) == {"a": 4.0, "b": 6.0}
    assert means(parts) == {"episodes": 2.0, "a": 2.0, "b": 3.0}
    assert summed([{}, {}]) == {}


@pytest.mark.parametrize(("workers", "at_once"), [(1, 4), (2, 2), (16, 1)])
def test_searches_in_igibson_are_as_many_as_there_are_cores(
    workers: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    rollouts = RolloutConfig(in_flight=32, workers=workers)
    config = TrainConfig(base="any", tasks=TaskConfig(simulator="igibson"), rollouts=rollouts)
    assert train_rollouts._at_once(config) == at_once
    assert train_rollouts._at_once(replace(config, tasks=TaskConfig())) == 32
