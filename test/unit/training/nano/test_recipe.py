from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from smallplan_planner.actions import ActionKind
from smallplan_planner.policies import GreedyPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import render
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.response import parse_response
from smallplan_planner.search import SearchConfig
from smallplan_training.errors import UserError
from smallplan_training.nano.model import ModelConfig
from smallplan_training.nano.recipe import PhaseConfig, Recipe, RecipeConfig, load_recipe
from smallplan_training.nano.situations import (
    DisturbedPolicy,
    imagined_samples,
    meet_situations,
    read_views,
    shrink,
    varied_samples,
    write_views,
)
from smallplan_training.nano.train import TrainConfig
from smallplan_training.samples import Sample
from smallplan_training.teachers.expert import ExpertPolicy, ExpertTeacher
from smallplan_training.teachers.imagined import imagine
from smallplan_training.token_batches import SampleSet

PRIORS = load_priors()


def test_the_projects_recipe_is_one() -> None:
    recipe = load_recipe(resource("config", "nano.yaml"))
    assert recipe.phases[-1].score_episodes > 0
    assert any(phase.model_episodes for phase in recipe.phases)
    assert recipe.model.vocab_size == recipe.vocab_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phases: [{name: a, colour: red}]", "unknown fields.*colour"),
        ("phases: [{name: a}, {name: a}]", "each with a name of its own"),
        ("phases: [{name: a, use: [b]}]", "uses .*'b'"),
        ("phases: [{name: a, model_episodes: 4}]", "no model to meet situations with"),
        ("phases: [{name: a, train: {steps: 0}}]", "steps >= 1"),
        ("model: {width: 7}\nphases: [{name: a}]", "width 7"),
        ("seed: 1", "phases"),
        ("]", "not a recipe"),
    ],
)
def test_a_wrong_recipe_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_fields_of_a_phase_come_before_those_of_all(tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text("train: {clip: 0.5, seed: 3}\nphases: [{name: a, train: {seed: 4}}]", encoding="utf-8")
    assert load_recipe(path).phases[0].train == TrainConfig(clip=0.5, seed=4)


def recipe_with(samples: dict[str, SampleSet], folder: Path) -> Recipe:
    for name, part in samples.items():
        part.save(folder / name)
    phases = (PhaseConfig("a"), PhaseConfig("b", use=("a",)))
    return Recipe(RecipeConfig(phases, held_out=5, model=ModelConfig()), folder, 1)


def test_held_out_samples_are_never_trained_on(sample_set: SampleSet, tmp_path: Path) -> None:
    first, second = sample_set.take(np.arange(60)), sample_set.take(np.arange(60, 100))
    old = sample_set.take(np.arange(10))
    files = {"b/samples/expert-00000.npz": first, "b/samples/expert-00001.npz": second}
    recipe = recipe_with({**files, "a/samples/imagined-00000.npz": old}, tmp_path)
    training, held_out = recipe.load_samples(recipe.config.phases[1])
    assert (len(training), len(held_out)) == (105, 5)

    def texts(part: SampleSet) -> set[bytes]:
        return {part.ids[part.starts[i] : part.starts[i + 1]].tobytes() for i in range(len(part))}

    assert not texts(held_out) & texts(second)
    assert texts(held_out) <= texts(first)


def test_a_phase_without_samples_is_told(tmp_path: Path) -> None:
    recipe = recipe_with({}, tmp_path)
    with pytest.raises(UserError, match="'a' has no samples"):
        recipe.load_samples(recipe.config.phases[0])


def finished(folder: Path, spl: float) -> Recipe:
    recipe = Recipe(RecipeConfig((PhaseConfig("a"),)), folder, 1)
    (folder / "a" / "run").mkdir(parents=True)
    (folder / "a" / "run" / "log.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    (folder / "a" / DEFAULT_MODEL).write_text(f"model of {spl}", encoding="utf-8")
    report = {"policies": [{"policy": "slm", "spl": spl}, {"policy": "expert", "spl": 80.0}]}
    (folder / "a" / "scores.json").write_text(json.dumps(report), encoding="utf-8")
    return recipe


def test_a_model_is_replaced_only_by_a_better_one(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert finished(tmp_path / "one", 50.0).release(models)
    assert not finished(tmp_path / "two", 49.0).release(models)
    assert (models / DEFAULT_MODEL).read_text(encoding="utf-8") == "model of 50.0"
    assert finished(tmp_path / "three", 51.0).release(models)
    assert (models / DEFAULT_MODEL).read_text(encoding="utf-8") == "model of 51.0"
    log = (models / "SmallPlan-Nano.log.jsonl").read_text(encoding="utf-8")
    assert json.loads(log) == {"phase": "a", "step": 1}
    assert json.loads((models / "SmallPlan-Nano.config.json").read_text(encoding="utf-8"))["phases"][0]["name"] == "a"


def test_imagined_samples_are_those_of_their_seed() -> None:
    one, same, other = (list(islice(imagined_samples(PRIORS, seed), 5)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_small_situations_have_short_prompts_and_offer_only_what_they_list() -> None:
    rng = random.Random(0)
    for _ in range(50):
        view = shrink(imagine(PRIORS, rng), rng)
        assert 1 <= len(view.rooms) <= 3
        things = {obj.name for room in view.rooms for obj in room.objects}
        assert {option.name for option in view.containers} <= things
        assert {option.room for option in (*view.spaces, *view.doors)} <= {room.name for room in view.rooms}
        assert set(view.near) <= things


def commands(samples: list[Sample]) -> list[str]:
    return [parse_response(sample.answer).command for sample in samples]


def test_situations_are_met_in_houses_kept_and_varied(tmp_path: Path) -> None:
    views = meet_situations(ExpertPolicy(), [0], SearchConfig(max_steps=6), keep=4)
    assert 4 <= len(views) <= 16
    write_views(views, tmp_path / "views.jsonl.gz")
    assert read_views(tmp_path / "views.jsonl.gz") == views
    samples = list(varied_samples(views, 3, PRIORS, 0))
    assert len(samples) == 4 * len(views)
    # every fourth is the situation itself, answered by the expert
    assert [sample.messages for sample in samples[::4]] == [tuple(render(view)) for view in views]
    teacher = ExpertTeacher(PRIORS)
    assert commands(samples[::4]) == [teacher.answer(view, random.Random(9)).command for view in views]
    targets = {sample.messages[1].content.split("\n")[0] for sample in samples}
    assert len(targets) > 4


def test_a_disturbed_policy_does_other_things_but_never_gives_up() -> None:
    calm = meet_situations(DisturbedPolicy(GreedyPolicy(), 0.0, 1), [1], SearchConfig(max_steps=5))
    plain = meet_situations(GreedyPolicy(), [1], SearchConfig(max_steps=5))
    wild = meet_situations(DisturbedPolicy(GreedyPolicy(), 1.0, 1), [1], SearchConfig(max_steps=5))
    assert calm == plain
    assert wild != plain
    done = ActionKind.DONE.verb
    assert not any(past.command.startswith(done) for view in wild for past in view.history)
