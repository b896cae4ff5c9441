"""When text has to end so that the command is in time. Time is played; seconds are exact."""

from __future__ import annotations

import pytest

from smallplan_planner import slm_budget
from smallplan_planner.slm_budget import Speed, Speeds, TextBudget


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slm_budget, "time", made)
    return made


def measured(text: float = 0.1) -> Speeds:
    speeds = Speeds()
    speeds.text.learn(10, 10 * text)
    return speeds


def budget_for(clock: Clock, seconds: float | None, command: int, speeds: Speeds | None = None) -> TextBudget:
    """An answer is due in so many seconds, and its command has so many tokens, which nothing tells beforehand."""
    end = None if seconds is None else clock.now + seconds
    return TextBudget(speeds or measured(), end, 10 * command, lambda: command)


def written(budget: TextBudget, clock: Clock, seconds: float = 0.1, speeds: Speeds | None = None) -> int:
    """Tokens that are allowed when each takes `seconds`."""
    tokens = 0
    while tokens < 1000 and budget.allows_token():
        clock.now += seconds
        if speeds is not None:
            speeds.text.learn(1, seconds)
        tokens += 1
    return tokens


def test_a_speed_follows_what_was_measured_last_but_not_at_once() -> None:
    speed = Speed(newest=0.3)
    assert speed.tokens_per_second == 0.0
    speed.learn(0, 1.0)
    assert speed.seconds == 0.0, "no tokens tell nothing"
    speed.learn(10, 1.0)
    assert speed.seconds == pytest.approx(0.1)
    speed.learn(10, 2.0)
    assert 0.1 < speed.seconds < 0.15
    for _ in range(30):
        speed.learn(10, 2.0)
    assert speed.tokens_per_second == pytest.approx(5.0, rel=0.01)


def test_one_slow_token_tells_little_and_ten_tell_much() -> None:
    speeds = measured()
    speeds.text.learn(1, 0.3)
    assert speeds.text.seconds < 0.1 * 1.25
    for _ in range(9):
        speeds.text.learn(1, 0.3)
    assert speeds.text.seconds > 0.2


def test_text_ends_in_time_for_the_command(clock: Clock) -> None:
    start = clock.now
    tokens = written(budget_for(clock, 10.0, command=10), clock)
    left = start + 10.0 - clock.now
    assert left >= 10 * 0.1, "the command's own time is left"
    assert left <= 10 * 0.1 * 1.5, "and not much more: text was written as long as possible"
    assert 80 < tokens < 90


def test_a_longer_command_leaves_less_text(clock: Clock) -> None:
    short = written(budget_for(clock, 10.0, command=5), clock)
    long = written(budget_for(clock, 10.0, command=20), clock)
    assert long < short


def test_without_a_deadline_text_is_never_cut(clock: Clock) -> None:
    assert written(budget_for(clock, None, command=10), clock) == 1000


def test_where_only_the_command_fits_no_text_is_written(clock: Clock) -> None:
    assert written(budget_for(clock, 1.0, command=10), clock) == 0


def test_a_robot_that_is_slower_than_measured_is_noticed_within_the_answer(clock: Clock) -> None:
    """Tokens take five times as long as before: so will the command."""
    start, speeds = clock.now, measured()
    written(budget_for(clock, 20.0, command=10, speeds=speeds), clock, seconds=0.5, speeds=speeds)
    assert start + 20.0 - clock.now >= 10 * 0.5


def test_the_commands_tokens_are_counted_once_and_only_where_time_is_short(clock: Clock) -> None:
    counted: list[float] = []

    def count() -> int:
        counted.append(clock.now)
        return 10

    start = clock.now
    budget = TextBudget(measured(), start + 10.0, 50, count)
    assert budget.allows_token() and not counted and not budget.is_short
    written(budget, clock)
    assert budget.is_short
    (when,) = counted
    assert start + 10.0 - when >= 50 * 0.1, "as many tokens as there may be were in time until then"
    assert when < clock.now, "and text went on when they were counted"


def test_a_prediction_is_longer_than_what_was_measured_and_grows_with_the_tokens() -> None:
    speeds = measured(text=0.1)
    assert speeds.writing_seconds(10) > 10 * 0.1
    assert speeds.writing_seconds(20) > speeds.writing_seconds(10)
