"""Bench measures real decisions of a real (random) model and a real simulator."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_training import bench
from smallplan_training.errors import UserError


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_report_holds_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "tiny.gguf", tmp_path / "deep" / "bench.json"
    write_tiny_gguf(model)
    options = ["--model", str(model), "--threads", "1", "--decisions", "4", "--sim-steps", "3", "--json", str(out)]
    assert bench.run(parse(*options)) == 0
    report = json.loads(out.read_text())
    assert report["decisions"] == 4
    assert 0 < report["decision_ms_p50"] <= report["decision_ms_p95"]
    assert report["decision_overhead"] > 1  # no wall time is shorter than the evaluation in it
    assert report["eval_ms_p50"] < report["decision_ms_p95"]
    assert report["prompt_tokens"] > 100
    assert 0 < report["reused_tokens_fraction"] < 1  # a search's prompts share their beginnings
    assert report["sim_steps_per_s"] > 0
    assert 20 < report["rss_mb"] < 10_000
    assert "decision_ms_p50" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(UserError, match=r"empty\.gguf is empty"):
        bench.run_bench(tmp_path / "empty.gguf")
    with pytest.raises(UserError, match="0 decisions and 200 steps"):
        bench.run_bench(tmp_path / "empty.gguf", decisions=0)


def test_options_of_the_trainer_are_refused_without_it(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with pytest.raises(UserError, match="--searches, --cpu only has a meaning with --training"):
        bench.run(parse("--searches", "4", "--cpu", "--json", str(out)))
    assert not out.exists()
