"""One optimiser's step over gradients that several forward passes and several processes have summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from smallplan_training.train_config import Steps

FLOOR = 0.02  # share of the learning rate that is left at a stage's end


class Stepper:
    """AdamW with the schedule of `Steps`. Gradients are summed over processes: losses are shares of the whole."""

    def __init__(self, parameters: Sequence[nn.Parameter], steps: Steps, accelerator: Accelerator) -> None:
        self._parameters, self._steps, self._accelerator = list(parameters), steps, accelerator
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=steps.learning_rate, betas=(0.9, 0.95), weight_decay=steps.weight_decay
        )
        self.taken = 0  # steps

    def learning_rate(self, progress: float) -> float:
        """At `progress` (0 to 1) of the stage."""
        steps = self._steps
        factor = min(1.0, (self.taken + 1) / max(1, steps.warm_up))
        left = 1.0 - progress
        if steps.decay and left < steps.decay:
            factor *= FLOOR + (1.0 - FLOOR) * left / steps.decay
        return steps.learning_rate * factor

    def step(self, progress: float) -> float:
        """Take a step along what the parameters' `grad` hold, and clear it; returns the gradient's norm."""
        self._sum_over_processes()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._steps.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return float(norm)

    def state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict(), "taken": self.taken}

    def restore(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        self.taken = state["taken"]

    def _sum_over_processes(self) -> None:
        """One reduction for all gradients; a process that had no part in some of them adds zeros."""
        if self._accelerator.num_processes == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        flat = total(self._accelerator, torch.cat([grad.float().flatten() for grad in grads]))
        begin = 0
        for parameter, grad in zip(self._parameters, grads, strict=True):
            part = flat[begin : begin + grad.numel()]
            parameter.grad = part.view_as(grad).to(grad.dtype)
            begin += grad.numel()


def total(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum over all processes, the same on each."""
    return accelerator.reduce(values, reduction="sum")


def largest(accelerator: Accelerator, value: float) -> float:
    """The largest of all processes' values."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.gather(torch.tensor([value], device=accelerator.device, dtype=torch.float64)).max())
