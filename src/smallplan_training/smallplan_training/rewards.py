"""The reward of one decision, exactly as in the paper: 5 when the task succeeds, else the sum of four components.

    r = 5                                                                          if the task succeeds
    r = r_executable + r_explore + r_efficiency + r_format                         otherwise

Formulas: SmallPlan (arXiv 2505.00831), "Reward"; the scales eta_V = 20 nodes and eta_d = 30 m are those of the
authors' code. Nothing here knows a simulator: the rollout says what came of a decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COMPONENTS = ("success", "executable", "explore", "efficiency", "format")


@dataclass(frozen=True)
class RewardConfig:
    """Sizes of the components, all of them >= 0, and the scales. `efficiency` is 0.6 in the variant RL-SFT+.

    Raises ValueError.
    """

    success: float = 5.0
    executable: float = 0.3
    explore: float = 0.1
    efficiency: float = 0.3
    format: float = 0.1
    voronoi_nodes: float = 20.0  # eta_V: so many new nodes earn `explore`
    distance: float = 30.0  # m, eta_d: so long a way costs `efficiency`

    def __post_init__(self) -> None:
        for name in COMPONENTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"reward {name} is {getattr(self, name)}; expected a number of at least 0")
        for name in ("voronoi_nodes", "distance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"reward scale {name} is {getattr(self, name)}; expected a number above 0")


RL_SFT = RewardConfig()
RL_SFT_PLUS = RewardConfig(efficiency=0.6)


@dataclass(frozen=True)
class StepReward:
    """The components of one decision's reward. When the task succeeds, `success` is all there is."""

    success: float
    executable: float
    explore: float
    efficiency: float
    format: float

    @property
    def total(self) -> float:
        return self.success + self.executable + self.explore + self.efficiency + self.format


def success_reward(config: RewardConfig, success: bool) -> float:
    """r_success = 5 when the task succeeds, and then in place of the other components."""
    return config.success if success else 0.0


def executable_reward(config: RewardConfig, executed: bool) -> float:
    """r_executable = +0.3 when the action was executed, -0.3 when it was not."""
    return config.executable if executed else -config.executable


def explore_reward(config: RewardConfig, new_voronoi_nodes: int) -> float:
    """r_explore = 0.1 * new Voronoi nodes / eta_V. The nodes as `mapping.voronoi.count_new_nodes` counts them."""
    if new_voronoi_nodes < 0:
        raise ValueError(f"{new_voronoi_nodes} new Voronoi nodes; expected at least 0")
    return config.explore * new_voronoi_nodes / config.voronoi_nodes


def efficiency_reward(config: RewardConfig, metres: float) -> float:
    """r_efficiency = -0.3 * metres travelled / eta_d (-0.6 in RL-SFT+)."""
    if not 0 <= metres < math.inf:
        raise ValueError(f"{metres} m travelled; expected a finite number of at least 0")
    return -config.efficiency * metres / config.distance + 0.0  # no -0.0


def format_reward(config: RewardConfig, parsed: bool) -> float:
    """r_format = -0.1 when the answer could not be parsed."""
    return 0.0 if parsed else -config.format


def step_reward(
    config: RewardConfig, *, success: bool, executed: bool, new_voronoi_nodes: int, metres: float, parsed: bool
) -> StepReward:
    """The reward of one decision.

    `success`: the task succeeded by it. `executed`: the action was carried out; false for an answer that could not
    be parsed or was refused, and for an action that failed; `done()` counts as executed when it was on offer.
    `new_voronoi_nodes` and `metres` (m) are this step's alone. `parsed`: the answer had the form that was asked for.
    Raises ValueError for what can't be: something executed of an answer that was not parsed.
    """
    if executed and not parsed:
        raise ValueError("an answer that was not parsed can't have been executed; expected executed=False")
    explore, efficiency = explore_reward(config, new_voronoi_nodes), efficiency_reward(config, metres)
    if success:
        return StepReward(success_reward(config, True), 0.0, 0.0, 0.0, 0.0)
    return StepReward(
        success=0.0,
        executable=executable_reward(config, executed),
        explore=explore,
        efficiency=efficiency,
        format=format_reward(config, parsed),
    )


def mean_components(rewards: Iterable[StepReward]) -> Mapping[str, float]:
    """The mean of each component and of the total over some decisions, for the log; empty without any."""
    all_of = list(rewards)
    names = (*COMPONENTS, "total")
    return {name: sum(getattr(r, name) for r in all_of) / len(all_of) for name in names} if all_of else {}
