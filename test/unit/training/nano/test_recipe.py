from __future__ import annotations

import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from smallplan_planner.actions import ActionKind
from smallplan_planner.names import UNCERTAIN_ROOM
from smallplan_planner.policies import GreedyPolicy
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PromptView, render
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.response import parse_response
from smallplan_planner.search import SearchConfig
from smallplan_training import export
from smallplan_training.errors import UserError
from smallplan_training.nano.checkpoint_folder import load_folder, save_folder
from smallplan_training.nano.model import ModelConfig, NanoModel
from smallplan_training.nano.recipe import (
    SAVER_EVERY,
    STAGED,
    PhaseConfig,
    Recipe,
    RecipeConfig,
    _make_shard,
    _Shard,
    load_recipe,
)
from smallplan_training.nano.situations import (
    DisturbedPolicy,
    imagined_samples,
    meet_situations,
    read_views,
    shrink,
    varied_samples,
    write_views,
)
from smallplan_training.nano.tokenizer import NanoTokenizer
from smallplan_training.nano.train import TrainConfig
from smallplan_training.samples import Sample
from smallplan_training.teachers.expert import ExpertPolicy, ExpertTeacher
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import retarget
from smallplan_training.token_batches import SampleSet
from smallplan_training.train_config import TrainConfig as StagesConfig

PRIORS = load_priors()
STAGES = resource("config", "training-nano.yaml")


