"""x = s (q - z) with z = 0 and q int8: TensorRT's kernels have no term for a zero-point.

The fix keeps the range, s' = max(|low|, |high|) / 127. Unsigned codes clip at zero, so the fix inserts a
Relu.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    def net(zero: int, kind: type, relu: bool = True) -> Sketch:
        net = Sketch(rng)
        y = net.conv(net.pair("x", 0.02, zero, kind))
        net.conv(net.pair(net.op("Relu", y) if relu else y, 0.1, 0 if kind is np.uint8 else zero, kind))
        return net

    bad = [net(128, np.uint8), net(3, np.int8), net(128, np.uint8, relu=False)]
    good = net(0, np.int8)
    return Cases([entry.model(entry.nodes[-1].name) for entry in bad], [good.model(good.nodes[-1].name)])


@lint_rule(
    "asymmetric-activation",
    "ED101",
    "error",
    source=("H1",),
    where={"runtime": TENSORRT, "activation": ("int8",)},
    remedy="quantize activations to int8 with zero-point 0",
    cases=cases,
    fix=lambda _, editor, index: editor.make_symmetric(index),
    promise=15.0,
)
def asymmetric_activation(scene: Scene) -> Iterator[Fault]:
    """An activation is unsigned, or has a zero-point other than 0.

    TensorRT-RTX 1.7 refuses zero-points. It accepts uint8 with zero-point 0, without documenting the result.
    """
    for index in scene.quantizers:
        if scene.nodes[index].input[0] in scene.constants:
            continue
        parameters = scene.parameters(index)
        if parameters is None or parameters.zero.dtype.name not in {"int8", "uint8"}:
            continue
        if parameters.zero.dtype == np.uint8 or parameters.zero.any():
            zero = int(parameters.zero.reshape(-1)[0])
            yield index, f"{parameters.zero.dtype.name} with zero-point {zero}"
