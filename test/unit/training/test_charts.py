"""Charts and learning curves: points where they belong, stages one after the other, nothing unescaped."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from smallplan_training import charts
from smallplan_training.charts import Chart, Line, log_ticks, render_chart, ticks
from smallplan_training.errors import UserError
from smallplan_training.training_curves import make_charts, read_log


def points_of(html: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline points="([^"]*)"', html)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in found]  # type: ignore[misc]


def test_points_lie_where_their_values_are() -> None:
    chart = Chart("t", "x", (Line("a", ((0, 0), (5, 50), (10, 100))),), x_limits=(0, 10), y_limits=(0, 100))
    ((low, middle, high),) = points_of(render_chart(chart))
    assert low[0] < middle[0] < high[0] and low[1] > middle[1] > high[1]
    assert middle[0] == pytest.approx((low[0] + high[0]) / 2, abs=0.1)
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2, abs=0.1)


def test_a_logarithmic_axis_keeps_factors() -> None:
    chart = Chart("t", "x", (Line("a", ((0, 0.1), (1, 1), (2, 10))),), logarithmic=True)
    ((a, b, c),) = points_of(render_chart(chart))
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)


def test_names_are_escaped_and_the_svg_is_well_formed() -> None:
    lines = (Line("<script>a</script>", ((0, 1), (1, 2))), Line('"b"', ((0, 1),)))
    html = render_chart(Chart("<b>t", "x & y", lines, "<y>", marks=((0.5, "<m>"),)))
    assert "<script>" not in html and "<b>t" not in html and "<m>" not in html
    ElementTree.fromstring(html)


def test_a_stage_that_began_before_the_first_point_is_named_at_the_left_end() -> None:
    chart = Chart("t", "x", (Line("a", ((20, 1), (40, 2))),), marks=((0, "first"), (10, "second"), (30, "third")))
    html = render_chart(chart)
    ((left, _), (right, _)) = points_of(html)[0]
    marks = [float(x) for x in re.findall(r'class="mark" x1="([^"]*)"', html)]
    assert marks == pytest.approx([left, (left + right) / 2], abs=0.1)
    assert "first" not in html and "second" in html and "third" in html


def test_a_chart_without_points_is_left_out() -> None:
    assert render_chart(Chart("t", "x", (Line("a", ()),))) == ""


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_a_constant_line_is_drawn(value: float) -> None:
    ElementTree.fromstring(render_chart(Chart("t", "x", (Line("a", ((0, value), (1, value))),))))


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    line = tuple((float(i), float(i % 7)) for i in range(5000))
    ((*points,),) = points_of(render_chart(Chart("t", "x", (Line("a", line),))))
    assert len(points) <= charts.WIDTH
    whole = points_of(render_chart(Chart("t", "x", (Line("a", (line[0], line[-1])),), y_limits=(0, 6))))[0]
    assert (points[0][0], points[-1][0]) == (whole[0][0], whole[1][0])


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.0013, 0.0021), (-5, 3), (1e5, 9e6)])
def test_ticks_are_a_few_round_numbers_within_the_limits(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8 and low - 1e-9 <= found[0] and found[-1] <= high * (1 + 1e-9) + 1e-12


def test_logarithmic_ticks() -> None:
    assert log_ticks(0.9, 60) == pytest.approx([1, 2, 5, 10, 20, 50])
    assert log_ticks(0.9, 2e7) == pytest.approx([10.0**n for n in range(8)])


def write_log(path: Path, rows: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_stages_follow_each_other_and_validation_stays_where_it_was(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"stage": "few_shot", "step": n, "loss": 3.0 / n} for n in (1, 2, 3)]
    rows += [{"stage": "reinforce", "step": n, "reward_total": n, "reward_success": 2 * n} for n in (1, 2)]
    rows += [{"stage": "validation", "step": 2, "sr": 50.0}, {"stage": "reinforce", "step": 3, "reward_total": 9}]
    rows += [{"stage": "validation", "step": 3, "sr": 60.0, "spl": None}]
    made = {chart.title: chart for chart in make_charts(read_log(write_log(tmp_path / "log.jsonl", rows)))}
    rewards = {line.name: line.points for line in made["Reward, by component"].lines}
    assert rewards["total"] == ((4, 1), (5, 2), (6, 9)) and rewards["success"] == ((4, 2), (5, 4))
    assert made["Loss"].lines[0].points == ((1, 3.0), (2, 1.5), (3, 1.0))
    assert made["Success and SPL"].lines[0].points == ((5, 50.0), (6, 60.0))
    assert made["Loss"].marks == ((0.0, "few_shot"), (3.0, "reinforce"))


def test_skills_share_a_chart(tmp_path: Path) -> None:
    rows = [{"stage": "validation", "step": n, "probe_copy": n / 4, "probe_nearer": 1 - n / 4} for n in (1, 2)]
    (chart,) = make_charts(read_log(write_log(tmp_path / "log.jsonl", rows)))
    assert [(line.name, line.points) for line in chart.lines] == [
        ("copy", ((1, 0.25), (2, 0.5))),
        ("nearer", ((1, 0.75), (2, 0.5))),
    ]


def test_a_run_under_way_and_its_folder_are_read(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], tail='{"step": 3, "lo')
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [("nonsense\n{}\n", "line 1: not JSON"), ('{"loss": 1}\n', "line 1: expected an object"), ("[]\n", "line 1")],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"log.jsonl.*{message}"):
        read_log(tmp_path)


def test_no_log_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log\.jsonl: can't be read"):
        read_log(tmp_path)


def test_what_never_changes_is_no_curve(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"step": n, "epoch": n, "batch": 8, "done": True, "name": "x"} for n in (1, 2)]
    assert make_charts(read_log(write_log(tmp_path / "log.jsonl", rows))) == []
