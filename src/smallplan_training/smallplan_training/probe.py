"""`smallplan probe`: does the model master, one by one, what a small model does not learn by itself?

Each suite asks pairs of prompts that differ in one decisive fact; a pair is passed when both answers are right, so
that neither a habit nor a lucky guess passes. Answers are written freely (no grammar), at temperature 0: this is
about the weights. `score_suites` asks anything that answers prompts, a model in training for example.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from smallplan_planner.generation import SlmError
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.policy_factory import check_model
from smallplan_training.probes.pairs import Pair, Question
from smallplan_training.probes.suites import SUITES
from smallplan_training.scenes import default_model

Answerer = Callable[[Sequence[Sequence[Message]]], Sequence[str]]
"""Prompts -> the text of an answer to each, in order."""

EXAMPLES = 3  # failures of a suite that the figures keep
_DRAWS = 1000  # of a suite for each pair: more means that its pairs don't exist
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class SuiteResult:
    """A suite's pairs and the answers to them."""

    name: str
    pairs: tuple[Pair, ...]
    answers: tuple[tuple[str, str], ...]

    @property
    def right(self) -> list[tuple[bool, bool]]:
        """For each pair whether its first and its second answer are right."""
        return [
            (pair.first.is_right(first), pair.second.is_right(second))
            for pair, (first, second) in zip(self.pairs, self.answers)
        ]

    @property
    def both(self) -> float:
        """Percentage of pairs passed."""
        return _percent(sum(first and second for first, second in self.right), len(self.pairs))


def score_suites(
    answer: Answerer, suites: Sequence[str] | None = None, pairs: int = 50, seed: int = 0
) -> dict[str, float]:
    """Percentage of pairs passed in each suite (all of them by default), asked in one call of `answer`.

    Raises `UserError` for a suite that doesn't exist.
    """
    return {result.name: result.both for result in run_suites(answer, suites, pairs, seed)}


def run_suites(
    answer: Answerer, suites: Sequence[str] | None = None, pairs: int = 50, seed: int = 0
) -> list[SuiteResult]:
    """Ask `pairs` pairs of each suite, all in one call of `answer`, so that it can batch them."""
    asked = {name: make_pairs(name, pairs, seed) for name in (SUITES if suites is None else suites)}
    prompts = [question.messages for made in asked.values() for pair in made for question in (pair.first, pair.second)]
    texts = iter(answer(prompts))
    return [SuiteResult(name, made, tuple((next(texts), next(texts)) for _ in made)) for name, made in asked.items()]


