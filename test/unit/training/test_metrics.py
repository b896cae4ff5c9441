"""SR, SPL, distance, retrials and AUC-E by table, and what the bootstrap must satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from smallplan_planner.search import Answer, ResultCode, SearchResult
from smallplan_training import metrics
from smallplan_training.metrics import EpisodeScore
from smallplan_training.rollout import EpisodeRecord


def make_score(value: float, spl: float = 0.0) -> EpisodeScore:
    return EpisodeScore(sr=value, spl=spl, dist_m=value / 10, retrials=0.0, auc_e=value / 2)


@pytest.mark.parametrize(
    ("success", "shortest", "travelled", "expected"),
    [
        (True, 10.0, 10.0, 1.0),
        (True, 10.0, 20.0, 0.5),
        (True, 10.0, 8.0, 1.0),  # a path shorter than the reference doesn't count more
        (True, 10.0, 0.0, 1.0),
        (False, 10.0, 10.0, 0.0),
    ],
)
def test_spl(success: bool, shortest: float, travelled: float, expected: float) -> None:
    assert metrics.spl(success, shortest, travelled) == pytest.approx(expected)


@pytest.mark.parametrize("shortest", [0.0, -1.0, float("nan")])
def test_spl_needs_a_shortest_path(shortest: float) -> None:
    with pytest.raises(ValueError, match="shortest path"):
        metrics.spl(True, shortest, 1.0)


@pytest.mark.parametrize(
    ("success", "steps", "expected"),
    [(True, 0, 1.0), (True, 1250, 0.75), (True, 5000, 0.0), (True, 9000, 0.0), (False, 10, 0.0)],
)
def test_efficiency(success: bool, steps: int, expected: float) -> None:
    assert metrics.efficiency(success, steps) == pytest.approx(expected)


def test_mean_efficiency_is_the_area_under_the_success_curve() -> None:
    rng = np.random.default_rng(1)
    steps, success = rng.integers(1, 7000, size=200), rng.random(200) < 0.7
    curve = np.array([np.mean(success & (steps <= budget)) for budget in range(1, metrics.STEP_BUDGET + 1)])
    shares = [metrics.efficiency(bool(ok), int(count)) for ok, count in zip(success, steps)]
    assert np.mean(shares) == pytest.approx(curve.sum() / metrics.STEP_BUDGET, abs=2e-4)


def test_score_of_a_record() -> None:
    result = SearchResult(True, ResultCode.NONE, "found", steps=6, retries=2, distance=14.0)
    record = EpisodeRecord("mug", 3, 7.0, result, (), low_level_steps=500)
    assert metrics.score(record) == EpisodeScore(100.0, pytest.approx(50.0), 14.0, 2.0, pytest.approx(90.0))


def test_failure_scores_nothing_but_its_way() -> None:
    result = SearchResult(False, ResultCode.MAX_STEPS, "", steps=50, retries=1, distance=60.0)
    assert metrics.score(EpisodeRecord("mug", 3, 7.0, result, (), 900)) == EpisodeScore(0.0, 0.0, 60.0, 1.0, 0.0)


def test_interval_is_the_textbook_one_for_a_normal_mean() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    low, high = metrics.interval(values)
    error = values.std(ddof=1) / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.03)


def test_interval_is_seeded() -> None:
    values = np.random.default_rng(0).random(50)
    assert metrics.interval(values, seed=4) == metrics.interval(values, seed=4)
    assert metrics.interval(values, seed=4) != metrics.interval(values, seed=5)


def test_interval_of_a_constant_has_no_width() -> None:
    assert metrics.interval(np.full(10, 3.0)) == (3.0, 3.0)


def test_bootstrap_draws_every_resample_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_CHUNK", 70)
    assert metrics.bootstrap_means(np.arange(10.0), resamples=25).shape == (25,)


def test_pairing_sees_a_difference_that_separate_intervals_hide() -> None:
    base = np.random.default_rng(2).uniform(0, 90, size=60)
    better = [make_score(100, spl=value + 3.0) for value in base]
    worse = [make_score(100, spl=value) for value in base]
    difference = metrics.paired(better, worse)["spl"]
    assert difference.low > 0
    assert difference.mean == pytest.approx(3.0)
    assert difference.high < 4
    assert difference.p < 0.001
    assert metrics.intervals(worse)["spl"][1] > metrics.intervals(better)["spl"][0]


def test_pairing_changes_sign_with_the_order() -> None:
    first, second = [make_score(v) for v in (100, 0, 100)], [make_score(v) for v in (0, 0, 100)]
    assert metrics.paired(first, second)["sr"].mean == pytest.approx(-metrics.paired(second, first)["sr"].mean)


def test_pairing_refuses_different_episodes() -> None:
    with pytest.raises(ValueError, match="2 and 1 episodes"):
        metrics.paired([make_score(1), make_score(2)], [make_score(1)])


def test_p_value_is_that_of_a_normal_difference() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0.0, 10.0, size=400)
    shift = 2.0 * noise.std(ddof=1) / np.sqrt(400) - noise.mean()  # exactly two standard errors from 0
    first = [make_score(100, spl=50 + value) for value in noise + shift]
    second = [make_score(100, spl=50) for _ in noise]
    assert metrics.paired(first, second)["spl"].p == pytest.approx(0.0455, abs=0.01)
    assert metrics.paired(second, first)["spl"].p == pytest.approx(0.0455, abs=0.01)


def test_p_value_of_no_difference_is_1_and_never_0() -> None:
    same = [make_score(v, spl=v / 3) for v in (100, 0, 100, 100)]
    assert metrics.paired(same, same)["spl"].p == 1.0
    other = [make_score(v, spl=v / 3 - 1) for v in (100, 0, 100, 100)]
    assert 0 < metrics.paired(same, other)["spl"].p < 0.001


def test_distance_over_all_episodes_and_over_those_that_both_solve() -> None:
    def walked(solved: bool, metres: float) -> EpisodeScore:
        return EpisodeScore(sr=100.0 * solved, spl=0.0, dist_m=metres, retrials=0.0, auc_e=0.0)

    first = [walked(True, 10), walked(True, 6), walked(False, 2), walked(True, 50)]
    second = [walked(True, 20), walked(True, 12), walked(True, 40), walked(False, 8)]
    everything = metrics.distance_change(first, second)
    solved = metrics.distance_change(first, second, both_solved=True)
    assert everything is not None and solved is not None
    assert (everything.episodes, everything.first, everything.second) == (4, 17.0, 20.0)
    assert everything.percent.mean == pytest.approx(-15.0)
    assert (solved.episodes, solved.first, solved.second) == (2, 8.0, 16.0)
    assert solved.metres.mean == -8.0
    assert (solved.percent.low, solved.percent.mean, solved.percent.high) == pytest.approx((-50.0, -50.0, -50.0))


def test_distance_without_an_episode_that_both_solve() -> None:
    one, none = make_score(100), make_score(0)
    assert metrics.distance_change([one, none], [none, one], both_solved=True) is None
    assert metrics.distance_change([one], [EpisodeScore(100, 50, 0.0, 0, 0)]) is None
    with pytest.raises(ValueError, match="2 and 1 episodes"):
        metrics.distance_change([one, none], [one])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("explore(kitchen)"), False),  # of a room that may not be there: refused, but readable
        (Answer("done()"), False),
        (Answer("done()", parse_error="no line Command"), True),
        (Answer("go to the kitchen"), True),
        (Answer("dance(kitchen)"), True),
        (Answer("navigate(kitchen)"), True),
        (Answer(""), True),
    ],
)
def test_an_answer_is_unparsable_when_no_command_can_be_read(answer: Answer, expected: bool) -> None:
    assert metrics.is_unparsable(answer) is expected


def test_no_episodes_is_an_error() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        metrics.means([])
    with pytest.raises(ValueError, match="no episodes"):
        metrics.interval(np.array([]))


def test_percentile_in_milliseconds() -> None:
    assert metrics.percentile_ms([0.1, 0.2, 0.3], 50) == pytest.approx(200.0)
    assert np.isnan(metrics.percentile_ms([], 50))
