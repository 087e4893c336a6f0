"""An operator without weights runs in INT8 between quantized ends; INT8 in, float out costs a copy (P6)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.editor import never_negative
from edgedeploy.calibration.lint.flow import idle_readers
from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    bad, good = Sketch(rng), Sketch(rng)
    x = bad.pair(bad.op("Relu", bad.conv(bad.pair("x"))))
    bad_model = bad.model(bad.conv(x), bad.op("GlobalAveragePool", x))
    r = good.op("Relu", good.conv(good.pair("x")))
    good_model = good.model(good.conv(good.pair(r)), good.op("GlobalAveragePool", r))
    return Cases([bad_model], [good_model])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    for position, name in enumerate(scene.nodes[index].input):
        pair = scene.pair(name)
        parameters = scene.parameters(pair.quantize) if pair else None
        if pair is None or parameters is None:
            continue
        if not parameters.clips_at_zero or never_negative(scene, pair.source):
            editor.read(index, position, pair.source)


@lint_rule(
    "one-sided",
    "ED207",
    "warning",
    source=("P6",),
    where={"outputs": (False,)},
    remedy="let it read the float tensor, or quantize its output too",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def one_sided(scene: Scene) -> Iterator[Fault]:
    """An operator without weights reads INT8 and writes float."""
    for pair in scene.pairs():
        idle = idle_readers(scene, pair)
        if len(idle) < len(scene.readers(pair.result)):
            for index in idle:
                yield index, f"reads '{pair.source}' quantized and computes in float"
