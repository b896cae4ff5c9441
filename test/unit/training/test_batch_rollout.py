"""Many searches at once: the same as one after the other, with rewards that add up by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from fixtures.crowded import CrowdedEnv, CrowdedEpisode
from smallplan_planner.actions import ActionKind
from smallplan_planner.generation import PromptBudget, SlmError
from smallplan_planner.mapping.voronoi import count_new_nodes
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, PromptView, render
from smallplan_planner.room_prompt import room_answers
from smallplan_planner.search import Answer, ResultCode, SearchConfig, Situation
from smallplan_training.batch_generation import Completion
from smallplan_training.batch_rollout import BatchRollouts, Search, Trajectory, read_answer, training_env
from smallplan_training.rewards import RewardConfig
from smallplan_training.rollout import EpisodeRecord, run_episode
from smallplan_training.simulators.house.env import NO_LIMIT, HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode, draw_episode
from smallplan_training.simulators.house.house import House
from smallplan_training.teachers.teacher import ReadsAll, TeacherAnswer

REWARDS = RewardConfig(efficiency=0.6)


@pytest.fixture(scope="module")
def episodes(small_house: House) -> list[Episode]:
    return [draw_episode(small_house, seed) for seed in (1, 2, 3)]


class ScriptedModel:
    """Answers by the text of the prompt: done, explore, open; after one explored room it errs twice in a row."""

    def __init__(self, room: str = "Kitchen.", readable: int = 10**6) -> None:
        self.sizes: list[int] = []  # of the batches
        self.seeds: list[Sequence[int]] = []
        self.rooms_asked = 0
        self._room = room
        self._readable = readable  # characters of a prompt

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]] | None = None
    ) -> list[Completion]:
        if seeds is not None:
            self.sizes.append(len(prompts))
            self.seeds += seeds
        else:
            self.rooms_asked += len(prompts)
        texts = [self.answer(list(messages)) if seeds is not None else self._room for messages in prompts]
        return [Completion((1, 2), (3, 4, 5), (-0.1, -0.2, -0.3), text, True) for text in texts]

    def greedy(self, max_tokens: int) -> ScriptedModel:
        return self

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages)

    def prompt_budget(self, grammar: object = None) -> PromptBudget:
        return PromptBudget(10**6, self._readable)

    @staticmethod
    def answer(messages: list[Message]) -> str:
        text = messages[-1].content
        if text.count(": explored") == 1 and "invalid" not in text:
            return "I would rather think about it."
        if text.count(": explored") == 1 and text.count("invalid") == 1:
            return "Analysis: a\nReasoning: b\nCommand: navigate(nowhere, nothing)"
        space = re.search(r"Unexplored space:\n[^,\n]+, ([^:\n]+):", text)
        closed = re.search(r"Closed (?:doors|containers):\n[^,\n]+, ([^:\n]+): ([^,\n]+)", text)
        command = "done()"
        if "Found: none" in text and space:
            command = f"explore({space[1]})"
        elif "Found: none" in text and closed:
            command = f"go_to_and_open({closed[1]}, {closed[2]})"
        return f"Analysis: a\nReasoning: b\nCommand: {command}"


class AsPolicy:
    """The scripted model as a policy for `run_episode`."""

    def decide(self, situation: Situation) -> Answer:
        text = ScriptedModel.answer(render(situation.view))
        return read_answer(Completion((1, 2), (3, 4, 5), (-0.1, -0.2, -0.3), text, True), situation.view)

    def classify_room(self, labels: Any) -> str:
        return "kitchen" if list(labels) else UNCERTAIN_ROOM


class Teacher(ReadsAll):
    name, model = "test", ""

    def answer(self, situation: Situation) -> TeacherAnswer:
        if situation.view.history and situation.view.history[-1].outcome.startswith("invalid"):
            raise SlmError("no answer")
        return TeacherAnswer(f"{situation.target} of {len(situation.options)}")


def rollouts(model: ScriptedModel, **settings: Any) -> BatchRollouts:
    return BatchRollouts(model, **settings)  # type: ignore[arg-type]


def searches(episodes: list[Episode], **config: Any) -> list[Search]:
    return [Search(episode, SearchConfig(**{"max_steps": 8, **config}), REWARDS) for episode in episodes]


@pytest.fixture(scope="module")
def made(episodes: list[Episode]) -> tuple[ScriptedModel, list[Trajectory]]:
    model = ScriptedModel()
    return model, rollouts(model, teacher=Teacher(), in_flight=2).run(searches(episodes), seed=4)


def comparable(record: EpisodeRecord) -> object:
    """A record without what differs between runs: times, arrays that can't be compared."""
    return (
        record.target, record.seed, record.shortest_path, record.result, record.low_level_steps, record.room_labels,
        [(d.view, d.answer, d.action, d.outcome, d.refusal, d.distance, d.low_level_steps) for d in record.decisions],
    )  # fmt: skip


@pytest.mark.parametrize("classify", ("rule", "model"))
def test_each_search_is_the_one_that_is_run_alone(episodes: list[Episode], classify: str) -> None:
    wanted = searches(episodes[:2], classify_rooms=classify, max_steps=5)
    model = ScriptedModel()
    together = rollouts(model).run(wanted)
    assert (model.rooms_asked > 0) == (classify == "model")
    for search, trajectory in zip(wanted, together, strict=True):
        alone = run_episode(training_env(), search.episode, AsPolicy(), search.config)
        assert comparable(trajectory.record) == comparable(alone)


