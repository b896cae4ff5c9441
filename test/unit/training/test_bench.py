"""Bench measures real decisions of a real (random) model and a real simulator."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.actions import Action
from smallplan_planner.slm import Slm
from smallplan_training import bench, bench_options
from smallplan_training.bench_grammar import measure_grammar
from smallplan_training.bench_options import (
    DEFAULTS,
    NO_REUSE,
    OptionFigures,
    OptionsTask,
    measure_options,
    measure_settings,
)
from smallplan_training.bench_searches import Moment, RecordedSearch, first_decisions, replay
from smallplan_training.bench_soak import SoakTask, run_soak
from smallplan_training.errors import UserError
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.search_env import EpisodeLost


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture(scope="module")
def searches(model: Path) -> tuple[RecordedSearch, ...]:
    with Slm(model) as slm:
        return bench.lead_searches(slm, 4, seed=0)[1]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_report_holds_what_was_measured(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no llama-bench
    out = tmp_path / "deep" / "bench.json"
    options = ["--model", str(model), "--threads", "1", "--decisions", "4", "--sim-steps", "3", "--json", str(out)]
    skipped = ["--skip", "options", "--skip", "grammar", "--skip", "startup"]
    assert bench.run(parse(*options, *skipped)) == 0
    report = json.loads(out.read_text())
    assert report["decisions"] == 4
    assert 0 < report["decision_ms_p50"] <= report["decision_ms_p95"]
    assert report["decision_overhead"] > 1  # no wall time is shorter than the evaluation in it
    assert report["eval_ms_p50"] < report["decision_ms_p95"]
    assert report["prompt_tokens"] > 100
    assert 0 < report["reused_tokens_fraction"] < 1  # a search's prompts share their beginnings
    assert report["prompt_tps"] > 0 and report["generation_tps"] > 0
    assert report["sim_steps_per_s"] > 0
    assert 20 < report["rss_mb"] < 10_000
    assert "llama-bench is not on PATH" in report["absent"]["llama_bench"]
    assert "startup_s" not in report and "options" not in report
    shown = capsys.readouterr().out
    assert f"| decision_ms_p50 | {report['decision_ms_p50']} |" in shown and "not on PATH" in shown


def test_both_simulators_go_the_same_steps(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"house": 300.0, "igibson": 2.0}
    asked = []

    def measure(steps: int, seed: int, simulator: str = "house") -> float:
        asked.append((simulator, steps, seed))
        return speeds[simulator]

    monkeypatch.setattr(bench, "measure_simulator", measure)
    config = bench.BenchConfig(model, decisions=1, sim_steps=200, igibson_steps=60, seed=3, skip=bench.PARTS)
    report = bench.run_bench(config)
    assert sorted(asked) == [("house", 60, 3), ("igibson", 60, 3)], "later steps are slower, in larger maps"
    assert (report["sim_steps_per_s"], report["igibson_steps_per_s"], report["times_igibson"]) == (300.0, 2.0, 150.0)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(UserError, match=r"empty\.gguf is empty"):
        bench.run_bench(bench.BenchConfig(tmp_path / "empty.gguf"))
    with pytest.raises(UserError, match="0 decisions and 200 steps"):
        bench.BenchConfig(tmp_path / "empty.gguf", decisions=0)
    with pytest.raises(UserError, match="-5 decisions are too few"):
        bench.run(parse("--soak", "-5", "--model", str(tmp_path / "empty.gguf")))


def test_a_simulator_that_breaks_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[HouseSearchEnv] = []

    def lose(self: HouseSearchEnv, action: Action) -> NoReturn:
        raise EpisodeLost("the worker ended with code 7")

    monkeypatch.setattr(HouseSearchEnv, "step", lose)
    monkeypatch.setattr(HouseSearchEnv, "close", lambda self: closed.append(self))
    with pytest.raises(UserError, match="after 0 of 3 steps: the worker ended with code 7"):
        bench.measure_simulator(3, seed=0)
    assert len(closed) == 1


def test_options_that_a_model_can_not_have_are_told(
    model: Path, searches: tuple[RecordedSearch, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_options, "sets_of_options", lambda threads: {DEFAULTS: {}, "odd": {"cache_type": "f3"}})
    absent: dict[str, str] = {}
    assert list(measure_options(model, 1, searches, absent)) == [DEFAULTS]
    assert "cache_type is 'f3'" in absent["options.odd"]


def test_sets_of_options_take_turns_and_of_each_the_fastest_time_counts(
    model: Path, searches: tuple[RecordedSearch, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets: dict[str, dict[str, Any]] = {DEFAULTS: {}, NO_REUSE: {"reuse": False}}
    monkeypatch.setattr(bench_options, "sets_of_options", lambda threads: sets)
    usual = measure_settings(OptionsTask(model, {"n_threads": 1}, searches))
    times = iter((3.0, 5.0, 2.0, 8.0, 4.0, 6.0))
    asked = []

    def measure(_: object, task: OptionsTask) -> OptionFigures:
        asked.append(task.settings.get("reuse", True))
        return replace(usual, seconds=next(times))

    monkeypatch.setattr(bench_options, "in_own_process", measure)
    found = measure_options(model, 1, searches, {})
    assert asked == [True, False] * 3
    assert [found[name]["seconds"] for name in sets] == [2.0, 5.0]
    assert found[NO_REUSE]["times_default"] == 2.5


def test_options_of_the_trainer_are_refused_without_it(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with pytest.raises(UserError, match="--searches, --cpu only has a meaning with --training"):
        bench.run(parse("--searches", "4", "--cpu", "--json", str(out)))
    assert not out.exists()


def test_a_replay_asks_what_was_asked_whatever_is_answered(
    model: Path, searches: tuple[RecordedSearch, ...], tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    write_tiny_gguf(other, seed=1)
    prompts, commands = [], []
    for path in (model, other):
        with Slm(path, reuse=path == model) as slm:
            decisions = list(replay(slm, searches))
        prompts.append([decision.generation.prompt for decision in decisions])
        commands.append([decision.command for decision in decisions])
    assert prompts[0] == prompts[1] and len(set(prompts[0])) == 4
    assert commands[0] == [moment.command for search in searches for moment in search.moments]
    assert commands[0] != commands[1]


def test_a_late_answer_is_told_and_the_next_is_asked_for(model: Path, searches: tuple[RecordedSearch, ...]) -> None:
    with Slm(model) as slm:
        decisions = list(replay(slm, searches, deadline=0.0))
    assert [decision.late for decision in decisions] == [True] * 4


def test_the_first_decisions_of_searches(searches: tuple[RecordedSearch, ...]) -> None:
    def moments(kept: tuple[RecordedSearch, ...]) -> list[Moment]:
        return [moment for search in kept for moment in search.moments]

    twice = (*searches, *searches)
    assert moments(first_decisions(twice, 6)) == [*moments(searches), *moments(searches)[:2]]
    assert first_decisions(twice, 0) == ()


def test_options_are_measured_on_the_same_decisions(model: Path, searches: tuple[RecordedSearch, ...]) -> None:
    usual = measure_settings(OptionsTask(model, {"n_threads": 1}, searches))
    assert usual.same_commands == 1 and usual.reused_tokens_fraction > 0
    assert usual.decision_ms_p50 <= usual.decision_ms_p95 and usual.peak_rss_mb > 20
    without = measure_settings(OptionsTask(model, {"n_threads": 1, "reuse": False}, searches))
    assert without.same_commands == 1 and without.reused_tokens_fraction == 0
    with pytest.raises(UserError, match="cache_type is 'f3'"):
        measure_settings(OptionsTask(model, {"cache_type": "f3"}, searches))


def test_the_grammar_is_a_part_of_a_decision_that_grows_with_the_graph(model: Path) -> None:
    with Slm(model) as slm:
        small, large = (measure_grammar(slm, size, graphs=1) for size in (10, 1000))
    assert 0 < small.share < 1 and 0 < large.share < 1
    assert small.grammar_ms < large.grammar_ms


def test_soak_goes_on_over_the_same_situations(model: Path, searches: tuple[RecordedSearch, ...]) -> None:
    figures = run_soak(SoakTask(model, searches, 20, n_threads=1, warm_up=4))
    assert (figures.decisions, figures.situations) == (20, 4)
    assert len(figures.rss_mb) > 5 and len(figures.p95_ms) == 2
    assert figures.rss_mb[-1] - figures.rss_mb[0] == pytest.approx(figures.rss_growth_mb, abs=0.01)
    assert figures.p95_last_ms / figures.p95_first_ms - 1 == pytest.approx(figures.p95_rise, abs=0.01)
    with pytest.raises(UserError, match="10 decisions are too few"):
        run_soak(SoakTask(model, searches, 10))
