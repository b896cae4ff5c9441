"""Events of the middleware, under the names that the ROS distributions give them."""

from __future__ import annotations

from collections.abc import Callable

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


def incompatible_qos_callbacks(callback: Callable[[int], None]) -> SubscriptionEventCallbacks:
    """Event callbacks of a subscription: `callback` gets the kind of the policy that kept a publisher away."""
    return SubscriptionEventCallbacks(incompatible_qos=lambda info: callback(info.last_policy_kind))
