"""The log of a training run: a JSON line for each step, taken back when the step is done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from smallplan_training.errors import UserError
from smallplan_training.train_log import TrainLog


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_are_json_whatever_the_figures_are(tmp_path: Path) -> None:
    log = TrainLog(tmp_path)
    log.write("few_shot", 1, {"loss": 1.23456789, "bad": float("nan"), "worse": float("inf"), "word": "x"})
    assert lines(tmp_path) == [
        {"stage": "few_shot", "step": 1, "loss": 1.2346, "bad": None, "worse": None, "word": "x"}
    ]


def test_what_a_checkpoint_does_not_know_is_taken_back(tmp_path: Path) -> None:
    log = TrainLog(tmp_path)
    log.write("few_shot", 1, {"loss": 1.0})
    size = log.size
    log.write("few_shot", 2, {"loss": 2.0})
    log.cut(size)
    log.write("few_shot", 2, {"loss": 3.0})
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 3.0]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, silent=True)
    log.write("few_shot", 1, {"loss": 1.0})
    log.cut(0)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cant_be_written_is_named(tmp_path: Path) -> None:
    log = TrainLog(tmp_path)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=r"log\.jsonl"):
        log.write("few_shot", 1, {"loss": 1.0})


def test_tensorboard_gets_the_same_figures(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TrainLog(tmp_path)
    log.write("reinforce", 3, {"kl": 0.25, "bad": float("nan")})
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reinforce/kl"]
    assert [(event.step, event.value) for event in events.Scalars("reinforce/kl")] == [(3, 0.25)]
