"""What an evaluation measures: pure functions from episode scores to numbers.

Success rate (SR), SPL, distance, retrials and AUC-E, with 95 % bootstrap intervals of means, and a paired bootstrap
for two policies that met the same episodes. Everything is vectorised over episodes and seeded.
SPL: Anderson et al., arXiv 1807.06757; AUC-E: MoMa-LLM, arXiv 2403.08605.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallplan_training.rollout import EpisodeRecord

STEP_BUDGET = 5000
"""Low-level steps at which AUC-E is cut."""
RESAMPLES = 10_000
_CHUNK = 4_000_000  # indices drawn at once: bounds the memory of a bootstrap

FloatArray = NDArray[np.float64]

METRICS = ("sr", "spl", "dist_m", "retrials", "auc_e")
"""In percent: sr, spl, auc_e; in metres: dist_m; a count: retrials."""


@dataclass(frozen=True)
class EpisodeScore:
    """What one episode contributes to each metric's mean."""

    sr: float  # 100 or 0
    spl: float  # 0 to 100
    dist_m: float  # m travelled
    retrials: float
    auc_e: float  # 0 to 100


def score(record: EpisodeRecord) -> EpisodeScore:
    """The score of a finished episode."""
    success, travelled = record.result.success, record.result.distance
    return EpisodeScore(
        sr=100.0 * success,
        spl=100.0 * spl(success, record.shortest_path, travelled),
        dist_m=travelled,
        retrials=float(record.result.retries),
        auc_e=100.0 * efficiency(success, record.low_level_steps),
    )


def spl(success: bool, shortest: float, travelled: float) -> float:
    """Success weighted by path length, 0 to 1: `success · l / max(l, p)`. Raises ValueError unless shortest > 0."""
    if not shortest > 0:
        raise ValueError(f"the shortest path is {shortest} m; SPL needs one > 0, such an episode is drawn again")
    return shortest / max(shortest, travelled) if success else 0.0


def efficiency(success: bool, low_level_steps: int, budget: int = STEP_BUDGET) -> float:
    """An episode's share of AUC-E, 0 to 1: the part of the budget that was left when it succeeded.

    The mean over episodes is the area under the curve of success rate over steps, cut at the budget and
    divided by it: an episode that succeeds after s steps adds a step function that is 1 from s on.
    """
    return max(0.0, 1.0 - low_level_steps / budget) if success else 0.0


def table(scores: Sequence[EpisodeScore]) -> dict[str, FloatArray]:
    """Scores by metric, each an array (N,) in the order of the episodes."""
    return {metric: np.array([getattr(item, metric) for item in scores], dtype=float) for metric in METRICS}


def means(scores: Sequence[EpisodeScore]) -> dict[str, float]:
    """The mean of each metric. Raises ValueError without episodes."""
    if not scores:
        raise ValueError("no episodes: a mean needs at least one")
    return {metric: float(values.mean()) for metric, values in table(scores).items()}


def bootstrap_means(values: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> FloatArray:
    """Means of `resamples` samples with replacement; values (N,) or (N, M) -> (resamples,) or (resamples, M)."""
    count = len(values)
    if not count:
        raise ValueError("no episodes: a bootstrap needs at least one")
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    parts = [
        values[rng.integers(count, size=(min(rows, resamples - begin), count))].mean(axis=1)
        for begin in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def interval(values: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values` (N,)."""
    low, high = np.percentile(bootstrap_means(values, seed, resamples), [2.5, 97.5])
    return float(low), float(high)


def intervals(scores: Sequence[EpisodeScore], seed: int = 0) -> dict[str, tuple[float, float]]:
    """`interval` of each metric."""
    return {metric: interval(values, seed) for metric, values in table(scores).items()}


def paired(
    first: Sequence[EpisodeScore], second: Sequence[EpisodeScore], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """(low, mean, high) of `first` - `second` for each metric, resampling episodes, which both must have met.

    Raises ValueError when the two have different numbers of episodes.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} episodes; a paired comparison needs the same ones")
    one, other = table(first), table(second)
    result = {}
    for metric in METRICS:
        difference = one[metric] - other[metric]
        low, high = interval(difference, seed)
        result[metric] = (low, float(difference.mean()), high)
    return result


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """A percentile of durations, s -> ms; NaN without any."""
    return float(np.percentile(np.asarray(seconds), percent)) * 1000.0 if len(seconds) else float("nan")
