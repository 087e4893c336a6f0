"""Head and tail together are the model; what cannot be cut says which tensor stands in the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.core.spec import METADATA_KEY
from edgedeploy.export.samples import floats, text_model
from edgedeploy.export.split import SPLIT_KEY, split
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator

BODY = (
    "a = Conv(x, w) \n b = Relu(a) \n z = Sigmoid(a) \n s = Softmax<axis=1>(b) \n "
    "i = ArgMax<axis=1>(s) \n y = Cast<to=1>(i) \n v = ReduceMax(s, axes)"
)


@pytest.fixture
def model(rng: np.random.Generator) -> onnx.ModelProto:
    w = {"w": floats(rng, 4, 3, 3, 3), "axes": np.array([1])}
    made = text_model("float[n,3,h,k] x", "z, y, v", BODY, w)
    made.metadata_props.add(key="author", value="us")
    made.metadata_props.add(key=METADATA_KEY, value="{}")
    return made


@pytest.mark.parametrize("cut", [["b"], ["s"], ["i"]])
def test_the_tail_of_the_head_is_the_model(model: onnx.ModelProto, cut: list[str]) -> None:
    head, tail = split(model, cut)
    for part, role in ((head, "head"), (tail, "tail")):
        onnx.checker.check_model(part, full_check=True)
        assert {e.key: e.value for e in part.metadata_props} == {"author": "us", SPLIT_KEY: role}
    whole, first, second = Evaluator(model), Evaluator(head), Evaluator(tail)
    assert len(head.graph.node) + len(tail.graph.node) == len(model.graph.node)
    for feeds, expected in feed_sets(whole, 2):
        middle = first(feeds)
        answered = {**middle, **second({name: middle[name] for name in cut})}
        for name, value in expected.items():
            assert np.array_equal(answered[name], value), name


def test_constants_go_where_they_are_read(model: onnx.ModelProto) -> None:
    head, tail = split(model, ["b"])
    assert [tensor.name for tensor in head.graph.initializer] == ["w"]
    assert [tensor.name for tensor in tail.graph.initializer] == ["axes"]


def test_what_cannot_be_cut_says_why(model: onnx.ModelProto) -> None:
    with pytest.raises(UnknownNameError):
        split(model, ["nothing"])
    with pytest.raises(UsageError, match="nothing to split"):
        split(model, [])
    with pytest.raises(UsageError, match="reads 's' too"):
        split(_skipping(model), ["i"])
    with pytest.raises(UsageError, match="computed from another"):
        split(model, ["b", "s"])
    with pytest.raises(UsageError, match="is an output already"):
        split(model, ["z", "b"])


def _skipping(model: onnx.ModelProto) -> onnx.ModelProto:
    """y reads what stands before the cut as well."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    cast = next(node for node in changed.graph.node if node.op_type == "Cast")
    cast.output[0] = "f"
    changed.graph.node.insert(len(changed.graph.node), onnx.helper.make_node("Mul", ["f", "s"], ["y"]))
    return changed
