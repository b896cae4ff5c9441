"""`smallplan demo`: a simulated robot searches a house, planned over ROS 2, told as it happens.

Simulator and planner are processes of their own and talk over DDS, as they would on a robot. Afterwards
`build/demo` holds `episode.png` (a plan view), `episode.gif` (the search) and the logs of both.
Exit code 0: found, 1: not found, 2: it could not be run.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from smallplan_planner.names import sanitise
from smallplan_planner.resources import resource
from smallplan_planner.scene_graph import SceneGraph
from smallplan_training.errors import UserError
from smallplan_training.plan_view import SearchStory, StoryStep, draw_animation, draw_picture
from smallplan_training.policy_factory import check_model
from smallplan_training.processes import ProcessDied, ProcessGroup, Terminated, ros_environment
from smallplan_training.scenes import default_model, load_house
from smallplan_training.simulators.house.episodes import Episode, NoEpisode
from smallplan_training.simulators.house.live import choose_episode

if TYPE_CHECKING:
    from smallplan_training.demo_client import DecisionHeard, Heard

DEFAULT_HOUSE, DEFAULT_SEED = "houses/val/val-5.json", 9
OUTPUT = Path("build") / "demo"
SPEED = 20.0  # simulated seconds per second
DISCOVERY = 60.0  # s until both processes must have been heard of
SILENCE = 300.0  # s that the planner may say nothing
TERMINATED = 128 + 15
PLANNERS = {"slm": "the small language model", "greedy": "the greedy policy"}
_INDENT = "     "

Point2 = tuple[float, float]


@dataclass(frozen=True)
class DemoConfig:
    """What is searched, where, and by whom."""

    house: Path
    episode: Episode
    seed: int
    policy: str  # "slm" | "greedy"
    model: Path | None  # None: policy is greedy
    speed: float
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--house", type=Path, metavar="JSON", help="a house or ProcTHOR file (default: one of val)")
    parser.add_argument("--target", help="what to search for (default: drawn by the seed)")
    parser.add_argument("--seed", type=int, help="draws start, target and objects")
    parser.add_argument("--policy", choices=("slm", "greedy"), default="slm", help="who plans (default: %(default)s)")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="who plans by slm (default: the model in models/)")
    parser.add_argument("--speed", type=float, default=SPEED, help="simulated s per s, 0: no waiting (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    config = _read_config(args)
    os.environ.update(ros_environment(os.environ))
    from smallplan_training.demo_client import DemoClient  # rclpy reads the environment set above

    config.output.mkdir(parents=True, exist_ok=True)
    episode = config.episode
    planner = PLANNERS[config.policy]
    _say(f"{episode.house.name}: {len(episode.house.rooms)} rooms, {episode.house.area:.0f} m², planned by {planner}")
    _say(f"Task: find the {sanitise(episode.target)}.\n")
    tell = _Teller(config.policy)
    try:
        with ProcessGroup(config.output / "logs", os.environ) as processes:
            for name, (module, parameters) in _nodes(config).items():
                processes.start(name, _node_command(name, module, parameters, config.output / "logs"))
            with DemoClient(processes.check) as client:
                try:
                    client.await_discovery(DISCOVERY)
                    result = client.search(episode.target, SILENCE, tell.decision, tell.outcome)
                except UserError as error:
                    raise UserError(f"{error}. The planner says: {processes.tail('smallplan_planner', 1)}") from error
                heard = client.heard
    except ProcessDied as error:
        raise UserError(str(error)) from error
    except Terminated:
        return TERMINATED
    headline = _headline(result, heard.graph, episode)
    story = _make_story(config, heard, result, headline)
    draw_picture(story, config.output / "episode.png")
    draw_animation(story, config.output / "episode.gif")
    _say(f"\npictures: {config.output / 'episode.png'}, {config.output / 'episode.gif'}")
    _say(headline)
    return 0 if result.success else 1


def _read_config(args: argparse.Namespace) -> DemoConfig:
    if args.speed < 0 or not math.isfinite(args.speed):
        raise UserError(f"--speed is {args.speed}; expected 0 or more")
    model = check_model(args.model or default_model()) if args.policy == "slm" else None
    try:
        path = args.house if args.house is not None else resource("config", DEFAULT_HOUSE)
    except FileNotFoundError as error:
        raise UserError(f"the default house is not there; give one with --house. {error}") from error
    seed = args.seed if args.seed is not None else DEFAULT_SEED if args.house is None else 0
    try:
        episode = choose_episode(load_house(path), seed, args.target or "")
    except NoEpisode as error:
        raise UserError(str(error)) from error
    return DemoConfig(path, episode, seed, args.policy, model, args.speed, args.output)


def _nodes(config: DemoConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Node name -> its module and parameters."""
    sim = {
        "house": str(config.house.resolve()),
        "seed": config.seed,
        "target": config.episode.target,
        "speed": float(config.speed),
    }
    planner = {"policy": config.policy, "model_path": str(config.model.resolve()) if config.model is not None else ""}
    return {
        "sim_node": ("smallplan_training.simulators.house.sim_node", sim),
        "smallplan_planner": ("smallplan_planner.nodes.planner_node", planner),
    }


