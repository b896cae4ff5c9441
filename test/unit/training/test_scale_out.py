"""Tasks over processes and Ray: the order of results, errors, and what is said where something is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from fixtures.lives import await_end
from smallplan_training.errors import UserError
from smallplan_training.scale_out import map_tasks


def square(number: int) -> int:
    return number * number


def process_of(_: int) -> int:
    return os.getpid()


def fail_at_three(number: int) -> int:
    if number == 3:
        raise UserError("three is none")
    return number


def test_one_worker_is_this_process_and_works_as_results_are_taken() -> None:
    seen: list[int] = []

    def note(number: int) -> int:
        seen.append(number)
        return number

    results = map_tasks(note, [1, 2, 3])
    assert next(results) == 1 and seen == [1]
    assert list(map_tasks(process_of, [0])) == [os.getpid()]


def test_results_of_processes_come_in_the_order_of_the_tasks() -> None:
    assert list(map_tasks(abs, [-3, 2, -1], workers=2)) == [3, 2, 1]


def test_errors_of_a_task_reach_the_caller() -> None:
    results = map_tasks(fail_at_three, [1, 3, 5])
    assert next(results) == 1
    with pytest.raises(UserError, match="three is none"):
        next(results)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UserError, match="0 workers; expected at least 1"):
        map_tasks(abs, [1], workers=0)
    with pytest.raises(UserError, match="no backend 'spark'; expected local or ray"):
        map_tasks(abs, [1], backend="spark")


def test_without_ray_its_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    genuine = builtins.__import__

    def no_ray(name: str, *args: object, **kwargs: object) -> object:
        if name == "ray":
            raise ImportError("no module named ray")
        return genuine(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(UserError, match="pip install ray"):
        list(map_tasks(abs, [1], backend="ray"))


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (an extra)")


@pytest.fixture
def cluster() -> Iterator[None]:
    """One cluster of this machine for a test's calls: starting one takes seconds."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@needs_ray
def test_ray_gives_the_same_results_and_errors_from_other_processes(cluster: None) -> None:
    numbers = list(range(7))
    assert list(map_tasks(lambda number: number * number, numbers, workers=2, backend="ray")) == [
        square(number) for number in numbers
    ]

    def elsewhere(_: int) -> int:
        return os.getpid()

    assert os.getpid() not in set(map_tasks(elsewhere, [0, 1], workers=2, backend="ray"))

    def fails(number: int) -> int:
        if number == 3:
            raise UserError("three is none")
        return number

    results = map_tasks(fails, [1, 3, 5], workers=2, backend="ray")
    assert next(results) == 1
    with pytest.raises(UserError, match="three is none"):
        next(results)


@needs_ray
def test_a_cluster_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster at '127.0.0.1:1'"):
        list(map_tasks(abs, [1], backend="ray", address="127.0.0.1:1"))


def kill_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_named() -> None:
    with pytest.raises(UserError, match="one of 2 worker processes was killed"):
        list(map_tasks(kill_itself, range(4), workers=2))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_workers_end_when_the_parent_is_killed() -> None:
    code = textwrap.dedent("""
        import time
        from smallplan_training.scale_out import Workers
        with Workers(2) as workers:
            print(*workers.map(eval, ["__import__('os').getpid()"] * 4), flush=True)
            list(workers.map(time.sleep, [60, 60]))
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = {int(word) for word in parent.stdout.readline().split()}
    assert workers and parent.pid not in workers
    parent.terminate()
    parent.wait(timeout=20)
    parent.stdout.close()
    for worker in workers:
        await_end(worker)
