"""Stage 2's PPO: the turns of some rollouts as token batches, their credit, and the passes over them.

N turns of one process's rollouts; B of them in a batch, with A answer positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from smallplan_training.base_model import Scores
from smallplan_training.batch_rollout import Trajectory, Turn
from smallplan_training.ppo import PpoStats, TurnBatch, assign_credit, explained_variance, ppo_loss
from smallplan_training.token_batches import Batch, SampleSet, pack, plan_epoch
from smallplan_training.train_optim import largest, total
from smallplan_training.train_state import Run


@dataclass(frozen=True)
class _Rollout:
    """All that the passes need of N turns; row i of the lists is turn i."""

    data: SampleSet
    logprobs: list[Tensor]  # (A_i,) of the policy as it was
    reference: list[Tensor]  # (A_i,)
    values: Tensor  # (N,)
    advantages: Tensor  # (N,)
    returns: Tensor  # (N,)


def reinforce(run: Run, trajectories: Sequence[Trajectory], seed: int, progress: float) -> dict[str, float]:
    """PPO on some rollouts; returns the figures for the log. Every process takes as many steps as the others."""
    config, stepper, value_stepper = run.config.ppo, run.steppers["ppo"], run.steppers["value"]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    rollout = _measure(run, trajectories, turns) if turns else None
    stats: list[tuple[int, PpoStats]] = []
    norms: list[float] = []
    run.lm.train()
    for epoch in range(config.epochs):
        plan: list[list[int]] = []
        if rollout is not None:
            plan = plan_epoch(rollout.data.lengths, config.minibatch_tokens, seed, epoch)
        per_step = run.config.ppo_steps.accumulate
        steps = int(largest(run.accelerator, -(-len(plan) // per_step)))
        of_epoch: list[tuple[int, PpoStats]] = []
        for step in range(steps):
            parts = plan[step * per_step : (step + 1) * per_step]
            of_epoch += _accumulate(run, rollout, parts) if rollout is not None else _nothing(run)
            norms.append(stepper.step(progress))
            value_stepper.step(progress)
        stats += of_epoch
        moved = largest(run.accelerator, _mean(of_epoch).get("approx_kl", 0.0))
        if config.target_kl and moved > config.target_kl:
            break
    figures = {**_mean(stats), "ppo_steps": float(len(norms)), "ppo_grad_norm": float(np.mean(norms)) if norms else 0.0}
    if rollout is not None:
        figures["explained_variance"] = explained_variance(rollout.values, rollout.returns)
        figures["value"] = float(rollout.values.mean())
    return figures


def _measure(run: Run, trajectories: Sequence[Trajectory], turns: Sequence[Turn]) -> _Rollout:
    """What the policy and the value head said when they answered, and what the reference says of these answers."""
    config = run.config.ppo
    parts = [np.asarray([*turn.completion.prompt_ids, *turn.completion.ids], dtype=np.int32) for turn in turns]
    data = pack(parts, [len(turn.completion.prompt_ids) for turn in turns])
    logprobs = [torch.tensor(turn.completion.logprobs) for turn in turns]
    reference = _reference(run, data) if config.kl_coef else logprobs
    rewards = [[turn.reward.total for turn in trajectory.turns] for trajectory in trajectories]
    values = [[turn.completion.value for turn in trajectory.turns] for trajectory in trajectories]
    credit = assign_credit(config, rewards, values)
    flat = torch.tensor([value for some in values for value in some])
    return _Rollout(data, logprobs, reference, flat, credit.advantages, credit.returns)


def _reference(run: Run, data: SampleSet) -> list[Tensor]:
    """Log-probabilities (A_i,) of each answer under the reference model."""
    made: list[Tensor] = [torch.empty(0)] * len(data)
    answers = data.lengths - data.prompts
    parts = _parts(run, plan_epoch(data.lengths, run.config.ppo.minibatch_tokens, 0, 0))

    def score(part: Sequence[int]) -> Tensor:
        with torch.no_grad():  # a thread's own
            return _score(run, run.batch(data, part), entropy=False).logprobs.float().cpu()

    run.lm.eval()
    with run.lm.reference():
        for part, logprobs in zip(parts, run.cores.map(score, parts), strict=True):
            for row, index in enumerate(part):
                made[index] = logprobs[row, : answers[index]]
    return made


def _accumulate(run: Run, rollout: _Rollout, parts: Sequence[Sequence[int]]) -> list[tuple[int, PpoStats]]:
    """Add the gradients of some batches, as shares of what all processes see in this step: (tokens, figures)."""
    lengths = rollout.data.lengths - rollout.data.prompts
    own = torch.tensor([sum(int(lengths[i]) for part in parts for i in part), sum(len(part) for part in parts)])
    tokens, turns = (int(value) for value in total(run.accelerator, own.to(run.device)))

    def loss(part: Sequence[int]) -> tuple[Tensor, tuple[int, PpoStats]]:
        batch = run.batch(rollout.data, part)
        known = _turn_batch(rollout, batch, part).to(run.device)
        answer = _score(run, batch)
        value, figures = ppo_loss(run.config.ppo, known, answer.logprobs, answer.values, answer.entropy, tokens, turns)
        return value, (known.tokens, figures)

    return list(run.cores.differentiate(loss, _parts(run, parts)))


def _parts(run: Run, plan: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Each batch's indices, shared out over the cores."""
    return [part.tolist() for batch in plan for part in np.array_split(batch, min(run.cores.count, len(batch)))]


def _nothing(run: Run) -> list[tuple[int, PpoStats]]:
    """This process has no turns; the others' sums include it."""
    total(run.accelerator, torch.zeros(2, dtype=torch.int64, device=run.device))
    return []


def _score(run: Run, batch: Batch, entropy: bool = True) -> Scores:
    with run.autocast():
        return run.lm(batch, entropy=entropy, temperature=run.config.rollouts.temperature)


def _turn_batch(rollout: _Rollout, batch: Batch, indices: Sequence[int]) -> TurnBatch:
    mask = batch.weights.cpu() > 0
    logprobs, reference = torch.zeros(mask.shape), torch.zeros(mask.shape)
    for row, index in enumerate(indices):
        logprobs[row, : len(rollout.logprobs[index])] = rollout.logprobs[index]
        reference[row, : len(rollout.reference[index])] = rollout.reference[index]
    rows = torch.tensor(list(indices))
    return TurnBatch(logprobs, reference, mask, rollout.values[rows], rollout.advantages[rows], rollout.returns[rows])


def _mean(stats: Sequence[tuple[int, PpoStats]]) -> Mapping[str, float]:
    """Means over tokens."""
    tokens = sum(count for count, _ in stats)
    names = [item.name for item in fields(PpoStats)]
    return {name: sum(n * getattr(s, name) for n, s in stats) / tokens for name in names} if tokens else {}
