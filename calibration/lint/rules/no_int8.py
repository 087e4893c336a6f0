"""A device without INT8 instructions computes a quantized graph in float and rounds in addition.

The fix removes the pairs and stores weights as floats. The accuracy that quantization has cost does not
return.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    net, plain = Sketch(rng), Sketch(rng)
    net.conv(net.pair("x"))
    return Cases(
        [(net.model(net.nodes[-1].name), "jetson-nano")],
        [(plain.model(plain.float_conv("x")), "jetson-nano")],
    )


def fix(scene: Scene, editor: Editor, index: int) -> None:  # noqa: ARG001  the fault is the whole model's
    editor.strip()


@lint_rule(
    "no-int8",
    "ED108",
    "error",
    source=("H7",),
    remedy="deploy there in fp16 or fp32, from the float model",
    cases=cases,
    fix=fix,
    promise=10.0,
)
def no_int8(scene: Scene) -> Iterator[Fault]:
    """The device has no INT8 instructions, and the model is quantized."""
    if not scene.device.int8 and scene.is_quantized():
        count = len(scene.quantizers)
        yield -1, f"{count} QuantizeLinear for {scene.device.name}, which computes them in float"
