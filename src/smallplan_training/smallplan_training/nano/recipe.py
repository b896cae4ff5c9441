"""The recipe of the default model, from nothing to `models/`: `smallplan nano`.

    tokenizer ─► pretraining, phase by phase: situations ─► samples ─► weights
              ─► stage 1 (few-shot SFT) ─► stage 2 (RL-SFT) ─► GGUF ─► scores on val ─► models/

Pretraining on teacher text stands in place of a downloaded base: a phase trains on imagined situations, on those that
the disturbed expert meets in generated houses, or on those that the model of the phase before meets (DAgger: its own
states, labelled by the expert). The stages are those of `smallplan train`. Everything is in
`config/nano.yaml`. What is finished is found again, so a recipe that was interrupted goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from smallplan_planner.policies import Policy
from smallplan_planner.priors import Priors, load_priors
from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.search import SearchConfig
from smallplan_planner.slm_identity import PROMPT_TOKENS_KEY, PROMPT_VERSION_KEY
from smallplan_planner.synonyms import words_for
from smallplan_training import export
from smallplan_training.collect import CollectConfig, Collector
from smallplan_training.errors import UserError
from smallplan_training.evaluate import EvaluateConfig, run_tasks
from smallplan_training.evaluation_tables import report_all
from smallplan_training.nano.checkpoint_folder import load_folder, save_folder
from smallplan_training.nano.model import ModelConfig, NanoModel
from smallplan_training.nano.situations import (
    EPISODES_PER_HOUSE,
    DisturbedPolicy,
    imagined_samples,
    meet_situations,
    read_views,
    varied_samples,
    write_views,
)
from smallplan_training.nano.tokenizer import NanoTokenizer, train_tokenizer
from smallplan_training.nano.train import TrainConfig, Trainer
from smallplan_training.policy_factory import PolicyOptions, make_policy
from smallplan_training.processes import die_with_parent
from smallplan_training.sample_tokens import tokenise
from smallplan_training.samples import Sample
from smallplan_training.scenes import resolve_scenes
from smallplan_training.teachers.expert import ExpertPolicy
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.room_samples import room_samples, room_samples_of
from smallplan_training.teachers.teacher import ExpertAdapter
from smallplan_training.teachers.variations import made_up_word
from smallplan_training.token_batches import SampleSet, concatenate
from smallplan_training.train_config import TrainConfig as StagesConfig
from smallplan_training.train_config import build, plain, read_config

logger = logging.getLogger(__name__)

PARITY_PROMPTS = 10  # on which llama.cpp and transformers are compared
STAGED = ("sft", "rl-sft")  # strategies that the pretrained weights are trained on with; the last one is released
SHARD = 2000  # imagined samples made at a time
FREE_EVERY = 3  # of the model's shards, one is met without the grammar
SAVER_EVERY = 2  # of the shards of situations, one is met in mode saver
HOUSES_PER_SHARD = 5
KNOWN_WORD_WEIGHT = 50  # of a synonym in the tokenizer's text
MADE_UP_WORDS = 20000  # that the tokenizer learns to split
METADATA: dict[str, str | int] = {
    "general.name": "SmallPlan Nano",
    "general.basename": "SmallPlan-Nano",
    "general.license": "apache-2.0",
    PROMPT_VERSION_KEY: PROMPT_VERSION,
    PROMPT_TOKENS_KEY: 1000,  # longer prompts are cut; it was trained on up to 768 tokens
}


@dataclass(frozen=True)
class PhaseConfig:
    """One phase: what it trains on, and how.

    `use` names earlier phases whose samples serve again, `average` such whose weights are averaged with its own at its
    end: the mean may be better than each (Wortsman et al., Model soups, 2022).
    """

    name: str
    imagined: int = 0  # samples of imagined situations
    rooms: int = 0  # samples of the question which room it is
    expert_episodes: int = 0  # of the disturbed expert in generated houses
    model_episodes: int = 0  # of the model of the phase before, without its grammar in one shard of three
    disturbance: float = 0.2  # share of the actions that are random
    variations: int = 6  # further samples of each simulated situation
    max_tokens: int = 640  # samples that are longer are left out
    use: tuple[str, ...] = ()
    average: tuple[str, ...] = ()
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class RecipeConfig:
    """All of the recipe. Raises `UserError` on phases that don't fit together."""

    phases: tuple[PhaseConfig, ...]
    seed: int = 0
    vocab_size: int = 2560
    tokenizer_samples: int = 4000
    held_out: int = 300  # samples of a phase
    score_episodes: int = 10  # a val house, of the finished model
    stored_answers: int = 500  # samples of stage 1
    model: ModelConfig = field(default_factory=ModelConfig)
    stages: Path = Path("training-nano.yaml")  # the configuration of `smallplan train`

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise UserError(f"phases are {names}; expected at least one, each with a name of its own")
        for index, phase in enumerate(self.phases):
            for does, others in (("uses", phase.use), ("averages", phase.average)):
                if not set(others) <= set(names[:index]):
                    raise UserError(f"phase {phase.name!r} {does} {list(others)}; expected some of {names[:index]}")
            if phase.model_episodes and not index:
                raise UserError(f"phase {phase.name!r}: the first phase has no model to meet situations with")


