"""4-bit weights: exact scaling, less error by looking at activations, and runtimes that take the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgedeploy.calibration.weight_only import LEVELS, rounded, weight_only
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.parity import compare
from tests.support.qdq_nets import Net, run


def mlp(transposed: bool = False) -> onnx.ModelProto:
    """Norm, two products with an activation between; few channels are large, as in transformers."""
    shape = (6, 64) if transposed else (1, 6, 64)
    net = Net(*shape)
    net.op("LayerNormalization", "n", "x", net.constant("g", 64), net.constant("s", 64), axis=-1)
    net.weights["g"] = np.where(np.arange(64) % 16 == 3, 20, 1).astype(np.float32)
    if transposed:
        net.op("Gemm", "h", "n", net.constant("w1", 128, 64), net.constant("b1", 128), transB=1)
    else:
        net.op("Add", "h", net.op("MatMul", "m", "n", net.constant("w1", 64, 128)), net.constant("b1", 128))
    net.op("MatMul", "y", net.op("Gelu", "a", "h"), net.constant("w2", 128, 64))
    return net.model("y")


def inputs(model: onnx.ModelProto, count: int = 6) -> list[dict[str, np.ndarray]]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(2)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("block", [32, 64])
def test_codes_are_four_bits_with_a_scale_for_each_block(transposed: bool, block: int) -> None:
    model = mlp(transposed)
    data = inputs(model)
    result = weight_only(model, lambda: data, block=block)
    onnx.checker.check_model(result.model, full_check=True)
    codes = [t for t in result.model.graph.initializer if t.data_type == TensorProto.INT4]
    assert len(codes) == len(result.layers) == 2
    assert all(len(t.raw_data) * 2 == np.prod(t.dims) for t in codes)
    assert not {"w1", "w2"} & {t.name for t in result.model.graph.initializer}
    x = data[0]["x"]
    assert compare(run(model, x)[0], run(result.model, x)[0]).sqnr_db > 14


def test_activation_aware_scales_lower_the_error() -> None:
    """Weights that meet large activations count more: theory says rounding them finer pays."""
    model = mlp()
    data = inputs(model, 12)
    plain = weight_only(model, lambda: data, alphas=(0,))
    aware = weight_only(model, lambda: data)
    assert (plain.scaled, aware.scaled) == (0, 1)
    wanted = [run(model, feeds["x"], "h")[0] for feeds in inputs(model, 3)]
    noise = []
    for result in (plain, aware):
        found = [run(result.model, feeds["x"], "h")[0] for feeds in inputs(model, 3)]
        noise.append(np.mean([compare(y, x).sqnr_db for y, x in zip(wanted, found, strict=True)]))
    assert noise[1] > noise[0] + 1.5


def test_rounding_is_within_a_step_and_clips_where_that_pays(rng: np.random.Generator) -> None:
    w = rng.standard_normal((64, 5))
    codes, scale = rounded(w, 32)
    assert codes.min() >= -LEVELS
    assert codes.max() <= LEVELS
    assert scale.shape == (2, 5)
    peak = np.abs(w.reshape(2, 32, 5)).max(axis=1)
    assert (scale <= peak / LEVELS * 1.0001).all()
    assert (scale < peak / LEVELS * 0.99).any()
    error = codes * np.repeat(scale, 32, axis=0) - w
    plain = np.repeat(peak / LEVELS, 32, axis=0)
    assert (error**2).sum() < ((np.rint(w / plain) * plain - w) ** 2).sum()


def test_what_does_not_qualify_is_named() -> None:
    net = Net(4, 48)
    net.op("MatMul", "y", "x", net.constant("w", 48, 96))
    model = net.model("y")
    with pytest.raises(CalibrationError, match="no matrix product qualifies"):
        weight_only(model, lambda: inputs(model))
    with pytest.raises(CalibrationError, match="32, 64 or 128"):
        weight_only(model, lambda: inputs(model), block=16)


@pytest.mark.parametrize("transposed", [False, True])
def test_openvino_and_onnxruntime_run_it_and_tensorrt_rtx_reads_it(transposed: bool, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = mlp(transposed)
    data = inputs(model)
    result = weight_only(model, lambda: data).model
    x = data[0]["x"]
    exact = run(result, x)[0]
    session = onnxruntime.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    assert compare(exact, np.asarray(session.run(None, {"x": x})[0])).sqnr_db > 30
    path = tmp_path / "int4.onnx"
    onnx.save(result, path)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert compare(exact, compiled([x])[0]).sqnr_db > 30
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(result.SerializeToString())


def test_weights_that_a_second_node_reads_are_kept_for_it() -> None:
    net = Net(4, 64)
    net.op("MatMul", "h", "x", net.constant("w", 64, 64))
    net.op("Mul", "y", "h", net.op("ReduceSum", "z", "w", keepdims=0))
    model = net.model("y")
    result = weight_only(model, lambda: inputs(model)).model
    kept = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer if t.data_type == 1}
    assert "w" in kept
