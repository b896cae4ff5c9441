"""`smallplan probe`: scores of answerers that are known to be right, half right, or wrong, and the figures of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from smallplan_planner.prompt import Message
from smallplan_training import cli, probe
from smallplan_training.errors import UserError
from smallplan_training.probe import Answerer, make_pairs, report, run_suites, score_suites, wilson
from smallplan_training.probes.suites import SUITES


def answerer(suites: Sequence[str], pairs: int, right: Sequence[bool]) -> Answerer:
    """Answers each pair's first and second prompt rightly or not, as `right` says."""
    answers = {}
    for suite in suites:
        for pair in make_pairs(suite, pairs, 0):
            for question, is_right in zip((pair.first, pair.second), right):
                word = "explore(attic)" if question.avoid else min(question.wanted)
                text = word if question.view is None else f"Analysis: a\nReasoning: r\nCommand: {word}"
                answers[question.messages] = text if is_right else "no idea"
    return lambda prompts: [answers[tuple(prompt)] for prompt in prompts]


@pytest.mark.parametrize(("right", "score"), [((True, True), 100.0), ((True, False), 0.0), ((False, True), 0.0)])
def test_a_pair_counts_only_when_both_answers_are_right(right: tuple[bool, bool], score: float) -> None:
    suites = ["nearer", "membership", "room"]
    assert score_suites(answerer(suites, 4, right), suites, pairs=4) == dict.fromkeys(suites, score)


def test_all_suites_are_asked_in_one_batch() -> None:
    batches: list[int] = []

    def answer(prompts: Sequence[Sequence[Message]]) -> list[str]:
        batches.append(len(prompts))
        return ["?"] * len(prompts)

    assert score_suites(answer, pairs=2) == dict.fromkeys(SUITES, 0.0)
    assert batches == [2 * 2 * len(SUITES)]


def test_the_figures_tell_the_sides_apart_and_keep_failures() -> None:
    results = run_suites(answerer(["copying"], 5, (True, False)), ["copying"], pairs=5)
    figures = report("a.gguf", 5, results, "smallplan probe")
    suite = figures["suites"]["copying"]
    assert (suite["pairs"], suite["both"], suite["first"], suite["second"]) == (5, 0.0, 100.0, 0.0)
    assert suite["interval"] == [0.0, 43.4]
    assert suite["unreadable"] == 50.0
    assert sum(kind["pairs"] for kind in suite["kinds"].values()) == 5
    assert all(kind["both"] == 0.0 for kind in suite["kinds"].values())
    assert len(suite["examples"]) == probe.EXAMPLES
    assert suite["examples"][0]["answer"] == "no idea" and "Task: find" in suite["examples"][0]["prompt"]
    assert suite["examples"][0]["expected"].endswith(")")


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"), [(0, 10, 0.0, 27.75), (5, 10, 23.66, 76.34), (100, 100, 96.30, 100.0)]
)
def test_wilson_intervals(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=0.005)


def test_an_interval_needs_trials() -> None:
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)


def test_unknown_suites_are_named() -> None:
    with pytest.raises(UserError, match="no suite 'juggling'; expected one of membership"):
        score_suites(lambda prompts: [], ["juggling"])


def test_a_suite_without_pairs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "never", probe.SUITES["mode"].__class__(lambda priors, rng: None, "nothing"))
    with pytest.raises(UserError, match="only 0 of 2 pairs of 'never'"):
        make_pairs("never", 2, 0)


def test_the_command_prints_a_table_and_failures_and_writes_the_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF and more")
    monkeypatch.setattr(probe, "_llama", lambda path, threads: answerer(["nearer", "room"], 3, (True, False)))
    file = tmp_path / "figures.json"
    call = ["probe", "--model", str(model), "--suite", "nearer", "room", "--pairs", "3", "--show", "1"]
    assert cli.main([*call, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "nearer" in shown and "no idea" in shown and "Task: find" in shown
    figures = json.loads(file.read_text())
    assert (figures["model"], figures["pairs"], list(figures["suites"])) == ("tiny.gguf", 3, ["nearer", "room"])
    assert figures["command"].startswith("smallplan ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "0"], "0 pairs"),
        (["--model", "none.gguf"], "there is no model file none.gguf"),
        (["--json", "/proc/nowhere/a.json"], "can't write"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_default_model_is_asked_without_a_grammar(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert (
        cli.main(["probe", "--suite", "membership-helped", "--pairs", "2", "--threads", "1", "--json", str(file)]) == 0
    )
    suite = json.loads(file.read_text())["suites"]["membership-helped"]
    assert suite["pairs"] == 2
    assert all(example["answer"] for example in suite["examples"])
