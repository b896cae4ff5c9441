"""Stage 2's searches: the model's own, in batches, with the teacher's usable answers beside, and what came of them.

They run here, or in `rollouts.workers` processes, see `worker_rollouts.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from smallplan_planner.prompt import Message
from smallplan_planner.search import SearchConfig, Situation
from smallplan_training import metrics
from smallplan_training.base_model import LanguageModel
from smallplan_training.batch_generation import BatchGenerator
from smallplan_training.batch_rollout import BatchRollouts, Search, Trajectory, training_env
from smallplan_training.policy_factory import check_model, load_model
from smallplan_training.rewards import RewardConfig
from smallplan_training.scenes import default_model
from smallplan_training.simulators.factory import HOUSE, make_env
from smallplan_training.teachers.openai import DEFAULT_URL, OpenAIConfig, OpenAITeacher, Usage
from smallplan_training.teachers.teacher import ExpertAdapter, GgufTeacher, Teacher, TeacherAnswer, answer_fault
from smallplan_training.train_config import TeacherConfig, TrainConfig
from smallplan_training.train_strategies import EFFICIENCY_PLUS
from smallplan_training.train_tasks import Task

_OPENAI_THREADS = 8


class Rollouts:
    """Runs tasks under a model: drawn at the configuration's temperature, or greedily."""

    def __init__(self, config: TrainConfig, lm: LanguageModel) -> None:
        self._config, self._lm = config, lm
        own = config.rollouts
        make = partial(BatchGenerator, lm.model, lm.chat, max_tokens=own.max_tokens, batch=own.batch,
                       use_cache=own.cache, prompt_tokens=config.prompt_tokens(lm.recipe.max_tokens))  # fmt: skip
        self._teacher = make_teacher(config.teacher) if config.distills else None
        self._sampling = BatchRollouts(
            make(temperature=own.temperature, value_head=lm.value_head),
            teacher=UsableAnswers(self._teacher) if self._teacher is not None else None,
            in_flight=_at_once(config),
            make_env=partial(training_env, config.tasks.failure_rate, config.tasks.simulator),
            teacher_threads=_OPENAI_THREADS if config.teacher.name == "openai" else 0,
        )
        self._likeliest = make(temperature=0.0)
        self._greedy = BatchRollouts(
            self._likeliest, in_flight=_at_once(config), make_env=partial(make_env, config.tasks.simulator)
        )

    def sample(self, tasks: Sequence[Task], seed: int, first: int = 0) -> list[Trajectory]:
        """Searches that explore, with rewards and the teacher's answers, in the order of the tasks.

        `first`: the first task's place, where these are a part of a longer list.
        """
        searches = [
            replace(search, rewards=reward_config(self._config, task.mode))
            for search, task in zip(self._searches(tasks), tasks, strict=True)
        ]
        return self._sampling.run(searches, seed, first=first)

    def greedy(self, tasks: Sequence[Task]) -> list[Trajectory]:
        """Searches by the likeliest answers."""
        try:
            return self._greedy.run(self._searches(tasks))
        finally:
            self._greedy.close()  # those of `sample` stay; both together may be too many

    def answer(self, prompts: Sequence[Sequence[Message]]) -> list[str]:
        """The likeliest answers to some prompts."""
        return [completion.text for completion in self._likeliest.generate(prompts)]

    def take_usage(self) -> dict[str, float]:
        """What a teacher that counts was asked for since the last call; {} of others."""
        if not isinstance(self._teacher, OpenAITeacher):
            return {}
        used, self._teacher.usage = self._teacher.usage, Usage()
        return {
            "teacher_requests": float(used.requests),
            "teacher_cached": float(used.cached),
            "teacher_tokens": float(used.prompt_tokens + used.completion_tokens),
            "teacher_cost": used.cost,
        }

    def close(self) -> None:
        """End what runs beside this process."""
        self._sampling.close()
        self._greedy.close()

    def _searches(self, tasks: Sequence[Task]) -> list[Search]:
        limits = partial(SearchConfig, self._config.tasks.max_steps, self._config.tasks.max_retries)
        return [Search(task.episode, limits(mode=task.mode)) for task in tasks]


