"""Whatever the graph: what moving and folding scales and shifts leaves computes the same, with no proof run.

EDGEDEPLOY_MANY=1 runs thousands of graphs instead of some hundred.
"""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_graphs import MIXED, Step, build, error_of

EXAMPLES = 4000 if os.environ.get("EDGEDEPLOY_MANY") == "1" else 300
RELATIVE = 1e-4  # float32, with scales that are taken back
STEPS = st.lists(
    st.tuples(
        st.integers(0, len(MIXED) - 1), st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 5)), st.integers(0, 15)
    ),
    min_size=3,
    max_size=16,
)


@given(seed=st.integers(0, 2**32 - 1), steps=STEPS, middle=st.sampled_from((0, 0, 1, 2, 3, 4)))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_random_graphs_compute_the_same(seed: int, steps: list[Step], middle: int) -> None:
    error, _ = error_of(build(seed, steps, middle=middle))
    assert error <= RELATIVE
