"""Codes are for weights; operators without weights read constant factors and offsets as floats.

TensorRT-RTX 1.7 refuses some of them ("Quantized constant is only allowed before DQ"); others cost a
kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for codes in (True, False):
        net = Sketch(rng)
        factor = net.weight(1, axis=None) if codes else net.constant(0.5)
        y = net.op("Mul", net.op("Relu", net.conv(net.pair("x"))), factor)
        models.append(net.model(net.conv(net.pair(y))))
    return Cases(models[:1], models[1:])


@lint_rule(
    "quantized-constant",
    "ED115",
    "error",
    source=("H5", "P6"),
    where={"runtime": ("tensorrt", "tensorrt-rtx")},
    remedy="store it as floats",
    cases=cases,
    fix=lambda _, editor, index: editor.to_constant(index),
    promise=80.0,
)
def quantized_constant(scene: Scene) -> Iterator[Fault]:
    """A constant that is no weight is stored as codes."""
    for index in scene.dequantizers:
        name = scene.nodes[index].output[0]
        if scene.weight(name) < 0 or scene.kind(index) == "int32":
            continue
        readers = [
            reader for reader in scene.readers(name) if scene.op(reader) not in {"Gather", "Transpose"}
        ]
        if readers and not set(readers) & set(scene.weighted):
            yield index, f"it is read by {', '.join(sorted({scene.op(reader) for reader in readers}))}"
