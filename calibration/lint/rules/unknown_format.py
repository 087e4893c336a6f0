"""Each runtime knows some formats of codes: TensorRT has no int16, FP8 needs compute capability 8.9."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule

HAVE_OWN_RULES = {"uint8", "int32"}
FP8_FROM = 8.9


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for kind in (np.int16, np.uint16, np.int8):
        net = Sketch(rng, opset=21)
        models.append(net.model(net.conv(net.pair("x", kind=kind))))
    return Cases(models[:2], models[2:])


@lint_rule(
    "unknown-format",
    "ED109",
    "error",
    source=("H1",),
    remedy="quantize to a format that the runtime has: int8",
    cases=cases,
)
def unknown_format(scene: Scene) -> Iterator[Fault]:
    """The codes have a format that the runtime or the device does not know."""
    capability = float(scene.device.compute_capability or FP8_FROM)
    for index in (*scene.quantizers, *scene.dequantizers):
        kind = scene.kind(index)
        if kind not in scene.rules.types | HAVE_OWN_RULES:
            yield index, f"{kind}; it takes {', '.join(sorted(scene.rules.types))}"
        elif kind.startswith("float8") and capability < FP8_FROM:
            yield index, f"{kind} needs compute capability {FP8_FROM}, the device has {capability}"