@lru_cache(maxsize=64)
def make_pairs(suite: str, count: int, seed: int) -> tuple[Pair, ...]:
    """The first `count` pairs of a suite under a seed; raises `UserError` for a suite that doesn't exist."""
    if suite not in SUITES:
        raise UserError(f"there is no suite {suite!r}; expected one of {', '.join(SUITES)}")
    priors, rng = load_priors(), random.Random(f"probe {suite} {seed}")
    pairs: list[Pair] = []
    for _ in range(_DRAWS * count):
        if len(pairs) == count:
            break
        pair = SUITES[suite].make(priors, rng)
        if pair is not None:
            pairs.append(pair)
    if len(pairs) < count:
        raise UserError(f"only {len(pairs)} of {count} pairs of {suite!r} came out of {_DRAWS * count} draws")
    return tuple(pairs)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, in percent (Wilson 1927). Raises ValueError without trials."""
    if count < 1:
        raise ValueError("no trials: an interval needs at least one")
    share, z2 = successes / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def report(model: str, pairs: int, results: Sequence[SuiteResult], command: str = "") -> dict[str, Any]:
    """The figures as JSON data: percentages, with the interval of the pairs passed and a few failures."""
    return {"model": model, "pairs": pairs, "suites": {r.name: _figures(r) for r in results}, "command": command}


def _figures(result: SuiteResult) -> dict[str, Any]:
    right, count = result.right, len(result.pairs)
    passed = [first and second for first, second in right]
    kinds: dict[str, list[bool]] = {}
    for pair, both in zip(result.pairs, passed):
        kinds.setdefault(pair.kind, []).append(both)
    unreadable = [
        question.read(text) is None
        for pair, texts in zip(result.pairs, result.answers)
        for question, text in zip((pair.first, pair.second), texts)
    ]
    return {
        "pairs": count,
        "both": result.both,
        "first": _percent(sum(first for first, _ in right), count),
        "second": _percent(sum(second for _, second in right), count),
        "interval": [round(end, 1) for end in wilson(sum(passed), count)],
        "unreadable": _percent(sum(unreadable), len(unreadable)),
        "kinds": {kind: {"pairs": len(p), "both": _percent(sum(p), len(p))} for kind, p in sorted(kinds.items())},
        "examples": [_failure(*failure) for failure in _failures(result)[:EXAMPLES]],
    }


def _failures(result: SuiteResult) -> list[tuple[Question, str]]:
    return [
        (question, text)
        for pair, (first, second) in zip(result.pairs, result.answers)
        for question, text in ((pair.first, first), (pair.second, second))
        if not question.is_right(text)
    ]


def _failure(question: Question, text: str) -> dict[str, str]:
    return {"prompt": question.messages[-1].content, "expected": question.expected, "answer": text}


def _percent(part: int, whole: int) -> float:
    return round(100.0 * part / whole, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the model in models/")
    parser.add_argument("--suite", nargs="+", choices=tuple(SUITES), metavar="NAME", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--pairs", type=int, default=100, help="of each suite (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp (default: %(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N failures of each suite in full")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if args.pairs < 1 or args.show < 0:
        raise UserError(f"{args.pairs} pairs, {args.show} failures to show; expected at least 1 and at least 0")
    check_writable(args.json)
    model = check_model(args.model or default_model())
    results = run_suites(_llama(model, args.threads), args.suite, args.pairs, args.seed)
    figures = report(model.name, args.pairs, results, _command_line())
    write_figures(args.json, figures)
    console = Console()
    _print_report(figures, console)
    for result in results:
        _print_failures(result, args.show, console)
    return 0


def _llama(model: Path, threads: int) -> Answerer:
    """The model in llama.cpp, asked one prompt after the other. Raises `UserError` for what it can't do."""
    from smallplan_planner.slm import Slm

    def answer(prompts: Sequence[Sequence[Message]]) -> list[str]:
        try:
            with Slm(model, n_threads=threads) as slm:
                console = Console(stderr=True)
                return [slm.generate(prompt).text for prompt in track(prompts, "asking", console=console)]
        except SlmError as error:
            raise UserError(str(error)) from error

    return answer


def _print_report(figures: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{figures['model']}: pairs passed, in percent", box=SIMPLE_HEAD)
    table.add_column("suite", no_wrap=True)
    for heading in ("both", "95 %", "first", "second"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("passing means")
    for name, suite in figures["suites"].items():
        low, high = suite["interval"]
        sides = (f"{suite['first']:g}", f"{suite['second']:g}")
        kinds = "; ".join(f"{kind} ({part['pairs']}) {part['both']:g}" for kind, part in suite["kinds"].items())
        meaning = f"{SUITES[name].meaning}\n[dim]{kinds}[/]"
        table.add_row(name, f"{suite['both']:g}", f"{low:.0f} … {high:.0f}", *sides, meaning)
    console.print(table)


def _print_failures(result: SuiteResult, count: int, console: Console) -> None:
    for question, text in _failures(result)[:count]:
        console.rule(result.name)
        console.print(escape(question.messages[-1].content))
        console.print(f"[green]expected[/]: {escape(question.expected)}\n[red]answer[/]:\n{escape(text)}")


def _command_line() -> str:
    """How this was called, with paths that mean something elsewhere."""
    return " ".join(["smallplan", *(os.path.relpath(a) if os.path.isabs(a) else a for a in sys.argv[1:])])
