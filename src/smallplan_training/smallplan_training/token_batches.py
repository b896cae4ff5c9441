"""Token ids of samples, on disk and in memory, and batches of like length that can be resumed anywhere.

A sample is a prompt and its answer; only the answer is scored (the prompt too, with a small weight, where asked).
B samples, T positions, A answer positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_POOL = 40  # batches whose samples are sorted by length together
_MULTIPLE = 8  # lengths are padded to a multiple of this


@dataclass(frozen=True)
class SampleSet:
    """Tokenised samples: sample i is `ids[starts[i]:starts[i + 1]]`, its first `prompts[i]` ids are the prompt."""

    ids: np.ndarray  # (total,) of an unsigned or signed integer type that holds the vocabulary
    starts: np.ndarray  # (samples + 1,) int64
    prompts: np.ndarray  # (samples,) int32
    marks: np.ndarray  # (total,) uint8: 1 + the label of what a prompt's token ends (`teachers/marks.py`), 0: none

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, ids=self.ids, starts=self.starts, prompts=self.prompts, marks=self.marks)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> SampleSet:
        with np.load(path) as data:
            marks = data["marks"] if "marks" in data else np.zeros(len(data["ids"]), dtype=np.uint8)  # older files
            return cls(data["ids"], data["starts"], data["prompts"], marks)

    def take(self, indices: np.ndarray) -> SampleSet:
        """The samples at `indices`, in that order."""
        parts = [slice(self.starts[i], self.starts[i + 1]) for i in indices]
        return pack([self.ids[part] for part in parts], self.prompts[indices], [self.marks[part] for part in parts])

    def split(self, held_out: int, seed: int) -> tuple[SampleSet, SampleSet]:
        """(the rest, `held_out` samples drawn at random)."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(order[held_out:]), self.take(order[:held_out])


def concatenate(sets: Sequence[SampleSet]) -> SampleSet:
    """All samples of several sets."""
    lengths = np.concatenate([part.lengths for part in sets])
    return SampleSet(
        ids=np.concatenate([part.ids for part in sets]),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        prompts=np.concatenate([part.prompts for part in sets]),
        marks=np.concatenate([part.marks for part in sets]),
    )


def pack(
    parts: Sequence[np.ndarray],
    prompts: Sequence[int] | np.ndarray,
    marks: Sequence[Sequence[int] | np.ndarray] | None = None,
) -> SampleSet:
    """A set of samples, each given as its ids; `prompts` says how many of them are the prompt.

    `marks` are those of the first ids of each sample; the rest have none.
    """
    starts = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    ids = np.concatenate(parts) if len(parts) else np.zeros(0, dtype=np.uint16)
    labels = np.zeros(len(ids), dtype=np.uint8)
    for start, of_sample in zip(starts[:-1], marks or ()):
        labels[start : start + len(of_sample)] = of_sample
    return SampleSet(ids, starts, np.asarray(prompts, dtype=np.int32), labels)


@dataclass(frozen=True)
class Batch:
    """Right-padded samples. Position `scored[b, a]` predicts `targets[b, a]`; `weights` is 0 on padding.

    `marks` are as in `SampleSet`.
    """

    ids: Tensor  # (B, T) int64
    scored: Tensor  # (B, A) int64
    targets: Tensor  # (B, A) int64
    weights: Tensor  # (B, A) float32
    marks: Tensor  # (B, T) uint8

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, column.name).to(device) for column in fields(self)))

    def split(self, count: int) -> list[Batch]:
        """The same samples in at most `count` batches, of as many samples each as it can be."""
        count = min(count, self.samples)
        columns = [getattr(self, column.name).tensor_split(count) for column in fields(self)]
        return [Batch(*parts) for parts in zip(*columns, strict=True)]

    @property
    def samples(self) -> int:
        return len(self.ids)


