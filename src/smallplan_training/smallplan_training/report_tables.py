"""The sections of a report page, as HTML: tables of an evaluation, its curves, and the learning curves.

Everything that comes from a file goes through `escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from smallplan_training.charts import Chart, Line, render_chart
from smallplan_training.evaluation_tables import (
    HEADINGS,
    ROOM_HEADINGS,
    format_change,
    format_p,
    format_room,
    names_rooms,
    published,
    signed,
)
from smallplan_training.metrics import STEP_BUDGET

UNITS = {"sr": "SR, %", "spl": "SPL, %", "dist_m": "Dist, m", "retrials": "Retrials", "auc_e": "AUC-E, %"}
MEANINGS = {
    "sr": "success rate",
    "spl": "success weighted by path length",
    "dist_m": "distance travelled",
    "retrials": "re-prompts after an answer that was refused or failed",
    "auc_e": "area under the curve of success over low-level steps, to 5,000",
}
SIGNIFICANT = 0.05
_WORDS = {
    "NONE": "found",
    "NOT_FOUND": "gave up",
    "MAX_STEPS": "out of steps",
    "STUCK": "stuck",
    "MODEL_FAILED": "model failed",
    "EXECUTOR_FAILED": "executor failed",
}


def evaluation_section(title: str, report: Mapping[str, Any], number: int) -> str:
    """One evaluation: its tables and curves."""
    rows = report.get("policies", [report])
    parts = [_facts(rows), _main_table(rows, report.get("paper"))]
    charts = "".join(map(render_chart, _success_charts(rows)))
    missing = _missing("success over steps and metres", "the file holds no single runs")
    parts.append(f'<div class="charts wide">{charts}</div>' if charts else missing)
    parts.append(_rooms_table(rows))
    parts.append(_distance_table(report))
    parts.append(_difference_table(report))
    parts.append(_endings_table(rows))
    parts.append(_scenes_table(rows))
    parts.append(_command(report.get("command", "")))
    return f'<section id="evaluation-{number}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def published_section(tables: Sequence[str]) -> str:
    """The papers' own tables, where no evaluation shows them beside its rows."""
    body = "".join(
        f"<h3>{escape(published(name)['title'])}</h3>{_table('', _head(('policy', *HEADINGS)) + _published(name))}"
        for name in tables
    )
    return (
        '<section id="published"><h2>Published figures</h2><p>Measured by their authors on other houses: they say what '
        f"the method reached there, and can't be compared with the tables above.</p>{body}</section>"
    )


def curves_section(runs: Sequence[tuple[str, Sequence[Chart]]]) -> str:
    """Learning curves, run by run."""
    parts = []
    for name, charts in runs:
        drawn = "".join(map(render_chart, charts))
        body = f'<div class="charts">{drawn}</div>' if drawn else _missing("curves", "the log has nothing that changes")
        parts.append(f"<h3>{escape(name)}</h3>{body}")
    body = "".join(parts) or _missing("learning curves", "no training run was given (--runs)")
    return f'<section id="training"><h2>Training</h2>{body}</section>'


def _missing(what: str, why: str) -> str:
    return f'<p class="missing">Left out: {escape(what)}; {escape(why)}.</p>'