def test_the_projects_recipe_is_one() -> None:
    recipe = load_recipe(resource("config", "nano.yaml"))
    assert recipe.score_episodes > 0 and recipe.stored_answers > 0
    assert sum(phase.rooms for phase in recipe.phases) >= 1000  # it also learns to name rooms
    assert sum(phase.expert_episodes for phase in recipe.phases) >= 100
    assert recipe.model.vocab_size == recipe.vocab_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phases: [{name: a, colour: red}]", "unknown field colour in phases"),
        ("phases: [{name: a}, {name: a}]", "each with a name of its own"),
        ("phases: [{name: a, use: [b]}]", "uses .*'b'"),
        ("phases: [{name: a}, {name: b, average: [b]}]", "averages .*'b'"),
        ("phases: [{name: a}]\nstages: missing.yaml", "missing.yaml"),
        ("phases: [{name: a}]\nstages: nano.yaml", "unknown field phases"),
        ("phases: [{name: a, train: {steps: 0}}]", "steps >= 1"),
        ("model: {width: 7}\nphases: [{name: a}]", "width 7"),
        ("seed: 1", "phases"),
        ("]", "not a recipe"),
    ],
)
def test_a_wrong_recipe_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text(text if "stages" in text else f"{text}\nstages: {STAGES}", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_fields_of_a_phase_come_before_those_of_all(tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    text = f"train: {{clip: 0.5, seed: 3}}\nphases: [{{name: a, train: {{seed: 4}}}}]\nstages: {STAGES}"
    path.write_text(text, encoding="utf-8")
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


def test_a_phase_ends_with_the_mean_of_its_weights_and_those_of_earlier_ones(
    sample_set: SampleSet, tokenizer: NanoTokenizer, tiny: ModelConfig, tmp_path: Path
) -> None:
    def trained(average: tuple[str, ...], folder: Path) -> list[dict[str, torch.Tensor]]:
        for name in "ab":
            sample_set.take(np.arange(20)).save(folder / name / "samples/imagined-00000.npz")
        (folder / "tokenizer.model").write_bytes(tokenizer.model)
        settings = TrainConfig(steps=2, batch_tokens=2048, device="cpu")
        phases = (PhaseConfig("a", train=settings), PhaseConfig("b", average=average, train=settings))
        recipe = Recipe(RecipeConfig(phases, vocab_size=len(tokenizer), model=tiny, held_out=5), folder, 1)
        for index in range(2):
            recipe.train(index)
        return [load_folder(folder / name / "checkpoint").to_hugging_face() for name in "ab"]

    first, alone = trained((), tmp_path / "alone")
    again, averaged = trained(("a",), tmp_path / "averaged")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.norm.weight"], alone["model.norm.weight"])
    for name, weights in averaged.items():
        assert torch.allclose(weights, (first[name] + alone[name]) / 2, atol=1e-6)


def test_a_phase_without_samples_is_told(tmp_path: Path) -> None:
    recipe = recipe_with({}, tmp_path)
    with pytest.raises(UserError, match="'a' has no samples"):
        recipe.load_samples(recipe.config.phases[0])


def test_the_stages_train_the_pretrained_weights_on_stored_answers_and_replay_all_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    from smallplan_training import train_stages, train_state

    @dataclass
    class Recorded:
        config: StagesConfig
        folder: Path
        accelerator: object
        log: Any = field(default_factory=io.StringIO)

    runs: list[Recorded] = []
    monkeypatch.setattr(train_state, "Run", Recorded)
    monkeypatch.setattr(train_stages, "train", runs.append)
    monkeypatch.setattr(Recipe, "store_answers", lambda recipe: recipe.folder / "answers.jsonl")
    config = load_recipe(resource("config", "nano.yaml"))
    recipe = Recipe(config, tmp_path, 1)
    for strategy in STAGED:
        assert recipe.train_stages(strategy, tmp_path / "base") == tmp_path / strategy / "merged"
    for run, strategy in zip(runs, STAGED, strict=True):
        assert (run.config.strategy, run.config.base) == (strategy, str(tmp_path / "base"))
        assert run.folder == tmp_path / strategy and run.log.closed
        assert run.config.few_shot.samples == (str(tmp_path / "answers.jsonl"),)
        replay = tuple(str(tmp_path / phase.name / "samples") for phase in config.phases)
        assert run.config.distill.replay == replay
    (tmp_path / STAGED[0] / "merged").mkdir(parents=True)
    recipe.train_stages(STAGED[0], tmp_path / "base")
    assert len(runs) == len(STAGED)  # what is finished is found again


def finished(folder: Path, spl: float) -> Recipe:
    """A recipe whose phase and stages were trained; its model has that SPL on val."""
    recipe = Recipe(RecipeConfig((PhaseConfig("a"),), stages=STAGES), folder, 1)
    made = folder / STAGED[-1]
    for logs in (folder / "a" / "run", made):
        logs.mkdir(parents=True)
    (folder / "a" / "run" / "log.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    (made / "log.jsonl").write_text('{"step": 2}\n', encoding="utf-8")
    (made / DEFAULT_MODEL).write_text(f"model of {spl}", encoding="utf-8")
    report = {"policies": [{"policy": "slm", "spl": spl}, {"policy": "expert", "spl": 80.0}]}
    (made / "scores.json").write_text(json.dumps(report), encoding="utf-8")
    return recipe


@pytest.mark.slow
def test_weights_are_exported_only_as_what_llama_cpp_reads_alike(
    converter: Path, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, sign in (("one", 1.0), ("other", -1.0)):
        torch.manual_seed(0)
        model = NanoModel(replace(tiny, vocab_size=len(tokenizer)))
        with torch.no_grad():
            model.embedding.weight.mul_(8.0)  # so that some tokens are clearly likelier
            model.norm.mul_(sign)  # and in the other model others
        save_folder(model, tokenizer, tmp_path / name)
    recipe = Recipe(RecipeConfig((PhaseConfig("a"),)), tmp_path, 1)
    recipe.export(tmp_path / "good", tmp_path / "one")
    assert (tmp_path / "good" / DEFAULT_MODEL).is_file()
    parity = json.loads((tmp_path / "good" / "parity.json").read_text(encoding="utf-8"))
    assert parity["equal_tokens"] == parity["prompts"] > 1 and parity["agreement"] > 99
    convert = export.convert
    monkeypatch.setattr(export, "convert", lambda _, path, keys: convert(tmp_path / "other", path, keys))
    with pytest.raises(UserError, match="positions the likeliest token is the same, expected at least 99 %"):
        recipe.export(tmp_path / "bad", tmp_path / "one")
    assert not (tmp_path / "bad" / DEFAULT_MODEL).exists()


def test_a_model_is_replaced_only_by_a_better_one(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert finished(tmp_path / "one", 50.0).release(models)
    assert not finished(tmp_path / "two", 49.0).release(models)
    assert (models / DEFAULT_MODEL).read_text(encoding="utf-8") == "model of 50.0"
    assert finished(tmp_path / "three", 51.0).release(models)
    assert (models / DEFAULT_MODEL).read_text(encoding="utf-8") == "model of 51.0"
    log = (models / "SmallPlan-Nano.log.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in log.splitlines()] == [
        {"phase": "a", "step": 1},
        {"phase": STAGED[-1], "step": 2},
    ]
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
        assert {option.name for option in view.surfaces} <= things
        assert set(view.near) <= things


def commands(samples: list[Sample]) -> list[str]:
    return [parse_response(sample.answer).command for sample in samples]


def test_situations_are_met_in_houses_kept_and_varied(tmp_path: Path) -> None:
    views = meet_situations(ExpertPolicy(), [0], SearchConfig(max_steps=6), keep=4)
    assert 4 <= len(views) <= 16
    write_views(views, tmp_path / "views.jsonl.gz")
    assert read_views(tmp_path / "views.jsonl.gz") == views
    samples = list(varied_samples(views, 3, PRIORS, 0))
    assert len(samples) >= 4 * len(views)
    # the situation itself comes first, answered by the expert
    prompts = {sample.messages: sample.answer for sample in samples}
    teacher = ExpertTeacher(PRIORS)
    assert samples[0].messages == tuple(render(views[0]))
    assert all(prompts[tuple(render(view))] == teacher.answer(view).render() for view in views)
    targets = {sample.messages[1].content.split("\n")[0] for sample in samples}
    assert len(targets) > 4


def test_what_the_mode_decides_is_asked_in_both() -> None:
    """Twins that differ in the mode alone, wherever the expert decides otherwise: else nothing tells what it means."""
    teacher = ExpertTeacher(PRIORS)
    rng = random.Random(1)
    views = [retarget(imagine(PRIORS, rng), "mug", PRIORS) for _ in range(60)]
    samples = list(varied_samples(views, 0, PRIORS, 0))
    users = Counter(sample.messages[1] for sample in samples)
    for view in views:
        normal, saver = (replace(view, mode=mode) for mode in ("normal", "saver"))
        differ = teacher.answer(normal).command != teacher.answer(saver).command
        assert users[render(view)[1]] == (2 if differ else 1)
    assert 5 < len(samples) - len(views) < len(views)
    twins = [sample for sample in samples if users[sample.messages[1]] == 2]
    for first, second in zip(twins[::2], twins[1::2], strict=True):
        assert first.messages[0] != second.messages[0] and commands([first]) != commands([second])


def test_imagined_situations_are_asked_in_every_way() -> None:
    """Each way of `_asked_otherwise` is there: both modes, refusals, no hints, no matches, looks at surfaces."""
    samples = list(islice(imagined_samples(PRIORS, 3), 300))
    systems = Counter("Mode: saver" in sample.messages[0].content for sample in samples)
    assert 60 < systems[True] < 150
    users = [sample.messages[1].content for sample in samples]
    for text in ("\nUsual places: ", ". Found: ", ": invalid, ", "\nSeen from afar: none"):
        assert 5 < sum(text in user for user in users) < 295, text
    said = Counter(command.partition("(")[0] for command in commands(samples))
    assert set(said) == {"done", "explore", "go_to_and_open", "navigate"} and min(said.values()) > 5


def test_half_of_what_is_not_said_to_be_found_is_not_there() -> None:
    """Without the line of matches the model has to find the target in the list, or that it is absent."""
    silent = [s for s in islice(imagined_samples(PRIORS, 4), 400) if ". Found: " not in s.messages[1].content]
    found = Counter(parse_response(sample.answer).analysis.startswith("No ") for sample in silent)
    assert len(silent) > 60
    assert found[True] > 0.4 * len(silent) and found[False] > 0.15 * len(silent)


def shard(folder: Path, tokenizer: NanoTokenizer, kind: str, number: int = 0) -> _Shard:
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    phase = PhaseConfig("a", rooms=8, expert_episodes=4, variations=1, max_tokens=2000)
    return _Shard(phase, kind, number, folder, 0)


def test_a_shard_of_rooms_holds_questions_and_their_answers(
    tokenizer: NanoTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smallplan_training.nano.recipe.SHARD", 40)
    task = shard(tmp_path, tokenizer, "rooms")
    _make_shard(task)
    made = SampleSet.load(task.path)
    assert len(made) >= 40
    answers = set()
    for index in range(len(made)):
        ids = [int(i) for i in made.ids[made.starts[index] : made.starts[index] + made.lengths[index]]]
        prompt = tokenizer.decode(ids[: made.prompts[index]])
        assert "You name a room of a house" in prompt and "\nRoom type:" in prompt
        answers.add(tokenizer.decode(ids[made.prompts[index] :]))
    assert answers <= {*PRIORS.rooms, UNCERTAIN_ROOM} and UNCERTAIN_ROOM in answers and len(answers) > 5


@pytest.mark.parametrize(
    ("number", "mode"), [(0, "saver"), (1, "normal"), (SAVER_EVERY + 1, "normal"), (SAVER_EVERY, "saver")]
)
def test_some_shards_are_met_in_mode_saver(
    tokenizer: NanoTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mode: str
) -> None:
    configs = []

    def meet(policy: object, seeds: object, config: SearchConfig) -> list[PromptView]:
        configs.append(config)
        return [replace(imagine(PRIORS, random.Random(0)), mode=config.mode)]

    monkeypatch.setattr("smallplan_training.nano.recipe.meet_situations", meet)
    task = shard(tmp_path, tokenizer, "expert", number)
    _make_shard(task)
    assert [config.mode for config in configs] == [mode]
    assert [view.mode for view in read_views(task.views)] == [mode]
    made = SampleSet.load(task.path)
    prompts = [tokenizer.decode(made.take(np.array([i])).ids.tolist()) for i in range(len(made))]
    decisions = ["You plan for a robot" in prompt for prompt in prompts]
    count = sum(decisions)  # one may have a twin in the other mode
    assert 2 <= count <= 4 and all(decisions[:count])
    assert len(made) > count and all("You name a room" in prompt for prompt in prompts[count:]), "rooms, too"


def test_a_disturbed_policy_does_other_things_but_never_gives_up() -> None:
    calm = meet_situations(DisturbedPolicy(GreedyPolicy(), 0.0, 1), [1], SearchConfig(max_steps=5))
    plain = meet_situations(GreedyPolicy(), [1], SearchConfig(max_steps=5))
    wild = meet_situations(DisturbedPolicy(GreedyPolicy(), 1.0, 1), [1], SearchConfig(max_steps=5))
    assert calm == plain
    assert wild != plain
    done = ActionKind.DONE.verb
    assert not any(past.command.startswith(done) for view in wild for past in view.history)