def _node_command(name: str, module: str, parameters: dict[str, Any], folder: Path) -> Sequence[str]:
    """Parameters go through a file: on a command line a target such as `on` would not be read as text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({name: {"ros__parameters": parameters}}), encoding="utf-8")
    return [sys.executable, "-m", module, "--ros-args", "--params-file", str(path)]


class _Teller:
    """Tells the search as it happens."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._width = min(100, shutil.get_terminal_size().columns)

    def decision(self, decision: DecisionHeard) -> None:
        by = ", fallback: the greedy policy" if self._policy == "slm" and decision.source == "fallback" else ""
        _say(f"{decision.number:3d}  {decision.command}  ({decision.latency * 1000:.0f} ms{by})")
        words = "".join(c if c.isprintable() else " " for c in decision.reasoning)
        if words.strip():
            _say(textwrap.fill(words, self._width, initial_indent=_INDENT, subsequent_indent=_INDENT))

    def outcome(self, decision: DecisionHeard, outcome: str, distance: float) -> None:
        _say(f"{_INDENT}→ {outcome} · {distance:.1f} m so far")


def _headline(result: Any, graph: SceneGraph | None, episode: Episode) -> str:
    """One line: what was found where, actions, metres."""
    what = result.error_msg
    found = graph.object_by_id.get(result.object_id) if graph is not None else None
    parent = graph.object_by_id.get(found.parent) if graph is not None and found is not None else None
    if found is not None and parent is not None and " in " in what:
        name, _, room = what.rpartition(" in ")
        what = f"{name} {found.relation or 'in'} {sanitise(parent.label)} in {room}"
    actions = f"{result.steps} action{'' if result.steps == 1 else 's'}"
    shortest = "" if math.isnan(episode.shortest_path) else f" (shortest {episode.shortest_path:.1f} m)"
    return f"{what} · {actions} · {result.distance:.1f} m{shortest}"


def _make_story(config: DemoConfig, heard: Heard, result: Any, headline: str) -> SearchStory:
    episode = config.episode
    raster = episode.raster
    reached = [0.0, *(action.distance for action in heard.actions)]
    paths = _cut(heard.driven, reached)
    stamps = [action.decision.stamp for action in heard.actions] + [math.inf]
    steps = tuple(
        StoryStep(
            kind=action.decision.kind,
            command=action.decision.command,
            success=action.success,
            path=path,
            grid=heard.map_at(stamps[number + 1]),  # what was known when the next action was chosen
            distance=action.distance,
        )
        for number, (action, path) in enumerate(zip(heard.actions, paths))
    )
    return SearchStory(
        house=episode.house,
        origin=raster.centre(*raster.cell(episode.start.x, episode.start.y)),
        target=sanitise(episode.target),
        start=heard.driven[0] if heard.driven else (0.0, 0.0),
        first_grid=heard.map_at(stamps[0]),
        steps=steps,
        headline=headline,
        found=(result.position.x, result.position.y) if result.success else None,
        planner=PLANNERS[config.policy],
    )


def _cut(driven: Sequence[Point2], reached: Sequence[float]) -> list[tuple[Point2, ...]]:
    """Cut a path where these lengths (m, ascending from 0) have been travelled; each part without its first point."""
    lengths = [0.0]
    for a, b in pairwise(driven):
        lengths.append(lengths[-1] + math.dist(a, b))
    ends = [min(range(len(lengths)), key=lambda i: (abs(lengths[i] - length), -i)) for length in reached]
    return [tuple(driven[begin + 1 : end + 1]) for begin, end in pairwise(ends)]


def _say(text: str) -> None:
    print(text, flush=True)
