"""`smallplan bench`: what a decision costs on this machine, what each option is worth, and how fast the simulator is.

A decision is measured from the graph received to the goal ready to be published: the message's conversion (where
the ROS messages are installed), observation, prompt, grammar, generation, parsing and the check of the command.
Transport by DDS and building the goal's message (some 50 µs) are not in it. The graphs come from searches that
the model itself leads in generated houses, so prompts grow and share their beginnings as they do on a robot.

    smallplan bench --json build/bench.json                          # prints a table in Markdown, too
    smallplan bench --shape qwen2.5-3b --skip options                # random weights in the shape of a larger model
    smallplan bench --soak --json build/soak.json                    # 5,000 decisions in one process

What can't be measured here (no ROS, no `llama-bench`) stands in `absent` with its reason. With `--training` it
measures the trainer instead, see `bench_training.py`.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from smallplan_planner.generation import Generator
from smallplan_planner.policies import GreedyPolicy, Policy
from smallplan_planner.priors import load_priors
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import SearchConfig, SearchEpisode
from smallplan_training import bench_training
from smallplan_training.bench_grammar import ROOMS, measure_grammar
from smallplan_training.bench_llama import LlamaBenchFigures, run_llama_bench
from smallplan_training.bench_options import DEFAULTS, NO_REUSE, measure_options
from smallplan_training.bench_process import in_own_process, resident_mb
from smallplan_training.bench_searches import (
    Decision,
    DecisionTimer,
    Moment,
    RecordedSearch,
    first_decisions,
    has_messages,
    loaded,
    summarise,
)
from smallplan_training.bench_shapes import ShapeFigures, measure_named_shape
from smallplan_training.bench_soak import DECISIONS, SITUATIONS, SoakTask, check_decisions, run_soak
from smallplan_training.bench_startup import measure_startup
from smallplan_training.bench_tables import report_table, soak_table
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.random_gguf import SHAPES
from smallplan_training.room_accuracy import add_room_labels_argument
from smallplan_training.scenes import default_model
from smallplan_training.simulators.factory import HOUSE, IGIBSON, make_env
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode
from smallplan_training.simulators.search_env import EpisodeLost

logger = logging.getLogger(__name__)

MAX_STEPS = 20  # of a search: then the next house, so that houses vary
PARTS = ("options", "grammar", "startup", "llama-bench")
"""What may be left out; options take the longest."""
_Figures = float | LlamaBenchFigures | ShapeFigures
_SHAPE_DECISIONS = 3  # a model of 3 B parameters takes up to its deadline for each


@dataclass(frozen=True)
class BenchConfig:
    """What is measured. Raises `UserError` for numbers below 1.

    `decisions` are measured, and so many high-level steps of the simulator, led by the greedy policy. `n_threads` are
    llama.cpp's (0: the planner's default), `classify_rooms` says who names rooms, the model or the rule; it is part of
    the decision.
    """

    model: Path
    decisions: int = 100
    sim_steps: int = 200
    igibson_steps: int = 0  # of both simulators, in place of `sim_steps`; 0: iGibson is not measured
    n_threads: int = 0
    seed: int = 0
    classify_rooms: str = SearchConfig.classify_rooms
    shapes: Sequence[str] = ()
    skip: Collection[str] = ()  # of `PARTS`

    def __post_init__(self) -> None:
        if self.decisions < 1 or self.sim_steps < 1:
            raise UserError(
                f"{self.decisions} decisions and {self.sim_steps} steps of the simulator; expected at least 1 of each"
            )
        if self.igibson_steps < 0:
            raise UserError(f"--igibson-steps is {self.igibson_steps}; expected at least 0 (0: none)")


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measure; raises `UserError` for a model that can't be loaded. The keys are those of the JSON.

    Times of decisions are in milliseconds, start-up in s, memory in units of 10^6 bytes, fractions from 0 to 1.
    """
    absent: dict[str, str] = {}
    report: dict[str, Any] = {"model": config.model.name, "processor": processor(), "absent": absent}
    with loaded(config.model, n_threads=config.n_threads) as slm:
        measured, searches = lead_searches(slm, config.decisions, config.seed, config.classify_rooms)
        threads, rss = slm.n_threads, resident_mb()
        grammar = [] if "grammar" in config.skip else [measure_grammar(slm, size, config.seed) for size in ROOMS]
    figures = summarise(measured)
    report |= {"n_threads": threads, **asdict(figures), "includes_message_conversion": has_messages()}
    steps = config.igibson_steps or config.sim_steps  # the same of both: later ones, in larger maps, take longer
    report["sim_steps_per_s"] = round(measure_simulator(steps, config.seed), 1)
    if config.igibson_steps:
        in_igibson = partial(measure_simulator, config.igibson_steps, config.seed, IGIBSON)
        _measure(report, "igibson_steps_per_s", absent, in_igibson)
        if "igibson_steps_per_s" in report:
            report["times_igibson"] = round(report["sim_steps_per_s"] / report["igibson_steps_per_s"], 1)
    report["rss_mb"] = round(rss, 1)
    for one in grammar:
        report[f"grammar_share_{one.objects}_objects"] = one.share
    report["grammar"] = [asdict(one) for one in grammar]
    if "options" not in config.skip:
        options = report["options"] = measure_options(config.model, threads, searches, absent)
        report["reuse_speedup"] = round(options[NO_REUSE]["seconds"] / options[DEFAULTS]["seconds"], 3)
        report["planner_rss_mb"] = options[DEFAULTS]["peak_rss_mb"]
    if "startup" not in config.skip:
        _measure(report, "startup_s", absent, partial(measure_startup, config.model))
    if "llama-bench" not in config.skip:
        to_read = max(1, round(figures.prompt_tokens * (1 - figures.reused_tokens_fraction)))
        to_write = max(1, round(figures.generated_tokens))
        _measure(report, "llama_bench", absent, partial(run_llama_bench, config.model, to_read, to_write, threads))
    report["shapes"] = {}
    some = first_decisions(searches, _SHAPE_DECISIONS)
    for name in config.shapes:
        measure_one = partial(measure_named_shape, name, some, config.model, config.n_threads)
        _measure(report["shapes"], name, absent, measure_one)
    return report


