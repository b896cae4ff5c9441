"""One episode of search in a simulator: the loop that evaluation, data collection and bench share.

`run_episode` feeds a `SearchEpisode` from a `SearchEnv` and a policy, and records each decision. It decides
nothing itself: what a decision is worth is in `metrics.py` and `rewards.py`, when a search ends in `search.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from smallplan_planner.actions import Action, ActionKind, Outcome
from smallplan_planner.generation import SlmError
from smallplan_planner.policies import Policy, classify_rooms
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PromptView
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import Answer, ResultCode, SearchConfig, SearchEpisode, SearchResult, Situation
from smallplan_training.simulators.search_env import SearchEnv, StepInfo

logger = logging.getLogger(__name__)


class EpisodeLike(Protocol):
    """A drawn episode: what a rollout reads of it. Lengths in metres."""

    @property
    def target(self) -> str: ...
    @property
    def shortest_path(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class DecisionRecord:
    """One decision and what came of it. `distance` and `low_level_steps` count from the episode's start."""

    view: PromptView  # what the policy read
    answer: Answer
    action: Action | None  # None: the answer was refused
    outcome: Outcome | None  # None: nothing was executed (refused, or `done()`)
    refusal: str  # why it was refused, '' when it was not
    distance: float  # m travelled when the action had ended
    low_level_steps: int
    latency: float  # s from the observation to the action: rooms, prompt, policy, check
    info: StepInfo | None  # the simulator's, None when nothing was executed


@dataclass(frozen=True)
class EpisodeRecord:
    """One finished episode."""

    target: str
    seed: int
    shortest_path: float  # m
    result: SearchResult
    decisions: tuple[DecisionRecord, ...]
    low_level_steps: int
    graph: SceneGraph = field(default_factory=SceneGraph)  # what had been discovered in the end
    room_labels: tuple[tuple[str, str], ...] = ()  # (room id, the label that it had in the end)


OnStep = Callable[[Situation, DecisionRecord, SceneGraph], None]
"""Called after each decision: what was decided on, the record, and the graph afterwards."""


def run_episode(
    env: SearchEnv,
    episode: EpisodeLike,
    policy: Policy,
    config: SearchConfig,
    on_step: OnStep | None = None,
) -> EpisodeRecord:
    """Search until the episode ends. `env` takes `options["episode"]`; `search.py` limits the steps, not the env.

    The episode's seed draws what fails by itself, so the same policy meets the same search twice.
    A model that gives no answer (`SlmError`) fails the episode with MODEL_FAILED. No other error is caught: a
    rollout never turns a bug into a score.
    """
    search = SearchEpisode(episode.target, config, load_priors())
    graph, start = env.reset(seed=episode.seed, options={"episode": episode})
    steps = int(start["total_low_level_steps"])
    decisions: list[DecisionRecord] = []
    search.observe(graph)
    while search.result is None:
        begin = time.perf_counter()
        try:
            classify_rooms(search, policy)
            situation = search.situation()
            answer = policy.decide(situation)
        except SlmError as error:
            logger.warning("no decision: %s", error)
            search.finish(ResultCode.MODEL_FAILED, str(error))
            break
        action = search.choose(answer)
        latency = time.perf_counter() - begin
        outcome: Outcome | None = None
        info: StepInfo | None = None
        if action is not None and action.kind is not ActionKind.DONE:
            graph, _, _, _, told = env.step(action)
            info = cast(StepInfo, told)
            outcome, steps = info["outcome"], info["total_low_level_steps"]
            search.report(outcome)
            search.observe(graph)
        record = DecisionRecord(
            view=situation.view,
            answer=answer,
            action=action,
            outcome=outcome,
            refusal=search.last_refusal if action is None else "",
            distance=search.distance,
            low_level_steps=steps,
            latency=latency,
            info=info,
        )
        decisions.append(record)
        if on_step is not None:
            on_step(situation, record, graph)
    assert search.result is not None
    return EpisodeRecord(
        target=episode.target,
        seed=episode.seed,
        shortest_path=episode.shortest_path,
        result=search.result,
        decisions=tuple(decisions),
        low_level_steps=steps,
        graph=graph,
        room_labels=tuple(search.room_labels.items()),
    )
