"""A step's forward and backward passes, shared out over the cores of a CPU.

Each core takes a part of every batch, in a thread of its own with no more threads inside. They meet once a step, which
is faster than sharing every operation, and much faster where the cores are not free. Batches stay whole on a GPU, where
torch has one thread, and in a model with dropout, whose random numbers are drawn in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

_Part = TypeVar("_Part")
_Made = TypeVar("_Made")


class Cores:
    """Threads that take parts of a batch."""

    def __init__(self, model: nn.Module, device: torch.device, count: int = 0) -> None:
        """For the gradients of what is trainable in `model`, which is on `device`.

        `count` threads; 0: as many as torch would use for an operation.
        """
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        whole = device.type != "cpu" or any(_draws(module) for module in model.modules())
        self.count = 1 if whole else count or torch.get_num_threads()
        self._pool = (
            ThreadPoolExecutor(self.count, "smallplan-core", initializer=torch.set_num_threads, initargs=(1,))
            if self.count > 1
            else None
        )

    def map(self, work: Callable[[_Part], _Made], parts: Sequence[_Part]) -> Iterable[_Made]:
        """What `work` makes of each part, in their order. Contexts of torch (no_grad, autocast) are to be its own."""
        if self._pool is None or len(parts) < 2:
            return map(work, parts)
        return self._pool.map(work, parts)

    def differentiate(self, loss: Callable[[_Part], tuple[Tensor, _Made]], parts: Sequence[_Part]) -> Iterator[_Made]:
        """Add the gradients of the losses of all parts to the parameters' `grad`; yields what else `loss` gives.

        They are added in the parts' order, whichever is ready first: the sums have the same bits each time.
        """

        def gradients(part: _Part) -> tuple[_Made, tuple[Tensor | None, ...]]:
            value, made = loss(part)
            return made, torch.autograd.grad(value, self._parameters, allow_unused=True)

        for made, of_part in self.map(gradients, parts):
            for parameter, gradient in zip(self._parameters, of_part, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad.add_(gradient)
            yield made


def _draws(module: nn.Module) -> bool:
    """Whether it drops out while it is trained."""
    return float(module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)) > 0.0
