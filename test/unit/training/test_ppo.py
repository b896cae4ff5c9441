from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch

from smallplan_training.ppo import (
    PpoConfig,
    TurnBatch,
    assign_credit,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    kl_k3,
    normalise,
    ppo_loss,
)

RAW = PpoConfig(normalise=False, gamma=0.9, lam=0.8)


def turn_batch(turns: int = 3, width: int = 4, seed: int = 0, **others: object) -> TurnBatch:
    """Random turns; the last one has an answer of two tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(turns, width, dtype=torch.bool)
    mask[-1, 2:] = False
    fields = {
        "logprobs": -torch.rand(turns, width, generator=generator) * mask,
        "reference": -torch.rand(turns, width, generator=generator) * mask,
        "mask": mask,
        "values": torch.randn(turns, generator=generator),
        "advantages": torch.randn(turns, generator=generator),
        "returns": torch.randn(turns, generator=generator),
    }
    return TurnBatch(**{**fields, **others})  # type: ignore[arg-type]


def test_step_credit_is_the_steps_own_reward() -> None:
    credit = assign_credit(PpoConfig(credit="step", normalise=False), [[1.0, 5.0], [-0.3]], [[0.5, 1.0], [0.0]])
    assert credit.advantages.tolist() == pytest.approx([0.5, 4.0, -0.3])
    assert credit.returns.tolist() == pytest.approx([1.0, 5.0, -0.3])


def test_gae_by_hand() -> None:
    rewards, values = [0.3, -0.3, 5.0], [1.0, 2.0, 3.0]
    last = 5.0 - 3.0
    middle = -0.3 + 0.9 * 3.0 - 2.0 + 0.72 * last
    first = 0.3 + 0.9 * 2.0 - 1.0 + 0.72 * middle
    credit = assign_credit(RAW, [rewards], [values])
    assert credit.advantages.tolist() == pytest.approx([first, middle, last])
    assert credit.returns.tolist() == pytest.approx([first + 1.0, middle + 2.0, 5.0])


def test_gae_does_not_leak_between_episodes() -> None:
    apart = [assign_credit(RAW, [r], [v]).advantages for r, v in (([1.0, 2.0], [0.1, 0.2]), ([3.0], [0.3]))]
    both = assign_credit(RAW, [[1.0, 2.0], [], [3.0]], [[0.1, 0.2], [], [0.3]]).advantages
    assert torch.equal(both, torch.cat(apart))


def test_with_lambda_1_and_no_values_gae_is_the_discounted_return() -> None:
    credit = assign_credit(PpoConfig(normalise=False, gamma=0.5, lam=1.0), [[1.0, 2.0, 4.0]], [[0.0] * 3])
    assert credit.returns.tolist() == pytest.approx([1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4])


def test_advantages_are_normalised_over_the_rollout() -> None:
    advantages = assign_credit(PpoConfig(credit="step"), [[1.0, 2.0], [6.0]], [[0.0, 0.0], [0.0]]).advantages
    assert float(advantages.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(advantages.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    assert normalise(torch.tensor([2.0])).tolist() == [2.0]
    assert normalise(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rewards", "values", "message"),
    [
        ([[1.0]], [[1.0], [2.0]], "rewards of 1 episodes and values of 2"),
        ([[1.0, 2.0]], [[1.0]], "episode 0: 2 rewards and 1 values"),
        ([[]], [[]], "no turn in 1 episodes"),
        ([[1.0], [math.nan]], [[0.0], [0.0]], "rewards of episode 1: 1 of 1 numbers are not finite"),
    ],
)
def test_turns_that_do_not_fit_are_refused(rewards: list, values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign_credit(RAW, rewards, values)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.0, 1.0, True), (1.3, 1.0, False), (0.7, 1.0, True), (0.7, -1.0, False), (1.3, -1.0, True)],
)
def test_a_clipped_ratio_has_no_gradient_where_it_went_far_enough(
    ratio: float, advantage: float, gradient: bool
) -> None:
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = clipped_policy_loss(log_ratio, torch.tensor([advantage]), 0.2)
    loss.sum().backward()
    assert (float(log_ratio.grad) != 0.0) == gradient
    assert float(loss.detach()) == pytest.approx(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))


def test_a_value_that_moved_far_is_clipped() -> None:
    old, returns = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 2.0])
    values = torch.tensor([0.2, 1.9], requires_grad=True)
    loss = clipped_value_loss(values, old, returns, 0.5)
    assert loss.tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 1.5**2])
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad[0] < 0 and values.grad[1] == 0
    assert clipped_value_loss(values, old, returns, 0.0).tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 0.1**2])


def test_k3_estimates_the_divergence() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.3, 0.5])
    draws = torch.multinomial(policy, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    estimate = kl_k3(policy.log()[draws], reference.log()[draws])
    assert float(estimate.min()) >= 0
    assert float(estimate.mean()) == pytest.approx(float((policy * (policy / reference).log()).sum()), abs=0.01)
    assert float(kl_k3(policy.log(), policy.log()).abs().max()) == 0.0


def test_the_policy_that_answered_has_a_ratio_of_one() -> None:
    batch = turn_batch()
    config = PpoConfig(kl_coef=0.0, value_coef=0.0)
    loss, stats = ppo_loss(config, batch, batch.logprobs, batch.values)
    expected = -(batch.advantages.unsqueeze(1) * batch.mask).sum() / batch.mask.sum()
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    assert stats.clip_fraction == 0.0 and stats.approx_kl == pytest.approx(0.0, abs=1e-7)


def test_padding_counts_for_nothing() -> None:
    batch = turn_batch()
    config = PpoConfig(entropy_coef=0.1)
    logprobs, entropy = batch.logprobs - 0.1, torch.ones_like(batch.logprobs)
    loss, stats = ppo_loss(config, batch, logprobs, batch.values + 0.1, entropy)
    hidden = ~batch.mask
    noisy = turn_batch(reference=batch.reference.masked_fill(hidden, 9.0))
    again, same = ppo_loss(
        config, noisy, logprobs.masked_fill(hidden, 7.0), batch.values + 0.1, entropy.masked_fill(hidden, 5.0)
    )
    assert float(again) == float(loss)
    assert same == stats


def test_parts_of_a_minibatch_add_up_to_the_whole() -> None:
    batch = turn_batch(turns=5)
    config = PpoConfig(entropy_coef=0.01)

    def gradient(parts: list[slice]) -> torch.Tensor:
        logprobs = (batch.logprobs - 0.3).requires_grad_()
        values = (batch.values + 0.2).requires_grad_()
        for part in parts:
            names = ("logprobs", "reference", "mask", "values", "advantages", "returns")
            piece = TurnBatch(*(getattr(batch, name)[part] for name in names))
            entropy = logprobs[part].square()
            loss, _ = ppo_loss(config, piece, logprobs[part], values[part], entropy, batch.tokens, batch.turns)
            loss.backward()
        assert logprobs.grad is not None and values.grad is not None
        return torch.cat((logprobs.grad.flatten(), values.grad))

    whole = gradient([slice(0, 5)])
    assert torch.allclose(gradient([slice(0, 2), slice(2, 5)]), whole, atol=1e-7)
    assert float(whole.abs().max()) > 0


def test_the_figures_tell_how_far_the_policy_went() -> None:
    batch = turn_batch()
    _, stats = ppo_loss(PpoConfig(), batch, batch.logprobs + math.log(1.5), batch.values)
    assert stats.clip_fraction == 1.0
    assert stats.approx_kl == pytest.approx(0.5 - math.log(1.5), abs=1e-5)


def test_shapes_and_nan_are_refused_with_what_was_received() -> None:
    batch = turn_batch()
    with pytest.raises(ValueError, match=r"reference is \(3, 5\) of float32; expected the shape \(3, 4\)"):
        turn_batch(reference=torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"returns is \(2,\) of float32; expected the shape \(3,\)"):
        turn_batch(returns=torch.zeros(2))
    with pytest.raises(ValueError, match=r"the mask is \(3, 4\) of float32"):
        turn_batch(mask=torch.ones(3, 4))
    with pytest.raises(ValueError, match="without a token"):
        turn_batch(mask=torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"advantages: 1 of 3 numbers are not finite, the first at \[1\] \(nan\)"):
        turn_batch(advantages=torch.tensor([0.0, math.nan, 1.0]))
    with pytest.raises(ValueError, match=r"logprobs is \(3, 3\)"):
        ppo_loss(PpoConfig(), batch, torch.zeros(3, 3), batch.values)
    with pytest.raises(ValueError, match="values: 3 of 3 numbers are not finite"):
        ppo_loss(PpoConfig(), batch, batch.logprobs, torch.full((3,), math.inf))
    with pytest.raises(ValueError, match="no entropy"):
        ppo_loss(PpoConfig(entropy_coef=0.1), batch, batch.logprobs, batch.values)


@pytest.mark.parametrize(
    ("field", "value"),
    [("credit", "episode"), ("clip", 0.0), ("gamma", 1.5), ("lam", -0.1), ("kl_coef", -1.0), ("epochs", 0)],
)
def test_a_configuration_with_wrong_values_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        PpoConfig(**{field: value})  # type: ignore[arg-type]


def test_explained_variance() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 1.0), returns) == 0.0
    assert math.isnan(explained_variance(returns, torch.ones(3)))
