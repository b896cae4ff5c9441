"""Samples for the trainer: stored answers, earlier samples to replay, and the teacher's answers to what was met."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PromptView
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.nano.situations import varied_samples
from smallplan_training.samples import Sample, read_samples
from smallplan_training.sft import tokenise
from smallplan_training.simulators.factory import resolve_scenes
from smallplan_training.token_batches import SampleSet, concatenate
from smallplan_training.train_config import TrainConfig


def check_data(config: TrainConfig) -> None:
    """Raise `UserError` for samples, scenes and files that a run would miss later, before a model is loaded."""
    if config.few_shot.epochs:
        read_stored(config.few_shot.samples)
    if not config.reinforces:
        return
    if config.tasks.generated < 1:
        resolve_scenes(config.tasks.simulator, config.tasks.scenes)
    if config.validation.every:
        resolve_scenes(config.tasks.simulator, config.validation.scenes)
    for name in config.distill.replay if config.distills else ():
        replay_files(Path(name))


def read_stored(files: Sequence[str]) -> list[Sample]:
    """Stage 1's samples, all of them. Raises `UserError`."""
    if not files:
        raise UserError(
            "stage 1 has no samples; collect some with `smallplan collect --output FILE.jsonl` and give the file "
            "with --samples (or set few_shot.epochs to 0 to go without)"
        )
    samples = [sample for name in files for sample in read_samples(Path(name))]
    if not samples:
        raise UserError(f"{', '.join(files)}: no samples in there; collect some with `smallplan collect`")
    return samples


def stored_samples(files: Sequence[str], limit: int, seed: int, chat: Chat, max_tokens: int) -> SampleSet:
    """Stage 1's samples: `limit` of those in the files, drawn by `seed` (0: all). Raises `UserError`."""
    samples = read_stored(files)
    if limit and len(samples) > limit:
        samples = random.Random(f"stored/{seed}").sample(samples, limit)
    data, stats = tokenise(samples, chat, max_tokens)
    if not len(data):
        raise UserError(
            f"{', '.join(files)}: none of {len(samples)} samples has at most {max_tokens} tokens (the longest has "
            f"{stats.longest}); raise max_tokens"
        )
    return data


def replay_samples(names: Sequence[str], chat: Chat, max_tokens: int) -> SampleSet | None:
    """All earlier samples in some files and folders (.jsonl of `collect`, .npz of token ids); None without names.

    Raises `UserError` for what can't be read, and for ids that the tokenizer does not have.
    """
    parts = [part for name in names for file in replay_files(Path(name)) for part in _read(file, chat, max_tokens)]
    if not names:
        return None
    data = concatenate(parts)
    if not len(data):
        raise UserError(f"{', '.join(names)}: no samples of at most {max_tokens} tokens to replay")
    return data


def draw(data: SampleSet, count: int, rng: np.random.Generator) -> SampleSet:
    """`count` of the samples, each at most once where there are enough."""
    return data.take(rng.choice(len(data), size=count, replace=count > len(data)))


def taught_samples(views: Sequence[PromptView], variations: int, seed: int) -> list[Sample]:
    """What the expert answers in the situations that were met, and in `variations` of each."""
    return list(varied_samples(views, variations, load_priors(), seed))


def replay_files(path: Path) -> list[Path]:
    """The files that a name in `distill.replay` means; raises `UserError` when there is none."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".jsonl", ".npz"))
        if not files:
            raise UserError(f"{path}: no .jsonl and no .npz file in this folder to replay")
        return files
    if not path.is_file():
        raise UserError(f"there is no file or folder {path} to replay; see distill.replay")
    return [path]


def _read(path: Path, chat: Chat, max_tokens: int) -> list[SampleSet]:
    if path.suffix != ".npz":
        return [tokenise(read_samples(path), chat, max_tokens)[0]]
    try:
        data = SampleSet.load(path)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no file of token ids ({error}); expected one that `smallplan nano` wrote") from error
    if len(data) and int(data.ids.max()) >= chat.vocab_size:
        raise UserError(
            f"{path}: has the token id {int(data.ids.max())}, the base's tokenizer has {chat.vocab_size}; it was made "
            "with another tokenizer: give the samples as .jsonl"
        )
    return [data.take(np.flatnonzero(data.lengths <= max_tokens))]
