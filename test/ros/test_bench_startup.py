"""The start-up that `smallplan bench` measures is that of the real node, until it is active."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from smallplan_training.bench_startup import PROFILES, measure_startup
from smallplan_training.processes import free_domain


def test_a_start_is_measured_until_the_node_is_active(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))  # for this test alone, as is what the bench sets
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name in PROFILES:
        monkeypatch.delenv(name, raising=False)
    begun = time.perf_counter()
    seconds = measure_startup(tiny_model, runs=1)
    assert 0.3 < seconds <= time.perf_counter() - begun  # no Python that imports ROS starts in less
