"""FP8: the table of values against ONNX's own, Q/DQ that runtimes take, and where it beats INT8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration import load_rules, quantize
from edgedeploy.calibration.place.fp8 import LARGEST, VALUES, decode, encode
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.parity import compare
from tests.support.qdq_nets import Net, feed, run

OPTIONS = {"first": True, "last": True, "small_channels": False, "corrections": {}}
RULES = load_rules("tensorrt").with_options(**OPTIONS)
FP8 = load_rules("tensorrt").with_options(**OPTIONS, number="fp8")


def test_codes_are_those_of_the_standard(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.standard_normal(4000) * 100, VALUES, -VALUES, (VALUES[1:] + VALUES[:-1]) / 2])
    tensor = TensorProto(
        name="t", data_type=TensorProto.FLOAT8E4M3FN, dims=x.shape, raw_data=encode(x).tobytes()
    )
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float64), decode(encode(x)))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["q"], to=TensorProto.FLOAT8E4M3FN),
             helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        ),
        opset_imports=[helper.make_opsetid("", 19)], ir_version=9,
    )  # fmt: skip
    single = x.astype(np.float32)
    np.testing.assert_array_equal(run(model, single)[0], decode(encode(single)))
    assert VALUES[-1] == LARGEST
    assert decode(encode(np.array([1e9, -1e9]))).tolist() == [LARGEST, -LARGEST]


def net(outlier: float) -> onnx.ModelProto:
    made = Net(1, 16, 8, 8)
    made.op("Relu", "r", made.conv("a", "x", 16, 16))
    made.conv("y", "r", 16, 16)
    made.weights["a_w"][3] *= outlier
    return made.model("y")


def test_outliers_cost_less_than_in_int8_and_nodes_are_the_same() -> None:
    """One channel 300 times the others: of int8's levels the rest gets none, of FP8's exponents all."""
    model = net(300.0)
    model.graph.initializer[[i.name for i in model.graph.initializer].index("y_w")].CopyFrom(
        numpy_helper.from_array(_without(model, 3), "y_w")
    )
    data = [{"x": feed(model)}]
    int8, fp8 = (quantize(model, lambda: data, method="minmax", rules=rules).model for rules in (RULES, FP8))
    onnx.checker.check_model(fp8, full_check=True)
    assert [n.op_type for n in int8.graph.node] == [n.op_type for n in fp8.graph.node]
    kinds = {t.data_type for t in fp8.graph.initializer if t.name.endswith(("zero_point", "quantized"))}
    assert kinds == {TensorProto.FLOAT8E4M3FN}
    reference = run(model, data[0]["x"])[0]
    noise = [compare(reference, run(result, data[0]["x"])[0]).sqnr_db for result in (int8, fp8)]
    assert noise[1] > 22
    assert noise[1] > noise[0] + 6


def _without(model: onnx.ModelProto, channel: int) -> np.ndarray:
    """The second convolution's weight, that reads one channel 300 times less."""
    w = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "y_w").copy()
    w[:, channel] /= 300
    return w


def test_unsigned_rules_are_refused() -> None:
    model = net(1.0)
    data = [{"x": feed(model)}]
    rules = load_rules("openvino").with_options(**OPTIONS, number="fp8")
    with pytest.raises(CalibrationError, match="zero-point"):
        quantize(model, lambda: data, method="minmax", rules=rules)


@pytest.mark.parametrize(("capability", "accepted"), [("SM89", True), ("SM86", False)])
def test_tensorrt_rtx_builds_it_where_the_hardware_has_it(capability: str, accepted: bool) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    model = net(1.0)
    data = [{"x": feed(model)}]
    result = quantize(model, lambda: data, method="minmax", rules=FP8).model
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:  # noqa: ARG002
            messages.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(result.SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    engine = builder.build_serialized_network(network, config)
    assert (engine is not None) == accepted
    if not accepted:
        assert any("fp8" in message.lower() for message in messages)
