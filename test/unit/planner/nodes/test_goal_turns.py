from __future__ import annotations

import threading

from smallplan_planner.nodes.bell import Bell
from smallplan_planner.nodes.decision_worker import DecisionWorker
from smallplan_planner.nodes.goal_turns import GoalTurns
from smallplan_planner.search import Answer, ResultCode


class Runner:
    """As much of a runner as taking turns needs."""

    def __init__(self) -> None:
        self.reason: ResultCode | None = None
        self.stopped = threading.Event()

    def stop(self, code: ResultCode, message: str) -> None:
        self.reason = self.reason or code
        self.stopped.set()


def test_the_newer_search_waits_for_the_end_of_the_older() -> None:
    turns, old, new = GoalTurns(), Runner(), Runner()
    assert turns.begin(old, 1.0) and turns.running is old
    began: list[bool] = []
    thread = threading.Thread(target=lambda: began.append(turns.begin(new, 10.0)))
    thread.start()
    assert old.stopped.wait(5.0) and old.reason is ResultCode.PREEMPTED
    assert turns.running is old and not began
    turns.end(old)
    thread.join(5.0)
    assert began == [True] and turns.running is new and new.reason is None


def test_a_waiting_search_gives_way_to_a_newer_one() -> None:
    turns, running, waiting = GoalTurns(), Runner(), Runner()
    turns.begin(running, 1.0)
    began: list[bool] = []
    thread = threading.Thread(target=lambda: began.append(turns.begin(waiting, 10.0)))
    thread.start()
    assert running.stopped.wait(5.0)
    assert not turns.begin(Runner(), 0.05), "the running one has not ended"
    thread.join(5.0)
    assert began == [False] and waiting.reason is ResultCode.PREEMPTED


def test_a_search_that_does_not_end_blocks_the_next_only_for_a_while() -> None:
    turns, stuck, new = GoalTurns(), Runner(), Runner()
    turns.begin(stuck, 1.0)
    assert not turns.begin(new, 0.05)
    assert new.reason is ResultCode.TIMEOUT and turns.running is stuck


def test_stopping_all() -> None:
    turns, running = GoalTurns(), Runner()
    assert turns.stop_all(ResultCode.CANCELED, "", 0.0)
    turns.begin(running, 1.0)
    assert not turns.stop_all(ResultCode.CANCELED, "", 0.05) and running.reason is ResultCode.CANCELED
    threading.Timer(0.05, lambda: turns.end(running)).start()
    assert turns.stop_all(ResultCode.CANCELED, "", 5.0) and not turns.busy


def test_the_worker_takes_one_decision_after_the_other() -> None:
    bell = Bell()
    worker = DecisionWorker(bell)
    first = worker.start(lambda cancel: Answer("done()"))
    assert bell.wait_for(lambda: first.finished, 5.0)
    assert first.answer == Answer("done()") and not worker.busy
    second = worker.start(lambda cancel: (cancel.wait(5.0), Answer("late"))[1])
    assert worker.busy
    second.cancel.set()
    assert bell.wait_for(lambda: second.finished, 5.0) and second.answer == Answer("late")
    third = worker.start(lambda cancel: 1 / 0)  # type: ignore[arg-type, return-value]
    assert bell.wait_for(lambda: third.finished, 5.0) and isinstance(third.error, ZeroDivisionError)
    assert worker.close(5.0)


def test_closing_the_worker_cancels_what_runs() -> None:
    worker = DecisionWorker(Bell())
    pending = worker.start(lambda cancel: (cancel.wait(5.0), Answer("done()"))[1])
    assert worker.close(2.0) and pending.finished
