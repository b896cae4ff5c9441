"""`smallplan bench`: what a decision costs on this machine, and how fast the simulator is.

A decision is measured from the graph received to the goal ready to be published: the message's conversion (where
the ROS messages are installed), observation, prompt, grammar, generation, parsing and the check of the command.
Transport by DDS and building the goal's message (some 50 µs) are not in it. The graphs come from searches that
the model itself leads in generated houses, so prompts grow and share their beginnings as they do on a robot.

    smallplan bench --json build/bench.json

With `--training` it measures the trainer instead, see `bench_training.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from smallplan_planner.generation import Generation, Generator, PromptBudget, SlmError
from smallplan_planner.grammar import Grammar
from smallplan_planner.policies import GreedyPolicy, Policy, SlmPolicy, classify_rooms
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import SearchConfig, SearchEpisode
from smallplan_training import bench_training
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.room_accuracy import add_room_labels_argument
from smallplan_training.scenes import default_model
from smallplan_training.simulators.house.env import NO_LIMIT, HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode

logger = logging.getLogger(__name__)

MAX_STEPS = 20  # of a search: then the next house, so that houses vary


@dataclass(frozen=True)
class BenchReport:
    """What was measured. Times in milliseconds, over all decisions; fractions from 0 to 1."""

    model: str
    processor: str
    n_threads: int
    decisions: int
    includes_message_conversion: bool
    decision_ms_p50: float
    decision_ms_p95: float
    decision_overhead: float  # all decisions' wall time over llama.cpp's own evaluation time
    eval_ms_p50: float  # of llama.cpp
    prompt_tokens: float  # median
    generated_tokens: float  # median
    reused_tokens_fraction: float  # of all prompt tokens
    sim_steps_per_s: float  # high-level steps on one core, mapping included, resets not
    rss_mb: float  # of this process after the decisions: model, planner, simulator


@dataclass(frozen=True)
class Decision:
    """One measured decision: wall time in s, what the generator tells, llama.cpp's own time in s (rooms included)."""

    seconds: float
    generation: Generation
    eval_time: float


