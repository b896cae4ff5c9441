"""The loop that everything shares: what it records, and that it turns no bug into a score."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.crowded import CrowdedEnv, CrowdedEpisode
from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.actions import ActionKind
from smallplan_planner.generation import SlmError
from smallplan_planner.policies import GreedyPolicy, RuleClassifier, SlmPolicy
from smallplan_planner.prompt import render
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import Answer, ResultCode, SearchConfig, Situation
from smallplan_training.rollout import DecisionRecord, EpisodeRecord, run_episode
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode, draw_episode
from smallplan_training.simulators.house.house import House


@pytest.fixture(scope="module")
def episode(small_house: House) -> Episode:
    return draw_episode(small_house, 1)


def search(episode: Episode, policy: object, config: SearchConfig | None = None, **kwargs: object) -> EpisodeRecord:
    return run_episode(HouseSearchEnv(max_steps=10**6), episode, policy, config or SearchConfig(), **kwargs)  # type: ignore[arg-type]


def test_greedy_search_is_recorded_in_full(episode: Episode) -> None:
    record = search(episode, GreedyPolicy(), SearchConfig(max_steps=200))
    executed = [d for d in record.decisions if d.outcome is not None]
    assert record.result.success and record.result.code is ResultCode.NONE
    assert record.target == episode.target and record.shortest_path == episode.shortest_path
    assert len(executed) == record.result.steps
    assert record.decisions[-1].action is not None and record.decisions[-1].action.kind is ActionKind.DONE
    assert record.result.distance == pytest.approx(sum(d.outcome.distance for d in executed if d.outcome))
    assert [d.distance for d in record.decisions] == sorted(d.distance for d in record.decisions)
    assert record.decisions[-1].distance == record.result.distance
    assert record.low_level_steps == record.decisions[-1].low_level_steps > 18  # a full turn is 18 of them
    assert record.result.distance >= record.shortest_path - 0.2


def test_the_same_episode_twice_is_the_same(episode: Episode) -> None:
    first, second = (search(episode, GreedyPolicy(), SearchConfig(max_steps=10)) for _ in range(2))
    assert [d.answer.command for d in first.decisions] == [d.answer.command for d in second.decisions]
    assert first.result == second.result


def test_what_fails_by_itself_is_the_same_for_the_same_episode(episode: Episode) -> None:
    def outcomes() -> list[object]:
        env = HouseSearchEnv(max_steps=10**6, failure_rate=0.5)
        record = run_episode(env, episode, GreedyPolicy(), SearchConfig(max_steps=12, max_retries=20))
        return [decision.outcome for decision in record.decisions]

    first = outcomes()
    assert first == outcomes()
    assert any(outcome is not None and not outcome.success for outcome in first)  # type: ignore[attr-defined]


def test_on_step_sees_each_decision_with_what_it_was_made_on(episode: Episode) -> None:
    seen: list[tuple[Situation, DecisionRecord, SceneGraph]] = []
    record = search(episode, GreedyPolicy(), SearchConfig(max_steps=4), on_step=lambda *step: seen.append(step))
    assert [step[1] for step in seen] == list(record.decisions)
    for (situation, decision, after), following in pairwise(seen):
        assert decision.view == situation.view
        assert following[0].graph == after  # the graph afterwards is what is decided on next


def test_refused_answers_count_as_retrials_and_end_in_stuck(episode: Episode) -> None:
    class Babbler(RuleClassifier):
        count = 0

        def decide(self, situation: Situation) -> Answer:
            self.count += 1
            return Answer(f"fly(kitchen, {self.count})")

    record = search(episode, Babbler(), SearchConfig(max_retries=3))
    assert record.result.code is ResultCode.STUCK
    assert len(record.decisions) == 4 and record.result.retries == 3, "the answer that ends a search is no retry"
    assert all(d.action is None and d.outcome is None and "no action 'fly'" in d.refusal for d in record.decisions)
    assert record.result.distance == 0.0


def test_what_a_model_could_not_read_is_not_recorded_as_read(tmp_path: Path) -> None:
    from smallplan_planner.slm import AnswerLimits, Slm

    write_tiny_gguf(tmp_path / "tiny.gguf")
    with Slm(tmp_path / "tiny.gguf", n_ctx=2048, n_threads=1, limits=AnswerLimits(4, 4)) as slm:
        record = run_episode(CrowdedEnv(), CrowdedEpisode(), SlmPolicy(slm), SearchConfig(max_steps=2))
        assert len(record.decisions) == 2
        for decision in record.decisions:
            assert decision.view.left_out.rooms > 0
            assert decision.answer.prompt == slm.render_chat(render(decision.view))


def test_a_model_that_does_not_answer_fails_the_episode(episode: Episode) -> None:
    class Mute(RuleClassifier):
        def decide(self, situation: Situation) -> Answer:
            raise SlmError("the prompt is too long")

    record = search(episode, Mute())
    assert record.result.code is ResultCode.MODEL_FAILED and not record.result.success
    assert "too long" in record.result.message


def test_a_bug_in_a_policy_is_not_turned_into_a_score(episode: Episode) -> None:
    class Broken(RuleClassifier):
        def decide(self, situation: Situation) -> Answer:
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        search(episode, Broken())
