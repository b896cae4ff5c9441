"""One episode of search in a simulator: the loop that evaluation, data collection, training and bench share.

`search_episode` feeds a `SearchEpisode` from a `SearchEnv`, asks for each decision, and records it; `run_episode`
lets one policy answer, `batch_rollout.py` one model for many episodes. Nothing is decided here: what a decision is
worth is in `metrics.py` and `rewards.py`, when a search ends in `search.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol, cast

from smallplan_planner.actions import Action, ActionKind, Outcome, OutcomeCode
from smallplan_planner.generation import SlmError
from smallplan_planner.mapping.voronoi import count_new_nodes
from smallplan_planner.policies import Policy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PromptView
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import (
    Answer,
    ResultCode,
    RoomQuestion,
    SearchConfig,
    SearchEpisode,
    SearchResult,
    Situation,
)
from smallplan_training.simulators.search_env import EpisodeLost, SearchEnv, StepInfo

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

    view: PromptView  # what the policy read: of a model, as much as it can read
    answer: Answer
    action: Action | None  # None: the answer was refused
    outcome: Outcome | None  # None: nothing was executed (refused, or `done()`)
    refusal: str  # why it was refused, '' when it was not
    distance: float  # m travelled when the action had ended
    low_level_steps: int
    latency: float  # s from the observation to the action: rooms, prompt, policy (waiting for others too), check
    info: StepInfo | None  # the simulator's, without its Voronoi graph; None when nothing was executed
    new_voronoi_nodes: int = 0  # uncovered by this step; 0 where the environment was not asked for the graph


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


Request = Situation | RoomQuestion
"""What a search asks: decide on a situation, answered by an `Answer`, or name a room, answered by its type."""

SearchSteps = Generator[Request, Answer | str, EpisodeRecord]


def run_episode(
    env: SearchEnv,
    episode: EpisodeLike,
    policy: Policy,
    config: SearchConfig,
    on_step: OnStep | None = None,
) -> EpisodeRecord:
    """Search until the episode ends; one policy, one environment. See `search_episode`.

    A model that gives no answer (`SlmError`) fails the episode with MODEL_FAILED. No other error is caught: a
    rollout never turns a bug into a score.
    """
    steps = search_episode(env, episode, config, on_step)
    try:
        request = next(steps)
        while True:
            try:
                reply = reply_of(policy, request)
            except SlmError as error:
                request = steps.throw(error)
            else:
                request = steps.send(reply)
    except StopIteration as end:
        return cast(EpisodeRecord, end.value)


def reply_of(policy: Policy, request: Request) -> Answer | str:
    """A policy's reply to what a search asks."""
    if isinstance(request, RoomQuestion):
        return policy.classify_room(request.labels)
    return policy.decide(request)


def search_episode(
    env: SearchEnv, episode: EpisodeLike, config: SearchConfig, on_step: OnStep | None = None
) -> SearchSteps:
    """One search as a coroutine: yields what it asks, is sent the reply, and returns the record.

    So whoever answers may take its time, and gather what many searches ask. An `SlmError` thrown in ends the search
    with MODEL_FAILED; an episode that the simulator loses (`EpisodeLost`) ends with EXECUTOR_UNAVAILABLE. `env` takes
    `options["episode"]`; `search.py` limits the steps, not the env. The episode's seed draws what fails by itself, so
    the same replies meet the same search twice.
    """
    search = SearchEpisode(episode.target, config, load_priors())
    graph, steps, voronoi = SceneGraph(), 0, None
    decisions: list[DecisionRecord] = []
    try:
        graph, start = env.reset(seed=episode.seed, options={"episode": episode})
        steps, voronoi = int(start["total_low_level_steps"]), start["voronoi"]
        search.observe(graph)
    except EpisodeLost as error:
        _lose(search, error)
    while search.result is None:
        begin = time.perf_counter()
        try:
            for question in search.rooms_to_classify():
                search.classify(question.room_id, cast(str, (yield question)))
            situation = search.situation()
            answer = cast(Answer, (yield situation))
        except SlmError as error:
            logger.warning("no decision: %s", error)
            search.finish(ResultCode.MODEL_FAILED, str(error))
            break
        action = search.choose(answer)
        latency = time.perf_counter() - begin
        outcome: Outcome | None = None
        info: StepInfo | None = None
        new_nodes = 0
        if action is not None and action.kind is not ActionKind.DONE:
            try:
                graph, _, _, _, told = env.step(action)
            except EpisodeLost as error:
                outcome = Outcome(False, OutcomeCode.FAILED, "the simulator broke down")
                _lose(search, error)
            else:
                info = cast(StepInfo, told)
                outcome, steps = info["outcome"], info["total_low_level_steps"]
                if info["voronoi"] is not None:
                    new_nodes, voronoi = count_new_nodes(voronoi, info["voronoi"]), info["voronoi"]
                    info["voronoi"] = None  # a graph for each step of many episodes fills the memory
                search.report(outcome)
                search.observe(graph)
        record = DecisionRecord(
            view=answer.view or situation.view,
            answer=answer,
            action=action,
            outcome=outcome,
            refusal=search.last_refusal if action is None else "",
            distance=search.distance,
            low_level_steps=steps,
            latency=latency,
            info=info,
            new_voronoi_nodes=new_nodes,
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


def _lose(search: SearchEpisode, error: EpisodeLost) -> None:
    logger.warning("the episode is lost: %s", error)
    search.finish(ResultCode.EXECUTOR_UNAVAILABLE, f"the episode is lost: {error}")
