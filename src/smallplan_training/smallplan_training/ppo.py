"""Proximal policy optimisation for answers in several turns: tensors in, losses and figures out; no model, no I/O.

A turn is one prompt and one answer, with one reward and one value (the value head's, before answering); its
advantage is that of every token of the answer. Two ways of giving credit:

    "step"  a turn answers for its own step alone, as in the paper:   A_t = r_t - V_t,            return = r_t
    "gae"   for the rest of its episode (Schulman 2015, 1506.02438):  A_t = sum (gamma lam)^k d_t+k,
            d_t = r_t + gamma V_t+1 - V_t,                            return = A_t + V_t

Shapes: N turns of a whole rollout, B turns of a batch, A answer positions (padded on the right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CREDITS = ("step", "gae")
_EPSILON = 1e-8


@dataclass(frozen=True)
class PpoConfig:
    """What the losses are made of. Raises ValueError."""

    clip: float = 0.2  # of the ratio of probabilities, Schulman 2017 (1707.06347)
    value_clip: float = 0.5  # how far a value may move from the old one; 0 = not clipped
    gamma: float = 0.99  # discount for each turn, in "gae" only
    lam: float = 0.95  # GAE's trade of bias for variance
    kl_coef: float = 0.05  # weight of the KL divergence from the reference model
    value_coef: float = 0.1
    entropy_coef: float = 0.0
    epochs: int = 2  # passes over the turns of one rollout
    minibatch_tokens: int = 8192  # prompt and answer, padding included
    credit: str = "gae"  # one of CREDITS
    normalise: bool = True  # the advantages of a rollout to mean 0, deviation 1
    target_kl: float = 0.1  # of the policy from the one that answered, at which the passes end; 0 = never

    def __post_init__(self) -> None:
        if self.credit not in CREDITS:
            raise ValueError(f"credit is {self.credit!r}; expected one of {', '.join(CREDITS)}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip is {self.clip}; expected a number between 0 and 1")
        for name in ("value_clip", "kl_coef", "value_coef", "entropy_coef", "target_kl"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        for name in ("epochs", "minibatch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True)
class Credit:
    """What each of N turns is credited with."""

    advantages: Tensor  # (N,) float32, as they enter the loss
    returns: Tensor  # (N,) float32, what the value head should say


def step_credit(rewards: Tensor, values: Tensor) -> Credit:
    """Each turn answers for its own reward. rewards, values (T,)."""
    return Credit(rewards - values, rewards.clone())


def gae_credit(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Credit:
    """Each turn answers for the rest of its episode. rewards, values (T,) of one episode, which ends with them."""
    advantages = torch.zeros_like(rewards)
    running, next_value = torch.zeros_like(rewards[0]), torch.zeros_like(rewards[0])
    for turn in range(len(rewards) - 1, -1, -1):
        running = rewards[turn] + gamma * next_value - values[turn] + gamma * lam * running
        advantages[turn], next_value = running, values[turn]
    return Credit(advantages, advantages + values)


def assign_credit(config: PpoConfig, rewards: Sequence[Sequence[float]], values: Sequence[Sequence[float]]) -> Credit:
    """The credit of all turns of some episodes, in order; N is the number of turns of all episodes.

    `rewards[e][t]` and `values[e][t]` are of turn t of episode e. Episodes without a turn are passed over.
    Raises ValueError when the two do not have the same turns, there are none, or a number is not finite.
    """
    if len(rewards) != len(values):
        raise ValueError(f"rewards of {len(rewards)} episodes and values of {len(values)}; expected as many")
    credits = []
    for index, (episode_rewards, episode_values) in enumerate(zip(rewards, values, strict=True)):
        if len(episode_rewards) != len(episode_values):
            raise ValueError(
                f"episode {index}: {len(episode_rewards)} rewards and {len(episode_values)} values; expected as many"
            )
        if not len(episode_rewards):
            continue
        r = torch.tensor(episode_rewards, dtype=torch.float32)
        v = torch.tensor(episode_values, dtype=torch.float32)
        check_finite(**{f"rewards of episode {index}": r, f"values of episode {index}": v})
        credits.append(step_credit(r, v) if config.credit == "step" else gae_credit(r, v, config.gamma, config.lam))
    if not credits:
        raise ValueError(f"no turn in {len(rewards)} episodes; expected at least one")
    advantages = torch.cat([credit.advantages for credit in credits])
    returns = torch.cat([credit.returns for credit in credits])
    return Credit(normalise(advantages) if config.normalise else advantages, returns)


def normalise(advantages: Tensor) -> Tensor:
    """(N,) to mean 0 and deviation 1; equal ones become 0, and a single one stays as it is."""
    if len(advantages) < 2:
        return advantages
    centred = advantages - advantages.mean()
    return centred / (centred.std(correction=0) + _EPSILON)


@dataclass(frozen=True)
class TurnBatch:
    """What is known of B turns from the rollout. Raises ValueError for shapes that do not fit, and for NaN."""

    logprobs: Tensor  # (B, A) of the policy that answered
    reference: Tensor  # (B, A) of the reference model (adapters off)
    mask: Tensor  # (B, A) bool, False on padding
    values: Tensor  # (B,) the value head's at the rollout
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,)

    def __post_init__(self) -> None:
        if self.mask.dim() != 2 or self.mask.dtype != torch.bool:
            raise ValueError(f"the mask is {_describe(self.mask)}; expected (B, A) of bool")
        turns = self.mask.shape[0]
        check_shapes(self.mask.shape, logprobs=self.logprobs, reference=self.reference)
        check_shapes(torch.Size((turns,)), values=self.values, advantages=self.advantages, returns=self.returns)
        if not bool(self.mask.any(dim=1).all()):
            raise ValueError("a turn without a token of its answer; expected at least the end token")
        check_finite(
            logprobs=self.logprobs[self.mask],
            reference=self.reference[self.mask],
            values=self.values,
            advantages=self.advantages,
            returns=self.returns,
        )

    def to(self, device: torch.device | str) -> TurnBatch:
        names = ("logprobs", "reference", "mask", "values", "advantages", "returns")
        return TurnBatch(*(getattr(self, name).to(device) for name in names))

    @property
    def turns(self) -> int:
        return len(self.values)

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


@dataclass(frozen=True)
class PpoStats:
    """What a batch's losses were, before their weights; means over tokens (value_loss: over turns)."""

    loss: float
    policy_loss: float
    value_loss: float
    kl: float  # from the reference
    entropy: float
    clip_fraction: float  # share of tokens whose ratio is outside the clip range
    approx_kl: float  # from the policy that answered; what target_kl is compared with