def _measure(into: dict[str, Any], key: str, absent: dict[str, str], measure: Callable[[], _Figures]) -> None:
    """Figures that need what may not be there: without it, the reason stands in `absent`."""
    try:
        figures = measure()
        into[key] = figures if isinstance(figures, float) else asdict(figures)
    except UserError as error:
        absent[key] = str(error)


def lead_searches(
    generator: Generator, count: int, seed: int, classify: str = SearchConfig.classify_rooms
) -> tuple[list[Decision], tuple[RecordedSearch, ...]]:
    """`count` decisions of searches that the generator leads: what they cost, and the searches, to be replayed.

    `classify` says who names rooms. Raises `SlmError`.
    """
    timer = DecisionTimer(generator)
    measured: list[Decision] = []
    recorded: list[RecordedSearch] = []
    env = make_env()
    for graph, search in _searches(env, seed, classify):
        moments: list[Moment] = []
        while search.result is None and len(measured) < count:
            seen = graph
            decided = timer.decide(search, seen)
            if decided is None:  # nothing left to decide
                break
            decision, rooms, action = decided
            measured.append(decision)
            moments.append(Moment(seen, rooms, decision.command, None))
            if action is not None and search.result is None:
                graph, _, _, _, info = env.step(action)
                search.report(info["outcome"])
                moments[-1] = replace(moments[-1], outcome=info["outcome"])
        if moments:
            recorded.append(RecordedSearch(search.target, search.config, tuple(moments)))
        if len(measured) == count:
            return measured, tuple(recorded)
    raise AssertionError("searches don't end")