def _at_once(config: TrainConfig) -> int:
    """Searches under way in this process. Each of them in iGibson has a worker, which keeps a core busy."""
    wanted = config.rollouts.in_flight
    if config.tasks.simulator == HOUSE:
        return wanted
    return min(wanted, max(1, (os.cpu_count() or 1) // config.rollouts.workers))


class UsableAnswers:
    """A teacher whose answers that can't be parsed or executed are '': nobody should learn them."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.name = teacher.name

    @property
    def model(self) -> str:
        return self._teacher.model

    def read(self, situation: Situation) -> Situation:
        return self._teacher.read(situation)

    def answer(self, situation: Situation) -> TeacherAnswer:
        made = self._teacher.answer(situation)
        return replace(made, text="") if answer_fault(made.text, situation) else made


def make_teacher(config: TeacherConfig) -> Teacher:
    """The teacher of a run; raises `UserError` when it can't be had."""
    if config.name == "expert":
        return ExpertAdapter()
    if config.name == "openai":
        url = config.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        cache = Path(config.cache) if config.cache else None
        return OpenAITeacher(
            OpenAIConfig(
                model=config.model,
                base_url=url,
                prompt_price=config.prompt_price,
                completion_price=config.completion_price,
                cache=cache,
            )
        )
    path = check_model(Path(config.model) if config.model else default_model())
    return GgufTeacher(load_model(path), path.name)


def reward_config(config: TrainConfig, mode: str) -> RewardConfig:
    """The reward in a mode: saver costs what RL-SFT+ costs, so that one model learns both trades; both in rl-sft+."""
    costly = mode == "saver" or config.strategy == "rl-sft+"
    return replace(config.reward, efficiency=config.reward.efficiency * (EFFICIENCY_PLUS if costly else 1.0))


def even_shares(trajectories: Sequence[Trajectory], shares: int) -> list[list[Trajectory]]:
    """All trajectories in `shares` parts of about as many turns: the longest first, each to the smallest part."""
    parts: list[list[Trajectory]] = [[] for _ in range(shares)]
    turns = [0] * shares
    for trajectory in sorted(trajectories, key=lambda one: len(one.turns), reverse=True):
        smallest = turns.index(min(turns))
        parts[smallest].append(trajectory)
        turns[smallest] += len(trajectory.turns)
    return parts


def outcomes(trajectories: Sequence[Trajectory]) -> list[dict[str, float]]:
    """What each search came to, as figures whose means are worth a look."""
    return [_outcome(trajectory) for trajectory in trajectories]


def summed(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums of some figures that all have."""
    return {name: sum(item[name] for item in figures) for name in (figures[0] if figures else {})}


def means(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of some searches' figures, and how many there were."""
    names = figures[0] if figures else {}
    return {"episodes": float(len(figures)), **{n: float(np.mean([item[n] for item in figures])) for n in names}}


def _outcome(trajectory: Trajectory) -> dict[str, float]:
    record, turns = trajectory.record, trajectory.turns
    score = metrics.score(record)
    return {
        "success": score.sr / 100.0,
        "spl": score.spl / 100.0,
        "dist_m": score.dist_m,
        "retrials": score.retrials,
        "turns": float(len(turns)),
        "return": sum(turn.reward.total for turn in turns),
        "unparsable": _share([bool(turn.record.answer.parse_error) for turn in turns]),
        "refused": _share([turn.record.action is None for turn in turns]),
        "unfinished": _share([not turn.completion.finished for turn in turns]),
        "answer_tokens": float(np.mean([len(turn.completion.ids) for turn in turns])) if turns else 0.0,
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
