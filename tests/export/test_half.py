"""Why float16 outputs are granted a last bit: ONNX Runtime rounds nothing between operators, passes do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgedeploy.core.parity import HALF_LIMIT
from edgedeploy.export.match.keep_float32 import fits_float16
from edgedeploy.export.prove.proof import output_difference
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.run import Evaluator

FACTORS = {"c": np.float16(1.7), "d": np.float16(0.3), "e": np.float16(3.1)}


def test_a_row_of_operators_is_rounded_once_at_its_end(rng: np.random.Generator) -> None:
    """Should this fail, ONNX Runtime has float16 kernels for Mul, and HALF_LIMIT may be tightened."""
    x = rng.standard_normal(1000).astype(np.float16)
    model = text_model("float16[1000] x", "y", "a = Mul(x, c) \n b = Mul(a, d) \n y = Mul(b, e)", FACTORS)
    y = Evaluator(model)({"x": x})["y"]
    every = x * FACTORS["c"] * FACTORS["d"] * FACTORS["e"]
    wide = [np.float32(factor) for factor in FACTORS.values()]
    once = (x.astype(np.float32) * wide[0] * wide[1] * wide[2]).astype(np.float16)
    assert np.array_equal(y, once)
    assert np.mean(y == every) < 0.9


def test_folding_a_constant_moves_the_last_bit_there_and_nothing_by_the_letter(
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal(1000).astype(np.float16)
    model = text_model("float16[1000] x", "y", "a = Sqrt(c) \n y = Mul(x, a)", {"c": FACTORS["c"]})
    result = optimize(model, ["fold-constants"])
    assert [step.name for step in result.steps] == ["fold-constants"]
    assert [node.op_type for node in result.model.graph.node] == ["Mul"]
    error = output_difference(Evaluator(model)({"x": x}), Evaluator(result.model)({"x": x})).max_rel
    assert 1e-4 < error <= HALF_LIMIT
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, result.model))
    assert np.array_equal(before, after)


def test_more_than_a_last_bit_is_not_granted(rng: np.random.Generator) -> None:
    from edgedeploy.export.graph_pass import GraphPass
    from edgedeploy.graphs.surgeon import Graph, Node, constant

    def off(graph: Graph, node: Node) -> int:
        if node.inputs[1].values == np.float16(1.7):
            node.inputs[1] = constant(graph, "off", np.asarray(1.7 * 1.004), np.float16)
            return 1
        return 0

    lying = GraphPass(off, "lying", 1e-6, lambda _: [], ("Mul",))
    model: onnx.ModelProto = text_model("float16[1000] x", "y", "y = Mul(x, c)", {"c": FACTORS["c"]})
    result = optimize(model, [lying])
    assert [offence.name for offence in result.offences] == ["lying"]


@pytest.mark.parametrize(
    ("values", "fits"),
    [([], True), ([0, 0], True), ([65504, 1e-9], True), ([-65600], False), ([1e-12], False)],
)
def test_float16_fits_constants_that_neither_overflow_nor_vanish(values: list[float], fits: bool) -> None:
    assert fits_float16(np.array(values)) is fits
