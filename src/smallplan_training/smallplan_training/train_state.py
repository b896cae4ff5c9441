"""A training run: what its stages share, and its checkpoint.

The folder of a run holds `config.json`, `checkpoint/`, `log.jsonl`, `tensorboard/`, and at the end `adapter/` and
`merged/`. All that happens follows from the configuration and from what the checkpoint holds (weights, optimisers,
position in the data, random states), so a run that was killed goes on to the same bits, on a CPU.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from smallplan_training.base_model import BaseOptions, LanguageModel, load_language_model
from smallplan_training.checkpoint import load_checkpoint, save_checkpoint
from smallplan_training.errors import UserError
from smallplan_training.token_batches import Batch, SampleSet, make_batch
from smallplan_training.train_config import TrainConfig, build, differences, plain
from smallplan_training.train_cores import Cores
from smallplan_training.train_log import TrainLog
from smallplan_training.train_optim import Stepper, largest

logger = logging.getLogger(__name__)

FEW_SHOT, REINFORCE, DONE = "few_shot", "reinforce", "done"
_MAY_CHANGE = (
    "checkpoint_minutes",
    "rollouts.iterations",
    "rollouts.minutes",
    "validation.",
    "rollouts.batch",
    "rollouts.in_flight",
    "ppo.minibatch_tokens",
    "distill.batch_tokens",
    "teacher.cache",
    "teacher.prompt_price",
    "teacher.completion_price",
)
"""Fields in which a run that goes on may differ from how it began: how long, how much at once, what is watched."""


@dataclass
class Progress:
    """Where a run stands."""

    stage: str = FEW_SHOT
    step: int = 0  # optimiser steps of stage 1, iterations of stage 2
    batches: int = 0  # of stage 1's present epoch
    epoch: int = 0  # of stage 1
    seconds: float = 0.0  # of training in this stage, summed over resumptions
    samples: int = 0  # trained on in this stage, by this process


def base_options(config: TrainConfig, device: str) -> BaseOptions:
    """How a run's base is held."""
    return BaseOptions(
        config.base,
        recipe=config.recipe,
        device=device,
        quantisation=config.quantisation,
        seed=config.seed,
        lora={name: value for name, value in asdict(config.lora).items() if value is not None},
    )


class Run:
    """One run in its folder; resumes where the folder's checkpoint stands. Raises `UserError`."""

    def __init__(self, config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.rank, self.processes, self.is_main = (
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.is_main_process,
        )
        self.lm: LanguageModel = load_language_model(base_options(config, str(accelerator.device)))
        self.device = self.lm.device
        self.max_tokens = config.max_tokens or self.lm.recipe.max_tokens
        adapters = [parameter for parameter in self.lm.model.parameters() if parameter.requires_grad]
        self.steppers = {
            "few_shot": Stepper(adapters, config.few_shot.steps, accelerator),
            "ppo": Stepper(adapters, config.ppo_steps, accelerator),
            "value": Stepper(list(self.lm.value_head.parameters()), config.value_steps, accelerator),
            "distill": Stepper(adapters, config.distill.steps, accelerator),
        }
        self.cores = Cores(self.lm, self.device)
        self.progress = Progress()
        self.resumed = False  # it goes on where a checkpoint stood
        _seed_everything(config.seed + self.rank)
        log_bytes = self._resume()
        accelerator.wait_for_everyone()
        if self.is_main:
            _write_config(folder, config)
        self.log = TrainLog(folder, silent=not self.is_main)
        self.log.cut(log_bytes)
        self._saved = time.monotonic()

    def seed(self, *numbers: int) -> int:
        """A seed of this run, this process, and these numbers: the same one whenever it is asked for."""
        return random.Random(f"{self.config.seed}/{self.rank}/{numbers}").getrandbits(31)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 where the configuration wants it. torch's cache of cast weights is one for all threads: not used."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bf16, cache_enabled=False)

    def batch(self, data: SampleSet, indices: Sequence[int]) -> Batch:
        """Some samples, on the model's device."""
        return make_batch(data, indices, self.lm.chat.pad_id).to(self.device)

    def enter(self, stage: str) -> None:
        """Begin a stage, and keep that."""
        self.progress = Progress(stage)
        self.save()

    def add_time(self, begin: float) -> None:
        """Count the seconds since `begin` (of time.monotonic): those of the slowest process."""
        self.progress.seconds += largest(self.accelerator, time.monotonic() - begin)

    def save_when_due(self) -> None:
        """A checkpoint, when the last one is old enough. Called after every step, by all processes."""
        waited = (time.monotonic() - self._saved) / 60.0
        if largest(self.accelerator, waited) >= self.config.checkpoint_minutes:
            self.save()

    def save(self) -> None:
        """Write the checkpoint; raises `UserError` when the disk is full, and then the old one stays."""
        states = gather_object([_random_state(self.device)])
        failure: list[str] = [""]
        if self.is_main:
            state = {
                "config": json.dumps(plain(self.config)),
                "model": self.lm.trainable_state(),
                "steppers": {name: stepper.state() for name, stepper in self.steppers.items()},
                "progress": asdict(self.progress),
                "random": states,
                "log_bytes": self.log.size,
            }
            try:
                save_checkpoint(self.folder / "checkpoint", state)
            except UserError as error:
                failure = [str(error)]
        if self.processes > 1:
            broadcast_object_list(failure)
        if failure[0]:
            raise UserError(failure[0])
        self._saved = time.monotonic()

    def _resume(self) -> int:
        """Take over the checkpoint, if there is one; returns the bytes of the log at that time."""
        try:
            state = load_checkpoint(self.folder / "checkpoint")
        except ValueError as error:
            raise UserError(str(error)) from error
        if state is None:
            return 0
        if "config" not in state:
            raise UserError(f"{self.folder} holds a checkpoint that is not of `smallplan train`; give another --folder")
        _check_config(self.folder, json.loads(state["config"]), self.config)
        if len(state["random"]) != self.processes:
            raise UserError(
                f"{self.folder}: the run was made by {len(state['random'])} processes, now there are {self.processes}; "
                "launch as many again, or give another --folder"
            )
        if set(state["steppers"]) != set(self.steppers):
            raise UserError(f"{self.folder} holds a run of another version; give another --folder")
        self.lm.load_trainable_state(state["model"])
        for name, stepper in self.steppers.items():
            stepper.restore(state["steppers"][name])
        self.progress = Progress(**state["progress"])
        _set_random_state(state["random"][self.rank], self.device)
        self.resumed = True
        logger.info("%s: goes on in stage %s after step %d", self.folder, self.progress.stage, self.progress.step)
        return int(state["log_bytes"])


def _check_config(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    """Raise `UserError` when a run would go on with another configuration than it began with."""
    try:
        began = plain(build(TrainConfig, before))  # fields that are newer than the run have their defaults
    except ValueError as error:
        raise UserError(f"{folder} holds a run of another version ({error}); give another --folder") from error
    changed = [line for line in differences(began, plain(config)) if not line.startswith(_MAY_CHANGE)]
    if changed:
        raise UserError(
            f"{folder} holds a run with another configuration (there, now): {'; '.join(changed)}. Give the same "
            "configuration to go on, or another --folder to start anew"
        )


def _write_config(folder: Path, config: TrainConfig) -> None:
    """For people and reports; the checkpoint has its own."""
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain(config), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}; give another --folder") from error


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    return {
        "python": [version, list(words), gauss_next],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
