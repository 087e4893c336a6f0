"""A parser knows opsets up to one; it may misread an operator that a newer opset has changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for opset in (20, 17):
        net = Sketch(rng, opset=opset)
        models.append((net.model(net.conv(net.pair("x"))), "tensorrt-8.6"))
    return Cases(models[:1], models[1:])


@lint_rule(
    "unread-opset",
    "ED110",
    "warning",
    source=("H4",),
    remedy="export with an older opset: --set capture.opset=17 for JetPack 5, 20 for JetPack 6",
    cases=cases,
)
def unread_opset(scene: Scene) -> Iterator[Fault]:
    """The opset is newer than the runtime's parser."""
    most = scene.rules.max_opset
    if most is not None and scene.opset > most:
        yield -1, f"opset {scene.opset}; {scene.rules.title} reads up to {most}"
