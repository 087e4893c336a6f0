"""What passes must leave alone, with the reason they give: each of these would change the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.surgeon import dump, kept_names, load

IMAGE = "float[1,4,h,v] x"
W = {
    "w": np.full((4, 4, 3, 3), 0.1, np.float32),
    "s": np.full(4, 2, np.float32),
    "c": np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1),
    "z": np.zeros(1, np.float32),
    "k": np.float32(2),
    "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "crop": np.array([0, 0, -1, 0, 0, 0, 1, 0]),
    "deep": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    "mixed": np.array([1, -1, 1, 1], np.float32).reshape(4, 1, 1),
    "tiny": np.array([1, 1e-6, 1, 1], np.float32).reshape(4, 1, 1),
    "one": np.float32(1),
    "wide": np.ones((1, 4, 1, 1), np.float32),
}
NORM = "BatchNormalization({}, s, s, s, s)"
COUNTED = "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)"
POOL = "AveragePool<kernel_shape=[3,3]{}>(a)"

SKIPS = [
    ("fold-batchnorm", f"a = {NORM.format('x')} \n y = Conv<pads=[1,1,1,1]>(a, w)", "pads with zeros"),
    ("fold-batchnorm", f'a = {NORM.format("x")} \n y = Conv<auto_pad="SAME_UPPER">(a, w)', "pads with zeros"),
    ("fold-batchnorm", f"a = {NORM.format('x')} \n y = ConvTranspose(a, w)", "ConvTranspose"),
    ("fold-batchnorm", f"a = {NORM.format('x')} \n b = Conv(a, w) \n y = Add(b, a)", "2 readers"),
    ("fold-batchnorm", f"a = {NORM.format('x')} \n y = Relu(a)", "beside no convolution"),
    ("fold-batchnorm", f"v = Relu(w) \n a = Conv(x, v) \n y = {NORM.format('a')}", "not constant"),
    ("fold-mul-add", "a = Add(x, c) \n y = Conv<pads=[1,1,1,1]>(a, w)", "pads with zeros"),
    ("fold-mul-add", "a = Conv(x, w) \n y = Mul(a, x)", "neither operand is a constant"),
    ("fold-mul-add", "a = Conv(x, w) \n y = Div(k, a)", "divides by the tensor"),
    ("fold-mul-add", "a = Conv(x, w) \n y = Div(a, z)", "divides by 0"),
    (
        "fold-mul-add",
        "a = Conv(x, w) \n b = Relu(a) \n y = Mul(b, k)",
        "beside no convolution",
    ),
    (
        "propagate-affine",
        f"a = {NORM.format('x')} \n b = Identity(a) \n y = Conv<pads=[1,1,1,1]>(b, w)",
        "Conv 'Conv_2' pads with zeros",
    ),
    (
        "propagate-affine",
        f"a = Conv(x, w) \n b = Relu(a) \n y = {NORM.format('b')}",
        "Relu 'Relu_1' does not pass",
    ),
    (
        "propagate-affine",
        f"a = Conv(x, w) \n b = Softmax(a) \n y = {NORM.format('b')}",
        "Softmax 'Softmax_1' does not commute",
    ),
    (
        "propagate-affine",
        f"a = Conv(x, w) \n b = {COUNTED} \n y = {NORM.format('b')}",
        "AveragePool 'AveragePool_1' does not pass a shift",
    ),
    (
        "propagate-affine",
        f"a = Conv(x, w) \n b = Pad(a, p) \n y = {NORM.format('b')}",
        "Pad 'Pad_1' does not pass a shift",
    ),
    (
        "propagate-affine",
        f"a = Conv(x, w) \n b = Identity(a) \n d = {NORM.format('b')} \n y = Mul(d, a)",
        "Mul",
    ),
    (
        "propagate-affine",
        "a = Tanh(x) \n b = Mul(a, mixed) \n d = Relu(b) \n y = Conv(d, w)",
        "negative scale",
    ),
    (
        "propagate-affine",
        "a = Conv(x, w) \n b = Mul(a, tiny) \n d = Tanh(b) \n e = Conv(a, w) \n y = Concat<axis=2>(d, e)",
        "without loss",
    ),
    ("fold-pad", 'a = Pad<mode="reflect">(x, p) \n y = Conv(a, w)', "mode reflect"),
    ("fold-pad", "a = Pad(x, p, k) \n y = Conv(a, w)", "other than 0"),
    ("fold-pad", "a = Pad(x, crop) \n y = Conv(a, w)", "crops"),
    ("fold-pad", "a = Pad(x, p) \n y = Relu(a)", "no padding of its own"),
    ("fold-pad", 'a = Pad(x, p) \n y = Conv<auto_pad="SAME_LOWER">(a, w)', "auto_pad"),
    ("fold-pad", f"a = Pad(x, p) \n y = {POOL.format(', ceil_mode=1')}", "rounds its size up"),
    ("fold-pad", f"a = Pad(x, p) \n y = {POOL.format(', pads=[1,1,1,1]')}", "not its own"),
    ("fold-pad", "a = Pad(x, p) \n y = MaxPool<kernel_shape=[3,3]>(a)", "below the padding's 0"),
    ("fold-pad", "a = Pad(x, p) \n y = AveragePool<kernel_shape=[2,1]>(a)", "padding alone"),
    ("drop-identity", "y = Identity(x)", "would share the tensor"),
]


@pytest.mark.parametrize(("name", "body", "reason"), SKIPS)
def test_a_reason_is_given_and_nothing_changes(name: str, body: str, reason: str) -> None:
    model = text_model(IMAGE, "y", body, W)
    graph = load(model)
    applied = PASSES.get(name).apply(graph)
    assert applied.hits == 0
    assert any(reason in skipped.reason for skipped in applied.skipped), applied.skipped
    assert [node.op_type for node in dump(graph).graph.node] == [node.op_type for node in model.graph.node]


SILENT: list[tuple[str, str, str, dict[str, NDArray[Any]]]] = [
    ("drop-identity", IMAGE, "a = Relu(x) \n y = Cast<to=10>(a)", W),
    ("drop-identity", IMAGE, "a = Relu(x) \n y = Clip(a, z0)", {"z0": np.float32(1)}),
    ("drop-identity", IMAGE, "a = Relu(x) \n y = Transpose<perm=[0,1,3,2]>(a)", {}),
    ("drop-identity", IMAGE, "a = Tanh(x) \n y = Relu(a)", {}),
    ("merge-duplicates", IMAGE, "a = Selu<alpha=1.0>(x) \n b = Selu<alpha=2.0>(x) \n y = Add(a, b)", {}),
    ("merge-duplicates", IMAGE, "a = Conv(x, w) \n y = Conv(a, v)", {"w": W["w"], "v": W["w"]}),
    ("fold-constants", IMAGE, "q = QuantizeLinear(w, k) \n b = DequantizeLinear(q, k) \n y = Conv(x, b)", W),
    ("fold-constants", IMAGE, "a = RandomNormal<shape=[4,1,1]>() \n y = Add(x, a)", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "body", "weights"), SILENT)
def test_what_only_looks_foldable_stays(
    name: str, inputs: str, body: str, weights: dict[str, NDArray[Any]]
) -> None:
    graph = load(text_model(inputs, "y", body, weights))
    assert PASSES.get(name).apply(graph).hits == 0


def test_a_factor_that_widens_the_tensor_stays() -> None:
    model = text_model("float[1,1,h,v] x", "y", "a = Tanh(x) \n y = Mul(a, wide)", W)
    applied = PASSES.get("drop-neutral").apply(load(model))
    assert applied.hits == 0
    assert "larger shape" in applied.skipped[0].reason


def test_a_mask_that_is_read_keeps_its_dropout() -> None:
    model = text_model(IMAGE, "y, m", "a = Tanh(x) \n y, m = Dropout(a)", {})
    assert PASSES.get("drop-identity").apply(load(model)).hits == 0


def test_an_expanded_constant_is_not_stored() -> None:
    body = "a = Expand(one, big) \n y = Add(x, a)"
    weights = {"one": np.float32(1), "big": np.array([1, 4, 512, 512])}
    assert PASSES.get("fold-constants").apply(load(text_model(IMAGE, "y", body, weights))).hits == 0


def test_float16_leaves_values_it_cannot_hold_in_float32() -> None:
    body = "a = Mul(x, huge) \n b = Div(a, huge) \n c = Add(b, tiny) \n y = Div(b, c)"
    model = text_model(IMAGE, "y", body, {"huge": np.float32(1e6), "tiny": np.float32(1e-9)})
    graph = load(model)
    assert PASSES.get("to-fp16").apply(graph).hits == 1
    casts = [node for node in dump(graph).graph.node if node.op_type == "Cast"]
    assert len(casts) == 3
    halves = [t for t in dump(graph).graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert halves == []


def test_names_that_bodies_mention_are_kept() -> None:
    """The graph library does not link a body's output to the outer tensor that it names."""
    model = text_model(
        "float[2] x, bool flag",
        "y",
        "a = Relu(x) \n b = Neg(x) \n y = If(flag) <then_branch = t () => (float[2] p) { p = Tanh(a) }, "
        "else_branch = f () => (float[2] q) { q = Neg(b) }>",
        {},
    )
    branch = next(
        attribute.g for attribute in model.graph.node[-1].attribute if attribute.name == "else_branch"
    )
    del branch.node[:]
    branch.output[0].name = "b"
    assert {"y", "a", "b"} <= kept_names(load(model))


