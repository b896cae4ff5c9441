from __future__ import annotations

import math
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallplan_planner.mapping.voronoi import count_new_nodes
from smallplan_training.rewards import RL_SFT, RL_SFT_PLUS, RewardConfig, StepReward, mean_components, step_reward

STEP: dict[str, Any] = {"success": False, "executed": True, "new_voronoi_nodes": 0, "metres": 0.0, "parsed": True}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({}, StepReward(0.0, 0.3, 0.0, 0.0, 0.0)),
        ({"executed": False}, StepReward(0.0, -0.3, 0.0, 0.0, 0.0)),
        ({"executed": False, "parsed": False}, StepReward(0.0, -0.3, 0.0, 0.0, -0.1)),
        ({"new_voronoi_nodes": 20}, StepReward(0.0, 0.3, 0.1, 0.0, 0.0)),
        ({"new_voronoi_nodes": 5, "metres": 30.0}, StepReward(0.0, 0.3, 0.025, -0.3, 0.0)),
        ({"metres": 6.0}, StepReward(0.0, 0.3, 0.0, -0.06, 0.0)),
        ({"success": True}, StepReward(5.0, 0.0, 0.0, 0.0, 0.0)),
        ({"success": True, "new_voronoi_nodes": 40, "metres": 60.0}, StepReward(5.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_the_papers_reward(what: dict[str, Any], expected: StepReward) -> None:
    reward = step_reward(RL_SFT, **{**STEP, **what})
    assert [getattr(reward, name) for name in vars(expected)] == pytest.approx(list(vars(expected).values()))


def test_the_sum_and_the_variant_that_saves_distance() -> None:
    step = {**STEP, "new_voronoi_nodes": 10, "metres": 15.0}
    assert step_reward(RL_SFT, **step).total == pytest.approx(0.3 + 0.05 - 0.15)
    assert step_reward(RL_SFT_PLUS, **step).total == pytest.approx(0.3 + 0.05 - 0.3)
    assert step_reward(RL_SFT_PLUS, **{**step, "success": True}).total == 5.0


@given(
    success=st.booleans(),
    executed=st.booleans(),
    nodes=st.integers(0, 500),
    metres=st.floats(0, 300),
)
def test_success_is_worth_more_than_anything_else(success: bool, executed: bool, nodes: int, metres: float) -> None:
    step: dict[str, Any] = {"executed": executed, "new_voronoi_nodes": nodes, "metres": metres, "parsed": True}
    reward = step_reward(RL_SFT, success=success, **step)
    assert reward.total == pytest.approx(math.fsum(vars(reward).values()))
    assert (reward.total == 5.0) if success else (reward.total <= 0.3 + 0.1 * nodes / 20)


def test_new_nodes_are_those_of_the_navigation_graph() -> None:
    before, after = nx.Graph(), nx.Graph()
    before.add_node(0, pos=(0.0, 0.0))
    after.add_nodes_from([(0, {"pos": (0.1, 0.0)}), (1, {"pos": (2.0, 0.0)}), (2, {"pos": (4.0, 0.0)})])
    reward = step_reward(RL_SFT, **{**STEP, "new_voronoi_nodes": count_new_nodes(before, after)})
    assert reward.explore == pytest.approx(0.1 * 2 / 20)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"parsed": False}, "not parsed can't have been executed"),
        ({"metres": -1.0}, "-1.0 m travelled"),
        ({"metres": float("nan")}, "nan m travelled"),
        ({"new_voronoi_nodes": -2}, "-2 new Voronoi nodes"),
    ],
)
def test_what_cannot_be_is_refused(what: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_reward(RL_SFT, **{**STEP, **what})


@pytest.mark.parametrize("field", ["efficiency", "distance"])
def test_a_configuration_with_wrong_numbers_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is -1"):
        RewardConfig(**{field: -1.0})


def test_components_are_logged_one_by_one() -> None:
    steps = [step_reward(RL_SFT, **STEP), step_reward(RL_SFT, **{**STEP, "success": True})]
    means = mean_components(steps)
    assert means["executable"] == pytest.approx(0.15)
    assert means["success"] == pytest.approx(2.5)
    assert means["total"] == pytest.approx(2.65)
    assert mean_components([]) == {}
