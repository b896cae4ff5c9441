"""Rows of an evaluation: models, modes and variants, each under a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_planner.prompt import Helps
from smallplan_planner.search import SearchConfig
from smallplan_training.entrants import Entrant, NamedModel, line_up, parse_models
from smallplan_training.errors import UserError
from smallplan_training.policy_factory import PolicyOptions

OPTIONS = PolicyOptions(model=Path("nano.gguf"))


def rows(*policies: str, **kwargs: object) -> dict[str, Entrant]:
    search = kwargs.pop("search", SearchConfig())
    return {e.name: e for e in line_up(policies, OPTIONS, search, **kwargs)}  # type: ignore[arg-type]


def test_plain_policies_keep_their_names() -> None:
    assert list(rows("slm", "expert", "greedy", "untrained")) == ["slm", "expert", "greedy", "untrained"]


def test_each_model_is_a_row_and_baselines_are_not_doubled() -> None:
    models = (NamedModel(Path("a.gguf"), "sft"), NamedModel(Path("b.gguf"), "rl-sft", "500 samples"))
    made = rows("slm", "greedy", "untrained", models=models)
    assert list(made) == ["slm:sft", "slm:rl-sft", "greedy", "untrained"]
    assert made["slm:rl-sft"].options.model == Path("b.gguf") and made["slm:rl-sft"].note == "500 samples"
    assert made["untrained"].options.model == Path("a.gguf") and made["untrained"].note == ""


def test_modes_are_rows_of_those_who_read_them() -> None:
    made = rows("slm", "expert", "greedy", modes=("normal", "saver"))
    assert list(made) == ["slm", "slm (saver)", "expert", "expert (saver)", "greedy"]
    assert made["expert (saver)"].search.mode == "saver" and made["expert"].search.mode == "normal"


def test_a_mode_alone_is_named_too() -> None:
    made = rows("slm", "greedy", modes=("saver",))
    assert list(made) == ["slm (saver)", "greedy"]


def test_variants_take_away_one_thing_each() -> None:
    made = rows("slm", "expert", variants=("no-grammar", "no-hints", "no-matches", "no-helps"))
    assert list(made) == [
        "slm", "slm (no grammar)", "slm (no hints)", "slm (no matches)", "slm (no helps)", "expert",
    ]  # fmt: skip
    assert [e.options.grammar for e in made.values()] == [True, False, True, True, True, True]
    helps = [(e.search.helps.matches, e.search.helps.hints) for e in made.values()]
    assert helps == [(True, True), (True, True), (True, False), (False, True), (False, False), (True, True)]


def test_variants_stand_in_the_first_mode_of_each_model() -> None:
    models = (NamedModel(Path("a.gguf"), "a"), NamedModel(Path("b.gguf"), "b"))
    made = rows("slm", models=models, modes=("saver", "normal"), variants=("no-grammar",))
    assert list(made) == [
        "slm:a (saver)", "slm:a", "slm:a (saver, no grammar)", "slm:b (saver)", "slm:b", "slm:b (saver, no grammar)",
    ]  # fmt: skip


def test_what_is_off_for_all_stays_off() -> None:
    search = SearchConfig(helps=Helps(matches=False))
    made = rows("slm", search=search, variants=("no-hints",))
    assert made["slm"].search.helps == Helps(matches=False)
    assert made["slm (no hints)"].search.helps == Helps(matches=False, hints=False)


def test_models_of_the_command_line(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.gguf"
    odd.touch()
    assert parse_models(["x/one.gguf"]) == (NamedModel(Path("x/one.gguf")),)
    assert parse_models([str(odd)]) == (NamedModel(odd),)
    two = parse_models(["x/one.gguf", "big=y/two.gguf"], ["big=100 samples, 3 epochs"])
    assert two == (
        NamedModel(Path("x/one.gguf"), "one"),
        NamedModel(Path("y/two.gguf"), "big", "100 samples, 3 epochs"),
    )


@pytest.mark.parametrize(
    ("models", "notes", "message"),
    [
        (["a/one.gguf", "b/one.gguf"], [], "two models are called 'one'"),
        (["x=a.gguf", "x=b.gguf"], [], "two models are called 'x'"),
        (["=a.gguf"], [], "expected FILE or NAME=FILE"),
        (["x="], [], "expected FILE or NAME=FILE"),
        (["x=a.gguf"], ["y=text"], r"label of a model \(x\)"),
        (["a.gguf"], ["=text"], "none has a label"),
    ],
)
def test_models_that_cant_be_told_apart(models: list[str], notes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_models(models, notes)


def test_unknown_modes_and_variants_are_named() -> None:
    with pytest.raises(UserError, match="no mode 'fast'"):
        rows("slm", modes=("fast",))
    with pytest.raises(UserError, match="no variant 'no-prompt'"):
        rows("slm", variants=("no-prompt",))
