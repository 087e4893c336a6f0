"""Statistics over a stream, the memory that they take, and quantization end to end in the runtimes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration import CALIBRATORS, Range, RuleSet, quantize, rule_names
from edgedeploy.calibration.collect import accumulate as accumulate_module
from edgedeploy.calibration.collect.collect import collect
from edgedeploy.core.errors import CalibrationError, EdgeDeployError
from edgedeploy.core.parity import compare
from tests.support.calibration_nets import RULES, network
from tests.support.runtimes import rules_here


def feeds(count: int, size: int = 16, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, size, size)).astype(np.float32)} for _ in range(count)]


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], *names: str) -> list[np.ndarray]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(list(names) or None, feed)


@pytest.mark.parametrize("memory_mb", [512, 0])
def test_extremes_equal_those_of_every_activation(memory_mb: int) -> None:
    """With no memory at all every tensor is collected in a pass of its own, with the same result."""
    model, data = network(dynamic=True), [*feeds(2), *feeds(2, size=24, seed=1)]
    tensors = ["x", "stem_r", "one_sum", "both"]
    seen: list[tuple[int, int | None]] = []
    result = collect(
        model,
        tensors,
        lambda: data,
        histograms=True,
        memory_mb=memory_mb,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (result.images, result.passes) == (4, 1 if memory_mb else 4)
    assert seen[-1] == (4 * result.passes, 4 * result.passes)
    for name in tensors:
        values = [feed["x"] if name == "x" else run(model, feed, name)[0] for feed in data]
        found = result.statistics[name]
        assert found.minimum == pytest.approx(min(v.min() for v in values), rel=1e-5)
        assert found.maximum == pytest.approx(max(v.max() for v in values), rel=1e-5)
        assert found.count == sum(v.size for v in values)
        assert found.histogram is not None
        assert found.histogram.counts.sum() == found.count


@pytest.mark.parametrize("sizes", [[16] * 20, list(range(16, 96, 4))], ids=["one size", "all odd"])
def test_no_activation_outlives_its_turn(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory handed to the accumulators: the same few buffers again and again, or copies soon freed."""
    names = ["stem_r", "one_sum", "two_sum", "both"]
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    add = accumulate_module.Accumulator.add

    def counting(self: accumulate_module.Accumulator, values: np.ndarray) -> None:
        nonlocal most
        alive[:] = {id(kept): ref for ref in alive if (kept := ref()) is not None}.values()
        alive.append(weakref.ref(values))
        most = max(most, len({id(ref()) for ref in alive}))
        add(self, values)

    monkeypatch.setattr(accumulate_module.Accumulator, "add", counting)
    stream = (feeds(1, size=size)[0] for size in sizes)
    collect(network(dynamic=True), names, lambda: stream, histograms=True)
    gc.collect()
    assert 2 <= most <= 2 * len(names)
    assert not [ref for ref in alive if ref() is not None]


def test_feeds_are_drawn_one_by_one() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def source() -> Iterator[dict[str, np.ndarray]]:
        for index in range(6):
            assert sum(ref() is not None for ref in alive) <= 1
            array = feeds(1, seed=index)[0]["x"]
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array

    assert collect(network(), ["both"], source, histograms=False).images == 6


def test_memory_budget_cuts_passes_and_wants_a_fresh_source_for_each() -> None:
    stream = iter(feeds(2))
    with pytest.raises(CalibrationError, match="pass 2 over the calibration data gave 0 inputs, the first 2"):
        collect(network(), ["stem_r", "both"], lambda: stream, histograms=False, memory_mb=0)
    with pytest.raises(CalibrationError, match="no calibration data"):
        collect(network(), ["both"], list, histograms=False)


def test_inputs_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="does not run on a calibration input"):
        collect(network(), ["both"], lambda: [*feeds(1), *feeds(1, size=20)], histograms=False)


def test_nan_infinite_and_constant_activations_are_reported() -> None:
    data = feeds(2)
    data[1]["x"][0, 0, 0, 0] = np.nan
    result = quantize(network(), lambda: data, method="minmax", rules=RULES)
    assert any("'x' has NaN or infinite values (0.07%)" in line for line in result.report.problems)
    assert np.isfinite([result.ranges["x"].low, result.ranges["x"].high]).all()
    broken = [{"x": np.full((1, 3, 16, 16), np.inf, np.float32)}]
    with pytest.raises(CalibrationError, match="no operator can run in INT8"):
        quantize(network(), lambda: broken, rules=RULES)
    constant = quantize(network(), lambda: [{"x": np.zeros((1, 3, 16, 16), np.float32)}], rules=RULES)
    assert "'x' is constant (0) over all calibration data" in constant.report.problems
    assert constant.ranges["x"] == Range(0.0, 0.0)


def test_nothing_to_quantize_is_an_error() -> None:
    model = network()
    for entry in model.graph.initializer:
        entry.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float64), entry.name)
            if entry.name.endswith("_w")
            else entry
        )
    with pytest.raises(EdgeDeployError):
        quantize(model, lambda: feeds(1))


@pytest.mark.parametrize("method", CALIBRATORS.names())
@pytest.mark.parametrize("rules", rule_names())
def test_int8_stays_close_to_float(method: str, rules: str) -> None:
    """In the reference runtime, and in the one that the rules are for."""
    # OpenVINO 2026.4 is wrong on a Concat of int8 tensors: what runs there is placed by its own rules.
    model, data, fresh = network(), feeds(8), feeds(1, seed=99)[0]
    result = quantize(
        model, lambda: data, method=method, rules=rules_here(rules).with_options(first=True, last=True)
    )
    onnx.checker.check_model(result.model, full_check=True)
    reference, plain = run(model, fresh)[0], run(result.model, fresh)[0]
    assert compare(reference, plain).sqnr_db > 22
    if rules == "openvino":
        assert compare(plain, openvino_run(result.model, fresh)).sqnr_db > 40
    session = onnxruntime.InferenceSession(
        result.model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert compare(plain, session.run(None, fresh)[0]).sqnr_db > 30


def openvino_run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return np.array(compiled([feed["x"]])[0])


def test_openvino_runs_the_placement_of_tensorrt() -> None:
    model, data, fresh = network(concat=False), feeds(8), feeds(1, seed=99)[0]
    result = quantize(
        model, lambda: data, rules=rules_here("tensorrt").with_options(first=True, last=True)
    ).model
    assert compare(run(result, fresh)[0], openvino_run(result, fresh)).sqnr_db > 40


@pytest.mark.parametrize("changes", [{}, {"concat": "shared"}, {"residual_add": False}])
def test_tensorrt_rtx_builds_the_int8_model(changes: dict[str, Any]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    rules: RuleSet = RULES.with_options(**changes)
    model = quantize(network(), lambda: feeds(2), method="minmax", rules=rules).model

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    log = Log()
    builder = trt.Builder(log)
    network_ = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network_, log)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network_, config)
    assert engine is not None, log.errors
    assert engine.nbytes > 1000
