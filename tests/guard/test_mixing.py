"""The search for a mix: how many layers go to float, and which candidates are timed."""

from __future__ import annotations

import pytest

from edgedeploy.guard.mixing import bisect


@pytest.mark.parametrize(
    ("needed", "first", "too_few", "tried", "found"),
    [
        (5, 5, 0, [5, 2, 3, 4], True),  # the proposal holds: fewer are tried
        (5, 2, 0, [2, 4, 8, 6], True),  # it does not: twice as many, then between
        (99, 4, 0, [4, 8, 10], False),  # none does, and no more than there are layers are tried
        (3, 3, 2, [3], True),  # fewer are known to be too few
        (2, 20, 0, [10, 5, 2, 1], True),
    ],
)
def test_the_fewest_layers_that_keep_the_budget(
    needed: int, first: int, too_few: int, tried: list[int], found: bool
) -> None:
    seen: list[int] = []

    def keeps(count: int) -> bool:
        seen.append(count)
        return count >= needed

    assert bisect(keeps, first, too_few, most=10, rounds=4) is found
    assert seen == tried
