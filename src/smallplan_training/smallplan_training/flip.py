"""`smallplan probe-flip`: do a model's words mean something?

In recorded prompts one decisive fact is flipped, everything else stays: which of the two best options is nearer,
what is searched for, or whether the target has been found. The expert, which reads the same prompt, says how the
command must change; measured is how often the model's command and reasoning change with it. Beside that: how many
of the names that the model writes into analysis and reasoning exist in its prompt.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from smallplan_planner.policies import Policy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import DISTANCE_WORDS, ObjectView, Option, PromptView
from smallplan_planner.response import Response
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training.errors import UserError
from smallplan_training.evaluate import episode_seed
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.policy_factory import PolicyOptions, make_policy, needs_model
from smallplan_training.rollout import run_episode
from smallplan_training.scenes import default_model, load_house, resolve_scenes
from smallplan_training.simulators.house.env import NO_LIMIT, HouseSearchEnv
from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.raster import rasterise
from smallplan_training.teachers.expert import Candidate, ExpertPolicy, ExpertTeacher
from smallplan_training.teachers.variations import random_target, retarget

_WORDS = (*(word for _, word in DISTANCE_WORDS), "unknown")
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TARGET_DRAWS = 20


@dataclass(frozen=True)
class Pair:
    """One situation, and the same with one fact flipped; `before` and `after` are the expert's answers."""

    kind: str  # a key of FLIPS
    situation: Situation
    flipped: PromptView
    before: Response
    after: Response


@dataclass(frozen=True)
class PairResult:
    """What the policy made of a pair."""

    kind: str
    right_before: bool  # it gave the expert's command to the recorded prompt
    changed: bool  # its command changed
    command_follows: bool  # it gave the expert's command to the flipped prompt
    reasoning_follows: bool  # its reasoning speaks of what that command is about


def flip_distance(view: PromptView, teacher: ExpertTeacher, rng: random.Random) -> PromptView | None:
    """The best option and another candidate with their distances exchanged; None when that changes nothing."""
    candidates = [] if view.matches else teacher.candidates(view)
    for other in candidates[1:]:
        flipped = _exchange_distances(view, candidates[0].option, other.option)
        best = _best(teacher, flipped)
        if flipped == view or best is None:  # the same: two options of one thing, listed twice
            continue
        if (best.option.room, best.option.name) == (other.option.room, other.option.name):
            return flipped
    return None


def _exchange_distances(view: PromptView, first: Option, second: Option) -> PromptView:
    """The two with their distances exchanged; a thing that is listed twice gets its new one in both places."""

    def moved(option: Option) -> Option:
        for one, other in ((first, second), (second, first)):
            if option is one or (option.name and option.name == one.name):
                return option._replace(distance=other.distance)
        return option

    def swapped(options: tuple[Option, ...]) -> tuple[Option, ...]:
        return tuple(sorted(map(moved, options), key=lambda option: _WORDS.index(option.distance)))

    return replace(
        view,
        spaces=swapped(view.spaces),
        doors=swapped(view.doors),
        containers=swapped(view.containers),
        surfaces=swapped(view.surfaces),
    )


def flip_target(view: PromptView, teacher: ExpertTeacher, rng: random.Random) -> PromptView | None:
    """Another thing is searched for, which hasn't been found either; None when that changes nothing."""
    before = _best(teacher, view)
    if view.matches or before is None:
        return None
    for _ in range(_TARGET_DRAWS):
        flipped = retarget(view, random_target(view, load_priors(), rng, found=0.0), load_priors())
        after = _best(teacher, flipped)
        if not flipped.matches and after is not None and after.option != before.option and after.usual:
            return flipped
    return None


def flip_found(view: PromptView, teacher: ExpertTeacher, rng: random.Random) -> PromptView | None:
    """The target lies in a room that has been seen."""
    if view.matches is None or view.matches or not view.rooms:
        return None
    taken = {obj.name for room in view.rooms for obj in room.objects}
    name = next(name for name in (view.target, *(f"{view.target}-{n}" for n in range(2, 99))) if name not in taken)
    index = rng.randrange(len(view.rooms))
    rooms = list(view.rooms)
    rooms[index] = replace(rooms[index], objects=(*rooms[index].objects, ObjectView(name)))
    return replace(view, rooms=tuple(rooms), matches=((rooms[index].name, name),))


