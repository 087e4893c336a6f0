"""Costs of layers: counted by hand on a device that is not here, profiled on one that is."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgedeploy.backend import BACKENDS, BuildOptions, LayerTime
from edgedeploy.bench.layers import gather, layer_times
from edgedeploy.calibration.mix.costs import layer_costs, layer_names, peak, roofline_ms
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Figures, load_target
from edgedeploy.runtime.feeds import random_feeds
from tests.support.qdq_nets import Net

SHAPE = (1, 16, 20, 30)


def net() -> onnx.ModelProto:
    made = Net(*SHAPE)
    a = made.op("Relu", "r", made.conv("a", "x", 16, 32))
    made.conv("wise", a, 32, 32, group=32)
    made.constant("up_w", 32, 8, 2, 2)
    made.op("ConvTranspose", "up", "wise", "up_w", strides=[2, 2])
    return made.model("up")


def test_macs_and_bytes_are_those_counted_by_hand() -> None:
    costs = layer_costs(net(), {"x": SHAPE})
    pixels = 20 * 30
    assert {name: cost.macs for name, cost in costs.items()} == {
        "a": pixels * 16 * 32 * 9,
        "wise": pixels * 32 * 9,
        "up": pixels * 32 * 8 * 4,
    }
    a = costs["a"]
    assert (a.inputs, a.outputs, a.weights) == (pixels * 16, pixels * 32, 32 * 16 * 9)


def test_roofline_takes_the_slower_of_arithmetic_and_memory() -> None:
    costs = layer_costs(net(), {"x": SHAPE})
    a = costs["a"]
    slow_memory = Figures(fp32_tflops=1000, fp16_tflops=1000, int8_tops=1000, memory_gb_per_s=1)
    assert a.milliseconds(slow_memory, "fp16") == pytest.approx(2 * (a.inputs + a.outputs + a.weights) / 1e6)
    # INT8 that writes float32 moves more than FP16 where there are more outputs than inputs.
    assert a.milliseconds(slow_memory, "int8", "fp32") > a.milliseconds(slow_memory, "fp16")
    slow_sums = Figures(fp32_tflops=1, memory_gb_per_s=1e6)
    assert a.milliseconds(slow_sums, "fp32") == pytest.approx(2 * a.macs / 1e9)
    assert peak(slow_sums, "int8") == 1, "what a device has no rate for runs as fast as the next wider"
    assert a.milliseconds(slow_memory, "fp8") == a.milliseconds(slow_memory, "int8")
    assert roofline_ms(costs, Figures(), "fp16") is None
    assert roofline_ms(costs, slow_sums, "fp32") == pytest.approx(
        sum(2 * cost.macs / 1e9 for cost in costs.values())
    )


def test_times_go_to_the_layer_before_and_names_are_matched_whole() -> None:
    layers = {name: name for name in ("conv1", "conv10", "p2o.Conv.1")} | {"relu10": "conv10"}
    times = [
        LayerTime("x_reorder", "Reorder", 0.5),
        LayerTime("conv1/WithoutBiases", "Convolution", 1.0),
        LayerTime("conv1_f32_bf16_conv10", "Reorder", 0.25),
        LayerTime("relu10_nchwc", "Conv", 2.0),
        LayerTime("Pool", "Pooling", 4.0),
        LayerTime("p2o.Conv.12", "Convolution", 8.0),
        LayerTime("p2o.Conv.1/WithoutBiases", "Convolution", 16.0),
    ]
    assert gather(times, layers) == {"conv1": 1.75, "conv10": 14.0, "p2o.Conv.1": 16.0}
    assert gather(times, {"other": "other"}) == {}


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_real_profile_knows_every_weighted_layer(backend: str, tmp_path: Path) -> None:
    if BACKENDS.get(backend).why_not():
        pytest.skip(BACKENDS.get(backend).why_not())
    model = net()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    plain = Artifact.load(tmp_path / "m.onnx")
    built = BACKENDS.get(backend).build(plain, load_target("cpu"), BuildOptions(), tmp_path / "b.onnx")
    shapes = {"x": SHAPE}
    names = layer_names(model, ["a", "wise", "up"])
    assert names == {"a": "a", "r": "a", "wise": "wise", "up": "up"}
    found = layer_times(built, names, random_feeds(plain, shapes), shapes)
    assert set(found) == {"a", "wise", "up"}
    assert all(milliseconds > 0 for milliseconds in found.values())
