"""Learning curves: from the JSON lines that training writes to charts.

A line has `step`, `stage` or `phase`, and numbers. Stages that count their steps anew follow each other on one axis.
Every number that changes becomes a curve; rewards, losses and accuracies share a chart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smallplan_training.charts import Chart, Line
from smallplan_training.errors import UserError

LOG = "log.jsonl"
_NOT_DRAWN = ("step", "samples", "minutes", "seconds", "epoch", "steps", "iteration")
_SHARED = (
    ("Reward, by component", lambda key: key.startswith("reward_")),
    ("Loss", lambda key: key in ("loss", "val_loss")),
    ("Accuracy on held-out samples", lambda key: key.endswith("_accuracy")),
    ("Success and SPL", lambda key: key.removeprefix("val_") in ("success", "sr", "spl", "success_rate")),
    ("Minimal pairs passed, by skill", lambda key: key.startswith("val_probe_")),
)
"""Title -> which figures stand in one chart; they are drawn first."""
_FACTOR = 20.0
_FIRST = ("success", "reward", "kl", "loss", "entropy", "value")  # what is asked for first, stands first


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log file, or of the one in a run's folder. Raises `UserError` that names file and line."""
    file = path / LOG if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read as a training log: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # a run under way is writing it
                break
            raise UserError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{file}, line {number}: expected an object with a whole number `step`")
        rows.append(row)
    return rows


def make_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The curves of a run; [] when nothing can be drawn."""
    places, marks = _axis(rows)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row, place in zip(rows, places):
        prefix = "val_" if row.get("stage") == "validation" else ""
        for key, value in row.items():
            if key in _NOT_DRAWN or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                curves.setdefault(prefix + key, []).append((place, float(value)))
    curves = {key: points for key, points in curves.items() if len({y for _, y in points}) > 1}
    charts = []
    for title, belongs in _SHARED:
        keys = sorted(key for key in curves if belongs(key))
        if keys:
            short = {key: key.removeprefix("reward_").removeprefix("val_probe_") for key in keys}
            lines = tuple(Line(_words(name), tuple(curves.pop(key))) for key, name in short.items())
            charts.append(_chart(title, lines, marks))
    for key in sorted(curves, key=lambda key: (_rank(key), key)):
        charts.append(_chart(_words(key).capitalize(), (Line(_words(key), tuple(curves[key])),), marks))
    return charts


def _chart(title: str, lines: tuple[Line, ...], marks: tuple[tuple[float, str], ...]) -> Chart:
    """What falls by more than a factor, as losses do, is drawn on a logarithmic axis."""
    values = [y for line in lines for _, y in line.points]
    logarithmic = "loss" in title.lower() and min(values) > 0 and max(values) > _FACTOR * min(values)
    return Chart(title, "step", lines, marks=marks, logarithmic=logarithmic)


def _axis(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], tuple[tuple[float, str], ...]]:
    """Where each row stands on the joint axis, and where a stage begins."""
    places: list[int] = []
    marks: list[tuple[float, str]] = []
    offset = last = 0
    for row in rows:
        begins = not places
        if row["step"] < last:
            offset, begins = offset + last, True
        last = row["step"]
        places.append(offset + last)
        name = str(row.get("stage") or row.get("phase") or "")
        if begins and name:
            marks.append((float(offset), name))
    return places, tuple(marks) if len(marks) > 1 else ()


def _rank(key: str) -> int:
    return next((at for at, word in enumerate(_FIRST) if word in key), len(_FIRST))


def _words(key: str) -> str:
    words = {"lr": "learning rate", "grad_norm": "norm of the gradient", "kl": "KL to the reference"}
    return words.get(key) or key.replace("val_", "held-out ", 1).replace("_per_s", " per s").replace("_", " ")
