"""QLinearConv writes codes; without Q on the output the runtime computes in float (the reverse of P2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for quantized in (False, True):
        net = Sketch(rng)
        y = net.op("Relu", net.conv(net.pair("x")))
        models.append(net.model(net.pair(y) if quantized else y))
    return Cases(models[:1], models[1:])


@lint_rule(
    "float-output",
    "ED214",
    "warning",
    source=("P2", "P16"),
    where={"outputs": (True,)},
    remedy="quantize the float model for this target: edgedeploy quantize --target",
    cases=cases,
)
def float_output(scene: Scene) -> Iterator[Fault]:
    """The output of a quantized operator is not quantized, so the runtime computes it in float."""
    for index in scene.weighted:
        name = scene.nodes[index].output[0]
        readers = scene.readers(name)
        if scene.is_private(name) and scene.op(readers[0]) in scene.rules.absorbed:
            name = scene.nodes[readers[0]].output[0]
        if scene.runs_int8(index) and not scene.quantizers_of(name):
            yield index, f"nothing quantizes '{name}'"
