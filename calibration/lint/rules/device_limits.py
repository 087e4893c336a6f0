"""DLA takes static shapes, dimensions up to 8192, batches up to 4096, and a list of operators (P16)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.scene import DQ, Q


def cases(rng: np.random.Generator) -> Cases:
    def net(*shape: int | str, op: str = "Relu") -> tuple[Sketch, str]:
        net = Sketch(rng, *shape)
        return net, net.pair(net.op(op, net.conv(net.pair("x"))))

    nets = [net("n", 16, 8, 8), net(1, 16, 8, 9000), net(5000, 16, 1, 1), net(1, 16, 8, 8, op="Gelu")]
    models = [(sketch.model(out), "dla") for sketch, out in (*nets, net(1, 16, 8, 8))]
    return Cases(models[:4], models[4:])


@lint_rule(
    "device-limits",
    "ED113",
    "error",
    source=("P16", "H6"),
    where={"runtime": ("dla",)},
    remedy="export with static sizes that fit, and leave what DLA lacks to the GPU: each change is a copy",
    cases=cases,
)
def device_limits(scene: Scene) -> Iterator[Fault]:
    """The device has no such operator, or not of this size."""
    rules = scene.rules
    for index, node in enumerate(scene.nodes):
        if rules.operators and node.op_type not in rules.operators | {Q, DQ, "Constant", "Identity"}:
            yield index, f"{rules.title} has no {node.op_type}"
            continue
        for name in (*node.input, *node.output):
            shape = scene.shapes.get(name, ()) if name in scene.float32 else ()
            if None in shape:
                yield index, f"'{name}' has a size that is known only at run time"
                break
            sizes = [size or 0 for size in shape]
            if rules.largest and max(sizes, default=0) > rules.largest:
                yield index, f"'{name}' has a dimension of {max(sizes)}, more than {rules.largest}"
                break
            if rules.largest_batch and sizes and sizes[0] > rules.largest_batch:
                yield index, f"'{name}' has a batch of {sizes[0]}, more than {rules.largest_batch}"
                break
