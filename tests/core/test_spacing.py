"""A few of many, evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.core.spacing import evenly


@given(st.integers(0, 400), st.integers(0, 90))
def test_indices_are_in_order_and_their_gaps_differ_by_one_at_most(count: int, wanted: int) -> None:
    chosen = evenly(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert chosen[:1] == ([0] if chosen else [])
    gaps = {b - a for a, b in zip(chosen, [*chosen[1:], count], strict=False) if chosen}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
