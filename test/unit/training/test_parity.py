from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from smallplan_planner.prompt import Option, PromptView
from smallplan_training import parity
from smallplan_training.parity import LIMITS, FileParity, Limits, record_views
from smallplan_training.parity_choice import open_commands

SAME = FileParity(
    prompts=8,
    equal_tokens=8,
    positions=4000,
    agreement=100.0,
    ties=1,
    mean_kl=1e-9,
    largest_kl=1e-8,
    largest_difference=1e-4,
    graphs=50,
    readable=50,
    equal_actions=100.0,
)


def figures_of(theirs: list[list[float]], ours: list[list[float]]) -> parity._Figures:
    figures = parity._Figures()
    figures.add(np.array(theirs, dtype=np.float32), np.array(ours, dtype=np.float32))
    return figures


def test_equal_logits_agree() -> None:
    logits = np.random.default_rng(0).normal(size=(130, 20)).tolist()  # more rows than are taken at a time
    figures = figures_of(logits, logits)
    assert (figures.positions, figures.equal, figures.ties) == (130, 130, 0)
    assert figures.kl == figures.largest_kl == figures.largest_difference == 0.0


def test_a_constant_on_all_logits_changes_no_probability() -> None:
    figures = figures_of([[1.0, 2.0, 3.0]], [[6.0, 7.0, 8.0]])
    assert figures.kl == pytest.approx(0.0, abs=1e-12)
    assert figures.largest_difference == pytest.approx(5.0)


def test_divergence_is_kullback_and_leiblers() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    figures = figures_of([np.log(p).tolist()] * 2, [np.log(q).tolist(), np.log(p).tolist()])
    expected = float((p * np.log(p / q)).sum())
    assert figures.kl == pytest.approx(expected, rel=1e-5)
    assert figures.largest_kl == pytest.approx(expected, rel=1e-5)
    assert (figures.equal, figures.ties) == (1, 0)


def test_tokens_as_likely_as_each_other_may_change_places() -> None:
    figures = figures_of([[5.0, 5.00001, -5.0], [5.0, 5.5, -5.0]], [[5.00001, 5.0, -5.0], [5.5, 5.0, -5.0]])
    assert (figures.equal, figures.ties) == (1, 1)


def test_a_file_like_its_model_has_no_faults() -> None:
    assert all(SAME.faults(limits) == [] for limits in LIMITS.values())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"equal_tokens": 7}, "only 7 of 8 prompts have the same tokens"),
        ({"agreement": 94.9}, "at 94.90 % of 4000 positions .* at least 95 %"),
        ({"mean_kl": 0.2}, "KL divergence is 0.2, expected at most 0.1"),
        ({"mean_kl": float("nan")}, "KL divergence is nan"),
        ({"equal_actions": 88.0}, "on 88.0 % of 50 graphs .* at least 90 %"),
    ],
)
def test_each_limit_refuses(change: dict[str, float], told: str) -> None:
    found = replace(SAME, **change).faults(Limits(agreement=95.0, kl=0.1, actions=90.0))  # type: ignore[arg-type]
    assert len(found) == 1
    assert re.search(told, found[0])


def test_fewer_bits_may_be_further_away() -> None:
    order = [LIMITS[name] for name in ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")]
    for more, less in pairwise(order):
        assert more.agreement > less.agreement and more.kl < less.kl and more.actions > less.actions


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("Analysis: a\nReasoning: b\nCommand: explore(kitchen)", "explore(kitchen)"),
        ("Analysis: a\nReasoning: b\nCommand: done()\nCommand: explore(x)\nmore", "done()"),
        ("Analysis: a\nCommand: done()", ""),
        ("I would go and look.", ""),
    ],
)
def test_the_command_is_read_as_on_the_robot(text: str, command: str) -> None:
    assert parity._command(text) == command


def test_the_open_commands_are_those_that_the_prompt_shows() -> None:
    view = PromptView(
        target="mug",
        mode="normal",
        kinds=(),
        rooms=(),
        spaces=(Option("hall", "near"), Option("hall", "far", leads_out=True)),
        doors=(Option("hall", "near", "door-2"),),
        containers=(Option("kitchen", "near", "fridge"),),
        surfaces=(Option("kitchen", "far", "table"),),
    )
    assert sorted(open_commands(view).choices) == [
        "done()",
        "explore(hall)",
        "go_to_and_open(hall, door-2)",
        "go_to_and_open(kitchen, fridge)",
        "navigate(kitchen, table)",
    ]


def test_recorded_graphs_are_the_same_each_time() -> None:
    views = record_views(4)
    assert len(views) == 4 and len({view.history for view in views}) > 1
    assert record_views(2) == views[:2]
    assert all(len(open_commands(view).choices) > 1 for view in views)
