"""b = s_x s_w q in int32: QLinearConv of ONNX Runtime takes no other; a float bias keeps Conv in float."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    bad, good = Sketch(rng), Sketch(rng)
    bad.pair(bad.conv(bad.pair("x")), 0.1)
    bias = good.op(
        "DequantizeLinear", good.constant(rng.integers(-9, 9, 16).astype(np.int32)), good.constant(0.01)
    )
    good.pair(good.op("Conv", good.pair("x"), good.weight(16, 16, 3, 3), bias, pads=[1] * 4), 0.1)
    return Cases([bad.model(bad.nodes[-1].name)], [good.model(good.nodes[-1].name)])


def codes_of(scene: Scene, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and scales of a float bias; None without such a bias, or where its codes exceed int32."""
    node = scene.nodes[index]
    name = node.input[2] if len(node.input) > 2 else ""
    pair, dequantize = scene.pair(node.input[0]), scene.weight(node.input[1])
    if name not in scene.constants or pair is None or dequantize < 0 or not scene.runs_int8(index):
        return None
    x, w = scene.parameters(pair.quantize), scene.parameters(dequantize)
    b = np.asarray(scene.value(name), np.float64)
    if x is None or w is None or b.ndim != 1 or w.scale.size not in {1, b.size}:
        return None
    step = np.broadcast_to(np.float64(x.scale) * w.scale, b.shape)
    codes = np.rint(b / step)
    return (codes.astype(np.int32), step.astype(np.float32)) if (np.abs(codes) < 2**31).all() else None


def fix(scene: Scene, editor: Editor, index: int) -> None:
    found, name = codes_of(scene, index), scene.nodes[index].input[2]
    if found is not None:
        inputs = [editor.constant(f"{name}_int32", found[0]), editor.constant(f"{name}_scale", found[1])]
        dequantized = editor.insert(index, "DequantizeLinear", inputs, f"{name}_dequantized", axis=0)
        editor.read(index, 2, dequantized)


@lint_rule(
    "float-bias",
    "ED213",
    "warning",
    source=("H3",),
    where={"bias": ("int32",)},
    remedy="store biases as int32 with the scale of activation times weight",
    cases=cases,
    fix=fix,
    promise=40.0,
)
def float_bias(scene: Scene) -> Iterator[Fault]:
    """A bias is float where the runtime's INT8 kernel takes int32 only."""
    for index in scene.weighted:
        if scene.op(index) in {"Conv", "Gemm"} and codes_of(scene, index) is not None:
            yield index, f"bias '{scene.nodes[index].input[2]}' is float"