def ppo_loss(
    config: PpoConfig,
    batch: TurnBatch,
    logprobs: Tensor,
    values: Tensor,
    entropy: Tensor | None = None,
    tokens: int | None = None,
    turns: int | None = None,
) -> tuple[Tensor, PpoStats]:
    """The loss of a batch under the policy as it is now, and its figures.

    logprobs (B, A), values (B,), entropy (B, A; None only when entropy_coef is 0) carry gradients. `tokens` and
    `turns` are those of the whole minibatch of which this batch is a part: the sum of the parts' gradients is then
    that of the whole (gradient accumulation). Raises ValueError for wrong shapes and for NaN.
    """
    check_shapes(batch.mask.shape, logprobs=logprobs)
    check_shapes(batch.values.shape, values=values)
    check_finite(logprobs=logprobs[batch.mask], values=values)
    if entropy is not None:
        check_shapes(batch.mask.shape, entropy=entropy)
    elif config.entropy_coef:
        raise ValueError(f"no entropy, though entropy_coef is {config.entropy_coef}; expected (B, A)")
    n_tokens, n_turns = batch.tokens, batch.turns
    token_share = n_tokens / (tokens or n_tokens)
    turn_share = n_turns / (turns or n_turns)

    new, old = logprobs[batch.mask].float(), batch.logprobs[batch.mask].float()
    advantages = batch.advantages.unsqueeze(1).expand_as(batch.mask)[batch.mask]
    log_ratio = new - old
    policy = clipped_policy_loss(log_ratio, advantages, config.clip).mean()
    kl = kl_k3(new, batch.reference[batch.mask].float()).mean()
    value = clipped_value_loss(values.float(), batch.values, batch.returns, config.value_clip).mean()
    spread = torch.zeros_like(policy) if entropy is None else entropy[batch.mask].float().mean()
    loss = token_share * (policy + config.kl_coef * kl - config.entropy_coef * spread)
    loss = loss + turn_share * config.value_coef * value
    with torch.no_grad():
        ratio = log_ratio.exp()
        stats = PpoStats(
            loss=float(loss.detach()),
            policy_loss=float(policy.detach()),
            value_loss=float(value.detach()),
            kl=float(kl.detach()),
            entropy=float(spread.detach()),
            clip_fraction=float(((ratio - 1).abs() > config.clip).float().mean()),
            approx_kl=float((ratio - 1 - log_ratio).mean()),
        )
    return loss, stats


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """-min(ratio * A, clip(ratio) * A) for each token; Schulman 2017 (1707.06347), equation 7."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, value_clip: float) -> Tensor:
    """Half the squared error for each turn, the larger of that of the value and of the value near the old one."""
    error = (values - returns).square()
    if value_clip:
        near = old + (values - old).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * error


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """KL(policy || reference) for each token that the policy drew: r - 1 - log r, r = reference / policy.

    The estimator k3 of Schulman, "Approximating KL Divergence" (2020): unbiased, and never below 0.
    """
    log_ratio = reference - logprobs
    return log_ratio.exp() - 1 - log_ratio


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(returns - values) / var(returns) over (N,): 1 = all of it, 0 = none of it, NaN = nothing to explain."""
    check_shapes(returns.shape, values=values)
    variance = float(returns.var(correction=0))
    return float("nan") if variance == 0 else 1.0 - float((returns - values).var(correction=0)) / variance


def check_shapes(expected: torch.Size, **tensors: Tensor) -> None:
    """Raise ValueError, with what was received, unless all tensors have this shape."""
    for name, tensor in tensors.items():
        if tensor.shape != expected:
            raise ValueError(f"{name} is {_describe(tensor)}; expected the shape {tuple(expected)}")


class NotFinite(ValueError):
    """Training has diverged; the message says where, and what to do."""


def check_finite(**tensors: Tensor) -> None:
    """Raise `NotFinite`, with how many and where, when a number is NaN or infinite."""
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            first = bad.nonzero()[0].tolist()
            raise NotFinite(
                f"{name}: {int(bad.sum())} of {tensor.numel()} numbers are not finite, the first at {first} "
                f"({float(tensor[tuple(first)])}); expected finite numbers: lower the learning rate, or go on from an "
                "earlier checkpoint"
            )


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}".replace("torch.", "")