def load_recipe(path: Path) -> RecipeConfig:
    """Read a recipe; raises `UserError` that names the file and the field."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        common = data.pop("train", {})
        phases = [{**phase, "train": {**common, **phase.get("train", {})}} for phase in data.pop("phases")]
        model = {**data.pop("model", {}), "vocab_size": data.get("vocab_size", RecipeConfig.vocab_size)}
        stages = path.parent / data.pop("stages", RecipeConfig.stages)
        read_config(StagesConfig, stages)
        return build(RecipeConfig, {**data, "model": model, "phases": phases, "stages": stages})
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a recipe ({type(error).__name__}: {error}); see config/nano.yaml") from error


class Recipe:
    """The stages, each of which does nothing when its result is there."""

    def __init__(self, config: RecipeConfig, folder: Path, workers: int) -> None:
        self.config, self.folder, self.workers = config, folder, workers
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, until: str | None = None) -> Path:
        """Everything, or the phases or strategies up to one; returns the folder of the last one's weights."""
        self.make_tokenizer()
        weights = self.folder
        for index, phase in enumerate(self.config.phases):
            weights = self.folder / phase.name / "checkpoint"
            if not weights.is_dir():
                self.collect(index)
                self.train(index)
            if phase.name == until:
                return weights
        base = weights
        for strategy in STAGED:
            weights = self.train_stages(strategy, base)
            self.export(self.folder / strategy, weights)
            self.score(self.folder / strategy)
            if strategy == until:
                break
        return weights

    def train_stages(self, strategy: str, base: Path) -> Path:
        """Stage 1, and where the strategy has it stage 2, from the pretrained weights on; returns the merged ones."""
        from accelerate import Accelerator  # here, since the processes that make shards need none of it

        from smallplan_training.train_stages import train
        from smallplan_training.train_state import Run

        folder = self.folder / strategy
        if not (folder / "merged").is_dir():
            samples = self.store_answers()
            settings = {
                "strategy": strategy,
                "base": str(base),
                "few_shot.samples": [str(samples)],
                "distill.replay": [str(self.folder / phase.name / "samples") for phase in self.config.phases],
            }
            run = Run(read_config(StagesConfig, self.config.stages, settings), folder, Accelerator())
            try:
                train(run)
            finally:
                run.log.close()
        return folder / "merged"

    def store_answers(self) -> Path:
        """Stage 1's samples: the expert's answers in the training houses, as `smallplan collect` writes them."""
        path = self.folder / "answers.jsonl"
        scenes = tuple(resolve_scenes(["train"]))
        config = CollectConfig(scenes, path, self.config.stored_answers, limit=self.config.stored_answers)
        Collector(ExpertAdapter(), config).run()
        return path

    def make_tokenizer(self) -> NanoTokenizer:
        """Train the tokenizer on imagined situations and on the names in the priors."""
        path = self.folder / "tokenizer.model"
        if not path.is_file():
            priors = load_priors()
            samples = list(islice(imagined_samples(priors, self.config.seed), self.config.tokenizer_samples))
            rooms = islice(room_samples(priors, self.config.seed), self.config.tokenizer_samples)
            texts = ["\n" + message.content for sample in (*samples, *rooms) for message in sample.messages]
            rng = random.Random(self.config.seed)
            texts += [made_up_word(rng) for _ in range(MADE_UP_WORDS)]
            names = [*priors.rooms, *priors.furniture, *priors.objects, "room", "door"]
            texts += [word for name in names for word in words_for(name)] * KNOWN_WORD_WEIGHT
            model = train_tokenizer(texts, [sample.answer for sample in samples], names, self.config.vocab_size)
            path.with_suffix(".part").write_bytes(model)
            path.with_suffix(".part").replace(path)
        return NanoTokenizer(path.read_bytes())

    def collect(self, index: int) -> None:
        """Make the phase's shards of situations and samples, on all cores."""
        phase = self.config.phases[index]
        seed = self.config.seed + 1000 * index
        houses = math.ceil(phase.expert_episodes / EPISODES_PER_HOUSE / HOUSES_PER_SHARD)
        counts = {
            "imagined": math.ceil(phase.imagined / SHARD),
            "rooms": math.ceil(phase.rooms / SHARD),
            "expert": houses,
            "model": math.ceil(phase.model_episodes / EPISODES_PER_HOUSE / HOUSES_PER_SHARD),
        }
        model = None
        if phase.model_episodes:
            before = self.folder / self.config.phases[index - 1].name
            self.export(before, before / "checkpoint")
            model = before / DEFAULT_MODEL
        tasks = [_Shard(phase, kind, n, self.folder, seed, model) for kind in counts for n in range(counts[kind])]
        tasks = [task for task in tasks if not task.path.is_file()]
        if not tasks:
            return
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), die_with_parent) as pool:
            list(tqdm(pool.map(_make_shard, tasks), total=len(tasks), desc=f"{phase.name}: situations", unit="shard"))

    def train(self, index: int) -> None:
        """Train from the weights of the phase before, or from nothing."""
        phase = self.config.phases[index]
        tokenizer = self.make_tokenizer()
        data, held_out = self.load_samples(phase)
        torch.manual_seed(self.config.seed)
        if index:
            model = load_folder(self.folder / self.config.phases[index - 1].name / "checkpoint")
        else:
            model = NanoModel(replace(self.config.model, vocab_size=len(tokenizer)))
        run = self.folder / phase.name / "run"
        command = tokenizer.encode("\nCommand:")[0]
        trainer = Trainer(model, data, held_out, run, phase.train, tokenizer.pad_id, command)
        trainer.train()
        model = trainer.model.to("cpu")
        model.average([load_folder(self.folder / name / "checkpoint") for name in phase.average])
        save_folder(model, tokenizer, self.folder / phase.name / "checkpoint")

    def load_samples(self, phase: PhaseConfig) -> tuple[SampleSet, SampleSet]:
        """(training, held-out) samples: the held-out ones come from the phase's first shard of each kind."""
        held_out: list[SampleSet] = []
        training: list[SampleSet] = []
        for name in (phase.name, *phase.use):
            for path in sorted((self.folder / name / "samples").glob("*.npz")):
                samples = SampleSet.load(path)
                (held_out if name == phase.name and path.stem.endswith("-00000") else training).append(samples)
        kept = [part.split(min(len(part) // 2, self.config.held_out), self.config.seed) for part in held_out]
        training += [rest for rest, _ in kept]
        if not training:
            raise UserError(f"phase {phase.name!r} has no samples; give it situations, or earlier phases to use")
        nothing = training[0].take(np.zeros(0, dtype=np.int64))
        return concatenate(training), concatenate([nothing, *(part for _, part in kept)])

    def export(self, folder: Path, weights: Path) -> None:
        """Write weights as a Q8_0 GGUF into a folder, after a check that llama.cpp reads them as transformers does."""
        if (folder / DEFAULT_MODEL).is_file():
            return
        whole = folder / "model-f32.gguf"
        export.convert(weights, whole, METADATA)
        self._check(weights, whole)
        export.quantise(whole, folder / DEFAULT_MODEL)

    def _check(self, weights: Path, whole: Path) -> None:
        """Compare a GGUF file with the weights that it was made of, and note how near it is beside it."""
        from smallplan_training.export_source import chat_of  # here, as above
        from smallplan_training.parity import LIMITS, Reference

        rng, priors = random.Random(self.config.seed + 1), load_priors()
        views = [imagine(priors, rng) for _ in range(PARITY_PROMPTS)]
        with tempfile.TemporaryDirectory(dir=whole.parent) as scratch:
            reference = Reference(weights, chat_of(weights, "smallplan-nano"), views, len(views), Path(scratch), 0)
            parity = reference.compare(whole)
        faults = parity.faults(replace(LIMITS["F32"], agreement=99.0))
        if faults:
            raise UserError(f"{whole} is not what llama.cpp should make of {weights}: {'; '.join(faults)}")
        (whole.parent / "parity.json").write_text(json.dumps(asdict(parity)), encoding="utf-8")

    def score(self, folder: Path) -> dict[str, Any]:
        """Figures of a folder's model on the val houses, beside the expert's on the same episodes."""
        path = folder / "scores.json"
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        config = EvaluateConfig(
            policies=("slm", "expert"),
            scenes=tuple(resolve_scenes(["val"])),
            episodes=self.config.score_episodes,
            workers=self.workers,
            options=PolicyOptions(model=folder / DEFAULT_MODEL, threads=1),
        )
        with tqdm(total=len(config.scenes) * config.episodes, desc=f"{folder.name}: val", unit="episode") as bar:
            report = report_all(run_tasks(config, bar.update), config, "smallplan nano")
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
        return report

    def release(self, models: Path) -> bool:
        """Put the finished model into `models`, unless the one that is there is as good on val."""
        made = self.folder / STAGED[-1]
        scores = made / "scores.json"
        kept = models / "SmallPlan-Nano.scores.json"
        if scores.is_file() and kept.is_file() and _spl(kept) >= _spl(scores):
            logger.warning("%s stays: its SPL on val is %.2f, the new one's %.2f", models, _spl(kept), _spl(scores))
            return False
        models.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / DEFAULT_MODEL, models / DEFAULT_MODEL)
        if scores.is_file():
            shutil.copyfile(scores, kept)
        stages = plain(read_config(StagesConfig, self.config.stages))
        config = json.dumps({**asdict(self.config), "stages": stages}, indent=1)
        (models / "SmallPlan-Nano.config.json").write_text(config + "\n", encoding="utf-8")
        with (models / "SmallPlan-Nano.log.jsonl").open("w", encoding="utf-8") as log:
            logs = {phase.name: self.folder / phase.name / "run" / "log.jsonl" for phase in self.config.phases}
            for name, path in {**logs, STAGED[-1]: made / "log.jsonl"}.items():
                for line in path.read_text(encoding="utf-8").splitlines():
                    log.write(json.dumps({"phase": name, **json.loads(line)}) + "\n")
        return True


def _spl(path: Path) -> float:
    """The model's SPL in a file of scores."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return float(next(item["spl"] for item in report["policies"] if item["policy"] == "slm"))


@dataclass(frozen=True)
class _Shard:
    """A part of a phase's samples, made by one process."""

    phase: PhaseConfig
    kind: str  # "imagined" | "rooms" | "expert" | "model"
    number: int
    folder: Path
    seed: int
    model: Path | None = None  # that meets situations, for kind "model"

    @property
    def path(self) -> Path:
        return self.folder / self.phase.name / "samples" / f"{self.kind}-{self.number:05d}.npz"

    @property
    def views(self) -> Path:
        return self.folder / self.phase.name / "situations" / f"{self.kind}-{self.number:05d}.jsonl.gz"


def _explorer(task: _Shard, priors: Priors) -> Policy:
    """Who meets the situations of a shard."""
    if task.model is None:
        return ExpertPolicy(priors)
    grammar = task.number % FREE_EVERY > 0
    return make_policy("slm", PolicyOptions(model=task.model, threads=1, grammar=grammar))


def _make_shard(task: _Shard) -> None:
    priors = load_priors()
    tokenizer = NanoTokenizer((task.folder / "tokenizer.model").read_bytes())
    seed = 100_000 * (task.seed + 1) + task.number
    if task.kind in ("imagined", "rooms"):
        imagined = task.kind == "imagined"
        samples = imagined_samples(priors, seed) if imagined else room_samples(priors, seed)
        parts: list[SampleSet] = []
        while sum(map(len, parts)) < SHARD:
            parts.append(_tokenise(islice(samples, SHARD // 4), tokenizer, task.phase))
        concatenate(parts).save(task.path)
        return
    if not task.views.is_file():
        houses = range(seed * HOUSES_PER_SHARD, (seed + 1) * HOUSES_PER_SHARD)
        disturbed = DisturbedPolicy(_explorer(task, priors), task.phase.disturbance, seed)
        mode = "saver" if task.number % SAVER_EVERY == 0 else "normal"
        write_views(meet_situations(disturbed, houses, SearchConfig(mode=mode)), task.views)
    views = read_views(task.views)
    varied = varied_samples(views, task.phase.variations, priors, seed)
    rooms = room_samples_of(views, priors, seed)
    _tokenise(chain(varied, rooms), tokenizer, task.phase).save(task.path)


def _tokenise(samples: Iterable[Sample], tokenizer: NanoTokenizer, phase: PhaseConfig) -> SampleSet:
    return tokenise(samples, tokenizer, phase.max_tokens, tokenizer.locate_marks)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="YAML", help="default: config/nano.yaml")
    parser.add_argument("--folder", type=Path, default=Path("build/nano"), help="default: %(default)s")
    parser.add_argument("--models", type=Path, help="where the model goes (default: models/ of the workspace)")
    parser.add_argument("--until", metavar="PHASE", help="stop after this phase or strategy, and release nothing")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that collect")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    path = args.config or resource("config", "nano.yaml")
    recipe = Recipe(load_recipe(path), args.folder, args.workers)
    recipe.run(args.until)
    if args.until is None:
        recipe.release(args.models or resource("config", "nano.yaml").parent.parent / "models")
    return 0
