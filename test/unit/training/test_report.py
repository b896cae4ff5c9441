"""The page: the figures of its files, each episode, nothing from outside, and no text of a file as HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smallplan_training import cli
from smallplan_training.evaluate import EvaluateConfig, report_all, run_tasks
from smallplan_training.evaluation_tables import print_report
from smallplan_training.metrics import STEP_BUDGET
from smallplan_training.recording import write_recordings
from smallplan_training.report import render_page
from smallplan_training.report_tables import success_curve

EVIL = "<script>alert(1)</script>&\"'"
VOID = {"meta", "input", "br", "link", "img"}


class Page(HTMLParser):
    """Checks nesting; gathers texts, scripts, addresses and table cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        if tag == "script":
            self.scripts.append("")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif {"td", "th"} & set(self.open):
            self.cells[-1] += data + " "
        if "style" not in self.open and "script" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def evaluated(house_file: Path) -> tuple[dict[str, Any], list[Any]]:
    config = EvaluateConfig(("expert", "greedy"), (house_file,), episodes=2, record=1)
    runs = run_tasks(config)
    return report_all(runs, config, "smallplan evaluate …"), [run.recording for run in runs if run.recording]


def test_the_page_holds_tables_curves_and_each_episode(
    evaluated: tuple[dict[str, Any], list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, recordings = evaluated
    (tmp_path / "eval.json").write_text(json.dumps({**report, "paper": "I"}))
    write_recordings(tmp_path / "episodes.jsonl.gz", recordings)
    lines = [{"step": n, "loss": 2.0 / n, "reward_format": -0.1 * n} for n in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "deep" / "report.html"
    arguments = ["--eval", f"My houses={tmp_path / 'eval.json'}", "--runs", f"First run={tmp_path}"]
    arguments += ["--episodes", str(tmp_path / "episodes.jsonl.gz"), "--output", str(out)]
    assert cli.main(["report", *arguments]) == 0
    assert "evaluations: 1, training runs: 1, episodes: 2" in capsys.readouterr().out
    page = Page(out.read_text(encoding="utf-8"))
    for row in report["policies"]:
        assert any(cell.startswith(f"{row['spl']:.1f} ") for cell in page.cells)
        assert any(cell.startswith(row["policy"]) for cell in page.cells)
    change = report["distance"]["expert-greedy"]["both_solved"]
    assert f"{abs(change['percent'][1]):.1f} %" in page.text
    for text in ("My houses", "First run", "Reward, by component", "Success over a budget of low-level steps"):
        assert text in page.text
    assert "MoMa-LLM with GPT-4o" in page.text and "measured on other houses" in page.text
    assert "Left out" not in page.text
    data = json.loads(page.scripts[0])
    assert [(e["policy"], e["target"]) for e in data["episodes"]] == [(r["policy"], r["target"]) for r in recordings]
    assert data["episodes"][0]["steps"] == recordings[0]["steps"]
    assert len(data["houses"]) == 1 and data["houses"][0] == recordings[0]["house"]


def test_the_page_loads_nothing(evaluated: tuple[dict[str, Any], list[Any]]) -> None:
    report, recordings = evaluated
    html = render_page("t", [("e", report)], [], recordings)
    page = Page(html)
    assert all(address.startswith("#") for address in page.addresses)
    assert "default-src 'none'" in html
    outside = re.findall(r"(?:https?:)?//[a-z][^\s\"'`]*|@import|url\((?!#)", html)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}  # the name of a namespace, not an address


def test_text_of_files_is_never_html(evaluated: tuple[dict[str, Any], list[Any]]) -> None:
    report, recordings = evaluated
    text = (
        json.dumps({**report, "command": EVIL}).replace("small", "small<script>").replace('"expert', '"<script>expert')
    )
    recording = {**recordings[0], "target": EVIL, "scene": "</script><script>alert(2)"}
    html = render_page(EVIL, [(EVIL, json.loads(text))], [(EVIL, [])], [recording])
    page = Page(html)
    assert len(page.scripts) == 2  # the data and the page's own
    assert "alert(1)" not in page.scripts[1] and "alert(2)" not in page.scripts[1]
    assert json.loads(page.scripts[0])["episodes"][0]["target"] == EVIL
    assert html.count("<script") == 2
    assert EVIL in page.text


def test_what_is_missing_is_said() -> None:
    page = Page(render_page("t", [], [], []))
    assert page.text.count("Left out") == 3
    for option in ("--eval", "--runs", "--episodes"):
        assert option in page.text


def test_a_file_of_an_older_version_is_shown_without_what_it_lacks(
    evaluated: tuple[dict[str, Any], list[Any]],
) -> None:
    report, _ = evaluated
    rows = [{k: v for k, v in row.items() if k not in ("unparsable", "rooms", "runs")} for row in report["policies"]]
    old = {"policies": rows, "paired": report["paired"], "command": ""}
    page = Page(render_page("t", [("old", old)], [], []))
    assert "the file holds no single runs" in page.text
    assert any(cell.startswith("expert − greedy") for cell in page.cells)


def test_rooms_that_a_model_named_stand_on_the_page_and_in_the_terminal(
    evaluated: tuple[dict[str, Any], list[Any]],
) -> None:
    report, _ = evaluated
    rooms = {"rooms": 40, "accuracy": 82.5, "rule_accuracy": 91.25, "uncertain": 5.0, "rule_uncertain": 2.5}
    expert, greedy = report["policies"]
    asked = {**expert["settings"], "grammar": True, "room_labels": "model"}
    named = {**expert, "settings": asked, "rooms": {**rooms, "unreadable_answers": 3}}
    page = Page(render_page("t", [("e", {**report, "policies": [named, greedy]})], [], []))
    at = page.cells.index("82.5 ")
    assert page.cells[at - 2 : at + 5] == ["expert ", "40 ", "82.5 ", "91.2 ", "5.0 ", "2.5 ", "3 "]
    assert "Rooms that the model named" not in Page(render_page("t", [("e", report)], [], [])).text
    told = StringIO()
    print_report({**report, "policies": [named, greedy]}, Console(file=told, width=120))
    assert "82.5" in told.getvalue() and "right by" in told.getvalue()


def test_area_under_the_success_curve_is_auc_e(evaluated: tuple[dict[str, Any], list[Any]]) -> None:
    report, _ = evaluated
    for row in report["policies"]:
        corners = success_curve(row["runs"], "low_level_steps", STEP_BUDGET)
        area = sum((x1 - x0) * y0 for (x0, y0), (x1, _) in pairwise(corners))
        assert area / STEP_BUDGET == pytest.approx(row["auc_e"], abs=0.01)
        assert corners[-1][1] == pytest.approx(row["sr"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to report"),
        (["--eval", "{folder}/none.json"], "none.json: can't be read"),
        (["--eval", "{folder}/broken.json"], "broken.json: not JSON"),
        (["--eval", "{folder}/other.json"], "row 1 has no policy"),
        (["--eval", "{folder}/list.json"], "got list"),
        (["--runs", "{folder}"], "can't be read as a training log"),
        (["--episodes", "{folder}/other.json"], "line 1: not an episode"),
        (["--eval", "x", "--output", "{folder}"], "can't write"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"training_speedup": 8}')
    (tmp_path / "list.json").write_text("[]")
    given = [word.format(folder=tmp_path) for word in arguments]
    given += [] if "--output" in given else ["--output", str(tmp_path / "report.html")]
    assert cli.main(["report", *given]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
