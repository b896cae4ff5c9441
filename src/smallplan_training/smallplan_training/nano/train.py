"""Train a model on a sample set: supervised, from nothing or from given weights, on CPU or CUDA.

A run lives in a folder: `checkpoint/` (weights, optimiser, position in the data, random state), `log.jsonl` (one
line a logged step) and, when it has ended, nothing more: what becomes of the weights is the caller's business.
A run that is started again in its folder goes on where its checkpoint stands, on a CPU to the same bits.

On a CPU a step is shared by workers, each with a part of the batch (`train_cores.py`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from smallplan_training.checkpoint import load_checkpoint, save_checkpoint
from smallplan_training.nano.mark_reader import MarkReader
from smallplan_training.nano.model import NanoModel
from smallplan_training.token_batches import Batch, BatchStream, SampleSet, make_batch, plan_epoch
from smallplan_training.train_cores import Cores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. It ends after `steps` or `minutes`, whichever comes first; the learning rate knows both.

    The learning rate warms up, stays, and falls to a twentieth over the last `decay` of the run (so that a run can
    be prolonged from before its decay). Raises ValueError on values out of range.
    """

    steps: int = 1_000_000
    minutes: float = 0.0  # of training, summed over resumptions; 0: no limit
    batch_tokens: int = 16384  # of one step, padded
    learning_rate: float = 2e-3
    warm_up: int = 100  # steps
    decay: float = 0.3  # share of the run
    weight_decay: float = 0.05
    clip: float = 1.0
    prompt_weight: float = 0.0  # of the prompt's tokens in the loss, beside 1 for the answer's
    mark_weight: float = 0.0  # of the loss of the marks (`mark_reader.py`), beside 1 for the answers'
    mark_layer: int = -2  # before which layer marks are read: two are left, to choose among what is known
    seed: int = 0
    workers: int = 0  # threads that share a step on a CPU; 0: one for each core. The result depends on it.
    device: str = "auto"
    log_every: int = 20  # steps
    validate_every: int = 400  # steps
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.minutes < 0 or self.batch_tokens < 64 or self.warm_up < 0:
            raise ValueError(f"steps >= 1, minutes >= 0, batch_tokens >= 64, warm_up >= 0 are expected, got {self}")
        if self.mark_weight < 0:
            raise ValueError(f"mark_weight >= 0 is expected, got {self}")
        if not 0 < self.learning_rate < 1 or not 0 <= self.decay <= 1 or not 0 <= self.prompt_weight <= 1:
            raise ValueError(f"learning_rate in (0, 1), decay and prompt_weight in [0, 1] are expected, got {self}")


