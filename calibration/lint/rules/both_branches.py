"""y = conv(x) + s is one INT8 kernel with Q/DQ on s alone, and three kernels with both quantized (P3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.scene import Pair
from edgedeploy.calibration.place.residual import distances


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for branch in (True, False):
        net = Sketch(rng)
        x = net.pair("x")
        y = net.conv(net.pair(net.op("Relu", net.conv(x))))
        y = net.op("Relu", net.op("Add", net.pair(y, 0.1) if branch else y, x))
        models.append(net.model(net.conv(net.pair(y, 0.1))))
    return Cases(models[:1], models[1:])


def branch(scene: Scene, index: int) -> Pair | None:
    """The pair on the side of the convolution, which is farther from the common ancestor of both inputs."""
    names = list(scene.nodes[index].input)
    pairs = [scene.pair(name) for name in names]
    if None in pairs or len(names) != 2 or names[0] == names[1]:
        return None
    far = [distances(scene, name) for name in names]
    common = far[0].keys() & far[1].keys()
    nearest = min(common, key=lambda name: far[0][name] + far[1][name], default="")
    order = sorted((0, 1), key=lambda i: -far[i].get(nearest, 0))
    for pair in (pairs[i] for i in order):
        if pair is None or not scene.is_private(pair.source) or not scene.is_private(pair.result):
            continue
        maker = scene.maker(pair.source)
        if scene.runs_int8(maker):
            return pair
    return None


def fix(scene: Scene, editor: Editor, index: int) -> None:
    pair = branch(scene, index)
    if pair is not None:
        editor.drop_pair(pair)


@lint_rule(
    "both-branches",
    "ED203",
    "warning",
    source=("P3",),
    where={"residual_add": (True,)},
    remedy="leave the convolution's side in float: Q/DQ on the skip input alone",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def both_branches(scene: Scene) -> Iterator[Fault]:
    """A residual Add has Q/DQ on the convolution's side too."""
    for index, node in enumerate(scene.nodes):
        pair = branch(scene, index) if node.op_type == "Add" else None
        if pair is not None:
            yield index, f"'{pair.source}' is quantized between its convolution and the Add"
