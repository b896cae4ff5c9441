"""What each option of the planner's language model is worth: the same situations, with and without it.

Each set of options runs in processes of its own, so that its peak memory is its own too. All sets take turns for a few
rounds, and of each the fastest time counts, which was disturbed least by what else runs on the machine: its speed
changes from minute to minute, and sets measured one behind the other would be told apart by that.
Answers may differ where numbers are rounded differently: `same_commands` says how often the command stayed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smallplan_training.bench_process import in_own_process, peak_resident_mb
from smallplan_training.bench_searches import Decision, RecordedSearch, loaded, replay, summarise
from smallplan_training.errors import UserError

DEFAULTS = "defaults"
NO_REUSE = "reuse off"
_ROUNDS = 3
_PASSES = 2  # of a process: the first one fills caches


@dataclass(frozen=True)
class OptionsTask:
    """One set of options (`settings` of `Slm`) and what it is measured on."""

    model: Path
    settings: Mapping[str, Any]
    searches: Sequence[RecordedSearch]


@dataclass(frozen=True)
class OptionFigures:
    """What one set of options costs. `times_default`: its decisions' wall time over that of the defaults."""

    decision_ms_p50: float
    decision_ms_p95: float
    prompt_tps: float
    generation_tps: float
    reused_tokens_fraction: float
    same_commands: float  # fraction of the decisions
    peak_rss_mb: float  # of a process that holds the planner and the model
    seconds: float  # of all decisions
    times_default: float = field(default=1.0)


def sets_of_options(threads: int) -> dict[str, dict[str, Any]]:
    """Settings of `Slm` by the name of what they change; the cores are the last ones, as many as there are threads."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    return {
        DEFAULTS: {},
        NO_REUSE: {"reuse": False},
        "flash attention": {"flash_attention": "on"},
        "KV cache q8_0": {"cache_type": "q8_0"},
        "KV cache q4_0": {"cache_type": "q4_0"},
        "prompt lookup 4": {"lookup_tokens": 4},
        "prompt lookup 8": {"lookup_tokens": 8},
        "pinned cores": {"cores": tuple(cores)},
    }


def measure_options(
    model: Path, threads: int, searches: Sequence[RecordedSearch], absent: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """The figures of each set of options, the defaults first; `threads` are llama.cpp's.

    Why there are none of a set that the model can't have stands in `absent`. Raises `UserError` without the defaults'.
    """
    sets = sets_of_options(threads)
    measured: dict[str, list[OptionFigures]] = {name: [] for name in sets}
    for name in [*sets] * _ROUNDS:
        if name not in measured:
            continue
        task = OptionsTask(model, {"n_threads": threads, **sets[name]}, searches)
        try:
            measured[name].append(in_own_process(measure_settings, task))
        except UserError as error:
            if name == DEFAULTS:
                raise
            absent[f"options.{name}"] = str(error)
            measured.pop(name)
    best = {name: min(rounds, key=lambda one: one.seconds) for name, rounds in measured.items()}
    base = best[DEFAULTS].seconds
    return {
        name: {**asdict(figures), "times_default": round(figures.seconds / base, 3)} for name, figures in best.items()
    }


def measure_settings(task: OptionsTask) -> OptionFigures:
    """Decide with these settings in this process."""
    with loaded(task.model, **task.settings) as slm:
        passes = [list(replay(slm, task.searches)) for _ in range(_PASSES)]
    decisions = min(passes, key=_seconds)
    figures = summarise(decisions)
    then = [moment.command for search in task.searches for moment in search.moments]
    same = sum(decision.command == command for decision, command in zip(decisions, then))
    return OptionFigures(
        decision_ms_p50=figures.decision_ms_p50,
        decision_ms_p95=figures.decision_ms_p95,
        prompt_tps=figures.prompt_tps,
        generation_tps=figures.generation_tps,
        reused_tokens_fraction=figures.reused_tokens_fraction,
        same_commands=round(same / len(decisions), 3),
        peak_rss_mb=round(peak_resident_mb(), 1),
        seconds=round(_seconds(decisions), 3),
    )


def _seconds(decisions: Sequence[Decision]) -> float:
    return sum(decision.seconds for decision in decisions)