def choose_device(name: str) -> torch.device:
    """The device that `auto` means here, or the one of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Trainer:
    """A run: `train()` until its end. `model` is changed in place and stays in float32."""

    def __init__(
        self,
        model: NanoModel,
        data: SampleSet,
        held_out: SampleSet,
        folder: Path,
        config: TrainConfig,
        pad_id: int,
        command_id: int,
    ) -> None:
        """`command_id` is the token behind which an answer's command stands."""
        torch.manual_seed(config.seed)
        self.config, self.folder = config, folder
        self.device = choose_device(config.device)
        self.model = model.to(self.device)
        self._held_out, self._pad_id, self._command_id = held_out, pad_id, command_id
        if not -len(model.blocks) <= config.mark_layer < len(model.blocks):
            raise ValueError(f"mark_layer is {config.mark_layer}, and the model has {len(model.blocks)} layers")
        self._mark_layer = config.mark_layer % len(model.blocks)
        self.reader = MarkReader(model.config.width).to(self.device)
        self._parameters = [*model.parameters(), *self.reader.parameters()]
        trained = nn.ModuleList([model, self.reader])
        self._cores = Cores(trained, self.device, config.workers or len(os.sched_getaffinity(0)))
        share = config.batch_tokens // self._cores.count
        self.stream = BatchStream(data, share, config.seed, pad_id, config.prompt_weight)
        matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name]
        others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embedding" in name]
        others += self.reader.parameters()
        # Muon (Jordan et al., 2024) learns faster from the same samples; embeddings and norms are not for it
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.step = 0
        self.samples = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        by_time = self.seconds / 60.0 / self.config.minutes if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def learning_rate(self) -> float:
        config = self.config
        factor = min(1.0, (self.step + 1) / max(1, config.warm_up))
        left = 1.0 - self.progress
        if config.decay and left < config.decay:
            factor *= 0.05 + 0.95 * left / config.decay
        return config.learning_rate * factor

    def train(self, until_step: int | None = None) -> None:
        """Train to the end of the run (or, for tests, until a step), with checkpoints."""
        bar = tqdm(total=1000, initial=int(1000 * self.progress), desc=self.folder.name, unit="‰", dynamic_ncols=True)
        threads = torch.get_num_threads()
        if self._cores.count > 1:
            torch.set_num_threads(1)
        try:
            self._run(until_step, bar)
        finally:
            torch.set_num_threads(threads)
            bar.close()
        if len(self._held_out):
            self._log(**self.validate())
        self.save()

    def _run(self, until_step: int | None, bar: tqdm) -> None:
        last_checkpoint = time.monotonic()
        window: list[tuple[float, float]] = []
        tokens, window_begin = 0, time.monotonic()
        while self.progress < 1.0 and (until_step is None or self.step < until_step):
            begin = time.monotonic()
            batches = [next(self.stream).to(self.device) for _ in range(self._cores.count)]
            loss, mark_loss, norm = self._update(batches)
            self.seconds += time.monotonic() - begin
            window.append((loss, mark_loss))
            tokens += sum(batch.ids.numel() for batch in batches)
            if self.step % self.config.log_every == 0:
                elapsed = time.monotonic() - window_begin
                mean, marks = np.mean(window, axis=0).tolist()
                rates = {"lr": self.learning_rate(), "tokens_per_s": round(tokens / elapsed)}
                self._log(loss=mean, mark_loss=marks, grad_norm=norm, **rates)
                bar.set_postfix(step=self.step, loss=f"{mean:.4f}", tokens_s=round(tokens / elapsed))
                window, tokens, window_begin = [], 0, time.monotonic()
            if len(self._held_out) and self.step % self.config.validate_every == 0:
                self._log(**self.validate())
                window_begin = time.monotonic()
            if time.monotonic() - last_checkpoint > 60.0 * self.config.checkpoint_minutes:
                self.save()
                last_checkpoint = time.monotonic()
            bar.update(int(1000 * self.progress) - bar.n)

    def validate(self) -> dict[str, float]:
        """On the held-out samples: loss, share of answer tokens guessed right, of commands guessed right as a whole,
        of marks read right (those of the most frequent kind left out)."""
        self.model.eval()
        total = right = scored = commands = 0.0
        read = np.zeros(2)
        for indices in plan_epoch(self._held_out.lengths, self.config.batch_tokens, 0, 0):
            batch = make_batch(self._held_out, indices, self._pad_id).to(self.device)
            with torch.no_grad():
                logits, hidden = self._forward(batch)
            read += self.reader.score(hidden, batch.marks)
            total += float(_weighted_loss(logits, batch))
            hit = logits.argmax(-1) == batch.targets
            counted = batch.weights > 0
            right += float((hit & counted).sum())
            scored += float(counted.sum())
            behind = (batch.targets == self._command_id).cumsum(1) > 0
            commands += float((hit | ~behind | ~counted).all(1).sum())
        self.model.train()
        return {
            "val_loss": total / max(1.0, scored),
            "val_token_accuracy": right / max(1.0, scored),
            "val_command_accuracy": commands / len(self._held_out),
            "val_mark_accuracy": float(read[0] / max(1.0, read[1])),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        random_state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state()
        save_checkpoint(
            self.folder / "checkpoint",
            {
                "model": self.model.state_dict(),
                "reader": self.reader.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "stream": self.stream.state,
                "step": self.step,
                "samples": self.samples,
                "seconds": self.seconds,
                "random": random_state,
            },
        )

    def _resume(self) -> None:
        state = load_checkpoint(self.folder / "checkpoint")
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.reader.load_state_dict(state["reader"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stream.restore(state["stream"])
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"])
        logger.info("%s: resumed at step %d", self.folder, self.step)

    def _update(self, batches: list[Batch]) -> tuple[float, float, float]:
        """One optimiser step on the batches of all workers: (mean loss of a token, of a mark, norm of the gradient)."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
        tokens = sum(batch.weights.sum() for batch in batches)
        marks = sum(self.reader.weigh(batch.marks) for batch in batches).clamp(min=1e-6)
        losses = list(self._cores.differentiate(lambda batch: self._losses(batch, tokens, marks), batches))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.samples += sum(batch.samples for batch in batches)
        return sum(float(loss) for loss, _ in losses), sum(float(loss) for _, loss in losses), float(norm)

    def _losses(self, batch: Batch, tokens: Tensor, marks: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(what is learnt from, (loss of the answers, of the marks)) of one worker's batch.

        `tokens` and `marks` are the weights of those of all workers together.
        """
        logits, hidden = self._forward(batch)
        loss = _weighted_loss(logits, batch) / tokens
        mark_loss = self.reader.loss(hidden, batch.marks) / marks
        return loss + self.config.mark_weight * mark_loss, (loss.detach(), mark_loss.detach())

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits of the scored positions, hidden states from which marks are read)."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return self.model.forward_through(batch.ids, batch.scored, self._mark_layer)

    def _log(self, **values: Any) -> None:
        rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}
        line = {"step": self.step, "samples": self.samples, "minutes": round(self.seconds / 60.0, 2), **rounded}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy summed over the scored tokens, each with its weight."""
    losses = functional.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum()
