"""The ways of training that the paper compares, and ours of keeping people from the one that it warns of."""

from __future__ import annotations

STRATEGIES = {
    "sft": "stage 1 only: supervised on stored answers",
    "rl-sft": "stage 2 too: PPO on the simulator's feedback, SFT on the teacher's answers to the same prompts",
    "rl-sft+": "the same with twice the penalty on metres travelled",
    "rl": "stage 2 without its SFT; discouraged",
}
WHY_NOT_RL_ALONE = (
    "reinforcement alone is discouraged: without the teacher's answers the model drifts from the answer's format and "
    "from plans that make sense, towards whatever the last batch rewarded"
)
EFFICIENCY_PLUS = 2.0
"""By what rl-sft+ multiplies the penalty on metres: 0.3 to 0.6 in the paper (arXiv 2505.00831)."""
