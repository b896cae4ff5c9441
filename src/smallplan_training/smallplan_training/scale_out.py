"""Tasks over processes and machines: in this process, in others of this machine, or on a Ray cluster.

    for result in map_tasks(function, tasks, workers=4): ...
    for result in map_tasks(function, tasks, workers=64, backend="ray", address="auto"): ...

Results come in the order of the tasks, so they do not depend on where a task ran. `function` is called in other
processes: it is importable, and keeps what is dear to make (a model, an environment) in a cache of its own module.
Ray is an extra (`pip install ray`) and is imported only when it is asked for.
"""

from __future__ import annotations

import logging
import multiprocessing
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from smallplan_training.errors import UserError
from smallplan_training.processes import die_with_parent

logger = logging.getLogger(__name__)

BACKENDS = ("local", "ray")
THIS_MACHINE = "local"
"""The address of a Ray cluster that is started for this call, on this machine."""

_PATIENCE = 10.0  # s until a cluster's machine answers
_AHEAD = 2  # tasks for each worker that a cluster holds at a time

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def map_tasks(
    function: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    workers: int = 1,
    backend: str = "local",
    address: str = THIS_MACHINE,
) -> Iterator[_Result]:
    """The results of `function` for all tasks, in their order.

    Args:
        workers: processes; 1 with the backend `local` is this process.
        backend: `local`, or `ray`.
        address: of the Ray cluster: `local` starts one here, `auto` finds the one of this machine, and
            `ray://HOST:10001` is one elsewhere, whose machines have this package installed.

    Raises what `function` raises, and `UserError` for a setting that is none or a cluster that can't be had. What
    has not begun by then is not run.
    """
    pool = Workers(workers, backend, address)
    if backend == "local" and workers == 1:
        return pool.map(function, tasks)
    return _map_and_close(pool, function, tasks)


def _map_and_close(pool: Workers, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
    with pool:
        yield from pool.map(function, tasks)


class Workers:
    """Worker processes that stay from one call of `map` to the next, and keep what they have loaded.

    They start with the first call, and end with `close` or the `with` block. `gpus`: share of a GPU that a worker on
    a Ray cluster gets; 0: none. The other arguments, and what is raised, are those of `map_tasks`.
    """

    def __init__(
        self, workers: int = 1, backend: str = "local", address: str = THIS_MACHINE, gpus: float = 0.0
    ) -> None:
        if workers < 1:
            raise UserError(f"{workers} workers; expected at least 1")
        if backend not in BACKENDS:
            raise UserError(f"there is no backend {backend!r}; expected {' or '.join(BACKENDS)}")
        self._workers, self._backend, self._address, self._gpus = workers, backend, address, gpus
        self._pool: ProcessPoolExecutor | None = None
        self._ray: Any = None
        self._started_ray = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
        """The results of `function` for all tasks, in their order."""
        if self._backend == "ray":
            return self._map_ray(function, tasks)
        if self._workers == 1:
            return map(function, tasks)
        return self._map_processes(function, tasks)

    def close(self) -> None:
        """End the workers; what has not begun is not run. May be called again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._ray is not None and self._started_ray:
            self._ray.shutdown()
        self._ray, self._started_ray = None, False

    def _map_processes(self, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would share the state of llama.cpp and of threads
            self._pool = ProcessPoolExecutor(self._workers, context, die_with_parent)
        try:
            yield from self._pool.map(function, tasks)
        except BrokenProcessPool as error:
            self.close()
            raise UserError(_killed(self._workers)) from error
        except BaseException:
            self.close()
            raise

    def _map_ray(self, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
        ray = self._connected()
        remote = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=0)(_call)
        waiting, under_way = deque(tasks), deque[Any]()
        try:
            shared = ray.put(function)
            while waiting or under_way:
                while waiting and len(under_way) < _AHEAD * self._workers:
                    under_way.append(remote.remote(shared, waiting.popleft()))
                try:
                    yield ray.get(under_way[0])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, Exception) else error from error
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                    raise UserError(_killed(self._workers)) from error
                under_way.popleft()
        finally:
            for reference in under_way:
                ray.cancel(reference, force=False)

    def _connected(self) -> Any:
        if self._ray is None:
            ray = _import_ray()
            self._started_ray = not ray.is_initialized()
            if self._started_ray:
                try:
                    _connect(ray, self._workers, self._address)
                except (OSError, RuntimeError, ValueError) as error:
                    self._started_ray = False
                    raise UserError(
                        f"no Ray cluster at {self._address!r}: {error}. Start one with `ray start --head`, or give "
                        "'local'"
                    ) from error
            self._ray = ray
        return self._ray


def _killed(workers: int) -> str:
    return f"one of {workers} worker processes was killed; where memory is short (see `dmesg`), take fewer workers"


def _call(function: Callable[[_Task], _Result], task: _Task) -> _Result:
    return function(task)


def _connect(ray: Any, workers: int, address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # Ray itself tries for minutes before it says that nobody answers
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    quiet: dict[str, Any] = {"include_dashboard": False} if address == THIS_MACHINE else {}
    if address == THIS_MACHINE:
        quiet["num_cpus"] = workers
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **quiet)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: run `pip install ray`, or go without it (--workers)") from error
    return ray
