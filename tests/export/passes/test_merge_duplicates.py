"""Subgraphs that compute the same are computed once, whichever way round sums and products are written."""

from __future__ import annotations

import numpy as np
import pytest

from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import text_model

W = {"w": np.full((3, 3, 1, 1), 0.2, np.float32), "v": np.full((3, 3, 1, 1), 0.2, np.float32)}
TWICE = (
    "a = Tanh(x) \n b = Sin(x) \n c = {op}(a, b) \n d = Mul(c, a) \n "
    "e = Sin(x) \n f = Tanh(x) \n g = {op}({pair}) \n k = Mul(f, g) \n y = Concat<axis=1>(d, k)"
)


@pytest.mark.parametrize(
    ("op", "pair", "nodes"),
    [
        ("Add", "e, f", 5),
        ("Add", "f, e", 5),
        ("Mul", "e, f", 5),
        ("Sub", "f, e", 5),
        ("Sub", "e, f", 7),  # a - b is not b - a
        ("Div", "e, f", 7),
    ],
)
def test_whole_subgraphs_are_merged(op: str, pair: str, nodes: int) -> None:
    model = text_model("float[1,3,4,4] x", "y", TWICE.format(op=op, pair=pair), W)
    result = optimize(model, ["merge-duplicates"])
    assert not result.reverted
    assert len(result.model.graph.node) == nodes