Flip = Callable[[PromptView, ExpertTeacher, random.Random], "PromptView | None"]
FLIPS: dict[str, Flip] = {"distance": flip_distance, "target": flip_target, "found": flip_found}


def record_situations(scenes: Sequence[Path], episodes: int, seed: int, config: SearchConfig) -> list[Situation]:
    """Every situation in which something was decided while the expert searched these houses."""
    env = HouseSearchEnv(max_steps=NO_LIMIT)
    situations: list[Situation] = []
    for scene in scenes:
        house = load_house(scene)
        raster = rasterise(house)
        for index in range(episodes):
            episode = draw_episode(house, episode_seed(house.name, index, seed), raster)
            run_episode(env, episode, ExpertPolicy(), config, lambda situation, *_: situations.append(situation))
    return situations


def make_pairs(situations: Sequence[Situation], count: int, seed: int) -> list[Pair]:
    """`count` pairs, the kinds of flips in turn, whose flip changes the expert's command.

    Raises `UserError` when the situations don't yield as many.
    """
    rng, teacher = random.Random(seed), ExpertTeacher()
    pools = {kind: rng.sample(list(situations), len(situations)) for kind in FLIPS}
    pairs: list[Pair] = []
    while len(pairs) < count and any(pools.values()):
        for kind, pool in pools.items():
            pair = None
            while pool and pair is None:
                pair = _make_pair(kind, pool.pop(), teacher, rng)
            if pair is not None and len(pairs) < count:
                pairs.append(pair)
    if len(pairs) < count:
        raise UserError(f"only {len(pairs)} of {count} pairs could be made of {len(situations)} prompts; record more")
    return pairs


def ask(policy: Policy, pair: Pair) -> tuple[Answer, Answer]:
    """The policy's answers to the recorded and to the flipped prompt."""
    flipped = replace(pair.situation, view=pair.flipped, target=pair.flipped.target)
    return policy.decide(pair.situation), policy.decide(flipped)


def judge(pair: Pair, before: Answer, after: Answer) -> PairResult:
    """Compare a policy's answers with the expert's."""
    return PairResult(
        kind=pair.kind,
        right_before=before.command == pair.before.command,
        changed=before.command != after.command,
        command_follows=after.command == pair.after.command,
        reasoning_follows=speaks_of(after.reasoning, pair.after.command, pair.flipped),
    )


def speaks_of(reasoning: str, command: str, view: PromptView) -> bool:
    """Whether a reasoning names everything that a command acts on; for `done()`, the target or that it is listed."""
    arguments = [name for name in re.split(r", ", command.partition("(")[2].rstrip(")")) if name]
    if arguments:
        return all(_name_pattern(name).search(reasoning) for name in arguments)
    things = [view.target, *(name for _, name in view.matches or ()), "listed"]
    return any(_name_pattern(name).search(reasoning) for name in things)


def names_in(view: PromptView) -> set[str]:
    """Every name that a prompt shows: rooms, objects, doors, the target, and the words of its usual places."""
    names = {view.target, *(room.name for room in view.rooms)}
    names |= {obj.name for room in view.rooms for obj in room.objects}
    names |= {
        option.name for options in (view.spaces, view.doors, view.containers) for option in options if option.name
    }
    for hint in view.hints or ():
        names |= {hint.room, *hint.furniture}
    return names


def plain_words(views: Iterable[PromptView]) -> set[str]:
    """The words that the expert writes beside names: what else stands in an answer is taken for a name."""
    teacher = ExpertTeacher()
    words: set[str] = set()
    for view in views:
        response = teacher.answer(view)
        for text in (response.analysis, response.reasoning):
            words |= {token.lower() for token in _TOKEN.findall(_without_names(text, names_in(view))[0])}
    return words


def count_names(text: str, view: PromptView, plain: set[str]) -> tuple[int, int]:
    """(names that exist in the prompt, runs of words that are neither such a name nor plain) in a text."""
    rest, found = _without_names(text, names_in(view))
    missing, in_run = 0, False
    for token in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]", rest):
        is_unknown = bool(_TOKEN.fullmatch(token)) and token.lower() not in plain
        missing += is_unknown and not in_run
        in_run = is_unknown
    return found, missing


