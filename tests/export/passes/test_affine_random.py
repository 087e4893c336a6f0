"""Whatever the graph: what moving and folding scales and shifts leaves computes the same, with no proof run.

EDGEDEPLOY_MANY=1 runs thousands of graphs instead of some hundred.
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.export.samples import floats, text_model
from tests.support.random_graphs import MIXED, Step, build, error_of

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


def test_a_part_does_not_say_what_the_whole_is(rng: np.random.Generator) -> None:
    """The shift of what a Gather takes, and nobody to take it: random graphs found that it was lost."""
    constants = {"i": np.array([1, 0]), "k": floats(rng, 1, 2, 1, 1)}
    for start in ("g = Gather<axis=1>(x, i)", "c = Identity(x) \n g, h = Split<axis=1, num_outputs=2>(c)"):
        body = f"{start} \n y = Add(g, k)"
        assert error_of(text_model("float[1,4,4,4] x", "y", body, constants)) == (0.0, 0)
