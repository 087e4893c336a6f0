"""A float weight behind Q and DQ computes the same as int8 codes behind DQ, in four times the bytes (H5)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    bad, good = Sketch(rng), Sketch(rng)
    w = bad.constant((rng.standard_normal((16, 16, 3, 3)) * 0.02).astype(np.float32))
    weight = bad.pair(w, rng.uniform(5e-4, 6e-4, 16), axis=0)
    return Cases([bad.model(bad.conv(bad.pair("x"), weight=weight))], [good.model(good.conv(good.pair("x")))])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    codes = scene.codes(index)
    if codes is not None:
        editor.read(index, 0, editor.constant(f"{scene.nodes[index].input[0]}_int8", codes))


@lint_rule(
    "float-weights",
    "ED304",
    "advice",
    source=("H5",),
    remedy="store the codes: a quarter of the size",
    cases=cases,
    fix=fix,
    promise=100.0,
)
def float_weights(scene: Scene) -> Iterator[Fault]:
    """A weight is stored as floats behind Q and DQ."""
    for index in scene.dequantizers:
        quantize = scene.maker(scene.nodes[index].input[0])
        if scene.op(quantize) == "QuantizeLinear" and scene.nodes[quantize].input[0] in scene.constants:
            value = scene.value(scene.nodes[quantize].input[0])
            yield index, f"{value.nbytes} bytes for {value.size} codes"