def _facts(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    settings = first.get("settings", {})
    facts = [f"episodes for each row: {first['episodes']}", f"houses: {len(first.get('per_scene', {}))}"]
    facts += [f"seed {settings['seed']}"] if "seed" in settings else []
    facts += [f"at most {settings['max_steps']} actions"] if "max_steps" in settings else []
    return f'<p class="facts">{escape(" · ".join(facts))}</p>'


def _main_table(rows: Sequence[Mapping[str, Any]], paper: str | None) -> str:
    columns = ["policy", *HEADINGS, "unparsable", "decision"]
    farthest = max(row["intervals"]["dist_m"][1] for row in rows) or 1.0
    body = []
    for row in rows:
        note = f'<small class="note">{escape(str(row["note"]))}</small>' if "note" in row else ""
        cells = [f'<th scope="row">{escape(row["policy"])}{note}</th>']
        cells += [_interval_cell(row[key], row["intervals"][key], _scale(key, farthest)) for key in HEADINGS]
        unparsable = f"<b>{row['unparsable']:.2f}</b>" if "unparsable" in row else "–"
        cells.append(f"<td>{unparsable}</td>")
        cells.append(f"<td><b>{row['decision_ms_p50']:.0f}</b><small>p95 {row['decision_ms_p95']:.0f}</small></td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    html = f"{_head(columns)}<tbody>{''.join(body)}</tbody>"
    html += _published(paper, len(columns)) if paper else ""
    return _table("Means over episodes with 95 % bootstrap intervals", html)


def _scale(key: str, farthest: float) -> float:
    """The right end of the little interval bars; 0: none."""
    return {"sr": 100.0, "spl": 100.0, "auc_e": 100.0, "dist_m": farthest}.get(key, 0.0)


def _interval_cell(mean: float, limits: Sequence[float], scale: float) -> str:
    low, high = limits
    bar = ""
    if scale:
        left, right, at = (100.0 * min(1.0, max(0.0, value / scale)) for value in (low, high, mean))
        bar = (
            f'<span class="bar" aria-hidden="true"><i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
            f'<b style="left:{at:.1f}%"></b></span>'
        )
    digits = 1 if scale else 2
    return f"<td><b>{mean:.{digits}f}</b><small>{low:.{digits}f} to {high:.{digits}f}</small>{bar}</td>"


def _published(name: str, columns: int = len(HEADINGS) + 1) -> str:
    paper = published(name)
    rest = "<td></td>" * (columns - len(HEADINGS) - 1)
    rows = "".join(
        f'<tr><th scope="row">{escape(row["policy"])}</th>'
        + "".join(f"<td>{row[key]:.2f}</td>" if key in row else "<td>–</td>" for key in HEADINGS)
        + f"{rest}</tr>"
        for row in paper["rows"]
    )
    return (
        f'<tbody class="published"><tr><th colspan="{columns}" scope="rowgroup">Published, measured on other houses: '
        f"{escape(paper['source'])}</th></tr>{rows}</tbody>"
    )


def _success_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Success over low-level steps, whose area is AUC-E, and over metres."""
    runs = {row["policy"]: row["runs"] for row in rows if row.get("runs")}
    longest = max((run["dist_m"] for part in runs.values() for run in part if run["result"] == "NONE"), default=0.0)
    charts = []
    for what, key, budget in (
        ("low-level steps", "low_level_steps", float(STEP_BUDGET)),
        ("metres", "dist_m", longest),
    ):
        if budget:
            lines = tuple(Line(name, success_curve(part, key, budget)) for name, part in runs.items())
            charts.append(
                Chart(f"Success over a budget of {what}", what, lines, "success, %", (), (0.0, budget), (0.0, 100.0))
            )
    return charts


def success_curve(runs: Sequence[Mapping[str, Any]], key: str, budget: float) -> tuple[tuple[float, float], ...]:
    """Corners (cost, percent found within it) of the step curve of `key`, from 0 to the budget.

    The area under that of low-level steps is AUC-E.
    """
    found = sorted(run[key] for run in runs if run["result"] == "NONE" and run[key] <= budget)
    corners, share = [(0.0, 0.0)], 0.0
    for number, cost in enumerate(found, 1):
        corners.append((float(cost), share))
        share = 100.0 * number / len(runs)
        corners.append((float(cost), share))
    return (*corners, (budget, share))


def _distance_table(report: Mapping[str, Any]) -> str:
    if "distance" not in report:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(change["first"])} <i>against</i> {escape(change["second"])}</th>'
        f"{_distance_cell(change['all'])}{_distance_cell(change['both_solved'])}</tr>"
        for change in report["distance"].values()
    )
    head = _head(("pair", "over all episodes", "over those that both solve"))
    table = _table(
        "How far the first travels, against the second; shaded where p < 0.05", f"{head}<tbody>{body}</tbody>"
    )
    return _folded("Distance, in pairs", table, len(report["distance"]) <= 10)


def _distance_cell(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "<td>nothing to compare</td>"
    low, mean, high = change["percent"]
    return (
        f"<td{_marked(change['p'])}><b>{format_change(mean)}</b>"
        f"<small>{signed(low)} to {signed(high)} %, {_p(change['p'])}</small>"
        f"<small>{change['first_m']:.1f} m, {change['second_m']:.1f} m; episodes: {change['episodes']}</small></td>"
    )


def _difference_table(report: Mapping[str, Any]) -> str:
    if "paired" not in report:
        return ""
    body = []
    for pair, values in report["paired"].items():
        names = report.get("distance", {}).get(pair)
        name = f"{names['first']} − {names['second']}" if names else pair.replace("-", " − ")
        p_values = report.get("p_values", {}).get(pair, {})
        cells = [f'<th scope="row">{escape(name)}</th>']
        for key in HEADINGS:
            low, mean, high = values[key]
            p = p_values.get(key)
            said = f"<small>{_p(p)}</small>" if p is not None else ""
            interval = f"<small>{signed(low)} to {signed(high)}</small>"
            cells.append(f"<td{_marked(p)}><b>{signed(mean, 2)}</b>{interval}{said}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    html = f"{_head(('first − second', *HEADINGS))}<tbody>{''.join(body)}</tbody>"
    table = _table("Over the same episodes; shaded where p < 0.05, two-sided", html)
    return _folded("All metrics, in pairs", table, len(report["paired"]) <= 10)


def _endings_table(rows: Sequence[Mapping[str, Any]]) -> str:
    codes = list(dict.fromkeys(code for row in rows for code in row.get("results", {})))
    if not codes:
        return ""
    names = ["policy", *(_WORDS.get(code, code.lower().replace("_", " ")) for code in codes)]
    body = "".join(
        f'<tr><th scope="row">{escape(row["policy"])}</th>'
        + "".join(f"<td>{row.get('results', {}).get(code, 0)}</td>" for code in codes)
        + "</tr>"
        for row in rows
    )
    return _folded("How the searches ended", _table("Numbers of episodes", f"{_head(names)}<tbody>{body}</tbody>"))


def _rooms_table(rows: Sequence[Mapping[str, Any]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(row["policy"])}</th>'
        + "".join(f"<td>{format_room(row['rooms'], key)}</td>" for key in ROOM_HEADINGS)
        + "</tr>"
        for row in rows
        if "settings" in row and names_rooms(row)
    )
    if not body:
        return ""
    html = f"{_head(('policy', *ROOM_HEADINGS.values()))}<tbody>{body}</tbody>"
    return _folded("Rooms that the model named", _table("In percent of the rooms that were discovered", html), True)


def _scenes_table(rows: Sequence[Mapping[str, Any]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(row["policy"])}</th><td class="text">{escape(scene)}</td>'
        f"<td>{part['episodes']}</td>{''.join(f'<td>{part[key]:.2f}</td>' for key in HEADINGS)}</tr>"
        for row in rows
        for scene, part in row.get("per_scene", {}).items()
    )
    head = _head(("policy", "house", "episodes", *HEADINGS))
    return _folded("House by house", _table("Means", f"{head}<tbody>{body}</tbody>")) if body else ""


def _command(command: str) -> str:
    return f'<p class="command"><span>Made by</span> <code>{escape(command)}</code></p>' if command else ""


def _head(columns: Sequence[str]) -> str:
    cells = []
    for column in columns:
        if column in UNITS:
            cells.append(f'<th scope="col"><abbr title="{escape(MEANINGS[column])}">{UNITS[column]}</abbr></th>')
        else:
            names = {"unparsable": "Unparsable, %", "decision": "Decision, ms"}
            cells.append(f'<th scope="col">{escape(names.get(column, column.capitalize()))}</th>')
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _table(caption: str, content: str) -> str:
    """A table that scrolls sideways by itself where the page is narrow."""
    said = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    name = escape(caption or "Table")
    return f'{said}<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>{content}</table></div>'


def _folded(title: str, body: str, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{body}</details>"


def _marked(p: float | None) -> str:
    return ' class="significant"' if p is not None and p < SIGNIFICANT else ""


def _p(p: float) -> str:
    return escape(format_p(p))
