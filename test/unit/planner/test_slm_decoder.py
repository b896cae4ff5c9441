"""Drafts from what stood in the text before."""

from __future__ import annotations

import pytest

from smallplan_planner.slm_decoder import find_draft


@pytest.mark.parametrize(
    ("text", "longest", "draft"),
    [
        ([1, 2, 3, 4, 1, 2], 4, [3, 4, 1, 2]),
        ([1, 2, 3, 4, 1, 2], 1, [3]),
        ([1, 2, 3, 1, 2, 9, 1, 2], 1, [9]),  # the latest place counts
        ([7, 7, 7], 4, [7]),
        ([1, 2, 3, 4], 4, []),
        ([2, 1, 2], 4, []),  # one token in common is not enough
        ([1, 2], 4, []),
        ([], 4, []),
        ([1, 2, 3, 1, 2], 0, []),
    ],
)
def test_a_draft_is_what_followed_the_last_two_tokens(text: list[int], longest: int, draft: list[int]) -> None:
    assert find_draft(text, longest) == draft
