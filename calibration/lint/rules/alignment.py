"""INT8 kernels compute tiles of 32 channels, FP16 kernels tiles of 8; the rest of a tile is padding (P15)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import TENSORRT, Cases, Fault, Scene, Sketch, lint_rule
from edgedeploy.calibration.place.exclusions import weight_shape
from edgedeploy.graphs.view import attribute

LANES = 32
MUCH = 0.25  # of the work; below it other things decide


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for channels in (40, 64):
        net = Sketch(rng, 1, channels, 8, 8)
        y = net.op("Relu", net.conv(net.pair("x"), channels, channels))
        models.append(net.model(net.conv(net.pair(y), channels, channels)))
    return Cases(models[:1], models[1:])


def padded(count: int) -> int:
    return -(-count // LANES) * LANES


@lint_rule(
    "alignment",
    "ED305",
    "advice",
    source=("P15",),
    where={"runtime": TENSORRT},
    remedy="choose widths that are multiples of 32, or compare with fp16 on the device",
    cases=cases,
)
def alignment(scene: Scene) -> Iterator[Fault]:
    """Much of the INT8 arithmetic is on padding, for channels are no multiples of 32."""
    used = done = 0
    worst, where = 0.0, ""
    for index in scene.weighted:
        shape = weight_shape(scene, index)
        if scene.op(index) != "Conv" or len(shape) != 4 or attribute(scene.nodes[index], "group", 1) != 1:
            continue
        if scene.runs_int8(index):
            out, channels, pixels = shape[0], shape[1], _pixels(scene, index) * shape[2] * shape[3]
            used, done = used + out * channels * pixels, done + padded(out) * padded(channels) * pixels
            waste = (padded(out) * padded(channels) - out * channels) * pixels
            if waste > worst:
                worst, where = waste, f"'{scene.label(index)}', {channels} to {out} channels"
    if done and 1 - used / done > MUCH:
        yield -1, f"{1 - used / done:.0%} of it, most in {where}"


def _pixels(scene: Scene, index: int) -> int:
    shape = scene.shapes.get(scene.nodes[index].output[0], ())
    return int(np.prod([size or 1 for size in shape[2:]]))
