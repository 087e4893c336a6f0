"""QuantizeLinear of com.microsoft is ONNX's operator with more formats; only ONNX Runtime knows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for domain in ("com.microsoft", ""):
        net = Sketch(rng)
        models.append(net.model(net.conv(net.pair("x", domain=domain)), domains=("com.microsoft",)))
    return Cases(models[:1], models[1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:  # noqa: ARG001
    scene.nodes[index].domain = ""


@lint_rule(
    "contrib-domain",
    "ED111",
    "warning",
    source=("H2",),
    where={"runtime": (*TENSORRT, "openvino")},
    remedy="quantize with ONNX's own operators: UseQDQContribOps=False",
    cases=cases,
    fix=fix,
    promise=100.0,
)
def contrib_domain(scene: Scene) -> Iterator[Fault]:
    """Q or DQ is of the com.microsoft domain."""
    for index in (*scene.quantizers, *scene.dequantizers):
        if scene.nodes[index].domain == "com.microsoft":
            yield index, "an operator of ONNX Runtime's own"
