"""Nodes that are kept in float by name: the placement leaves them, their reasons are told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from edgedeploy.calibration import Range, load_rules, place, quantize, wanted
from tests.support.qdq_nets import RULES, Net, run


def residual() -> onnx.ModelProto:
    """x - a - b - Add(a, b) - c: a chain with a skip around b."""
    net = Net(1, 16, 8, 8)
    a = net.conv("a", "x", 16, 16)
    b = net.conv("b", a, 16, 16)
    total = net.op("Add", "sum", b, a)
    net.conv("c", total, 16, 16)
    return net.model("c")


@pytest.mark.parametrize("rules", ["tensorrt", "openvino", "onnxruntime"])
def test_what_is_named_stays_float_and_says_why(rules: str) -> None:
    chosen = load_rules(rules).with_options(first=True, last=True, small_channels=False)
    kept = {"b": "it costs too much", "sum": "it is measured to be slow"}
    model = residual()
    ranges = {name: Range(-64, 64) for name in wanted(model, chosen)}
    placed, report = place(model, ranges, chosen, kept)
    # ONNX Runtime's placement quantizes outputs too: what is kept may be fed such, but is not itself in INT8.
    weights = {node.name: node.input[1] for node in placed.graph.node if node.op_type == "Conv"}
    assert weights == {"a": "a_w_dequantized", "b": "b_w", "c": "c_w_dequantized"}
    assert "sum" not in {note.node for note in report.quantized}
    assert {note.node: note.reason for note in report.excluded}["b"] == "it costs too much"
    (y,), (expected,) = (run(m, np.ones((1, 16, 8, 8), np.float32), "c") for m in (placed, model))
    assert np.abs(y - expected).max() < 0.2 * np.abs(expected).max()


def test_an_unnamed_node_is_kept_by_operator_and_position() -> None:
    model = residual()
    for node in model.graph.node:
        node.name = ""
    ranges = {name: Range(-4, 4) for name in wanted(model, RULES)}
    _, report = place(model, ranges, RULES, {"Conv_1": "so"})
    assert ("Conv_1", "so") in {(note.node, note.reason) for note in report.excluded}


def test_quantize_asks_no_range_of_what_is_kept() -> None:
    model = residual()

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)}

    result = quantize(model, feeds, method="minmax", rules=RULES, keep_float={"c": "so"})
    assert "sum" not in result.ranges
    assert {note.node for note in result.report.placement.quantized} >= {"a", "b"}
