"""Rule sets as data: each one on a net with something for every rule, run by the runtimes that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.calibration import load_rules, rule_names
from edgedeploy.calibration.lint import fix, lint, subject_named
from edgedeploy.calibration.place.placement import TRAINED
from edgedeploy.core.data_files import load_data
from edgedeploy.core.errors import CalibrationError, RecipeError, UnknownNameError
from edgedeploy.core.parity import compare
from edgedeploy.core.target import load_target, target_names
from edgedeploy.runtime.kernel_log import CONVOLUTION
from tests.support.qdq_nets import Net, by_name, feed, initializers, is_float, origin, quantized, run, source
from tests.support.runtimes import openvino_output, rtx_kernels, rules_here

TENSORRT = [n for n in rule_names() if load_rules(n).runtime in {"tensorrt", "tensorrt-rtx", "dla"}]


def everything(opset: int = 17) -> Net:
    """Plain, depthwise and transposed convolutions, a residual, a Concat, a gate and pools."""
    net = Net(1, 3, 16, 16, opset=opset)
    net.op("Relu", "r0", net.conv("stem", "x", 3, 32))
    net.op("Relu", "r1", net.conv("dw", "r0", 32, 32, group=32))
    net.op("Relu", "r2", net.conv("pw", "r1", 32, 32, kernel=1))
    net.op("Add", "sum", net.conv("b", "r2", 32, 32), "r0")
    net.op("MaxPool", "pool", "sum", kernel_shape=[2, 2], strides=[2, 2])
    net.op("ConvTranspose", "up", "pool", net.constant("up_w", 32, 32, 2, 2), strides=[2, 2])
    net.op("Relu", "r3", "up")
    net.op("Concat", "cat", "r3", "r0", axis=1)
    net.op("Relu", "r4", net.conv("c", "cat", 64, 32))
    net.op("GlobalAveragePool", "mean", "r4")
    net.op("Sigmoid", "gate", net.conv("squeeze", "mean", 32, 32, kernel=1))
    net.op("Mul", "gated", "r4", "gate")
    net.op("Relu", "r5", net.conv("d", "gated", 32, 32))
    net.conv("head", "r5", 32, 32, kernel=1)
    return net


@pytest.mark.parametrize("name", rule_names())
def test_a_rule_set_places_what_onnxruntime_runs_right(name: str) -> None:
    rules = load_rules(name)
    model = everything().model("head")
    result, report = quantized(model, rules)
    assert report.quantized
    assert compare(run(model, feed(model))[0], run(result, feed(model))[0]).sqnr_db > 25
    kinds = {value.dtype.name for value in initializers(result).values()} - {"float32", "int64"}
    assert kinds <= rules.types
    assert set(rules.serves) <= set(rule_names()) - {name}


@pytest.mark.parametrize("name", TENSORRT)
def test_tensorrt_builds_the_file(name: str) -> None:
    result, report = quantized(everything().model("head"), load_rules(name))
    kernels = rtx_kernels(result)
    inputs = [kernel.inputs[0].dtype for kernel in kernels if kernel.kind == CONVOLUTION]
    assert inputs.count("Int8") == [note.op for note in report.quantized].count("Conv")
    # Whatever was asked for: so its own rule set does not ask.
    assert [kernel.inputs[0].dtype for kernel in kernels if kernel.kind == "deconv"] == ["Float"]
    asked = any(note.op == "ConvTranspose" for note in report.quantized)
    assert asked == (name in {"tensorrt-11", "dla"})


@pytest.mark.parametrize("name", rule_names())
def test_openvino_computes_the_same_where_lint_has_nothing_against_it(name: str) -> None:
    """TensorRT's placement too, but for what a Concat makes (ED114), which the fix puts into other codes."""
    model = everything().model("head")
    result, _ = quantized(model, rules_here(name))
    openvino = subject_named("openvino")
    errors = [entry for entry in lint(result, openvino) if entry.severity == "error"]
    expected, computed = run(result, feed(model))[0], openvino_output(result, feed(model))
    right = compare(expected, computed).sqnr_db > 30
    assert {entry.id for entry in errors} <= {"ED114"}
    assert right == (not errors)
    fixed = fix(result, openvino, only=["ED114"]).model
    assert compare(expected, openvino_output(fixed, feed(model))).sqnr_db > 30


