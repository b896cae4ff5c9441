"""Line charts as inline SVG, for pages that must work without a network and in the dark.

Colours and strokes are left to the page's style sheet: line n has the class `line-n`. Texts are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 400, 250
COLOURS = 8
"""Classes of lines; more lines begin again with the first."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 10, 40
_TICKS = 5
_MAX_POINTS = 300  # of one line: more are averaged
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """What is drawn: `marks` are named places on the x axis, limits that are None fit the points."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    y_label: str = ""
    marks: tuple[tuple[float, str], ...] = ()
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    logarithmic: bool = False  # the y axis; all values are > 0 then


def render_chart(chart: Chart) -> str:
    """A figure with caption, SVG and legend; '' when no line has a point."""
    lines = [line for line in chart.lines if line.points]
    if not lines:
        return ""
    xs, ys = zip(*(point for line in lines for point in line.points))
    x_low, x_high = chart.x_limits or (min(xs), max(xs))
    if chart.logarithmic:
        y_low, y_high = min(ys) / 1.1, max(ys) * 1.1
    else:
        y_low, y_high = chart.y_limits or _rounded_limits(min(ys), max(ys))
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_low + 0.5

    scaled = math.log if chart.logarithmic else float

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        share = (scaled(y) - scaled(y_low)) / (scaled(y_high) - scaled(y_low))
        down = HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [_grid(place, (x_low, x_high), (y_low, y_high), chart)]
    for number, line in enumerate(lines):
        path = " ".join(place(x, y) for x, y in _thinned(line.points))
        shape = f'<polyline points="{path}"/>'
        if len(line.points) == 1:
            across, down = place(*line.points[0]).split(",")
            shape = f'<circle cx="{across}" cy="{down}" r="3"/>'
        parts.append(f'<g class="line line-{number % COLOURS}"><title>{escape(line.name)}</title>{shape}</g>')
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><g class="line line-{number % COLOURS}">'
        f'<line x1="1" y1="4" x2="23" y2="4"/></g></svg>{escape(line.name)}</li>'
        for number, line in enumerate(lines)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_described(chart, lines))}">'
        f'{"".join(parts)}</svg><ul class="legend">{legend}</ul></figure>'
    )


def _grid(place: Callable[[float, float], str], x: tuple[float, float], y: tuple[float, float], chart: Chart) -> str:
    parts = []
    for value in log_ticks(*y) if chart.logarithmic else ticks(*y):
        left, down = place(x[0], value).split(",")
        parts.append(f'<line class="grid" x1="{left}" y1="{down}" x2="{WIDTH - _RIGHT}" y2="{down}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down}" class="tick end">{_number(value)}</text>')
    for value in ticks(*x):
        across = place(value, y[0]).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - _BOTTOM + 15}" class="tick middle">{_number(value)}</text>')
    begun = [mark for mark in chart.marks if mark[0] <= x[0]]
    later = [mark for mark in chart.marks if x[0] < mark[0] <= x[1]]
    for value, name in [(x[0], name) for _, name in begun[-1:]] + later:
        across = place(value, y[0]).split(",")[0]
        parts.append(f'<line class="mark" x1="{across}" y1="{_TOP}" x2="{across}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{float(across) + 3:.1f}" y="{_TOP + 9}" class="tick">{escape(name)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" class="label middle">{escape(chart.x_label)}</text>')
    if chart.y_label:
        place_of = f"translate(11 {(_TOP + HEIGHT - _BOTTOM) / 2}) rotate(-90)"
        parts.append(f'<text class="label middle" transform="{place_of}">{escape(chart.y_label)}</text>')
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], about `_TICKS` of them."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in _STEPS if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power * factor for power in powers for factor in (1, 2, 5)]
    found = [value for value in found if low <= value <= high]
    return found if len(found) <= 2 * _TICKS else [value for value in found if math.log10(value).is_integer()]


def _rounded_limits(low: float, high: float) -> tuple[float, float]:
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    margin = 0.06 * (high - low)
    return (0.0 if low >= 0 and low < 0.5 * high else low - margin), high + margin


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points: means of equal parts of the line, its two ends as they are."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    parts = np.array_split(np.asarray(points, dtype=float), _MAX_POINTS - 2)
    means = [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]
    return [points[0], *means, points[-1]]


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:,.6g}"


def _described(chart: Chart, lines: Sequence[Line]) -> str:
    ends = ", ".join(f"{line.name} ends at {_number(line.points[-1][1])}" for line in lines)
    return f"{chart.title} over {chart.x_label}: {ends}"
