"""`smallplan evaluate`: policies side by side over identical episodes in houses.

For each (house, episode, seed), start, target and placement of objects are drawn once and met by every policy.
Temperature 0, fixed threads, no deadline and no fallback. Here are the protocol and the worker processes; who takes
part is in `entrants.py`, what is measured in `metrics.py`, the JSON and the tables in `evaluation_tables.py`.

    smallplan evaluate --policy slm --policy greedy --scenes val --episodes 25 --json build/val.json
    smallplan evaluate --model sft=a.gguf --model rl-sft=b.gguf --mode normal --mode saver --table II
    smallplan evaluate --simulator igibson --scenes test --max-scenes 5 --episodes 1
    smallplan evaluate --variant no-grammar --variant no-helps --episodes-out build/val.jsonl.gz --record 1
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smallplan_planner.policies import Policy, RandomPolicy, SlmPolicy
from smallplan_planner.prompt import MODES, Helps
from smallplan_planner.search import ResultCode, SearchConfig
from smallplan_training import metrics
from smallplan_training.entrants import VARIANTS, Entrant, NamedModel, line_up, parse_models
from smallplan_training.errors import UserError
from smallplan_training.evaluation_tables import TABLES, print_report, report_all
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.metrics import EpisodeScore
from smallplan_training.policy_factory import POLICIES, Loaded, PolicyOptions, check_model, make_policy, needs_model
from smallplan_training.recording import EpisodeWatcher, Recording, write_recordings
from smallplan_training.rollout import EpisodeRecord, run_episode
from smallplan_training.room_accuracy import NO_ROOMS, RoomAccuracy, add_room_labels_argument, room_accuracy
from smallplan_training.scale_out import THIS_MACHINE, map_tasks
from smallplan_training.scenes import default_model
from smallplan_training.simulators.factory import (
    HOUSE,
    add_simulator_argument,
    load_rastered,
    load_scene,
    make_env,
    resolve_scenes,
)
from smallplan_training.simulators.house.episodes import Episode, NoEpisode, draw_episode

logger = logging.getLogger(__name__)

TABLE_WIDTH = 120  # characters that the tables need
RECORDED = 1  # episodes of each house


@dataclass(frozen=True)
class EvaluateConfig:
    """What is run: every row meets the same `episodes` episodes of each scene.

    `models`, `modes` and `variants` make more rows of the policies, see `line_up`. The first `record` episodes of
    each scene are recorded.
    """

    policies: tuple[str, ...]
    scenes: tuple[Path, ...]
    episodes: int = 25
    seed: int = 0
    workers: int = 1
    ray: str | None = None  # address of a Ray cluster that the workers belong to
    options: PolicyOptions = field(default_factory=PolicyOptions)
    search: SearchConfig = field(default_factory=SearchConfig)
    models: tuple[NamedModel, ...] = ()  # () = that of `options`
    modes: tuple[str, ...] = ()  # () = that of `search`
    variants: tuple[str, ...] = ()
    record: int = 0
    simulator: str = HOUSE

    def __post_init__(self) -> None:
        if not self.policies or not self.scenes:
            raise UserError(f"{len(self.policies)} policies, {len(self.scenes)} scenes; expected at least one of each")
        if self.episodes < 1 or self.workers < 1:
            raise UserError(f"{self.episodes} episodes with {self.workers} workers; expected at least 1 of each")
        if self.record < 0:
            raise UserError(f"--record is {self.record}; expected 0 or more episodes of each scene")

    @cached_property
    def entrants(self) -> tuple[Entrant, ...]:
        """The rows of the tables."""
        return line_up(self.policies, self.options, self.search, self.models, self.modes, self.variants)


@dataclass(frozen=True)
class Task:
    """One episode, which all policies run."""

    scene: Path
    index: int


@dataclass(frozen=True)
class EpisodeRun:
    """What is kept of one row's run of one episode."""

    policy: str  # the row's name
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
    answers: int
    unparsable: int  # answers that no command could be read out of
    recording: Recording | None = None
    rooms: RoomAccuracy = NO_ROOMS  # as they were named in the end
    unreadable_rooms: int = 0  # answers that named no room type


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
    if config.workers == 1 and config.ray is None:
        runner = _Runner(config)
        try:
            yield from map(runner.run, tasks)
        finally:
            runner.close()
        return
    backend, address = ("local", "") if config.ray is None else ("ray", config.ray)
    yield from map_tasks(partial(_run_in_worker, config), tasks, config.workers, backend, address)


