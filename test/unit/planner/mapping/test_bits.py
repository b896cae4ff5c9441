from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from smallplan_planner.mapping.bits import BitMasks

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(masks, st.integers(0, 3))
def test_a_mask_is_itself_after_packing(mask: np.ndarray, margin: int) -> None:
    bits = BitMasks((mask.shape[0], mask.shape[1]), margin)
    assert np.array_equal(bits.unpack(bits.pack(mask)), mask)


@given(masks)
def test_growth_is_to_the_four_neighbours(mask: np.ndarray) -> None:
    bits = BitMasks((mask.shape[0], mask.shape[1]))
    assert np.array_equal(bits.unpack(bits.grown(bits.pack(mask))), ndimage.binary_dilation(mask))


@pytest.mark.parametrize(
    ("rows", "cols", "expected"),
    [
        (0, 2, [[0, 0, 1], [0, 0, 0]]),
        (0, -2, [[0, 0, 0], [1, 0, 0]]),
        (1, 0, [[0, 0, 0], [1, 0, 0]]),
        (-1, -1, [[0, 1, 0], [0, 0, 0]]),
        (0, 0, [[1, 0, 0], [0, 0, 1]]),
        (5, 0, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_what_is_shifted_over_an_edge_is_gone(rows: int, cols: int, expected: list[list[int]]) -> None:
    bits = BitMasks((2, 3), margin=2)
    mask = np.array([[1, 0, 0], [0, 0, 1]], dtype=bool)
    assert np.array_equal(bits.unpack(bits.shifted(bits.pack(mask), rows, cols)), np.array(expected, dtype=bool))
