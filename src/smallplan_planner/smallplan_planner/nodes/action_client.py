"""An action client for executors of several threads.

rclpy registers a request only after sending it. When another thread of the executor looks at a fast answer in
between, the answer is dropped ("Ignoring unexpected goal response") and whoever waits for it waits for ever.
"""

from __future__ import annotations

import threading
from typing import Any

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.qos import QoSProfile
from rclpy.task import Future

FEEDBACK_QOS = QoSProfile(depth=200)
"""Of both ends of `find_object`'s feedback: that of a whole search, so that nothing is lost to a slow listener."""


class SafeActionClient(ActionClient):  # type: ignore[misc]
    """An action client whose requests are registered before their answers are looked at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sending = threading.RLock()
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
