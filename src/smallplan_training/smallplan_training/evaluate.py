"""`smallplan evaluate`: policies side by side over identical episodes in houses.

For each (house, episode, seed), start, target and placement of objects are drawn once and met by every policy.
Temperature 0, fixed threads, no deadline and no fallback. What is measured is in `metrics.py`; here are the
protocol, the worker processes, the table and the JSON.

    smallplan evaluate --policy slm --policy greedy --scenes val --episodes 25 --json build/val.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from smallplan_planner.policies import Policy, RandomPolicy
from smallplan_planner.prompt import Helps
from smallplan_planner.search import SearchConfig
from smallplan_training import metrics
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.metrics import EpisodeScore
from smallplan_training.policy_factory import POLICIES, PolicyOptions, check_model, make_policy, needs_model
from smallplan_training.rollout import EpisodeRecord, run_episode
from smallplan_training.scenes import default_model, load_house, resolve_scenes
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode, NoEpisode, draw_episode
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import HouseRaster, rasterise

NO_LIMIT = 10**9  # steps of the environment: the search ends by its own rules
TABLE_WIDTH = 100  # characters that the tables need
HEADINGS = {"sr": "SR %", "spl": "SPL %", "dist_m": "Dist m", "retrials": "Retrials", "auc_e": "AUC-E %"}


@dataclass(frozen=True)
class EvaluateConfig:
    """What is run. Every policy meets the same `episodes` episodes of each scene."""

    policies: tuple[str, ...]
    scenes: tuple[Path, ...]
    episodes: int = 25
    seed: int = 0
    workers: int = 1
    options: PolicyOptions = field(default_factory=PolicyOptions)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if not self.policies or not self.scenes:
            raise UserError(f"{len(self.policies)} policies, {len(self.scenes)} scenes; expected at least one of each")
        if self.episodes < 1 or self.workers < 1:
            raise UserError(f"{self.episodes} episodes with {self.workers} workers; expected at least 1 of each")


@dataclass(frozen=True)
class Task:
    """One episode, which all policies run."""

    scene: Path
    index: int


@dataclass(frozen=True)
class EpisodeRun:
    """What is kept of one policy's run of one episode."""

    policy: str
    scene: str
    seed: int
    target: str
    code: str  # name of the ResultCode, NONE = found
    steps: int
    distance: float  # m
    shortest_path: float  # m
    retries: int
    low_level_steps: int
    score: EpisodeScore
    latencies: tuple[float, ...]  # s, one for each decision


def episode_seed(house: str, index: int, seed: int) -> int:
    """The seed of episode `index` in a house: independent of which other houses and how many episodes are run."""
    return zlib.crc32(f"{house}/{index}/{seed}".encode())


def run_tasks(config: EvaluateConfig, on_done: Callable[[], None] = lambda: None) -> list[EpisodeRun]:
    """Run all episodes; the result's order does not depend on `workers`. `on_done` is called once for each."""
    tasks = [Task(scene, index) for scene in config.scenes for index in range(config.episodes)]
    runs: list[EpisodeRun] = []
    for part in _map_tasks(config, tasks):
        runs += part
        on_done()
    return runs


