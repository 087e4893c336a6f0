"""s is positive, finite and constant: kernels multiply by 1 / s, which is folded into weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    def net(scale: float) -> Sketch:
        net = Sketch(rng)
        net.conv(net.pair("x", scale))
        return net

    bad = [net(scale) for scale in (0.0, -0.1, float("inf"), float("nan"))]
    dead = Sketch(rng)
    dead.conv(dead.pair("x"))
    weight = next(name for name, value in dead.constants.items() if value.ndim == 4)
    scale = f"c{int(weight[1:]) + 1}"
    dead.constants[weight][0] = 0
    dead.constants[scale][0] = 0
    models = [entry.model(entry.nodes[-1].name) for entry in (*bad, dead, net(0.1))]
    return Cases(models[:-1], models[-1:])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    """A channel of zeros gets scale 1; no other scale can be recovered."""
    parameters = scene.parameters(index)
    is_weight = scene.weight(scene.nodes[index].output[0]) >= 0
    if is_weight and parameters is not None and np.isfinite(parameters.scale).all():
        editor.set_weight(index, parameters.axis)


@lint_rule(
    "scale-not-positive",
    "ED104",
    "error",
    source=("H1",),
    remedy="calibrate again: a scale is a constant above 0 (1 where a channel is all zeros)",
    cases=cases,
    fix=fix,
    promise=40.0,
)
def scale_not_positive(scene: Scene) -> Iterator[Fault]:
    """A scale is zero, negative, not finite, or computed when the model runs."""
    for index in (*scene.quantizers, *scene.dequantizers):
        name = scene.nodes[index].input[1]
        if name not in scene.constants:
            yield index, f"its scale '{name}' is not a constant"
            continue
        scale = np.asarray(scene.value(name), np.float64)
        wrong = ~(np.isfinite(scale) & (scale > 0))
        if wrong.any():
            yield index, f"{int(wrong.sum())} of {scale.size} scales are {scale[wrong].reshape(-1)[0]:g}"