def test_rewards_add_up_by_hand(episodes: list[Episode], made: tuple[ScriptedModel, list[Trajectory]]) -> None:
    _, trajectories = made
    kinds = set()
    for episode, trajectory in zip(episodes, trajectories, strict=True):
        env = training_env()
        _, info = env.reset(seed=episode.seed, options={"episode": episode})
        before = info["voronoi"]
        for index, turn in enumerate(trajectory.turns):
            record, last = turn.record, index == len(trajectory.turns) - 1
            if last and trajectory.record.result.success:
                kinds.add("success")
                expected = 5.0
            elif record.answer.parse_error:
                kinds.add("unparsable")
                expected = -0.3 - 0.1
            elif record.action is None:
                kinds.add("refused")
                expected = -0.3
            elif record.action.kind is ActionKind.DONE:
                expected = 0.3
            else:
                kinds.add("executed")
                _, _, _, _, info = env.step(record.action)
                nodes = count_new_nodes(before, info["voronoi"])
                before = info["voronoi"]
                assert nodes == record.new_voronoi_nodes
                sign = 1 if info["outcome"].success else -1
                expected = sign * 0.3 + 0.1 * nodes / 20 - 0.6 * info["distance"] / 30
            assert turn.reward.total == pytest.approx(expected)
    assert {"unparsable", "refused", "executed"} <= kinds


def test_turns_hold_what_was_read_answered_and_taught(made: tuple[ScriptedModel, list[Trajectory]]) -> None:
    _, trajectories = made
    for trajectory in trajectories:
        assert [turn.record for turn in trajectory.turns] == list(trajectory.record.decisions)
        for turn in trajectory.turns:
            assert list(turn.messages) == render(turn.view)
            assert turn.completion.text == ScriptedModel.answer(list(turn.messages))
            after_refusal = bool(turn.view.history) and turn.view.history[-1].outcome.startswith("invalid")
            assert (turn.teacher_answer == "") == after_refusal, "a teacher that gives no answer costs that alone"
            assert after_refusal or turn.teacher_answer.startswith(trajectory.record.target)


def test_of_a_large_building_the_model_and_the_teacher_read_what_fits() -> None:
    class Expert(Teacher):
        asked: ClassVar[list[PromptView]] = []

        def answer(self, situation: Situation) -> TeacherAnswer:
            self.asked.append(situation.view)
            return TeacherAnswer("an answer")

    model, episode, config = ScriptedModel(readable=4000), CrowdedEpisode(), SearchConfig(max_steps=3)
    (made,) = rollouts(model, teacher=Expert(), make_env=CrowdedEnv).run([Search(episode, config, REWARDS)])
    assert len(made.turns) >= 3
    assert Expert.asked == [turn.view for turn in made.turns]
    for turn in made.turns:
        assert turn.view.left_out.rooms > 0 and turn.record.view == turn.view
        assert list(turn.messages) == render(turn.view) and 3500 < model.count_tokens(turn.messages) <= 4000


def test_as_many_are_under_way_as_allowed_and_each_turn_draws_from_its_own_seed(
    made: tuple[ScriptedModel, list[Trajectory]],
) -> None:
    model, trajectories = made
    assert max(model.sizes) == 2 and len(model.sizes) < sum(model.sizes)
    turns = [(4, number, turn) for number, t in enumerate(trajectories) for turn in range(len(t.turns))]
    assert sorted(map(tuple, model.seeds)) == turns


def test_closing_ends_all_environments_that_were_made(episodes: list[Episode]) -> None:
    made: list[HouseSearchEnv] = []
    closed: list[HouseSearchEnv] = []

    class Closing(HouseSearchEnv):
        def close(self) -> None:
            closed.append(self)

    def make() -> HouseSearchEnv:
        made.append(Closing(max_steps=NO_LIMIT, voronoi=True))
        return made[-1]

    whole = rollouts(ScriptedModel(), in_flight=2, make_env=make)
    whole.run(searches(episodes))
    whole.close()
    assert len(made) == 2 and closed == made


def test_a_rerun_and_another_number_under_way_give_the_same(
    episodes: list[Episode], made: tuple[ScriptedModel, list[Trajectory]]
) -> None:
    alone = rollouts(ScriptedModel(), in_flight=1).run(searches(episodes), seed=4)
    for one, other in zip(made[1], alone, strict=True):
        assert comparable(one.record) == comparable(other.record)
        assert [turn.reward for turn in one.turns] == [turn.reward for turn in other.turns]


def test_rooms_are_named_by_the_model_and_nonsense_is_uncertain(episodes: list[Episode]) -> None:
    wanted = searches(episodes[:1], classify_rooms="model", max_steps=2)
    for said, meant in (("Kitchen.", "kitchen"), ("a nice place", UNCERTAIN_ROOM)):
        record = rollouts(ScriptedModel(said)).run(wanted)[0].record
        assert meant in room_answers(load_priors().rooms)
        assert {label for _, label in record.room_labels} <= {meant, UNCERTAIN_ROOM}
        assert meant in {label for _, label in record.room_labels}


def test_answers_that_never_fit_end_the_search(episodes: list[Episode]) -> None:
    class Babbler(ScriptedModel):
        @staticmethod
        def answer(messages: list[Message]) -> str:
            return "no"

    trajectory = rollouts(Babbler()).run(searches(episodes[:1], max_retries=3))[0]
    assert trajectory.record.result.code is ResultCode.STUCK
    assert [turn.reward.total for turn in trajectory.turns] == pytest.approx([-0.4] * 4)


def test_a_bug_of_the_teacher_is_not_swallowed(episodes: list[Episode]) -> None:
    class Broken(Teacher):
        def answer(self, situation: Situation) -> TeacherAnswer:
            raise KeyError("a bug")

    for threads in (0, 2):
        with pytest.raises(KeyError, match="a bug"):
            rollouts(ScriptedModel(), teacher=Broken(), teacher_threads=threads).run(searches(episodes[:1]))