def test_float16_keeps_squares_that_overflow_it_in_float32() -> None:
    """300 is a float16 and so is its root mean square; 300 * 300 = 90000 is not."""
    rms = "q = Mul(a, a) \n m = ReduceMean(q, axes) \n r = Sqrt(m) \n d = Div(a, r) \n y = Relu(d)"
    weights = {"loud": np.float32(300), "axes": np.array([1])}
    result = optimize(text_model(IMAGE, "y", f"a = Mul(x, loud) \n {rms}", weights), ["to-fp16"])
    assert not result.reverted
    assert result.steps[0].hits == 2


@pytest.mark.parametrize("zero", ["", ", zero"])
def test_signs_share_no_quantizer_of_another_scale(zero: str) -> None:
    """One with scale 0.5 would halve the codes, and one without a zero point is uint8."""
    w = {
        "i": np.array([[1], [-1], [0], [1]], np.int8),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "zero": np.int8(0),
    }
    body = "w = DequantizeLinear(i, one, zero) \n s = Sign(x) \n y = MatMul(s, w) \n "
    body += f"q = QuantizeLinear(s, half{zero}) \n z = DequantizeLinear(q, half{zero})"
    result = optimize(text_model("float[2,4] x", "y, z", body, w, opset=19), ["quantize-signs"])
    assert [(step.hits, step.reason) for step in result.steps] == [(1, "")]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("static-resize", "s = Shape(c) \n r = Mul(s, twice) \n y = Resize(x, , , r)"),
        ("fold-border", "p = Pad(c, pads) \n q = ScatterND(p, place, value) \n y = Reshape(q, seven)"),
    ],
)
def test_a_convolution_whose_weight_has_no_known_shape(name: str, body: str) -> None:
    w = {
        "w": np.ones((4, 4, 1, 1), np.float32),
        "b": np.ones(4, np.float32),
        "twice": np.array([1, 1, 2, 2]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "place": np.zeros((1, 1), np.int64),
        "value": np.ones((1, 4, 7, 7), np.float32),
        "seven": np.array([1, 4, 7, 7]),
    }
    model = text_model(
        "float[1,4,5,5] x, int64[4] shape", "y", f"v = Reshape(w, shape) \n c = Conv(x, v, b) \n {body}", w
    )
    del model.graph.value_info[:]
    float32 = onnx.TensorProto.FLOAT
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("c", float32, [1, 4, "h", "v"]))
    applied = PASSES.get(name).apply(load(model))
    assert applied.hits == 0
    assert all(skipped.reason for skipped in applied.skipped)
