"""INT8 arithmetic needs codes on both inputs, activation and weight (P1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    weight, activation, whole, floats = (Sketch(rng) for _ in range(4))
    return Cases(
        [weight.model(weight.float_conv(weight.pair("x"))), activation.model(activation.conv("x"))],
        [whole.model(whole.conv(whole.pair("x"))), floats.model(floats.float_conv("x"))],
    )


def fix(scene: Scene, editor: Editor, index: int) -> None:
    """Only a weight is quantized: the range of an activation is unknown here."""
    name = scene.nodes[index].input[1]
    w = np.asarray(scene.value(name)) if name in scene.constants else None
    if w is None or w.dtype != np.float32 or not np.isfinite(w).all():
        return
    axis = scene.rules.output_axis(scene.nodes[index], w.ndim)
    inputs = editor.quantized(w, axis, name)
    more = {} if axis is None else {"axis": axis}
    editor.read(index, 1, editor.insert(index, "DequantizeLinear", inputs, f"{name}_dequantized", **more))


@lint_rule(
    "half-quantized",
    "ED201",
    "warning",
    source=("P1",),
    remedy="give Q/DQ to the activation and the weight, or to neither",
    cases=cases,
    fix=fix,
)
def half_quantized(scene: Scene) -> Iterator[Fault]:
    """A weighted operator has Q/DQ on one input only, so it runs in float."""
    for index in scene.weighted:
        first, second = scene.nodes[index].input[:2]
        sides = [scene.is_dequantized(name) for name in (first, second)]
        # Where outputs are quantized, layers that were left in float read what came out of the others.
        if sides[0] == sides[1] or (sides[0] and scene.rules.outputs):
            continue
        if (
            sides[1]
            and scene.weight(second) >= 0
            and scene.kind(scene.weight(second)) not in {"int8", "uint8"}
        ):
            continue  # 4-bit weights of a float product are a way of their own
        yield index, f"{'its second input' if sides[0] else f'its activation {first!r}'} is float"
