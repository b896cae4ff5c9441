"""Many searches at once under one model: its answers are generated in batches, each search goes on by itself.

A search that ends makes room for the next one. Every answer is a turn, also one that can't be parsed or is refused:
the model writes freely, as in the paper, and learns from what that costs. What a turn draws depends on the seed,
the search's place in the list and the turn's number alone, not on what else is under way.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import cast

from smallplan_planner.actions import ActionKind, ParseError
from smallplan_planner.generation import SlmError
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, PromptView, render
from smallplan_planner.prompt_budget import fit_room, fit_situation
from smallplan_planner.response import read_response
from smallplan_planner.room_prompt import parse_room, room_words
from smallplan_planner.search import Answer, RoomQuestion, SearchConfig, Situation
from smallplan_training.batch_generation import BatchGenerator, Completion
from smallplan_training.rewards import RL_SFT, RewardConfig, StepReward, step_reward
from smallplan_training.rollout import (
    DecisionRecord,
    EpisodeLike,
    EpisodeRecord,
    Request,
    SearchSteps,
    search_episode,
)
from smallplan_training.simulators.factory import HOUSE, make_env
from smallplan_training.simulators.search_env import SearchEnv
from smallplan_training.teachers.teacher import Teacher

logger = logging.getLogger(__name__)


_ROOM_TOKENS = 16  # of a room's name


@dataclass(frozen=True)
class Turn:
    """One answer of the model, what came of it, and what the teacher would have answered."""

    messages: tuple[Message, ...]  # the prompt
    completion: Completion
    view: PromptView
    record: DecisionRecord
    reward: StepReward
    teacher_answer: str  # '' without a teacher, or when it gave none


@dataclass(frozen=True)
class Trajectory:
    """One finished search; `turns` are its decisions, in order."""

    record: EpisodeRecord
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Search:
    """A search to run: where, for what, by which rules, and what its decisions are worth."""

    episode: EpisodeLike
    config: SearchConfig = field(default_factory=SearchConfig)
    rewards: RewardConfig = RL_SFT


def training_env(failure_rate: float = 0.0, simulator: str = HOUSE) -> SearchEnv:
    """The environment that training searches in: it tells the Voronoi graph, which the reward needs."""
    return make_env(simulator, failure_rate=failure_rate, voronoi=True)


class BatchRollouts:
    """Runs searches under a model, up to `in_flight` at once.

    Args:
        generator: the model; its temperature explores, 0 is greedy.
        teacher: answers the same prompts, for stage 2's SFT; None: nobody does.
        in_flight: searches at once; at least the generator's batch, or it is never full.
        make_env: environments, one for each search under way.
        teacher_threads: that ask the teacher while the model generates, for teachers that answer over a network;
            0: it is asked in between.
    """

    def __init__(
        self,
        generator: BatchGenerator,
        *,
        teacher: Teacher | None = None,
        in_flight: int = 64,
        make_env: Callable[[], SearchEnv] = training_env,
        teacher_threads: int = 0,
    ) -> None:
        if in_flight < 1 or teacher_threads < 0:
            raise ValueError(f"in_flight {in_flight}, teacher_threads {teacher_threads}; expected >= 1 and >= 0")
        self._generator, self._teacher = generator, teacher
        self._in_flight, self._make_env, self._teacher_threads = in_flight, make_env, teacher_threads
        self._envs: list[SearchEnv] = []  # all that were made
        self._free: list[SearchEnv] = []
        self._priors = load_priors()
        self._rooms: BatchGenerator | None = None

    def run(
        self,
        searches: Iterable[Search],
        seed: int = 0,
        on_done: Callable[[Trajectory], None] = lambda _: None,
        first: int = 0,
    ) -> list[Trajectory]:
        """Run all searches; trajectories in their order. `on_done` is called with each as it ends.

        `first`: the first search's place, where these are a part of a longer list.

        Raises what the simulator, the teacher or the model raises; a teacher's `SlmError` costs its answer alone.
        """
        waiting = deque(enumerate(searches, first))
        running: list[_Running] = []
        done: dict[int, Trajectory] = {}
        with self._pool() as pool, self._generator.session():
            while waiting or running:
                while waiting and len(running) < self._in_flight:
                    number, search = waiting.popleft()
                    running.append(_Running(number, search, self._take_env()))
                self._name_rooms(running)
                self._decide([one for one in running if one.record is None], seed, pool)
                for one in running:
                    if one.record is not None:
                        done[one.number] = self._trajectory(one, one.record)
                        self._free.append(one.env)
                        on_done(done[one.number])
                running = [one for one in running if one.record is None]
        return [done[number] for number in sorted(done)]

    def close(self) -> None:
        """End what the environments run beside this process."""
        for env in self._envs:
            env.close()
        self._envs.clear()
        self._free.clear()

    def _take_env(self) -> SearchEnv:
        if not self._free:
            self._envs.append(self._make_env())
            return self._envs[-1]
        return self._free.pop()

    def _pool(self) -> ThreadPoolExecutor | nullcontext[None]:
        threaded = self._teacher is not None and self._teacher_threads > 0
        return ThreadPoolExecutor(self._teacher_threads) if threaded else nullcontext()

    def _name_rooms(self, running: Sequence[_Running]) -> None:
        """Answer what is asked about rooms until every search that goes on waits for a decision."""
        while asking := [one for one in running if isinstance(one.request, RoomQuestion)]:
            things = [cast(RoomQuestion, one.request).labels for one in asking]
            seen = [index for index, some in enumerate(things) if room_words(some)]
            if self._rooms is None:  # greedy: a name that is drawn would be noise that no reward tells apart
                self._rooms = self._generator.greedy(_ROOM_TOKENS)
            types, count, budget = self._priors.rooms, self._rooms.count_tokens, self._rooms.prompt_budget()
            made = self._rooms.generate([fit_room(things[index], types, count, budget) for index in seen])
            labels = [UNCERTAIN_ROOM] * len(asking)
            for index, completion in zip(seen, made, strict=True):
                labels[index] = self._room_type(completion.text)
            for one, label in zip(asking, labels, strict=True):
                one.reply(label)

    def _room_type(self, text: str) -> str:
        try:
            return parse_room(text, self._priors.rooms)
        except ParseError:
            return UNCERTAIN_ROOM

    def _decide(self, asking: Sequence[_Running], seed: int, pool: ThreadPoolExecutor | None) -> None:
        """One answer for each search, and its next step. The teacher is asked what the model is asked."""
        if not asking:
            return
        situations = [
            fit_situation(cast(Situation, one.request), self._generator, None, self._priors) for one in asking
        ]
        prompts = [tuple(render(situation.view)) for situation in situations]
        asked = pool.map(self._teach, situations) if pool is not None else map(self._teach, situations)
        seeds = [(seed, one.number, len(one.asked)) for one in asking]
        completions = self._generator.generate(prompts, seeds)
        taught = list(asked)  # before any search goes on: names may change then
        for one, read, messages, completion, lesson in zip(
            asking, situations, prompts, completions, taught, strict=True
        ):
            one.asked.append((messages, completion, lesson))
            one.reply(read_answer(completion, read.view))

    def _teach(self, situation: Situation) -> str:
        if self._teacher is None:
            return ""
        try:
            return self._teacher.answer(situation).text
        except SlmError as error:
            logger.warning("the teacher gave no answer: %s", error)
            return ""

    def _trajectory(self, one: _Running, record: EpisodeRecord) -> Trajectory:
        last = len(record.decisions) - 1
        turns = []
        for index, ((messages, completion, lesson), made) in enumerate(zip(one.asked, record.decisions, strict=True)):
            reward = reward_of(made, one.rewards, success=record.result.success and index == last)
            turns.append(Turn(messages, completion, made.view, made, reward, lesson))
        return Trajectory(record, tuple(turns))


class _Running:
    """A search under way: what it waits for, and what was answered."""

    def __init__(self, number: int, search: Search, env: SearchEnv) -> None:
        self.number, self.env, self.rewards = number, env, search.rewards
        self.asked: list[tuple[tuple[Message, ...], Completion, str]] = []  # prompt, answer, the teacher's answer
        self.request: Request | None = None
        self.record: EpisodeRecord | None = None  # when it has ended
        self._steps: SearchSteps = search_episode(env, search.episode, search.config)
        self._advance(lambda: next(self._steps))

    def reply(self, answer: Answer | str) -> None:
        """Answer the request; afterwards there is another one, or the record."""
        self._advance(lambda: self._steps.send(answer))

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            self.request = step()
        except StopIteration as end:
            self.request, self.record = None, cast(EpisodeRecord, end.value)


def read_answer(completion: Completion, view: PromptView) -> Answer:
    """What the model wrote about a view, without a grammar, as an answer; with its `parse_error` where it has not the
    form."""
    response, parse_error = read_response(completion.text)
    return Answer(
        response.command,
        response.analysis,
        response.reasoning,
        prompt_tokens=len(completion.prompt_ids),
        generated_tokens=len(completion.ids),
        parse_error=parse_error,
        view=view,
    )


def reward_of(record: DecisionRecord, config: RewardConfig, *, success: bool) -> StepReward:
    """The reward of one decision; `success`: the search succeeded by it."""
    done = record.action is not None and record.action.kind is ActionKind.DONE
    return step_reward(
        config,
        success=success,
        executed=done or (record.outcome is not None and record.outcome.success),
        new_voronoi_nodes=record.new_voronoi_nodes,
        metres=record.outcome.distance if record.outcome is not None else 0.0,
        parsed=not record.answer.parse_error,
    )
