"""A small house whose every measure is known.

Two rooms of 4 m x 4 m side by side (`left`, `right`), a closed door in the wall between them at (4, 2), a locked
front door at (0, 2). In `left` a low table (a mug on it), a tall cupboard; in `right` a drawer with a spoon in it,
and a wide rug on the floor.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from smallplan_training.simulators.house.house import House

TWO_ROOMS: dict[str, Any] = {
    "name": "two-rooms",
    "rooms": [
        {"id": "left", "type": "living room", "polygon": [[0, 0], [4, 0], [4, 4], [0, 4]]},
        {"id": "right", "type": "kitchen", "polygon": [[4, 0], [8, 0], [8, 4], [4, 4]]},
    ],
    "walls": [
        {"a": [0, 0], "b": [8, 0]},
        {"a": [8, 0], "b": [8, 4]},
        {"a": [8, 4], "b": [0, 4]},
        {"a": [0, 4], "b": [0, 0]},
        {"a": [4, 0], "b": [4, 4]},
    ],
    "doors": [
        {"id": "middle", "position": [4, 2], "width": 0.9, "rooms": ["left", "right"], "openable": True, "open": False},
        {"id": "front", "position": [0, 2], "width": 0.9, "rooms": ["left"], "openable": False, "open": False},
    ],
    "furniture": [
        {
            "id": "table", "category": "coffee table", "position": [2, 3.4], "size": [1.0, 0.6], "yaw": 0.0,
            "height": 0.45, "openable": False, "room": "left",
        },
        {
            "id": "cupboard", "category": "cupboard", "position": [2, 0.4], "size": [0.8, 0.4], "yaw": 0.0,
            "height": 1.8, "openable": True, "room": "left",
        },
        {
            "id": "drawer", "category": "drawer", "position": [7.6, 3.0], "size": [0.4, 0.4], "yaw": 0.0,
            "height": 0.6, "openable": True, "room": "right",
        },
    ],
    "objects": [
        {
            "id": "mug", "category": "mug", "position": [2.2, 3.4, 0.5], "size": [0.1, 0.1, 0.1],
            "parent": "table", "relation": "on",
        },
        {
            "id": "spoon", "category": "spoon", "position": [7.6, 3.0, 0.3], "size": [0.15, 0.03, 0.02],
            "parent": "drawer", "relation": "in",
        },
        {"id": "rug", "category": "rug", "position": [6.0, 1.0, 0.01], "size": [1.2, 0.8, 0.02]},
    ],
}  # fmt: skip


@pytest.fixture
def house_json() -> dict[str, Any]:
    """The house's JSON, a copy to be changed at will."""
    return copy.deepcopy(TWO_ROOMS)


@pytest.fixture
def two_rooms(house_json: dict[str, Any]) -> House:
    return House.from_json(house_json)
