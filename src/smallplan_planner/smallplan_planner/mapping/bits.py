"""Masks as large integers: to shift or join all of their cells costs little more than to do so with two numbers.

That is for what takes many such steps, like the growth of a region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BitMasks:
    """Masks of one shape (H, W) as integers: one bit a cell, row by row, each row followed by an empty margin.

    A shift may move cells into the margin, by so many columns at most, or out of the first or the last row.
    """

    shape: tuple[int, int]
    margin: int = 1

    def pack(self, mask: NDArray[np.bool_]) -> int:
        rows = np.zeros((self.shape[0], self._stride), dtype=bool)
        rows[:, : self.shape[1]] = mask
        return int.from_bytes(np.packbits(rows, bitorder="little").tobytes(), "little")

    def unpack(self, bits: int) -> NDArray[np.bool_]:
        count = self.shape[0] * self._stride
        packed = (bits & (1 << count) - 1).to_bytes((count + 7) // 8, "little")
        cells = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count, bitorder="little").view(bool)
        return cells.reshape(-1, self._stride)[:, : self.shape[1]]

    def shifted(self, bits: int, rows: int, cols: int) -> int:
        """The mask whose True cells lie so many rows and columns further."""
        places = rows * self._stride + cols
        return bits << places if places >= 0 else bits >> -places

    def grown(self, bits: int) -> int:
        """The True cells and their 4-neighbours, some of which may lie in the margin."""
        return bits | bits << 1 | bits >> 1 | bits << self._stride | bits >> self._stride

    @property
    def _stride(self) -> int:
        return self.shape[1] + self.margin
