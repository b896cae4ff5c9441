"""`smallplan collect`: a teacher plans in simulated houses, and its answers become chat samples, one JSON line each.

An answer that can't be parsed or executed is kept beside them, in FILE.rejected.jsonl. A rerun replays the episodes
with the answers that both files hold, asks for what is missing, and appends: nothing is asked or written twice.

    smallplan collect --teacher openai --model gpt-4o --scenes train --episodes 2 --output build/samples.jsonl

A sample holds the prompt that was read: where a house is larger than the teacher, or the model that the samples are for
(`--student`), can read, what it left of it.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smallplan_planner.actions import ParseError
from smallplan_planner.generation import PromptReader
from smallplan_planner.grammar import build_grammar
from smallplan_planner.policies import GreedyPolicy, Policy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import MODES, PROMPT_VERSION, Message, render
from smallplan_planner.prompt_budget import fit_situation
from smallplan_planner.response import parse_response
from smallplan_planner.search import Answer, ResultCode, SearchConfig, Situation
from smallplan_training.errors import UserError
from smallplan_training.evaluate import episode_seed
from smallplan_training.policy_factory import check_model, load_model
from smallplan_training.rollout import DecisionRecord, run_episode
from smallplan_training.samples import Sample, SampleFile
from smallplan_training.scenes import default_model
from smallplan_training.simulators.factory import HOUSE, add_simulator_argument, load_rastered, make_env, resolve_scenes
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import NoEpisode, draw_episode
from smallplan_training.teachers.expert import ExpertPolicy
from smallplan_training.teachers.openai import DEFAULT_URL, OpenAIConfig, OpenAITeacher
from smallplan_training.teachers.teacher import ExpertAdapter, GgufTeacher, Teacher, answer_fault, prompt_hash


@dataclass(frozen=True)
class CollectConfig:
    """What is run. `limit` is of samples in the file, the earlier ones included."""

    scenes: tuple[Path, ...]
    output: Path
    episodes: int = 1
    seed: int = 0
    states: str = "teacher"  # who plans: the teacher, or the expert while the teacher labels
    limit: int | None = None
    concurrency: int = 1
    search: SearchConfig = field(default_factory=SearchConfig)
    simulator: str = HOUSE

    def __post_init__(self) -> None:
        for flag, value in (("episodes", self.episodes), ("concurrency", self.concurrency), ("limit", self.limit)):
            if value is not None and value < 1:
                raise UserError(f"--{flag} is {value}; expected at least 1")


class _Stopped(Exception):
    """The run ends within an episode: enough samples, an error elsewhere, or an interrupt."""


class Collector:
    """Runs the episodes. `stop` ends them before the next decision; `student` is the model that the samples are for."""

    def __init__(
        self,
        teacher: Teacher,
        config: CollectConfig,
        stop: threading.Event | None = None,
        student: PromptReader | None = None,
    ) -> None:
        self._teacher, self._config, self._student = teacher, config, student
        self._priors = load_priors()
        self.stop = stop or threading.Event()
        self._lock = threading.Lock()
        self.failed_episodes = 0
        self.first_fault = ""  # why the first answer is no sample
        self._envs: list[HouseSearchEnv] = []  # that no episode uses just now
        self.samples = SampleFile(config.output, teacher)
        try:
            beside = config.output.with_name(f"{config.output.stem}.rejected.jsonl")
            self.rejected = SampleFile(beside, teacher, lazily=True)
        except BaseException:
            self.samples.close()
            raise

    def run(self, on_done: Callable[[], None] = lambda: None) -> None:
        """Run all episodes; `on_done` is called after each. Raises the first error; what was collected is kept."""
        tasks = [(scene, index) for scene in self._config.scenes for index in range(self._config.episodes)]
        if self._enough():
            tasks = []
        pool = ThreadPoolExecutor(self._config.concurrency)
        try:
            for future in as_completed([pool.submit(self._run_episode, *task) for task in tasks]):
                future.result()
                on_done()
        finally:
            self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for env in self._envs:
                env.close()
            self.samples.close()
            self.rejected.close()

    def read(self, situation: Situation) -> Situation:
        """The situation with as much in its view as student and teacher can read."""
        if self._student is not None:
            grammar = build_grammar(situation.options, situation.names)
            situation = fit_situation(situation, self._student, grammar, self._priors)
        return self._teacher.read(situation)

    def ask(self, situation: Situation, messages: Sequence[Message]) -> str:
        """The teacher's answer to what `read` gave, whose prompt `messages` is; from the files if it is there."""
        if self.stop.is_set():
            raise _Stopped
        key = prompt_hash(messages)
        for file in (self.samples, self.rejected):
            known = file.answer_to(key)
            if known is not None:
                return known
        return self._teacher.answer(situation).text

    def _enough(self) -> bool:
        return self._config.limit is not None and self.samples.count >= self._config.limit

    def _run_episode(self, scene: Path, index: int) -> None:
        if self.stop.is_set():
            return
        house, raster = load_rastered(self._config.simulator, scene)
        seed = episode_seed(house.name, index, self._config.seed)
        try:
            episode = draw_episode(house, seed, raster)
        except NoEpisode as error:
            raise UserError(str(error)) from error
        planner = _Planner(self, ExpertPolicy() if self._config.states == "expert" else None)
        meta = {"scene": house.name, "episode": index, "seed": seed, "target": episode.target}
        steps = count()

        def keep(_: Situation, record: DecisionRecord, graph: object) -> None:
            self._keep(planner, record, {**meta, "step": next(steps)})

        with self._lock:
            env = self._envs.pop() if self._envs else make_env(self._config.simulator)
        try:
            done = run_episode(env, episode, planner, self._config.search, keep)
        except _Stopped:
            return
        finally:
            with self._lock:
                self._envs.append(env)
        if done.result.code is ResultCode.MODEL_FAILED:
            with self._lock:
                self.failed_episodes += 1

    def _keep(self, planner: _Planner, record: DecisionRecord, where: dict[str, Any]) -> None:
        """Write the answer down: among the samples, or with the reason among the rejected."""
        labelled = self._config.states == "expert"
        text, fault = planner.text, planner.fault or ("" if labelled else record.refusal)
        meta = {
            "teacher": self._teacher.name,
            "model": self._teacher.model,
            "prompt_version": PROMPT_VERSION,
            "mode": self._config.search.mode,
            "states": self._config.states,
            **where,
            "outcome": "not executed" if labelled else _outcome(record),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with self._lock:
            if fault:
                self.first_fault = self.first_fault or fault
                self.rejected.add(Sample(planner.messages, text, {**meta, "reason": fault}))
            elif not self._enough():
                self.samples.add(Sample(planner.messages, text, meta))
            if self._enough():
                self.stop.set()


class _Planner:
    """The teacher as a policy; with a `driver` that one plans, and the teacher only says what it would do."""

    def __init__(self, collector: Collector, driver: Policy | None) -> None:
        self._collector, self._driver = collector, driver
        self.messages: tuple[Message, ...] = ()  # the prompt of the teacher's last answer
        self.text = ""  # of that answer
        self.fault = ""  # why that is no sample

    def decide(self, situation: Situation) -> Answer:
        read = self._collector.read(situation)
        self.messages = tuple(render(read.view))
        self.text = self._collector.ask(read, self.messages)
        self.fault = answer_fault(self.text, situation)  # now: after the action, things may be called otherwise
        if self._driver is not None:
            return self._driver.decide(situation)
        try:
            response = parse_response(self.text)
        except ParseError as error:
            return Answer("", source="teacher", parse_error=str(error))
        return Answer(response.command, response.analysis, response.reasoning, source="teacher")

    def classify_room(self, labels: Iterable[str]) -> str:
        """By the driver; a teacher that plans by itself is shown rooms that the rule has named."""
        return (self._driver or GreedyPolicy()).classify_room(labels)


def _outcome(record: DecisionRecord) -> str:
    if record.action is None:
        return "refused"
    if record.outcome is None:
        return "search ended"
    return "success" if record.outcome.success else record.outcome.code.name.lower()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", choices=("expert", "openai", "gguf"), default="expert", help="default: expert")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.jsonl", help="samples are appended here")
    parser.add_argument("--scenes", nargs="+", default=["train"], metavar="SPLIT|PATH", help="default: train")
    parser.add_argument("--max-scenes", type=int, help="take the first N scenes only")
    add_simulator_argument(parser)
    parser.add_argument("--episodes", type=int, default=1, help="per scene (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="stop when the file holds N samples")
    parser.add_argument(
        "--states",
        choices=("teacher", "expert"),
        default="teacher",
        help="who plans the episodes (default: %(default)s)",
    )
    parser.add_argument("--mode", choices=MODES, default="normal", help="of the prompt (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=SearchConfig.max_steps, help="default: %(default)s")
    parser.add_argument("--model", help="openai: the model's name; gguf: the file (default: the model in models/)")
    parser.add_argument("--no-grammar", action="store_true", help="gguf: let the model write any command")
    parser.add_argument(
        "--student",
        type=Path,
        metavar="GGUF",
        help="the model that the samples are for: of a house too large for it, what it reads on the robot is collected",
    )
    web = parser.add_argument_group("openai", "any compatible endpoint; its key comes from OPENAI_API_KEY")
    web.add_argument("--base-url", help=f"default: OPENAI_BASE_URL, or {DEFAULT_URL}")
    web.add_argument("--concurrency", type=int, default=4, help="episodes at once (default: %(default)s)")
    web.add_argument("--temperature", type=float, default=0.0, help="default: %(default)s")
    web.add_argument("--max-tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    web.add_argument("--timeout", type=float, default=60.0, help="seconds (default: %(default)s)")
    web.add_argument("--retries", type=int, default=5, help="of one request (default: %(default)s)")
    web.add_argument("--prompt-price", type=float, default=0.0, help="per million tokens, for the count of costs")
    web.add_argument("--completion-price", type=float, default=0.0, help="per million tokens")
    web.add_argument(
        "--cache", type=Path, default=Path("build/teacher"), help="folder of answers (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    try:
        search = SearchConfig(max_steps=args.max_steps, mode=args.mode)
    except ValueError as error:
        raise UserError(str(error)) from error
    config = CollectConfig(
        scenes=tuple(resolve_scenes(args.simulator, args.scenes, args.max_scenes)),
        output=args.output,
        episodes=args.episodes,
        states=args.states,
        seed=args.seed,
        limit=args.limit,
        concurrency=args.concurrency if args.teacher == "openai" else 1,
        search=search,
        simulator=args.simulator,
    )
    stop = threading.Event()
    teacher = _make_teacher(args, stop)
    student = load_model(check_model(args.student)) if args.student is not None else None
    collector = Collector(teacher, config, stop, student)
    console = Console(stderr=True)
    for file in (collector.samples, collector.rejected):
        if file.repaired:
            console.print(f"{file.path}: the last line was torn, its {file.repaired} bytes are cut off", soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    with bar:
        progress = bar.add_task("episodes", total=len(config.scenes) * config.episodes)
        collector.run(lambda: bar.update(progress, advance=1, description=f"{collector.samples.count} samples"))
    samples, rejected = collector.samples, collector.rejected
    print(f"{samples.path}: {samples.count} samples, {samples.count - samples.before} of them new")
    if config.limit is not None and samples.count < config.limit:
        print(f"{config.limit} were asked for, and the episodes are over: give more --episodes or --scenes")
    if rejected.count:
        print(f"{rejected.path}: {rejected.count} answers that can't be used, {rejected.count - rejected.before} new")
    if not samples.count and collector.first_fault:
        print(f"why the first of them can't be used: {collector.first_fault}")
    if collector.failed_episodes:
        print(f"{collector.failed_episodes} episodes ended because the model gave no answer")
    if isinstance(teacher, OpenAITeacher):
        used = teacher.usage
        print(f"{used.requests} requests, {used.cached} answers from the cache, {used.prompt_tokens} + "
              f"{used.completion_tokens} tokens, cost {used.cost:.4f}")  # fmt: skip
    return 0


def _make_teacher(args: argparse.Namespace, stop: threading.Event) -> Teacher:
    if args.teacher == "expert":
        return ExpertAdapter()
    if args.teacher == "gguf":
        path = check_model(Path(args.model) if args.model else default_model())
        return GgufTeacher(load_model(path), path.name, use_grammar=not args.no_grammar)
    config = OpenAIConfig(
        model=args.model or "",
        base_url=args.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        timeout=args.timeout,
        retries=args.retries,
        prompt_price=args.prompt_price,
        completion_price=args.completion_price,
        cache=args.cache,
    )
    return OpenAITeacher(config, stop.wait)
