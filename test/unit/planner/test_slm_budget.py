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


def measured(text: float = 0.1, command: float = 0.2) -> Speeds:
    speeds = Speeds()
    speeds.text.learn(10, 10 * text)
    speeds.command.learn(10, 10 * command)
    return speeds


def written(budget: TextBudget, clock: Clock, seconds: float = 0.1) -> int:
    """Tokens that are allowed when each takes `seconds`."""
    tokens = 0
    while tokens < 1000 and budget.allows_token():
        clock.now += seconds
        tokens += 1
    return tokens


def test_a_speed_follows_what_was_measured_last_but_not_at_once() -> None:
    speed = Speed()
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


def test_text_ends_in_time_for_the_command(clock: Clock) -> None:
    start = clock.now
    tokens = written(TextBudget(measured(), start + 10.0, command=10), clock)
    left = start + 10.0 - clock.now
    assert left >= 10 * 0.2, "the command's own time is left"
    assert left <= 10 * 0.2 * 2, "and not much more: text was written as long as possible"
    assert 60 < tokens < 80


def test_a_longer_command_leaves_less_text(clock: Clock) -> None:
    short = written(TextBudget(measured(), clock.now + 10.0, command=5), clock)
    long = written(TextBudget(measured(), clock.now + 10.0, command=20), clock)
    assert long < short


def test_without_a_deadline_text_is_never_cut(clock: Clock) -> None:
    assert written(TextBudget(measured(), None, command=10), clock) == 1000


def test_where_only_the_command_fits_no_text_is_written(clock: Clock) -> None:
    assert written(TextBudget(measured(), clock.now + 2.0, command=10), clock) == 0


def test_a_robot_that_is_slower_than_measured_is_noticed_within_the_answer(clock: Clock) -> None:
    """Tokens take five times as long as before: so will the command."""
    start = clock.now
    written(TextBudget(measured(), start + 20.0, command=10), clock, seconds=0.5)
    assert start + 20.0 - clock.now >= 10 * 0.2 * 5


def test_an_unmeasured_command_is_believed_to_be_slower_than_text() -> None:
    speeds = Speeds()
    speeds.text.learn(10, 1.0)
    assert speeds.command_seconds(10) > 10 * 0.1
    assert speeds.command_seconds(20) > speeds.command_seconds(10)


def test_a_command_is_not_believed_to_be_faster_than_text() -> None:
    speeds = measured(text=0.1, command=0.001)  # one whose first token decided it
    assert speeds.command_seconds(10) > 10 * 0.1