def _map_tasks(config: EvaluateConfig, tasks: Sequence[Task]) -> Iterator[list[EpisodeRun]]:
    if config.workers == 1:
        runner = _Runner(config)
        yield from map(runner.run, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share llama.cpp's state
    with ProcessPoolExecutor(config.workers, context) as pool:
        try:
            yield from pool.map(partial(_run_in_worker, config), tasks)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Runner:
    """Holds the policies of one process, so that a model is loaded once."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._env = HouseSearchEnv(max_steps=NO_LIMIT)
        self._policies = {name: make_policy(name, config.options) for name in config.policies}

    def run(self, task: Task) -> list[EpisodeRun]:
        house, raster = _load(task.scene)
        try:
            episode = draw_episode(house, episode_seed(house.name, task.index, self._config.seed), raster)
        except NoEpisode as error:
            raise UserError(str(error)) from error
        return [self._run_one(name, house, episode) for name in self._config.policies]

    def _run_one(self, name: str, house: House, episode: Episode) -> EpisodeRun:
        policy: Policy = RandomPolicy(episode.seed) if name == "random" else self._policies[name]
        return summarise(name, house.name, run_episode(self._env, episode, policy, self._config.search))


def summarise(policy: str, scene: str, record: EpisodeRecord) -> EpisodeRun:
    """A record without its prompts."""
    return EpisodeRun(
        policy=policy,
        scene=scene,
        seed=record.seed,
        target=record.target,
        code=record.result.code.name,
        steps=record.result.steps,
        distance=record.result.distance,
        shortest_path=record.shortest_path,
        retries=record.result.retries,
        low_level_steps=record.low_level_steps,
        score=metrics.score(record),
        latencies=tuple(decision.latency for decision in record.decisions),
    )


@lru_cache(maxsize=1)
def _runner_of(config: EvaluateConfig) -> _Runner:
    """The runner of a worker process; made with its first task, so that its errors reach the parent."""
    return _Runner(config)


def _run_in_worker(config: EvaluateConfig, task: Task) -> list[EpisodeRun]:
    return _runner_of(config).run(task)


@lru_cache(maxsize=4)  # tasks come scene by scene
def _load(path: Path) -> tuple[House, HouseRaster]:
    house = load_house(path)
    return house, rasterise(house)


def report_policy(policy: str, runs: Sequence[EpisodeRun], config: EvaluateConfig) -> dict[str, Any]:
    """The JSON object of one policy: sr, spl and auc_e in percent, distances in metres."""
    scores = [run.score for run in runs]
    latencies = [latency for run in runs for latency in run.latencies]
    report: dict[str, Any] = {"policy": policy, "episodes": len(runs), **_rounded(metrics.means(scores))}
    report["intervals"] = _rounded(metrics.intervals(scores))
    report["decision_ms_p50"] = round(metrics.percentile_ms(latencies, 50), 2)
    report["decision_ms_p95"] = round(metrics.percentile_ms(latencies, 95), 2)
    report["per_scene"] = {
        scene: {"episodes": len(part), **_rounded(metrics.means([run.score for run in part]))}
        for scene, part in _by_scene(runs).items()
    }
    report["results"] = dict(Counter(run.code for run in runs).most_common())
    report["settings"] = {
        "seed": config.seed,
        "max_steps": config.search.max_steps,
        "max_retries": config.search.max_retries,
        "matches": config.search.helps.matches,
        "hints": config.search.helps.hints,
        "workers": config.workers,
    }
    if needs_model(policy) and config.options.model is not None:
        report["settings"] |= {
            "model": config.options.model.name,
            "grammar": config.options.grammar,
            "threads": config.options.threads,
        }
    report["runs"] = [_run_row(run) for run in runs]
    return report


def report_all(runs: Sequence[EpisodeRun], config: EvaluateConfig, command: str) -> dict[str, Any]:
    """The whole JSON: one policy's object, or several with their paired differences."""
    by_policy = {name: [run for run in runs if run.policy == name] for name in config.policies}
    objects = [report_policy(name, part, config) for name, part in by_policy.items()]
    if len(objects) == 1:
        return {**objects[0], "command": command}
    pairs = {
        f"{one}-{other}": _rounded(
            metrics.paired([run.score for run in by_policy[one]], [run.score for run in by_policy[other]])
        )
        for one, other in combinations(config.policies, 2)
    }
    return {"policies": objects, "paired": pairs, "command": command}


def _run_row(run: EpisodeRun) -> dict[str, Any]:
    return {
        "scene": run.scene,
        "seed": run.seed,
        "target": run.target,
        "result": run.code,
        "steps": run.steps,
        "dist_m": round(run.distance, 2),
        "shortest_m": round(run.shortest_path, 2),
        "retries": run.retries,
        "low_level_steps": run.low_level_steps,
    }


def _by_scene(runs: Iterable[EpisodeRun]) -> dict[str, list[EpisodeRun]]:
    scenes: dict[str, list[EpisodeRun]] = {}
    for run in runs:
        scenes.setdefault(run.scene, []).append(run)
    return scenes


def _rounded(values: Any) -> Any:
    if isinstance(values, float):
        return round(values, 3)
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return [_rounded(value) for value in values]


def print_report(report: dict[str, Any], console: Console) -> None:
    """Tables for people: the policies side by side, then their paired differences."""
    objects = report.get("policies", [report])
    table = _table("policy", f"{objects[0]['episodes']} episodes: means and 95 % intervals")
    table.add_column("ms p50\np95", justify="right", no_wrap=True)
    for item in objects:
        cells = [f"{item[key]:.2f}\n{_range(*item['intervals'][key])}" for key in HEADINGS]
        table.add_row(item["policy"], *cells, f"{item['decision_ms_p50']:.1f}\n{item['decision_ms_p95']:.1f}")
    console.print(table)
    if "paired" not in report:
        return
    table = _table("difference", "paired differences and 95 % intervals")
    for pair, values in report["paired"].items():
        cells = [f"{mean:+.2f}\n{_range(low, high)}" for low, mean, high in values.values()]
        table.add_row(pair.replace("-", " −\n"), *cells)
    console.print(table)


def _table(first: str, title: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 1, 1))
    table.add_column(first, no_wrap=True)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _range(low: float, high: float) -> str:
    return f"{low:.1f} … {high:.1f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", action="append", choices=POLICIES, help="repeat for several (default: slm)")
    parser.add_argument(
        "--scenes", nargs="+", default=["val"], metavar="SPLIT|PATH", help="train, val, test, house or ProcTHOR files"
    )
    parser.add_argument("--episodes", type=int, default=25, help="per scene (default: %(default)s)")
    parser.add_argument("--max-scenes", type=int, help="take the first N scenes only")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    add_json_argument(parser)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the model in models/")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: 2, with several workers 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=SearchConfig.max_steps, help="default: %(default)s")
    parser.add_argument("--no-grammar", action="store_true", help="let the model write any command")
    parser.add_argument("--no-hints", action="store_true", help="a prompt without usual places")
    parser.add_argument("--no-matches", action="store_true", help="a prompt that does not name the found objects")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    chosen = set(args.policy or ["slm"])
    config = EvaluateConfig(
        policies=tuple(name for name in POLICIES if name in chosen),
        scenes=tuple(resolve_scenes(args.scenes, args.max_scenes)),
        episodes=args.episodes,
        seed=args.seed,
        workers=args.workers,
        options=PolicyOptions(
            model=(args.model or default_model()) if any(map(needs_model, chosen)) else None,
            grammar=not args.no_grammar,
            threads=args.threads or (2 if args.workers == 1 else 1),
        ),
        search=_search_config(args),
    )
    check_writable(args.json)
    if config.options.model is not None:  # what is broken is said before the first episode is run
        check_model(config.options.model)
    _check_scenes(config.scenes)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        progress = bar.add_task(", ".join(config.policies), total=len(config.scenes) * config.episodes)
        runs = run_tasks(config, lambda: bar.advance(progress))
    report = report_all(runs, config, command=_command_line())
    write_figures(args.json, report)
    print_report(report, Console(width=max(TABLE_WIDTH, Console().width)))
    return 0


def _search_config(args: argparse.Namespace) -> SearchConfig:
    try:
        return SearchConfig(max_steps=args.max_steps, helps=Helps(matches=not args.no_matches, hints=not args.no_hints))
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_scenes(scenes: Sequence[Path]) -> None:
    """All can be loaded, and none shares its name with another: results and seeds go by the house's name."""
    path_of: dict[str, Path] = {}
    for scene in scenes:
        name = load_house(scene).name
        if name in path_of:
            raise UserError(f"{path_of[name]} and {scene} are both called {name!r}; give one of them another name")
        path_of[name] = scene


def _command_line() -> str:
    return " ".join(["smallplan", *(os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv[1:])])
