"""The supervised parts of a run: stage 1 on stored answers, and stage 2's step on the teacher's answers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smallplan_training.sft import SftStats, answer_tokens, sft_loss
from smallplan_training.token_batches import Batch, BatchStream, SampleSet
from smallplan_training.train_data import stored_samples
from smallplan_training.train_optim import Stepper, largest, total
from smallplan_training.train_state import Run


def few_shot(run: Run) -> None:
    """Stage 1, from where the run stands to its end."""
    config, progress = run.config.few_shot, run.progress
    if not config.epochs:
        return
    data = stored_samples(config.samples, config.limit, run.config.seed, run.lm.chat, run.max_tokens)
    stream = _stream(run, data, config.batch_tokens, run.config.seed)
    stream.restore({"epoch": progress.epoch, "next": progress.batches, "samples": len(data)})
    bar = tqdm(desc="stage 1", unit="step", initial=progress.step, disable=not run.is_main, dynamic_ncols=True)
    bar.total = _steps(run, stream)
    try:
        while progress.epoch < config.epochs:
            begin = time.monotonic()
            left = len(stream) - stream.state["next"]
            batches = [next(stream) for _ in range(min(config.steps.accumulate, left))]
            done = (progress.epoch + 1.0 - left / len(stream)) / config.epochs
            figures = supervise(run, batches, run.steppers["few_shot"], done)
            if stream.state["next"] == len(stream):
                progress.epoch, progress.batches = progress.epoch + 1, 0
                stream.restore({"epoch": progress.epoch, "next": 0, "samples": len(data)})
            else:
                progress.batches = stream.state["next"]
            progress.step += 1
            bar.total = _steps(run, stream)
            progress.samples += sum(batch.samples for batch in batches)
            run.add_time(begin)
            seconds = max(1e-9, time.monotonic() - begin)
            figures["samples_per_s"] = run.processes * sum(batch.samples for batch in batches) / seconds
            run.log.write("few_shot", progress.step, {"epoch": progress.epoch, **figures})
            bar.set_postfix(loss=f"{figures['loss']:.4f}", epoch=progress.epoch)
            bar.update()
            run.save_when_due()
    finally:
        bar.close()


def distill(run: Run, data: SampleSet | None, seed: int, progress: float) -> dict[str, float]:
    """One pass over some samples; returns means over its steps. Every process takes as many steps as the others.

    None: this process has no samples, and adds nothing to the others' steps.
    """
    config, stepper = run.config.distill, run.steppers["distill"]
    stream = BatchStream(data, config.batch_tokens, seed, run.lm.chat.pad_id) if data is not None else None
    own = 0 if stream is None else -(-len(stream) // config.steps.accumulate)
    steps = int(largest(run.accelerator, own))
    figures: list[dict[str, float]] = []
    for step in range(steps):
        left = 0 if stream is None else len(stream) - stream.state["next"]
        batches = [next(stream) for _ in range(min(config.steps.accumulate, left))] if stream is not None else []
        made = supervise(run, batches, stepper, progress)
        if step < own:
            figures.append(made)
    means = {name: float(np.mean([item[name] for item in figures])) for name in figures[0]} if figures else {}
    return {**means, "steps": float(steps), "samples": float(0 if data is None else len(data))}


def supervise(run: Run, batches: Sequence[Batch], stepper: Stepper, progress: float) -> dict[str, float]:
    """One optimiser step on some batches of this process and those of the others; figures of this process's."""
    run.lm.train()
    own = torch.tensor(sum(answer_tokens(batch) for batch in batches), device=run.device)
    tokens = int(total(run.accelerator, own))
    parts = [part for batch in batches for part in batch.split(run.cores.count)]

    def loss(part: Batch) -> tuple[Tensor, SftStats]:
        with run.autocast():
            return sft_loss(run.lm, part.to(run.device), tokens)

    stats = list(run.cores.differentiate(loss, parts))
    rate = stepper.learning_rate(progress)
    norm = stepper.step(progress)
    count = max(1, sum(item.tokens for item in stats))
    return {
        "loss": sum(item.loss * item.tokens for item in stats) / count,
        "accuracy": sum(item.accuracy * item.tokens for item in stats) / count,
        "grad_norm": norm,
        "lr": rate,
    }


def _steps(run: Run, stream: BatchStream) -> int:
    """Of the whole stage, as far as it can be told: epochs differ by a few batches."""
    config, progress = run.config.few_shot, run.progress
    of_epoch = -(-len(stream) // config.steps.accumulate)
    left = -(-(len(stream) - stream.state["next"]) // config.steps.accumulate)
    return progress.step + left + max(0, config.epochs - progress.epoch - 1) * of_epoch


def _stream(run: Run, data: SampleSet, batch_tokens: int, seed: int) -> BatchStream:
    return BatchStream(data, batch_tokens, seed, run.lm.chat.pad_id, shard=(run.rank, run.processes))