def _without_names(text: str, names: set[str]) -> tuple[str, int]:
    """The text with a bar for each name (the longest first), and how many there were."""
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.subn(rf"(?<![\w-])(?:{alternatives})(?![\w-])", "|", text)


def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")


def _best(teacher: ExpertTeacher, view: PromptView) -> Candidate | None:
    return next(iter(teacher.candidates(view)), None)


def _make_pair(kind: str, situation: Situation, teacher: ExpertTeacher, rng: random.Random) -> Pair | None:
    flipped = FLIPS[kind](situation.view, teacher, rng)
    if flipped is None:
        return None
    before, after = teacher.answer(situation.view), teacher.answer(flipped)
    return Pair(kind, situation, flipped, before, after) if before.command != after.command else None


def report(policy: str, pairs: Sequence[Pair], answers: Sequence[tuple[Answer, Answer]]) -> dict[str, Any]:
    """Fractions in percent, for each kind of flip and over all."""
    results = [judge(pair, *answer) for pair, answer in zip(pairs, answers)]
    plain = plain_words(view for pair in pairs for view in (pair.situation.view, pair.flipped))
    existing = missing = 0
    for pair, (before, after) in zip(pairs, answers):
        for answer, view in ((before, pair.situation.view), (after, pair.flipped)):
            for text in (answer.analysis, answer.reasoning):
                found, unknown = count_names(text, view, plain)
                existing, missing = existing + found, missing + unknown
    return {
        "policy": policy,
        "prompts": len(pairs),
        "flips": {
            kind: _fractions([result for result in results if kind in (result.kind, "all")]) for kind in (*FLIPS, "all")
        },
        "names": {"written": existing + missing, "exist": _percent(existing, existing + missing)},
    }


def _fractions(results: Sequence[PairResult]) -> dict[str, float | None]:
    was_right = [result for result in results if result.right_before]
    return {
        "pairs": len(results),
        "right_before": _percent(len(was_right), len(results)),
        "changed": _percent(sum(result.changed for result in results), len(results)),
        "command_follows": _percent(sum(result.command_follows for result in results), len(results)),
        "command_follows_when_right_before": _percent(sum(r.command_follows for r in was_right), len(was_right)),
        "reasoning_follows": _percent(sum(result.reasoning_follows for result in results), len(results)),
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 1) if whole else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", choices=("slm", "untrained", "expert"), default="slm", help="who is asked (default: %(default)s)"
    )
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the model in models/")
    parser.add_argument(
        "--scenes", nargs="+", default=["val"], metavar="SPLIT|PATH", help="houses to record prompts in"
    )
    parser.add_argument("--episodes", type=int, default=10, help="recorded in each scene (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="pairs to ask (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp (default: %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if args.prompts < 1 or args.episodes < 1:
        raise UserError(f"{args.prompts} prompts out of {args.episodes} episodes; expected at least 1 of each")
    check_writable(args.json)
    model = (args.model or default_model()) if needs_model(args.policy) else None
    policy = make_policy(args.policy, PolicyOptions(model=model, threads=args.threads), args.seed)
    situations = record_situations(resolve_scenes(args.scenes), args.episodes, args.seed, SearchConfig())
    pairs = make_pairs(situations, args.prompts, args.seed)
    console = Console(stderr=True)
    answers = [ask(policy, pair) for pair in track(pairs, "asking", console=console)]
    result = report(args.policy, pairs, answers)
    if model is not None:
        result["model"] = model.name
    write_figures(args.json, result)
    _print_report(result, Console())
    return 0


def _print_report(result: dict[str, Any], console: Console) -> None:
    table = Table(
        "flipped", "pairs", "right before", "changed", "command follows", "reasoning follows", box=SIMPLE_HEAD
    )
    keys = ("pairs", "right_before", "changed", "command_follows", "reasoning_follows")
    for kind, values in result["flips"].items():
        table.add_row(kind, *("-" if values[key] is None else f"{values[key]:g}" for key in keys))
    console.print(table)
    names = result["names"]
    console.print(f"names in analysis and reasoning: {names['written']}, in the prompt: {names['exist']} %")
