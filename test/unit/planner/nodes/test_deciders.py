"""What makes the decisions, when it can't be made."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run `make setup`, or source one")

from smallplan_planner.generation import SlmError
from smallplan_planner.nodes.deciders import make_decider
from smallplan_planner.nodes.parameters import PlannerParameters


class NoDriver:
    """llama_cpp where the driver of the GPU is missing, as in a container that is started without it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name == "smallplan_planner.slm":
            raise RuntimeError("Failed to load shared library 'libllama.so': libcuda.so.1: cannot open shared object")


def test_a_missing_driver_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "smallplan_planner.slm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    with pytest.raises(SlmError, match=r"can't be loaded: .*libcuda\.so\.1: .*--runtime nvidia"):
        make_decider(PlannerParameters(n_gpu_layers=-1))
    assert make_decider(PlannerParameters(policy="greedy")).name == "greedy", "which needs no llama.cpp"
