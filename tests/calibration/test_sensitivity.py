"""Sensitivity against brute force: the model really built with one layer in INT8, for every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from edgedeploy.calibration import QuantizeResult, Range, load_rules, quantize
from edgedeploy.calibration.mix.emulate import Emulator
from edgedeploy.calibration.mix.float_order import float_order, least_prefix, negligible
from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity, measure
from edgedeploy.calibration.mix.switches import mix
from edgedeploy.calibration.place.placement import place
from edgedeploy.core.errors import CalibrationError
from tests.support.qdq_nets import Net, run

SHAPE = (1, 16, 12, 12)


def net() -> onnx.ModelProto:
    """A residual block, a pool that only moves values, a concatenation, a weight that two layers share."""
    made = Net(*SHAPE)
    a = made.op("Relu", "r", made.conv("a", "x", 16, 16))
    total = made.op("Add", "sum", made.conv("b", a, 16, 16), a)
    pooled = made.op("MaxPool", "pool", total, kernel_shape=[2, 2], strides=[2, 2])
    c = made.conv("c", pooled, 16, 16)
    d = made.op("Conv", "d", pooled, "c_w", pads=[1] * 4)
    joined = made.op("Concat", "joined", c, d, axis=1)
    made.conv("e", joined, 32, 16, kernel=1)
    return made.model("e")


def images(count: int = 2) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    for _ in range(count):
        yield {"x": rng.standard_normal(SHAPE).astype(np.float32)}


def quantized(rules: str) -> QuantizeResult:
    chosen = load_rules(rules).with_options(first=True, last=True, small_channels=False)
    return quantize(net(), images, method="minmax", rules=chosen)


def decibels(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    exact = [x.astype(np.float64) for x in expected]
    noise = math.fsum(float(np.square(x - y).sum()) for x, y in zip(exact, got, strict=True))
    return 10 * math.log10(math.fsum(float(np.square(x).sum()) for x in exact) / noise)


@pytest.mark.parametrize("rules", ["tensorrt", "openvino", "onnxruntime"])
def test_switches_give_what_building_each_mix_gives(rules: str) -> None:
    result = quantized(rules)
    chosen = load_rules(rules).with_options(first=True, last=True, small_channels=False)
    layers = [note.node for note in result.report.placement.quantized]
    weighted = [node.name for node in result.float_model.graph.node if node.op_type == "Conv"]
    assert set(weighted) <= set(layers)
    # One range for all: a tensor that shares its scale in the whole model may stand alone in a mix.
    ranges = dict.fromkeys(result.ranges, Range(-40, 40))
    whole, _ = place(result.float_model, ranges, chosen)
    emulator = Emulator(result.float_model, whole, layers)
    feed = next(images())
    exact = run(result.float_model, feed["x"], "e")[0]
    assert np.allclose(emulator.run(feed, ())["e"], exact, atol=1e-4)
    assert np.allclose(emulator.run(feed)["e"], run(whole, feed["x"], "e")[0], atol=1e-4)
    everything = set(layers)
    # Statically too: the file of a mix computes what the switches do.
    kept = {"b": "so", "d": "so"}
    mixed = mix(dataclasses.replace(result, model=whole), chosen, kept)
    on = {note.node for note in place(result.float_model, ranges, chosen, kept)[1].quantized}
    assert np.allclose(run(mixed, feed["x"], "e")[0], emulator.run(feed, on & everything)["e"], atol=1e-4)
    weights = {node.name: node.input[1] for node in mixed.graph.node if node.op_type == "Conv"}
    assert [name for name, weight in weights.items() if weight.endswith("dequantized")] == ["a", "c", "e"]
    kinds = [node.op_type for node in mixed.graph.node]
    assert kinds.count("QuantizeLinear") <= [node.op_type for node in whole.graph.node].count(
        "QuantizeLinear"
    )
    for layer in weighted:
        kept = dict.fromkeys(everything - {layer}, "not this one")
        built, _ = place(result.float_model, ranges, chosen, kept)
        expected = run(built, feed["x"], "e")[0]
        assert not np.allclose(expected, exact, atol=1e-2), "INT8 of a layer must show"
        assert np.allclose(emulator.run(feed, (layer,))["e"], expected, atol=1e-4), layer


def test_figures_are_those_of_brute_force() -> None:
    result = quantized("openvino")
    chosen = load_rules("openvino").with_options(first=True, last=True, small_channels=False)
    found, _ = measure(
        result.float_model,
        result.model,
        result.report.placement.quantized,
        images(),
        agreement=lambda exact, got: float(np.abs(exact["e"] - got["e"]).max() < 0.05),
        memory_mb=0,  # every layer in a group of its own
    )
    assert found.images == 2
    exact = [run(result.float_model, feed["x"], "e", "c") for feed in images()]
    everything = [run(result.model, feed["x"], "e", "c") for feed in images()]
    assert found.output_db == pytest.approx(
        decibels([x[0] for x in exact], [y[0] for y in everything]), abs=0.01
    )
    names = {note.node for note in result.report.placement.quantized}
    built, _ = place(result.float_model, result.ranges, chosen, dict.fromkeys(names - {"c"}, "so"))
    alone = [run(built, feed["x"], "e", "c") for feed in images()]
    layer = next(entry for entry in found.layers if entry.name == "c")
    for figure, position, other in (
        (layer.output_db, 0, alone),
        (layer.own_db, 1, alone),
        (layer.together_db, 1, everything),
    ):
        pairs = ([x[position] for x in exact], [y[position] for y in other])
        assert figure == pytest.approx(decibels(*pairs), abs=0.01)
    assert found.worst_first[0].output_db == min(entry.output_db for entry in found.layers)
    assert layer.agreement is not None


def test_no_image_is_an_error() -> None:
    result = quantized("openvino")
    with pytest.raises(CalibrationError, match="no image"):
        measure(result.float_model, result.model, result.report.placement.quantized, ())


def layer(name: str, decibel: float) -> LayerSensitivity:
    return LayerSensitivity(name, "Conv", decibel, decibel, decibel)


def test_float_order_is_noise_per_time_saved_and_the_useless_first() -> None:
    found = Sensitivity((layer("noisy", 10), layer("dear", 12), layer("quiet", 60), layer("slow", 90)), 1, 8)
    savings = {"noisy": 10.0, "dear": 0.1, "quiet": 1.0, "slow": -0.2}
    order, idle = float_order(found, savings)
    assert [entry.name for entry in order] == ["slow", "dear", "noisy", "quiet"]
    assert idle == 1
    # What saves less than is asked for does not pay, however quiet: it goes before the noisy one that does.
    order, idle = float_order(found, savings, 1.0)
    assert [entry.name for entry in order] == ["slow", "dear", "quiet", "noisy"]
    assert idle == 3


def test_negligible_is_what_the_smallest_save_together() -> None:
    savings = {"head": 6.0, "neck": 2.5, "a": 0.9, "b": 0.5, "slower": -3.0}
    assert negligible(savings, 0.2) == 0.9, "1.4 of 9.9; with the neck it would be 3.9"
    assert negligible(savings, 0.1) == 0.5
    assert negligible(dict.fromkeys("abcdef", 1.0), 0.1) == 0.0, "none of many like ones"
    assert negligible({}, 0.2) == 0.0


@pytest.mark.parametrize("needed", [0, 1, 4, 7])
def test_least_prefix(needed: int) -> None:
    order = [str(i) for i in range(7)]
    asked: list[int] = []

    def enough(kept: list[str]) -> bool:
        asked.append(len(kept))
        return len(kept) >= needed

    assert least_prefix(order, enough) == needed  # type: ignore[arg-type]
    assert len(asked) <= 3