def test_openvino_compiles_joined_tokens() -> None:
    """A class token before a linear layer: with a zero-point OpenVINO would refuse it (ED117)."""
    net = Net(1, 12, 64)
    net.op("Relu", "positive", "x")
    net.op("Tanh", "signed", "x")
    net.op("Concat", "tokens", "positive", "signed", axis=1)
    net.op("MatMul", "y", "tokens", net.constant("w", 64, 64))
    net.op("Concat", "sums", "positive", "positive", axis=1)
    net.op("MatMul", "z", "sums", net.constant("v", 64, 64))
    model = net.model("y", "z")
    result, report = quantized(model, rules_here("openvino").with_options(last=True))
    assert len(report.quantized) == 2
    kinds = {name: initializers(result)[f"{name}_zero_point"].dtype.name for name in ("tokens", "sums")}
    assert kinds == {"tokens": "int8", "sums": "uint8"}  # what is never negative keeps all 8 bits
    assert compare(run(result, feed(model))[0], openvino_output(result, feed(model))).sqnr_db > 60


@pytest.mark.parametrize("name", rule_names())
def test_what_a_rule_set_places_is_clean_by_its_own_rules(name: str) -> None:
    result, _ = quantized(everything().model("head"), load_rules(name))
    assert [entry for entry in lint(result, subject_named(name)) if entry.severity != "advice"] == []


def test_a_rule_set_takes_what_it_does_not_say_from_its_base() -> None:
    base, newer = load_rules("tensorrt"), load_rules("tensorrt-11")
    assert newer.base == "tensorrt"
    for field in ("weighted", "corrections", "never"):
        assert getattr(newer, field) == getattr(base, field)
    assert (newer.max_opset, base.max_opset) == (25, None)
    assert load_rules("onnxruntime-mobile").weighted != load_rules("onnxruntime").weighted