def measure_simulator(steps: int, seed: int, simulator: str = HOUSE) -> float:
    """High-level steps per second of a simulator, led by the greedy policy; that and the loading do not count.

    Raises `UserError` where the simulator can't be run.
    """
    policy: Policy = GreedyPolicy()
    done, seconds = 0, 0.0
    env = make_env(simulator)
    try:
        for graph, search in _searches(env, seed):
            while search.result is None:
                search.observe(graph)
                action = search.choose(policy.decide(search.situation())) if search.result is None else None
                if action is None or search.result is not None:
                    break
                start = time.perf_counter()
                graph, _, _, _, info = env.step(action)
                seconds += time.perf_counter() - start
                search.report(info["outcome"])
                done += 1
                if done == steps:
                    return done / seconds
    except EpisodeLost as error:
        raise UserError(f"after {done} of {steps} steps: {error}") from error
    finally:
        env.close()
    raise AssertionError("searches don't end")


def _searches(env: HouseSearchEnv, seed: int, classify: str = "rule") -> Iterator[tuple[SceneGraph, SearchEpisode]]:
    """One search after the other, each in another generated house, its first observation made."""
    priors = load_priors()
    config = SearchConfig(max_steps=MAX_STEPS, classify_rooms=classify)
    while True:
        try:
            graph, info = env.reset(seed=seed)
            yield graph, SearchEpisode(info["target"], config, priors)
        except NoEpisode as error:
            logger.info("another house: %s", error)
        seed += 1


def soak(config: BenchConfig, decisions: int) -> dict[str, Any]:
    """So many decisions over the situations of real searches, in a process of its own. Raises `UserError`."""
    check_decisions(decisions)
    with loaded(config.model, n_threads=config.n_threads) as slm:
        _, searches = lead_searches(slm, min(SITUATIONS, decisions), config.seed, config.classify_rooms)
    figures = in_own_process(run_soak, SoakTask(config.model, searches, decisions, config.n_threads))
    return {"model": config.model.name, "processor": processor(), **asdict(figures)}


def processor() -> str:
    """Name and number of cores, as the operating system tells them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {len(os.sched_getaffinity(0))} cores"
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json_argument(parser)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the model in models/")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp (default: by the model's size)")
    parser.add_argument("--decisions", type=int, default=100, help="how many to measure (default: %(default)s)")
    parser.add_argument("--sim-steps", type=int, default=200, help="of the simulator (default: %(default)s)")
    parser.add_argument(
        "--igibson-steps",
        type=int,
        default=0,
        metavar="N",
        help="measure iGibson, too, and so many steps of both simulators (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the houses (default: %(default)s)")
    parser.add_argument(
        "--shape",
        action="append",
        choices=tuple(SHAPES),
        default=[],
        help="measure random weights in this model's shape, too (repeatable; up to 3 GB of disk, 4 GB of memory)",
    )
    parser.add_argument("--skip", action="append", choices=PARTS, default=[], help="leave this out (repeatable)")
    parser.add_argument(
        "--soak",
        type=int,
        nargs="?",
        const=DECISIONS,
        metavar="N",
        help=f"nothing but so many decisions in one process (default: {DECISIONS}): memory and time as they go on",
    )
    bench_training.add_arguments(parser)
    add_room_labels_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.training:
        return bench_training.run(args)
    bench_training.refuse_options(args)
    check_writable(args.json)
    config = BenchConfig(
        model=args.model or default_model(),
        decisions=args.decisions,
        sim_steps=args.sim_steps,
        igibson_steps=args.igibson_steps,
        n_threads=args.threads,
        seed=args.seed,
        classify_rooms=args.room_labels,
        shapes=tuple(dict.fromkeys(args.shape)),
        skip=frozenset(args.skip),
    )
    if args.soak is not None:
        report = soak(config, args.soak)
        table = soak_table(report)
    else:
        report = run_bench(config)
        table = report_table(report)
    write_figures(args.json, report)
    sys.stdout.write(table)
    return 0
