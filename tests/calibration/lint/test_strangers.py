"""Lint and fix on what other quantizers write: refused by TensorRT-RTX before, built and clean after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.calibration.lint import Finding, fix, lint, subject_named
from edgedeploy.calibration.lint.verify import run
from edgedeploy.core.parity import worst_difference
from tests.support.qdq_nets import Net, feed
from tests.support.runtimes import Refused, rtx_kernels
from tests.support.strangers import STATIC, quantize_static

# What each mode of quantize_static breaks for TensorRT, and whether the parser refuses the file.
BREAKS = {
    "default": ({"ED101", "ED103"}, True),
    "per-channel": ({"ED101", "ED103"}, True),
    "unsigned": ({"ED101", "ED102", "ED103"}, True),
    "u8s8": ({"ED101", "ED103"}, True),
    "asymmetric-weights": ({"ED101", "ED102", "ED103"}, True),
    "symmetric": ({"ED103"}, True),
    "float-bias": (set[str](), False),
    "dedicated": ({"ED103", "ED205"}, True),
    "float-weights": ({"ED103"}, True),
    "contrib": ({"ED101", "ED103", "ED111"}, True),
    "operators": ({"ED101", "ED112"}, True),
    "operators-per-channel": ({"ED101", "ED112"}, True),
}


def network() -> onnx.ModelProto:
    """A residual block, a depthwise convolution, a Concat, a pool, a Resize and a linear head."""
    net = Net(1, 3, 16, 16)
    net.op("Relu", "r0", net.conv("stem", "x", 3, 32))
    net.op("Relu", "r1", net.conv("a", "r0", 32, 32))
    net.op("Relu", "r2", net.op("Add", "sum", net.conv("b", "r1", 32, 32), "r0"))
    net.op("MaxPool", "pool", "r2", kernel_shape=[2, 2], strides=[2, 2])
    net.op("Clip", "r3", net.conv("dw", "pool", 32, 32, group=32), "low", "high")
    net.weights |= {"low": np.float32(0), "high": np.float32(6), "sizes": np.array([1, 1, 2, 2], np.float32)}
    net.op("Resize", "up", "r3", "", "sizes", mode="nearest")
    net.op("Concat", "cat", "up", "r2", axis=1)
    net.op("Relu", "r4", net.conv("c", "cat", 64, 32))
    net.op("GlobalAveragePool", "mean", "r4")
    net.op("Flatten", "flat", "mean")
    net.op("Gemm", "y", "flat", net.constant("head_w", 32, 16), net.constant("head_b", 16))
    return net.model("y")


def faults(found: list[Finding]) -> set[str]:
    return {entry.id for entry in found if entry.severity != "advice"}


@pytest.mark.parametrize("mode", STATIC)
def test_onnxruntimes_models_are_refused_until_they_are_fixed(mode: str, tmp_path: Path) -> None:
    model = network()
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    stranger = quantize_static(model, feeds, mode, tmp_path)
    expected, refused = BREAKS[mode]
    target = subject_named("rtx-4090")
    assert expected <= faults(lint(stranger, target))
    if refused:
        with pytest.raises(Refused):
            rtx_kernels(stranger)
    else:
        rtx_kernels(stranger)
    fixed = fix(stranger, target)
    assert faults(lint(fixed.model, target)) == set()
    assert not any(repair.reverted for repair in fixed.repairs), fixed.repairs
    assert fixed.sqnr_db is not None
    assert fixed.sqnr_db > 15
    assert worst_difference(zip(run(stranger, feeds), run(fixed.model, feeds), strict=True)).sqnr_db > 20
    convolutions = [k.inputs[0].dtype for k in rtx_kernels(fixed.model) if k.kind == "correlation"]
    assert convolutions.count("Int8") >= 5
    onnx.checker.check_model(fixed.model, full_check=True)


def test_a_repaired_relu_is_there_again(tmp_path: Path) -> None:
    """quantize_static drops a ReLU where Q of unsigned codes is one: signed codes need it back."""
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    model = net.model(net.conv("b", "r", 16, 16))
    stranger = quantize_static(model, [{"x": feed(model)}], "u8s8", tmp_path)
    assert "Relu" not in {node.op_type for node in stranger.graph.node}
    fixed = fix(stranger, subject_named("tensorrt"))
    assert [node.op_type for node in fixed.model.graph.node].count("Relu") == 1
    x = [{"x": feed(model)}]
    assert worst_difference(zip(run(stranger, x), run(fixed.model, x), strict=True)).sqnr_db > 30


def test_nncfs_models(tmp_path: Path) -> None:
    nncf = pytest.importorskip(
        "nncf", reason="nncf is not installed (docs/lint.md tells what was seen with it)"
    )
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    stranger = nncf.quantize(network(), nncf.Dataset(feeds), subset_size=4)
    assert "ED101" in faults(lint(stranger, subject_named("tensorrt")))
    assert faults(lint(fix(stranger, subject_named("tensorrt")).model, subject_named("tensorrt"))) == set()


def test_modelopts_models(tmp_path: Path) -> None:
    quantization = pytest.importorskip(
        "modelopt.onnx.quantization",
        reason="nvidia-modelopt is not installed (docs/lint.md tells what was seen)",
    )
    onnx.save(network(), tmp_path / "float.onnx")
    data = {"x": np.random.default_rng(5).standard_normal((4, 3, 16, 16)).astype(np.float32)}
    quantization.quantize(
        str(tmp_path / "float.onnx"), calibration_data=data, output_path=str(tmp_path / "int8.onnx"),
        calibration_eps=["cpu"], high_precision_dtype="fp32",
    )  # fmt: skip
    stranger = onnx.load(tmp_path / "int8.onnx")
    rtx_kernels(stranger)
    assert faults(lint(fix(stranger, subject_named("tensorrt")).model, subject_named("tensorrt"))) == set()
