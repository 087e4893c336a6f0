"""An activation has one scale: a sum over channels of different scales is not an integer sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for scale in (rng.uniform(0.02, 0.03, 16), np.full((), 0.03)):
        net = Sketch(rng)
        pair = net.pair("x", scale, axis=1) if scale.ndim else net.pair("x", scale)
        models.append(net.model(net.conv(pair)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    parameters = scene.parameters(index)
    if parameters is None or len(np.unique(parameters.zero)) != 1:
        return
    for node in (index, *scene.readers(scene.nodes[index].output[0])):
        if scene.op(node) in {"QuantizeLinear", "DequantizeLinear"}:
            editor.set_parameters(node, np.asarray(parameters.scale.max()), parameters.zero[:1].reshape(()))
            editor.forget(node, "axis")


@lint_rule(
    "per-channel-activation",
    "ED106",
    "error",
    source=("H4",),
    where={"runtime": (*TENSORRT, "onnxruntime", "mobile")},  # OpenVINO takes NNCF's, of depthwise layers
    remedy="quantize activations with one scale per tensor",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def per_channel_activation(scene: Scene) -> Iterator[Fault]:
    """An activation has a scale per channel."""
    for index in scene.quantizers:
        parameters = scene.parameters(index)
        if scene.nodes[index].input[0] in scene.constants or parameters is None:
            continue
        if parameters.axis is not None:
            yield index, f"{parameters.scale.size} scales along axis {parameters.axis}"
