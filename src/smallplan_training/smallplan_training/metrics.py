"""What an evaluation measures: pure functions from episode scores to numbers.

Success rate (SR), SPL, distance, retrials and AUC-E, with 95 % bootstrap intervals of means, and a paired bootstrap
for two policies that met the same episodes: difference, interval, p value, and how much farther the one travels.
Everything is vectorised over episodes and seeded.
SPL: Anderson et al., arXiv 1807.06757; AUC-E: MoMa-LLM, arXiv 2403.08605.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallplan_planner.actions import ActionRefused, ActionRules, ParseError, parse_command
from smallplan_planner.names import NameBook
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import Answer
from smallplan_training.rollout import EpisodeRecord

STEP_BUDGET = 5000
"""Low-level steps at which AUC-E is cut."""
RESAMPLES = 10_000
_CHUNK = 4_000_000  # indices drawn at once: bounds the memory of a bootstrap
_NO_DIFFERENCE = 1e-9  # a resampled mean this near to 0 is 0: sums of the same numbers in another order

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


@dataclass(frozen=True)
class Difference:
    """The mean of first - second over the same episodes, its 95 % interval, and a two-sided p value."""

    low: float
    mean: float
    high: float
    p: float


@dataclass(frozen=True)
class DistanceChange:
    """How far two policies travel over the same episodes, m, and the difference in percent of the second's."""

    episodes: int
    first: float
    second: float
    metres: Difference
    percent: Difference


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
    """Means of `resamples` samples with replacement; values (N,) or (N, M) -> (resamples,) or (resamples, M).

    The columns of (N, M) are resampled together. Raises ValueError without episodes.
    """
    count = len(values)
    if not count:
        raise ValueError("no episodes: a bootstrap needs at least one")
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    parts = []
    for begin in range(0, resamples, rows):
        size = min(rows, resamples - begin)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        parts.append(np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) @ values / count)
    return np.concatenate(parts)


def interval(values: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values` (N,)."""
    low, high = np.percentile(bootstrap_means(values, seed, resamples), [2.5, 97.5])
    return float(low), float(high)


def intervals(scores: Sequence[EpisodeScore], seed: int = 0) -> dict[str, tuple[float, float]]:
    """`interval` of each metric."""
    means_of = bootstrap_means(np.column_stack(list(table(scores).values())), seed)
    low, high = np.percentile(means_of, [2.5, 97.5], axis=0)
    return {metric: (float(low[at]), float(high[at])) for at, metric in enumerate(METRICS)}


def paired(first: Sequence[EpisodeScore], second: Sequence[EpisodeScore], seed: int = 0) -> dict[str, Difference]:
    """`first` - `second` for each metric, resampling episodes, which both must have met in the same order.

    Raises ValueError when the two have different numbers of episodes.
    """
    _check_paired(first, second)
    one, other = table(first), table(second)
    differences = np.column_stack([one[metric] - other[metric] for metric in METRICS])
    resampled = bootstrap_means(differences, seed)
    return {
        metric: _difference(float(differences[:, at].mean()), resampled[:, at]) for at, metric in enumerate(METRICS)
    }


def distance_change(
    first: Sequence[EpisodeScore], second: Sequence[EpisodeScore], both_solved: bool = False, seed: int = 0
) -> DistanceChange | None:
    """How much farther `first` travels than `second`, over all episodes or over those that both solve.

    None when there is no such episode, or the second travels nowhere. Raises ValueError as `paired` does.
    """
    _check_paired(first, second)
    pairs = np.array([(a.dist_m, b.dist_m) for a, b in zip(first, second) if not both_solved or (a.sr and b.sr)])
    if not len(pairs) or not pairs[:, 1].any():
        return None
    one, other = pairs.mean(axis=0)
    means_of = bootstrap_means(np.column_stack([pairs, pairs[:, 0] - pairs[:, 1]]), seed)
    means_of = means_of[means_of[:, 1] > 0]  # a resample in which the second stands still has no percentage
    return DistanceChange(
        episodes=len(pairs),
        first=float(one),
        second=float(other),
        metres=_difference(float(one - other), means_of[:, 2]),
        percent=_difference(100.0 * float((one - other) / other), 100.0 * means_of[:, 2] / means_of[:, 1]),
    )


def _check_paired(first: Sequence[EpisodeScore], second: Sequence[EpisodeScore]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} episodes; a paired comparison needs the same ones")


def _difference(mean: float, resampled: FloatArray) -> Difference:
    """With the p value of the percentile bootstrap: twice the share of resamples on the far side of 0.

    The observed sample counts as one resample more, so p is never 0 (Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, 4.2).
    """
    low, high = np.percentile(resampled, [2.5, 97.5])
    beyond = min(np.count_nonzero(resampled <= _NO_DIFFERENCE), np.count_nonzero(resampled >= -_NO_DIFFERENCE))
    return Difference(float(low), mean, float(high), min(1.0, 2.0 * (1 + beyond) / (1 + len(resampled))))


def is_unparsable(answer: Answer) -> bool:
    """Whether no command can be read out of an answer: a line is missing, or the command is not of the agreed form.

    A command that can be read and names something that isn't there is refused, which is something else.
    """
    if answer.parse_error:
        return True
    try:
        parse_command(answer.command, SceneGraph(), NameBook(), ActionRules())
    except ParseError:
        return True
    except ActionRefused:  # of the agreed form: in a house without anything every name is unknown
        return False
    return False


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """A percentile of durations, s -> ms; NaN without any."""
    return float(np.percentile(np.asarray(seconds), percent)) * 1000.0 if len(seconds) else float("nan")
