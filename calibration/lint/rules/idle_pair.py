"""A pair that no INT8 kernel reads rounds values, costs two kernels and prevents a fusion (P2, P6)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.flow import idle_readers
from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.lint.scene import Pair


def cases(rng: np.random.Generator) -> Cases:
    end, pool, both, skip = (Sketch(rng) for _ in range(4))
    end_model = end.model(end.pair(end.conv(end.pair("x"))))
    pool_model = pool.model(pool.op("AveragePool", pool.pair(pool.conv(pool.pair("x"))), kernel_shape=[2, 2]))
    pooled = both.op(
        "AveragePool", both.pair(both.op("Relu", both.conv(both.pair("x")))), kernel_shape=[2, 2]
    )
    x = skip.pair("x")
    skip_model = skip.model(skip.op("Add", skip.conv(skip.pair(skip.op("Relu", skip.conv(x)))), x))
    return Cases([end_model, pool_model], [both.model(both.conv(both.pair(pooled))), skip_model])


def fix(scene: Scene, editor: Editor, index: int) -> None:
    for pair in scene.pairs():
        if pair.quantize == index and not codes_are_read(scene, pair):
            editor.drop_pair(pair)


def codes_are_read(scene: Scene, pair: Pair) -> bool:
    """Whether another operator than DQ reads the codes."""
    readers = scene.readers(scene.nodes[pair.quantize].output[0])
    return any(scene.op(index) != "DequantizeLinear" for index in readers)


@lint_rule(
    "idle-pair",
    "ED202",
    "warning",
    source=("P2", "P6"),
    where={"outputs": (False,)},
    remedy="take the pair out; the next consumer's Q becomes the output of the fused kernel",
    cases=cases,
    fix=fix,
    promise=15.0,
)
def idle_pair(scene: Scene) -> Iterator[Fault]:
    """Nothing that runs in INT8 reads the pair."""
    for pair in scene.pairs():
        readers = scene.readers(pair.result)
        if len(idle_readers(scene, pair)) == len(readers):
            what = ", ".join(sorted({scene.op(index) for index in readers})) or "the graph's output"
            yield pair.quantize, f"only {what} reads it, in float"