def test_a_circle_of_bases_or_a_missing_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "circle"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.toml").write_text('base = "b"\n')
    (folder / "b.toml").write_text('base = "a"\n')
    (folder / "c.toml").write_text('base = "tensort"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = type(load_rules("tensorrt"))
    with pytest.raises(RecipeError, match="a > b > a is circular"):
        load_data("Q/DQ rule set", "circle", "a", kind, inherit="base")
    with pytest.raises(UnknownNameError, match="tensort"):
        load_data("Q/DQ rule set", "circle", "c", kind, inherit="base")


@pytest.mark.parametrize("name", target_names())
def test_targets_name_rule_sets_of_their_runtimes(name: str) -> None:
    target = load_target(name)
    for backend in target.backends:
        runtime = load_rules(target.rules(backend)).runtime
        assert runtime == backend


def test_jetpacks_get_the_opset_that_their_parser_reads() -> None:
    """TensorRT 8.6 reads opset 17: a newer model is converted, or refused with what to type."""
    rules = load_rules(load_target("jetson-xavier-nx").rules("tensorrt"))
    result, report = quantized(everything(opset=19).model("head"), rules)
    assert result.opset_import[0].version == 17
    assert report.notes == ("opset lowered from 19 to 17",)
    result, report = quantized(everything(opset=17).model("head"), rules)
    assert not report.notes
    net = Net(1, 16, 8, 8, opset=20)
    net.conv("a", net.op("Gelu", "g", "x"), 16, 16)
    with pytest.raises(CalibrationError, match="cannot be converted") as refused:
        quantized(net.model("a"), rules.with_options(first=True, last=True))
    assert "edgedeploy optimize" in refused.value.hint
    assert "Gelu" in load_target("jetson-xavier-nx").unsupported_ops


def test_transposed_convolutions_before_an_activation_stay_float_in_tensorrt_10() -> None:
    """P13."""
    model = everything().model("head")
    for name, stays in (("tensorrt", True), ("tensorrt-11", False), ("openvino", False)):
        result, report = quantized(model, load_rules(name))
        assert is_float(result, "up") == stays
        assert any("P13" in note.reason for note in report.excluded) == stays


def test_a_norm_reads_the_convolution_before_it_in_int8_from_tensorrt_11() -> None:
    """P10, also through a change of layout; and not where no quantized convolution stands before it."""
    net = Net(1, 16, 8, 8)
    net.op("Transpose", "t", net.conv("a", "x", 16, 16), perm=[0, 2, 3, 1])
    for name in ("n", "m"):
        net.weights[f"{name}_s"] = np.ones(16, np.float32)
    net.op("LayerNormalization", "n", "t", "n_s")
    net.op("LayerNormalization", "m", "n", "m_s")
    model = net.model("m")
    for name, reads in (("tensorrt", False), ("tensorrt-11", True)):
        result, _ = quantized(model, load_rules(name).with_options(first=True, last=True))
        assert is_float(result, "n") != reads
        assert is_float(result, "m")


def test_dla_and_accelerators_of_phones_get_every_tensor_quantized() -> None:
    """P16: operators with neither weights nor a quantized neighbor, and constants, too."""
    net = Net(1, 16, 8, 8)
    net.op("Mul", "scaled", "x", net.constant("factor", 1, 16, 1, 1))
    net.op("Sigmoid", "s", "scaled")
    net.op("Split", "split", "s", outputs=["left", "right"], axis=1, num_outputs=2)
    net.op("Add", "sum", "left", "right")
    model = net.model(net.conv("a", "sum", 8, 16))
    for name in ("dla", "onnxruntime-mobile"):
        result, report = quantized(model, load_rules(name))
        for node in result.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                continue
            data = [i for i, entry in enumerate(node.input) if entry in by_name(result) or entry == "x"]
            absorbed = node.op_type in load_rules(name).absorbed
            assert absorbed or all(not is_float(result, node.name, i) for i in data), node.name
        assert not is_float(result, "scaled", 1)
        assert report.scales["left"] == report.scales["right"] == report.scales["s"]
    assert report.scales["s"] == pytest.approx(1 / 256)


def test_asymmetric_int8_and_uint16_keep_what_they_cover() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    model = net.model(net.conv("b", "r", 16, 16))
    least, exact = {}, {}
    for kind in ("int8-asymmetric", "uint16"):
        rules = load_rules("onnxruntime").with_options(activation=kind, first=True, last=True)
        result, _ = quantized(model, rules)
        zero = initializers(result)[next(n for n in result.graph.node if n.input[0] == "r_float").input[2]]
        least[kind] = int(zero)
        exact[kind] = compare(run(model, feed(model))[0], run(result, feed(model))[0]).sqnr_db
    assert exact["int8-asymmetric"] > 35
    assert exact["uint16"] > exact["int8-asymmetric"] + 3  # the weights' eight bits are left
    assert least == {"int8-asymmetric": -128, "uint16": 0}
    assert result.opset_import[0].version >= 21


def test_a_range_is_as_wide_as_the_accelerator_needs() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Mul", "tiny", "x", net.constant("factor", 1))
    net.weights["factor"][:] = 1e-7
    model = net.model(net.conv("a", "tiny", 16, 16))
    _, report = quantized(model, load_rules("onnxruntime-mobile"))
    assert report.scales["tiny"] == pytest.approx(1e-4 / 255, rel=1e-3)


def test_a_last_layer_that_was_trained_for_int8_says_so() -> None:
    net = Net(1, 16, 8, 8)
    net.op("Relu", "r", net.conv("a", "x", 16, 16))
    net.conv("b", "r", 16, 16)
    codes = np.random.default_rng(3).integers(-127, 128, (16, 16, 3, 3))
    codes[:, 0, 0, 0] = 127
    net.weights["b_w"] = (codes * 0.01).astype(np.float32)
    result, _ = quantized(net.model("b"), load_rules("openvino"))
    assert not is_float(result, "b")
    assert {n.name for n in result.graph.node if n.doc_string == TRAINED} == {"b"}
    assert origin(result, "b") == "r"
    assert source(result, "b", 1) is not None
    onnx.checker.check_model(result)


@pytest.mark.parametrize("name", rule_names())
@pytest.mark.parametrize("width", [1, 12])
def test_the_bias_of_a_gemm_may_be_one_value_for_all_outputs(name: str, width: int) -> None:
    net = Net(2, 8)
    net.op("Relu", "r", net.op("Gemm", "g", "x", net.constant("w", 8, 12), net.constant("b", width)))
    net.op("Gemm", "y", "r", net.constant("v", 12, 4), net.constant("c", 1))
    model = net.model("y")
    rules = load_rules(name).with_options(first=True, last=True, small_channels=False)
    if "Gemm" not in rules.weighted:
        pytest.skip("Gemm stays in float")
    result, _ = quantized(model, rules)
    reference, outputs = (run(network, feed(model))[0] for network in (model, result))
    assert compare(reference, outputs).sqnr_db > 20
