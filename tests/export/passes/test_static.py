"""Sizes that a graph computes are made static only where they are provably that; and files from elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.match.sizes import Dim, dim
from edgedeploy.export.passes.convert_opset import OpsetOptions
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import load

IMAGE = "float[n,4,h,v] x"
W = {
    "w": floats(np.random.default_rng(0), 4, 4, 3, 3),
    "from0": np.array([0]),
    "to2": np.array([2]),
    "to1": np.array([1]),
    "far": np.array([9]),
    "two": np.array([2, 2]),
    "one": np.array([1, 1]),
    "half": np.array([1.5], np.float32),
    "rest": np.array([-1]),
}
HEAD = "s = Shape(x) \n b = Slice(s, from0, to2) \n e = Slice(s, to2, far) \n "
RESIZE = " \n r = Concat<axis=0>(b, m) \n y = Resize(x, , , r)"

TURNED = "t = Transpose<perm=[0,1,3,2]>(x) \n s = Shape(x) \n b = Slice(s, from0, to1) \n "
TURNED += "e = Slice(s, to2, far) \n r = Concat<axis=0>(b, rest, e) \n y = Reshape(t, r)"

LEFT_ALONE = [
    ("static-resize", f"{HEAD} m = Add(e, one) {RESIZE}", "not known"),
    ("static-resize", f"{HEAD} m = Div(e, two) {RESIZE}", "not known"),  # 7 / 2 * 2 is not 7
    (
        "static-resize",
        f"{HEAD} f = Cast<to=1>(e) \n k = Mul(f, half) \n m = Cast<to=7>(k) {RESIZE}",
        "neither",
    ),
    (
        "static-resize",
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) \n s = Shape(x) \n y = Resize(a, , , s)",
        "neither",
    ),
    ("static-reshape", TURNED, "are open"),
]


@pytest.mark.parametrize(("name", "body", "reason"), LEFT_ALONE)
def test_what_is_not_provable_stays_computed(name: str, body: str, reason: str) -> None:
    model = text_model(IMAGE, "y", body, W)
    applied = PASSES.get(name).apply(load(model))
    assert applied.hits == 0
    assert any(reason in skipped.reason for skipped in applied.skipped), applied.skipped


def test_a_size_is_followed_through_what_keeps_it() -> None:
    body = (
        "a = Conv<pads=[1,1,1,1]>(x, w) \n b = Relu(a) \n c = Concat<axis=1>(b, b) \n "
        "d = DepthToSpace<blocksize=2>(c) \n "
        "f = MaxPool<kernel_shape=[3,3], strides=[1,2], pads=[1,1,1,1]>(d) \n y = Tanh(f)"
    )
    tensors = load(text_model(IMAGE, "y", body, W)).tensors()
    assert dim(tensors["c"], 2) == Dim("h")
    assert dim(tensors["d"], 3) == Dim("v", 2)
    assert dim(tensors["y"], 2) == Dim("h", 2)
    assert dim(tensors["y"], 3) not in (Dim("v"), Dim("v", 2))  # a stride rounds
    assert dim(tensors["c"], 1) == 8


def test_a_whole_multiple_stays_one_at_every_size() -> None:
    """The resized branch is again followed: 2 x (2 x h) is 4 x h."""
    times = "m = Mul(e, two) \n r = Concat<axis=0>(b, m) \n "
    again = "s2 = Shape(a) \n b2 = Slice(s2, from0, to2) \n e2 = Slice(s2, to2, far) \n m2 = Mul(e2, two) \n "
    body = (
        f"{HEAD} {times} a = Resize(x, , , r) \n {again} r2 = Concat<axis=0>(b2, m2) \n y = Resize(a, , , r2)"
    )
    result = optimize(text_model(IMAGE, "y", body, W))
    assert [node.op_type for node in result.model.graph.node] == ["Resize", "Resize"]


# Files made by others, and the fewest nodes that any simplifier measured beside leaves of them.
FOREIGN = [("ppocrv3_det_DBNet.onnx", 170), ("ch_ppocr_mobile_v2.0_cls_infer.onnx", 179)]


@pytest.mark.parametrize(("file", "most"), FOREIGN)
def test_foreign_networks_come_down_to_fewer_nodes_than_elsewhere(file: str, most: int, shared: Path) -> None:
    path = shared / "data" / "models" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    result = optimize(onnx.load(path), seeds=1)
    assert not result.reverted
    assert len(result.model.graph.node) <= most


def test_raising_the_opset_lets_a_later_operator_be_written() -> None:
    body = "s = HardSigmoid<alpha=0.16666667>(x) \n m = Mul(x, s) \n "
    body += "c = Clip<min=0.0, max=6.0>(m) \n y = Tanh(c)"
    model = text_model(IMAGE, "y", body, {}, opset=9)
    passes = ["convert-opset", "fold-constants", "fuse-hardswish"]
    result = optimize(model, passes, options={"convert-opset": OpsetOptions(17)})
    assert not result.reverted
    assert result.model.opset_import[0].version == 17
    assert Counter(n.op_type for n in result.model.graph.node) == {"HardSwish": 1, "Clip": 1, "Tanh": 1}
    low = optimize(model, ["fuse-hardswish"])
    assert not low.steps
    assert "opset 14" in low.skipped[0][1].reason


def test_an_opset_that_cannot_be_raised_is_left_with_the_reason() -> None:
    model = text_model(IMAGE, "y", "y = Tanh(x)", {}, opset=20)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Gelu", "com.microsoft"
    graph = load(model)
    applied = PASSES.get("convert-opset").apply(graph, OpsetOptions(21))
    assert applied.hits == 0
    assert "other domains" in applied.skipped[0].reason
    assert PASSES.get("convert-opset").apply(graph, OpsetOptions(13)).hits == 0
