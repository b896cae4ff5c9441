"""What an evaluation tells: the JSON, and its tables in a terminal.

`sr`, `spl`, `auc_e` and `unparsable` are in percent, distances in metres. Of several rows each pair is compared over
the same episodes: `paired` holds [low, mean, high] of first - second, `p_values` the two-sided p of each metric, and
`distance` how much farther the first travels, over all episodes and over those that both solve. `rooms` holds shares of
the rooms that were discovered, in percent, as `RoomAccuracy` names them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from smallplan_training import metrics
from smallplan_training.entrants import Entrant
from smallplan_training.metrics import Difference, DistanceChange
from smallplan_training.policy_factory import needs_model
from smallplan_training.room_accuracy import NO_ROOMS

if TYPE_CHECKING:
    from smallplan_training.evaluate import EpisodeRun, EvaluateConfig

HEADINGS = {"sr": "SR %", "spl": "SPL %", "dist_m": "Dist m", "retrials": "Retrials", "auc_e": "AUC-E %"}
ROOM_HEADINGS = {
    "rooms": "rooms",
    "accuracy": "right",
    "rule_accuracy": "right by the rule",
    "uncertain": "other room",
    "rule_uncertain": "other room by the rule",
    "unreadable_answers": "unreadable answers",
}
"""Of `rooms` in the JSON: counts and percentages."""
TABLES = ("I", "II")
"""Of the paper: policies and models; strategies of training."""
_PAIRS_SHOWN = 10  # of more than that a terminal shows only those with the first row


def published(table: str) -> dict[str, Any]:
    """The paper's own table: `title`, `source`, `rows`. Its houses are others than those of an evaluation here."""
    text = resources.files("smallplan_training").joinpath("published.json").read_text(encoding="utf-8")
    return dict(json.loads(text)[table])


def report_policy(entrant: Entrant, runs: Sequence[EpisodeRun], config: EvaluateConfig) -> dict[str, Any]:
    """The JSON object of one row."""
    scores = [run.score for run in runs]
    latencies = [latency for run in runs for latency in run.latencies]
    answers = sum(run.answers for run in runs)
    report: dict[str, Any] = {"policy": entrant.name, "episodes": len(runs), **_rounded(metrics.means(scores))}
    report["intervals"] = _rounded(metrics.intervals(scores))
    report["answers"] = answers
    report["unparsable"] = round(100.0 * sum(run.unparsable for run in runs) / answers, 3) if answers else 0.0
    report["decision_ms_p50"] = round(metrics.percentile_ms(latencies, 50), 2)
    report["decision_ms_p95"] = round(metrics.percentile_ms(latencies, 95), 2)
    report["per_scene"] = {
        scene: {"episodes": len(part), **_rounded(metrics.means([run.score for run in part]))}
        for scene, part in _by_scene(runs).items()
    }
    rooms = sum((run.rooms for run in runs), NO_ROOMS)
    report["rooms"] = {**rooms.report(), "unreadable_answers": sum(run.unreadable_rooms for run in runs)}
    report["results"] = dict(Counter(run.code for run in runs).most_common())
    report["settings"] = _settings(entrant, config)
    if entrant.note:
        report["note"] = entrant.note
    report["runs"] = [_run_row(run) for run in runs]
    return report


def report_all(runs: Sequence[EpisodeRun], config: EvaluateConfig, command: str) -> dict[str, Any]:
    """The whole JSON: one row's object, or several with their paired differences."""
    of_row = {entrant.name: [run for run in runs if run.policy == entrant.name] for entrant in config.entrants}
    objects = [report_policy(entrant, of_row[entrant.name], config) for entrant in config.entrants]
    if len(objects) == 1:
        return {**objects[0], "command": command}
    scores = {name: [run.score for run in part] for name, part in of_row.items()}
    compared: dict[str, dict[str, Any]] = {"paired": {}, "p_values": {}, "distance": {}}
    for one, other in combinations(scores, 2):
        pair, differences = f"{one}-{other}", metrics.paired(scores[one], scores[other])
        compared["paired"][pair] = _rounded({metric: _range_of(value) for metric, value in differences.items()})
        compared["p_values"][pair] = {metric: round(value.p, 5) for metric, value in differences.items()}
        compared["distance"][pair] = {
            "first": one,
            "second": other,
            "all": _distance(metrics.distance_change(scores[one], scores[other])),
            "both_solved": _distance(metrics.distance_change(scores[one], scores[other], both_solved=True)),
        }
    return {"policies": objects, **compared, "command": command}


def _settings(entrant: Entrant, config: EvaluateConfig) -> dict[str, Any]:
    search = entrant.search
    settings: dict[str, Any] = {
        "seed": config.seed,
        "mode": search.mode,
        "max_steps": search.max_steps,
        "max_retries": search.max_retries,
        "matches": search.helps.matches,
        "hints": search.helps.hints,
        "room_labels": search.classify_rooms,
        "workers": config.workers,
        "simulator": config.simulator,
    }
    if needs_model(entrant.policy) and entrant.options.model is not None:
        settings["model"] = entrant.options.model.name
        settings["grammar"] = entrant.options.grammar
        settings["threads"] = entrant.options.threads
    return settings