def make_batch(data: SampleSet, indices: Sequence[int], pad_id: int, prompt_weight: float = 0.0) -> Batch:
    """Batch of some samples. With a `prompt_weight` every position is scored, those of the prompt with that weight."""
    lengths = [int(data.starts[i + 1] - data.starts[i]) for i in indices]
    first = [0 if prompt_weight else int(data.prompts[i]) - 1 for i in indices]
    width = _round_up(max(lengths))
    scored_width = _round_up(max(length - 1 - begin for length, begin in zip(lengths, first, strict=True)))
    ids = np.full((len(indices), width), pad_id, dtype=np.int64)
    scored = np.zeros((len(indices), scored_width), dtype=np.int64)
    targets = np.full((len(indices), scored_width), pad_id, dtype=np.int64)
    weights = np.zeros((len(indices), scored_width), dtype=np.float32)
    marks = np.zeros((len(indices), width), dtype=np.uint8)
    for row, (index, length, begin) in enumerate(zip(indices, lengths, first, strict=True)):
        part = slice(data.starts[index], data.starts[index + 1])
        sample = data.ids[part]
        count = length - 1 - begin
        ids[row, :length] = sample
        marks[row, :length] = data.marks[part]
        scored[row, :count] = np.arange(begin, length - 1)
        targets[row, :count] = sample[begin + 1 :]
        weights[row, :count] = 1.0
        if prompt_weight:
            weights[row, : data.prompts[index] - 1] = prompt_weight
    return Batch(*(torch.from_numpy(array) for array in (ids, scored, targets, weights, marks)))


def plan_epoch(lengths: np.ndarray, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, as sample indices: like lengths together, otherwise random (by `seed`)."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pool = max(1, int(_POOL * batch_tokens / max(1.0, float(np.mean(lengths)))))
    batches: list[list[int]] = []
    for begin in range(0, len(order), pool):
        chunk = order[begin : begin + pool]
        batch: list[int] = []
        for index in chunk[np.argsort(lengths[chunk], kind="stable")]:
            if batch and (len(batch) + 1) * _round_up(int(lengths[index])) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(int(index))
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def padding_share(lengths: np.ndarray, plan: Sequence[Sequence[int]]) -> float:
    """The share of padding among the token positions of all batches of a plan."""
    used = sum(int(lengths[list(batch)].sum()) for batch in plan)
    held = sum(len(batch) * _round_up(int(lengths[list(batch)].max())) for batch in plan)
    return 1.0 - used / held if held else 0.0


class BatchStream:
    """Endless batches over a sample set; `state` is where it stands, and all that is needed to go on from there.

    With `shard` = (k, n) it is the k-th of n streams that share each epoch, all of one length: so that as many
    batches are in each, the first ones of an epoch are used once more where the number does not divide.
    """

    def __init__(
        self,
        data: SampleSet,
        batch_tokens: int,
        seed: int,
        pad_id: int,
        prompt_weight: float = 0.0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if not len(data):
            raise ValueError("a sample set without samples; expected at least one")
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard {shard[0]} of {shard[1]}; expected a number from 0 below the second")
        self._data, self._batch_tokens, self._seed = data, batch_tokens, seed
        self._pad_id, self._prompt_weight, self._shard = pad_id, prompt_weight, shard
        self.epoch, self._next = 0, 0
        self._plan = self._plan_epoch(0)

    def _plan_epoch(self, epoch: int) -> list[list[int]]:
        plan = plan_epoch(self._data.lengths, self._batch_tokens, self._seed, epoch)
        index, count = self._shard
        rounds = -(-len(plan) // count)
        return [plan[(step * count + index) % len(plan)] for step in range(rounds)]

    def __len__(self) -> int:
        """Batches of the present epoch."""
        return len(self._plan)

    @property
    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "next": self._next, "samples": len(self._data)}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a `state`; raises ValueError when it belongs to other data."""
        if state["samples"] != len(self._data):
            raise ValueError(f"the checkpoint is of {state['samples']} samples, the data has {len(self._data)}")
        self.epoch, self._next = state["epoch"], state["next"]
        self._plan = self._plan_epoch(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._next == len(self._plan):
            self.epoch, self._next = self.epoch + 1, 0
            self._plan = self._plan_epoch(self.epoch)
        self._next += 1
        return make_batch(self._data, self._plan[self._next - 1], self._pad_id, self._prompt_weight)


def _round_up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
