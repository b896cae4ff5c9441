"""Reads marks from within a model: a loss that says of each thing in a prompt what the teacher thinks of it.

What a linear map of the hidden states can tell of a thing is there for the later layers, which choose among the
things. The reader is no part of the model that is released.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from smallplan_training.teachers.marks import LABELS, OTHER

_FREQUENT = {OTHER: 0.1, "slight": 0.3, "hardly": 0.3}
"""Weights of the labels that most things have; the others' are 1."""


class MarkReader(nn.Module):
    """Hidden states to labels. B samples, T positions, D width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, len(LABELS))
        self.register_buffer("weights", torch.tensor([_FREQUENT.get(label, 1.0) for label in LABELS]), persistent=False)

    def weigh(self, marks: Tensor) -> Tensor:
        """The weights of marks (B, T), summed."""
        return self.get_buffer("weights")[marks[marks > 0].long() - 1].sum()

    def score(self, hidden: Tensor, marks: Tensor) -> tuple[int, int]:
        """(how many are read right, how many there are) of the marks (B, T) that are not of things beside the point."""
        counted = marks > 1 + LABELS.index(OTHER)
        labels = marks[counted].long() - 1
        return int((self._logits(hidden[counted]).argmax(-1) == labels).sum()), len(labels)

    def loss(self, hidden: Tensor, marks: Tensor) -> Tensor:
        """Cross entropy of marks (B, T) by hidden states (B, T, D), summed with the labels' weights."""
        marked = marks > 0
        labels = marks[marked].long() - 1
        return functional.cross_entropy(
            self._logits(hidden[marked]), labels, self.get_buffer("weights"), reduction="sum"
        )

    def _logits(self, states: Tensor) -> Tensor:
        states = states.float()
        return self.classify(functional.rms_norm(states, states.shape[-1:]))  # type: ignore[no-any-return]
