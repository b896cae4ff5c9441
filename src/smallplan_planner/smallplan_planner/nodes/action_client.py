"""An action client that loses nothing, with executors of several threads too.

rclpy registers a request only after sending it. When another thread of the executor looks at a fast answer in
between, the answer is dropped ("Ignoring unexpected goal response") and whoever waits for it waits for ever.
It also forgets who listens to feedback as soon as the result is there, which overtakes feedback that is still queued.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.qos import QoSProfile
from rclpy.task import Future

FEEDBACK_QOS = QoSProfile(depth=200)
"""Of both ends of `find_object`'s feedback: that of a whole search, so that nothing is lost to a slow listener."""

_LISTENED_TO = 4  # goals that have ended and whose feedback is still handed on


class SafeActionClient(ActionClient):  # type: ignore[misc]
    """An action client whose requests are registered before their answers are looked at, and which hands on all
    feedback, also after the result."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sending = threading.RLock()
        self._ended: deque[bytes] = deque()  # ids of goals that have their result
        super().__init__(*args, **kwargs)

    async def execute(self, taken_data: Any) -> None:
        with self._sending:
            pass  # whatever is being sent has been registered now
        await super().execute(taken_data)

    def send_goal_async(self, *args: Any, **kwargs: Any) -> Future:
        with self._sending:
            return super().send_goal_async(*args, **kwargs)

    def _get_result_async(self, goal_handle: ClientGoalHandle) -> Future:
        with self._sending:
            return super()._get_result_async(goal_handle)

    def _cancel_goal_async(self, goal_handle: ClientGoalHandle) -> Future:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    def _remove_pending_result_request(self, future: Future) -> None:
        before = dict(self._feedback_callbacks)
        super()._remove_pending_result_request(future)
        ended = {goal: listen for goal, listen in before.items() if goal not in self._feedback_callbacks}
        self._feedback_callbacks.update(ended)
        self._ended.extend(ended)
        while len(self._ended) > _LISTENED_TO:
            self._feedback_callbacks.pop(self._ended.popleft(), None)