def _distance(change: DistanceChange | None) -> dict[str, Any] | None:
    """None: no such episode."""
    if change is None:
        return None
    return {
        "episodes": change.episodes,
        **_rounded({"first_m": change.first, "second_m": change.second}),
        "difference_m": _rounded(_range_of(change.metres)),
        "percent": _rounded(_range_of(change.percent)),
        "p": round(change.metres.p, 5),
    }


def _range_of(difference: Difference) -> list[float]:
    return [difference.low, difference.mean, difference.high]


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
        "unparsable": run.unparsable,
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


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Tables for people: the rows side by side, the paper's where they are asked for, then the paired differences."""
    objects = report.get("policies", [report])
    table = _table("policy", f"means and 95 % intervals, episodes: {objects[0]['episodes']}")
    table.add_column("Unpars.\n%", justify="right", no_wrap=True)
    table.add_column("ms p50\np95", justify="right", no_wrap=True)
    for item in objects:
        cells = [f"{item[key]:.2f}\n{_range(*item['intervals'][key])}" for key in HEADINGS]
        note = f"\n{item['note']}" if "note" in item else ""
        milliseconds = f"{item['decision_ms_p50']:.1f}\n{item['decision_ms_p95']:.1f}"
        table.add_row(item["policy"] + note, *cells, f"{item['unparsable']:.2f}", milliseconds)
    console.print(table)
    if "paper" in report:
        _print_published(report["paper"], console)
    _print_rooms(objects, console)
    if "paired" not in report:
        return
    pairs = [pair for pair in report["paired"] if _is_shown(pair, report)]
    table = _table("difference", "paired differences, 95 % intervals, two-sided p")
    for pair in pairs:
        p_values = report["p_values"][pair]
        cells = [
            f"{signed(mean, 2)}\n{_range(low, high)}\n{format_p(p_values[metric])}"
            for metric, (low, mean, high) in report["paired"][pair].items()
        ]
        table.add_row(_pair_name(report["distance"][pair]), *cells)
    console.print(table)
    _print_distances([report["distance"][pair] for pair in pairs], console)
    if len(pairs) < len(report["paired"]):
        console.print(f"{len(report['paired']) - len(pairs)} more pairs stand in the JSON alone.")


def _is_shown(pair: str, report: Mapping[str, Any]) -> bool:
    first = report["policies"][0]["policy"]
    return len(report["paired"]) <= _PAIRS_SHOWN or report["distance"][pair]["first"] == first


def _print_published(name: str, console: Console) -> None:
    paper = published(name)
    table = _table("published", f"{paper['title']}: published figures, of other houses")
    for row in paper["rows"]:
        table.add_row(row["policy"], *(f"{row[key]:.2f}" if key in row else "–" for key in HEADINGS))
    console.print(table)


def names_rooms(row: Mapping[str, Any]) -> bool:
    """Whether a model said which rooms the rooms are."""
    return "grammar" in row["settings"] and row["settings"].get("room_labels") == "model" and row["rooms"]["rooms"] > 0


def _print_rooms(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    rows = [row for row in rows if names_rooms(row)]
    if not rows:
        return
    table = Table(title="rooms that the model named, in %", box=SIMPLE_HEAD, padding=(0, 1, 1, 1))
    table.add_column("policy", no_wrap=True)
    for heading in ROOM_HEADINGS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row["policy"], *(format_room(row["rooms"], key) for key in ROOM_HEADINGS))
    console.print(table)


def format_room(rooms: Mapping[str, Any], key: str) -> str:
    """A figure of `ROOM_HEADINGS`: counts as they are, shares with a decimal."""
    value = rooms[key]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _print_distances(changes: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="distance travelled", box=SIMPLE_HEAD, padding=(0, 1, 1, 1))
    table.add_column("first −\nsecond", no_wrap=True)
    for heading in ("over all episodes", "over those that both solve"):
        table.add_column(heading, no_wrap=True)
    for change in changes:
        table.add_row(_pair_name(change), *(_distance_cell(change[key]) for key in ("all", "both_solved")))
    console.print(table)


def format_change(percent: float) -> str:
    """A relative difference in words: `12.3 % less`."""
    return f"{abs(percent):.1f} % {'less' if round(percent, 1) < 0 else 'more'}"


def _distance_cell(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "nothing to compare"
    low, mean, high = change["percent"]
    return (
        f"{format_change(mean)} ({signed(low)} … {signed(high)}), {format_p(change['p'])}\n"
        f"{change['first_m']:.2f} against {change['second_m']:.2f} m, episodes: {change['episodes']}"
    )


def _pair_name(change: Mapping[str, Any]) -> str:
    return f"{change['first']} −\n{change['second']}"


def signed(value: float, digits: int = 1) -> str:
    """`+1.2`; what rounds to nothing has no minus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def format_p(p: float) -> str:
    """`p < 0.001`, `p = 0.032`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _table(first: str, title: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 1, 1))
    table.add_column(first, no_wrap=True)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _range(low: float, high: float) -> str:
    return f"{low:.1f} … {high:.1f}"
