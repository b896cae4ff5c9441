"""Runs a node until SIGINT or SIGTERM: callbacks on several threads, and an orderly end."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
import rclpy.logging
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, ShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

_THREADS = 8  # a running and a waiting goal block one each; the rest stays free
_LAST_CALLBACKS = 5.0  # s for callbacks under way to end, and with them for the answers that they owe
_LAST_ANSWERS = 0.1  # s for what was sent last to be delivered: nobody tells when it has been


class StartError(Exception):
    """Raised by a node's constructor when it can't do its work; the message says why. The process ends with code 1."""


class ClosableNode(Protocol):
    """A node with something to end while callbacks are still served."""

    def close(self) -> None:
        """Stop what is under way, within a bound."""


class _NodeLogHandler(logging.Handler):
    """Passes the package's log records to the node's logger, so that they reach /rosout."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


class _Threads(MultiThreadedExecutor):  # type: ignore[misc]
    """Callbacks on several threads, whose end can be waited for: `shutdown` does not."""

    def finish(self, timeout: float) -> bool:
        """Wait, while it spins on, until no callback is under way; False when one still was after `timeout` s.

        A goal's result is sent when its callback has ended.
        """
        end = time.monotonic() + timeout
        while any(not callback.done() for callback in list(self._futures)):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True


def run_node(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Create a node and serve it until a signal arrives; returns the process's exit code.

    `make_node` returns a node that is a `ClosableNode` too. Signals are handled here and not by rclpy, so that a
    robot under way can still be stopped over ROS.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        rclpy.init(args=list(args) if args is not None else sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # as rclpy calls everything that it does not understand
        rclpy.logging.get_logger("smallplan").fatal(f"the ROS arguments can't be used: {error}")
        return 1
    try:
        node = make_node()
    except StartError as error:
        rclpy.logging.get_logger("smallplan").fatal(str(error))
        rclpy.try_shutdown()
        return 1
    handler = _NodeLogHandler(node)
    packages = [logging.getLogger(name) for name in ("smallplan_planner", "smallplan_training")]
    for package in packages:
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        package.propagate = False
    executor = _Threads(num_threads=_THREADS)
    executor.add_node(node)
    closed = threading.Event()
    spinner = threading.Thread(target=_spin, args=(executor, node, closed), name="spin", daemon=True)
    spinner.start()
    try:
        while spinner.is_alive() and not stop.wait(0.5):
            pass
        node.close()  # type: ignore[attr-defined]
        return 0 if stop.is_set() else 1
    finally:
        if not executor.finish(_LAST_CALLBACKS):
            node.get_logger().warning(f"a callback did not end within {_LAST_CALLBACKS:g} s; its answer is lost")
        closed.set()
        executor.wake()
        spinner.join(timeout=2.0)
        time.sleep(_LAST_ANSWERS)
        for package in packages:
            package.removeHandler(handler)
        executor.shutdown(timeout_sec=2.0)
        node.destroy_node()
        rclpy.try_shutdown()


def _spin(executor: MultiThreadedExecutor, node: Node, closed: threading.Event) -> None:
    """Serve callbacks; one that raises is reported, and the others are served on."""
    while rclpy.ok() and not closed.is_set():
        try:
            executor.spin_once(timeout_sec=0.5)
        except (ExternalShutdownException, ShutdownException):
            return
        except Exception as error:
            node.get_logger().error(f"a callback raised {type(error).__name__}: {error}")
