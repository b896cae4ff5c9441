from __future__ import annotations

from dataclasses import fields

import pytest
import yaml

from smallplan_planner.resources import resource

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`, or source one")
from smallplan_planner.nodes.parameters import PlannerParameters


def test_the_parameters_file_lists_every_parameter_with_its_default() -> None:
    path = resource("config", "planner.yaml")
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    assert listed == {item.name: item.default for item in fields(PlannerParameters)}
    for item in fields(PlannerParameters):
        assert type(listed[item.name]) is type(item.default), item.name


def test_defaults_are_within_their_own_ranges() -> None:
    for item in fields(PlannerParameters):
        low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
        assert item.metadata["description"].endswith(".")
        assert low is None or low <= item.default <= high, item.name
        assert not choices or item.default in choices, item.name