class _Runner:
    """Holds the policies of one process, so that a model is loaded once."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._env = make_env(config.simulator)
        loaded: Loaded = {}
        self._policies = {
            entrant.name: make_policy(entrant.policy, entrant.options, loaded=loaded) for entrant in config.entrants
        }

    def close(self) -> None:
        """End what runs beside this process."""
        self._env.close()

    def run(self, task: Task) -> list[EpisodeRun]:
        house, raster = load_rastered(self._config.simulator, task.scene)
        try:
            episode = draw_episode(house, episode_seed(house.name, task.index, self._config.seed), raster)
        except NoEpisode as error:
            raise UserError(str(error)) from error
        recorded = task.index < self._config.record
        return [self._run_one(entrant, episode, recorded) for entrant in self._config.entrants]

    def _run_one(self, entrant: Entrant, episode: Episode, recorded: bool) -> EpisodeRun:
        policy: Policy = RandomPolicy(episode.seed) if entrant.policy == "random" else self._policies[entrant.name]
        watcher = EpisodeWatcher(self._env, policy) if recorded else None
        unreadable = _unreadable_rooms(policy)
        record = run_episode(self._env, episode, watcher or policy, entrant.search)
        run = summarise(entrant.name, episode.house.name, record)
        rooms, unreadable = room_accuracy(record, episode), _unreadable_rooms(policy) - unreadable
        run = replace(run, rooms=rooms, unreadable_rooms=unreadable)
        if watcher is None or not record.decisions:  # lost before it began
            return run
        return replace(run, recording=watcher.recording(entrant.name, episode, record))


def _unreadable_rooms(policy: Policy) -> int:
    return policy.unreadable_rooms if isinstance(policy, SlmPolicy) else 0


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
        answers=len(record.decisions),
        unparsable=sum(metrics.is_unparsable(decision.answer) for decision in record.decisions),
    )


@lru_cache(maxsize=1)
def _runner_of(config: EvaluateConfig) -> _Runner:
    """The runner of a worker process; made with its first task, so that its errors reach the parent."""
    return _Runner(config)


def _run_in_worker(config: EvaluateConfig, task: Task) -> list[EpisodeRun]:
    return _runner_of(config).run(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", action="append", choices=POLICIES, help="repeat for several (default: slm)")
    parser.add_argument(
        "--scenes", nargs="+", default=["val"], metavar="SPLIT|PATH", help="train, val, test, house or ProcTHOR files"
    )
    add_simulator_argument(parser)
    parser.add_argument("--episodes", type=int, default=25, help="per scene (default: %(default)s)")
    parser.add_argument("--max-scenes", type=int, help="take the first N scenes only")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    add_json_argument(parser)
    parser.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]GGUF",
        help="repeat for several rows (default: the model in models/)",
    )
    parser.add_argument(
        "--note", action="append", default=[], metavar="NAME=TEXT", help="of a model: how it was trained"
    )
    parser.add_argument("--mode", action="append", choices=MODES, help="in the prompt; repeat for a row each")
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, default=[], help="one more row of the model, without that"
    )
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: 2, with several workers 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const=THIS_MACHINE,
        metavar="ADDRESS",
        help="run the workers on a Ray cluster: auto, ray://HOST:10001, or without ADDRESS one on this machine",
    )
    parser.add_argument("--max-steps", type=int, default=SearchConfig.max_steps, help="default: %(default)s")
    parser.add_argument("--no-grammar", action="store_true", help="for all rows: let the model write any command")
    parser.add_argument("--no-hints", action="store_true", help="for all rows: a prompt without usual places")
    parser.add_argument("--no-matches", action="store_true", help="for all rows: a prompt that names no matches")
    add_room_labels_argument(parser)
    parser.add_argument("--table", choices=TABLES, help="the paper's published table stands beside this one")
    parser.add_argument(
        "--episodes-out", type=Path, metavar="FILE", help="record episodes for `smallplan report` (JSON lines, .gz)"
    )
    parser.add_argument(
        "--record", type=int, metavar="K", help=f"the first K episodes of each scene (default: {RECORDED})"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    chosen = set(args.policy or ["slm"])
    asks_model = any(map(needs_model, chosen))
    models = parse_models(args.model or ([str(default_model())] if asks_model else []), args.note)
    config = EvaluateConfig(
        policies=tuple(name for name in POLICIES if name in chosen),
        scenes=tuple(resolve_scenes(args.simulator, args.scenes, args.max_scenes)),
        episodes=args.episodes,
        seed=args.seed,
        workers=args.workers,
        ray=args.ray,
        options=PolicyOptions(
            model=models[0].path if asks_model else None,
            grammar=not args.no_grammar,
            threads=args.threads or (2 if args.workers == 1 and args.ray is None else 1),
        ),
        search=_search_config(args),
        models=models,
        modes=tuple(dict.fromkeys(args.mode or ())),
        variants=tuple(dict.fromkeys(args.variant)),
        record=_recorded(args),
        simulator=args.simulator,
    )
    check_writable(args.json)
    check_writable(args.episodes_out)
    for entrant in config.entrants:  # what is broken is said before the first episode is run
        if needs_model(entrant.policy) and entrant.options.model is not None:
            check_model(entrant.options.model)
    _check_scenes(config)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        names = ", ".join(entrant.name for entrant in config.entrants)
        progress = bar.add_task(names, total=len(config.scenes) * config.episodes)
        runs = run_tasks(config, lambda: bar.advance(progress))
    lost = sum(run.code == ResultCode.EXECUTOR_UNAVAILABLE.name for run in runs)
    if lost:
        logger.warning("%d of %d searches were lost by the simulator and count as failed; see above", lost, len(runs))
    report = report_all(runs, config, command=_command_line())
    if args.table is not None:
        report["paper"] = args.table
    write_figures(args.json, report)
    if args.episodes_out is not None:
        write_recordings(args.episodes_out, (run.recording for run in runs if run.recording is not None))
    print_report(report, Console(width=max(TABLE_WIDTH, Console().width)))
    return 0


def _search_config(args: argparse.Namespace) -> SearchConfig:
    try:
        helps = Helps(matches=not args.no_matches, hints=not args.no_hints)
        return SearchConfig(max_steps=args.max_steps, helps=helps, classify_rooms=args.room_labels)
    except ValueError as error:
        raise UserError(str(error)) from error


def _recorded(args: argparse.Namespace) -> int:
    if args.record is not None and args.episodes_out is None:
        raise UserError(f"--record {args.record} needs --episodes-out FILE, which says where to")
    if args.episodes_out is None:
        return 0
    return RECORDED if args.record is None else int(args.record)


def _check_scenes(config: EvaluateConfig) -> None:
    """All can be loaded, and none shares its name with another: results and seeds go by the house's name."""
    path_of: dict[str, Path] = {}
    for scene in config.scenes:
        name = load_scene(config.simulator, scene).name
        if name in path_of:
            raise UserError(f"{path_of[name]} and {scene} are both called {name!r}; give one of them another name")
        path_of[name] = scene


def _command_line() -> str:
    return " ".join(["smallplan", *(os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv[1:])])
