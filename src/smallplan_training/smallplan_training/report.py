"""`smallplan report`: one HTML page with tables, learning curves and episodes to step through.

The page needs nothing but itself: style, script and data stand in it, and it may not load anything. What was not
given is left out, with a line that says so.

    smallplan report --eval "Table I=build/test.json" --eval build/procthor.json \\
        --runs build/train --episodes build/test.jsonl.gz --output build/report.html
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from rich.console import Console

from smallplan_training.errors import UserError
from smallplan_training.evaluation_tables import HEADINGS, TABLES
from smallplan_training.figures import check_writable
from smallplan_training.recording import Recording, read_recordings
from smallplan_training.report_tables import curves_section, evaluation_section, published_section
from smallplan_training.training_curves import make_charts, read_log

_ROW_KEYS = ("policy", "episodes", "intervals", "decision_ms_p50", "decision_ms_p95", *HEADINGS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--eval", nargs="+", action="extend", default=[], metavar="[TITLE=]JSON", help="what `evaluate --json` wrote"
    )
    parser.add_argument(
        "--runs", nargs="+", action="extend", default=[], metavar="[TITLE=]DIR", help="training runs, or their logs"
    )
    parser.add_argument(
        "--episodes", nargs="+", action="extend", default=[], type=Path, metavar="FILE",
        help="what `evaluate --episodes-out` wrote",
    )  # fmt: skip
    parser.add_argument("--title", default="SmallPlan: evaluation", help="of the page (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/report.html"), help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if not (args.eval or args.runs or args.episodes):
        raise UserError("nothing to report; give at least one of --eval, --runs, --episodes")
    check_writable(args.output)
    evaluations = [(title, read_evaluation(path)) for title, path in map(_titled, args.eval)]
    runs = [(title, make_charts(read_log(path))) for title, path in map(_titled, args.runs)]
    recordings = [recording for path in args.episodes for recording in read_recordings(path)]
    page = render_page(args.title, evaluations, runs, recordings)
    args.output.write_text(page, encoding="utf-8")
    size = len(page.encode()) / 1e6
    counts = f"evaluations: {len(evaluations)}, training runs: {len(runs)}, episodes: {len(recordings)}"
    Console().print(f"{args.output}: {size:.1f} MB, {counts}", soft_wrap=True)
    return 0


def read_evaluation(path: Path) -> dict[str, Any]:
    """The JSON of an evaluation; raises `UserError` that names the file and what is missing."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    rows = report.get("policies", [report]) if isinstance(report, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected what `smallplan evaluate --json` writes, got {type(report).__name__}")
    for number, row in enumerate(rows, 1):
        missing = [key for key in _ROW_KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(
                f"{path}: row {number} has no {', '.join(missing)}; was it written by `smallplan evaluate`?"
            )
    return dict(report)


def render_page(
    title: str,
    evaluations: Sequence[tuple[str, Mapping[str, Any]]],
    runs: Sequence[tuple[str, Sequence[Any]]],
    recordings: Sequence[Recording],
) -> str:
    """The whole page. `runs` are named charts of training."""
    sections = [evaluation_section(name, report, number) for number, (name, report) in enumerate(evaluations, 1)]
    if not sections:
        sections = ['<p class="missing">Left out: tables; no evaluation was given (--eval).</p>']
    shown = {report.get("paper") for _, report in evaluations}
    others = [name for name in TABLES if name not in shown]
    places = [(f"evaluation-{number}", name) for number, (name, _) in enumerate(evaluations, 1)]
    places += [("published", "Published figures")] if others else []
    places += [("training", "Training"), ("gallery", "Episodes")]
    links = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for place, name in places)
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        style=_asset("page.css"),
        script=_asset("gallery.js"),
        links=links,
        evaluations="".join(sections),
        published=published_section(others) if others else "",
        training=curves_section(runs),
        gallery_note="" if recordings else "Left out: episodes to step through; none was given (--episodes).",
        gallery_hidden="" if recordings else "hidden",
        episodes=_as_script_data(_packed(recordings)),
    )


def _packed(recordings: Sequence[Recording]) -> dict[str, Any]:
    """Recordings with each house once: policies that met the same episode share it."""
    houses: list[Any] = []
    index: dict[str, int] = {}
    episodes = []
    for recording in recordings:
        house = recording["house"]
        key = json.dumps(house, sort_keys=True)
        if key not in index:
            index[key] = len(houses)
            houses.append(house)
        episodes.append({**recording, "house": index[key]})
    return {"houses": houses, "episodes": episodes}


def _as_script_data(data: Any) -> str:
    """JSON that can stand in a script element: no `<` that could end it."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (resources.files("smallplan_training") / "report_page" / name).read_text(encoding="utf-8")


def _titled(text: str) -> tuple[str, Path]:
    """`TITLE=FILE`, or a file whose name is the title."""
    title, found, path = text.partition("=")
    if found and title.strip() and not Path(text).exists():
        return title.strip(), Path(path)
    return Path(text).stem, Path(text)
