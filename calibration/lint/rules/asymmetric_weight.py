"""w = s (q - z) with z = 0 and q int8; the fix quantizes a weight of another form again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for kind, zero, axis in ((np.uint8, 128, 0), (np.int8, 3, None), (np.int8, 0, 0)):
        net = Sketch(rng)
        weight = net.weight(16, 16, 3, 3, axis=axis, kind=kind, zero=zero)
        models.append(net.model(net.conv(net.pair("x"), weight=weight)))
    return Cases(models[:2], models[2:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    parameters = scene.parameters(index)
    if parameters is not None:
        editor.set_weight(index, parameters.axis)


@lint_rule(
    "asymmetric-weight",
    "ED102",
    "error",
    source=("H1",),
    where={"runtime": TENSORRT},
    remedy="quantize weights to int8 with zero-point 0",
    cases=cases,
    fix=fix,
    promise=25.0,
)
def asymmetric_weight(scene: Scene) -> Iterator[Fault]:
    """A weight is unsigned, or has a zero-point other than 0."""
    for index in scene.dequantizers:
        parameters = scene.parameters(index)
        if scene.weight(scene.nodes[index].output[0]) < 0 or parameters is None:
            continue
        if parameters.zero.dtype.name in {"int8", "uint8"} and (
            parameters.zero.dtype == np.uint8 or parameters.zero.any()
        ):
            zero = int(parameters.zero.reshape(-1)[0])
            yield index, f"{parameters.zero.dtype.name} with zero-point {zero}"