class RecordingGenerator:
    """Passes on what a generator makes, and keeps it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.made: list[Generation] = []

    def generate(
        self,
        messages: Sequence[Message],
        grammar: Grammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """As `Generator.generate`."""
        self.made.append(self._generator.generate(messages, grammar, deadline, cancel))
        return self.made[-1]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """As `Generator.count_tokens`."""
        return self._generator.count_tokens(messages)

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        """As `Generator.prompt_budget`."""
        return self._generator.prompt_budget(grammar)


def run_bench(
    model: Path,
    *,
    decisions: int = 100,
    sim_steps: int = 200,
    n_threads: int = 0,
    seed: int = 0,
    classify_rooms: str = SearchConfig.classify_rooms,
) -> BenchReport:
    """Measure; raises `UserError` for a number below 1 and for a model that can't be loaded.

    Args:
        decisions: how many are measured.
        sim_steps: high-level steps of the simulator that are measured, led by the greedy policy.
        n_threads: of llama.cpp, 0: the default of the planner.
        classify_rooms: who names rooms, the model or the rule; it is part of the decision.
    """
    if decisions < 1 or sim_steps < 1:
        raise UserError(f"{decisions} decisions and {sim_steps} steps of the simulator; expected at least 1 of each")
    from smallplan_planner.slm import Slm

    try:
        with Slm(model, n_threads=n_threads) as slm:
            measured = measure_decisions(slm, decisions, seed, classify_rooms)
            used_threads, rss = slm.n_threads, _resident_megabytes()
    except SlmError as error:
        raise UserError(str(error)) from error
    milliseconds = [1000 * decision.seconds for decision in measured]
    made = [decision.generation for decision in measured]
    prompt_tokens = sum(one.prompt_tokens for one in made)
    p50, p95 = (round(float(value), 2) for value in np.percentile(milliseconds, (50, 95)))
    return BenchReport(
        model=model.name,
        processor=processor(),
        n_threads=used_threads,
        decisions=len(measured),
        includes_message_conversion=_has_messages(),
        decision_ms_p50=p50,
        decision_ms_p95=p95,
        decision_overhead=round(sum(milliseconds) / sum(1000 * one.eval_time for one in measured), 3),
        eval_ms_p50=round(statistics.median(1000 * one.eval_time for one in measured), 2),
        prompt_tokens=statistics.median(one.prompt_tokens for one in made),
        generated_tokens=statistics.median(one.generated_tokens for one in made),
        reused_tokens_fraction=round(sum(one.reused_tokens for one in made) / prompt_tokens, 3),
        sim_steps_per_s=round(measure_simulator(sim_steps, seed), 1),
        rss_mb=round(rss, 1),
    )


def measure_decisions(
    generator: Generator, count: int, seed: int, classify: str = SearchConfig.classify_rooms
) -> list[Decision]:
    """`count` decisions of searches that the generator leads."""
    recording = RecordingGenerator(generator)
    policy = SlmPolicy(recording)
    pack, unpack = _message_ends()
    measured: list[Decision] = []
    for env, graph, search in _searches(seed, classify):
        received = pack(graph)
        while search.result is None:
            recording.made.clear()
            start = time.perf_counter()
            search.observe(unpack(received))
            if search.result is not None:  # nothing left to decide
                break
            classify_rooms(search, policy)
            action = search.choose(policy.decide(search.situation()))
            seconds, made = time.perf_counter() - start, recording.made
            measured.append(Decision(seconds, made[-1], sum(one.eval_time for one in made)))
            if len(measured) == count:
                return measured
            if action is not None and search.result is None:
                graph, _, _, _, info = env.step(action)
                search.report(info["outcome"])
                received = pack(graph)
    raise AssertionError("searches don't end")


def measure_simulator(steps: int, seed: int) -> float:
    """High-level steps per second of `HouseSearchEnv.step`, led by the greedy policy, whose time does not count."""
    policy: Policy = GreedyPolicy()
    done, seconds = 0, 0.0
    for env, graph, search in _searches(seed):
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
    raise AssertionError("searches don't end")


def _searches(seed: int, classify: str = "rule") -> Iterator[tuple[HouseSearchEnv, SceneGraph, SearchEpisode]]:
    """One search after the other, each in another generated house, its first observation made."""
    env, priors = HouseSearchEnv(max_steps=NO_LIMIT), load_priors()
    config = SearchConfig(max_steps=MAX_STEPS, classify_rooms=classify)
    while True:
        try:
            graph, info = env.reset(seed=seed)
            yield env, graph, SearchEpisode(info["target"], config, priors)
        except NoEpisode as error:
            logger.info("another house: %s", error)
        seed += 1


def _has_messages() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("rclpy", "smallplan_msgs"))


def _message_ends() -> tuple[Callable, Callable]:
    """How a graph becomes a message and a message a graph; without ROS, a graph is handed on as it is."""
    if not _has_messages():
        return _same, _same
    from smallplan_planner.nodes.convert import graph_from_msg, graph_to_msg

    return graph_to_msg, graph_from_msg


def _same(graph: SceneGraph) -> SceneGraph:
    return graph


def _resident_megabytes() -> float:
    """Resident memory of this process, in units of 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


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
    parser.add_argument("--seed", type=int, default=0, help="of the houses (default: %(default)s)")
    bench_training.add_arguments(parser)
    add_room_labels_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.training:
        return bench_training.run(args)
    bench_training.refuse_options(args)
    check_writable(args.json)
    report = run_bench(
        args.model or default_model(),
        decisions=args.decisions,
        sim_steps=args.sim_steps,
        n_threads=args.threads,
        seed=args.seed,
        classify_rooms=args.room_labels,
    )
    table = Table(title="smallplan bench", show_header=False)
    for key, value in asdict(report).items():
        table.add_row(key, str(value))
    write_figures(args.json, asdict(report))
    Console().print(table)
    return 0
