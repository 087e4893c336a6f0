"""x W = (x / s)(diag(s) W), s_j = max|x_j|^alpha / max_k|W_jk|^(1 - alpha): outliers of x move into W.

In a transformer a few channels of a norm's output are a hundred times the others. An activation has one
scale; a weight has a scale per output. The norm's scale and shift, or the layer before, absorb 1/s at no
cost. Xiao et al., "SmoothQuant", ICML 2023, eq. 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.collect.values import values
from edgedeploy.calibration.correction import CORRECTIONS, BeforePlacement, Setting
from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.core.operators import HOMOGENEOUS, PRODUCTS
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.view import GraphView, attribute

_WIDEST = 1e3  # largest ratio of two s that float32 and the levels of weights allow

Slot = tuple[int, int, int]  # node, input, axis of a constant that can be divided by s


@CORRECTIONS.register
@dataclass(frozen=True)
class SmoothQuant(BeforePlacement):
    """Smooths every tensor that only matrix products with constant weights read.

    Attributes:
        alpha: share of the range that moves from activations into weights, 0 to 1.
        multiply: whether a Mul is inserted before the product if no layer can absorb 1/s.
    """

    name = "smooth"
    order = 11
    alpha: float = 0.5
    multiply: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be 0 to 1, not {self.alpha}")

    def prepare(self, model: onnx.ModelProto, setting: Setting) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        view = GraphView(model)
        reads = make_plan(view, setting.rules, keep_float=setting.keep_float).reads
        names = [
            name
            for name in reads
            if readable(view, name) and (self.multiply or slots(view, name) is not None)
        ]
        peaks: dict[str, NDArray[np.float64]] = {}
        for tensors in values(model, names, setting) if names else ():
            for name, x in tensors.items():
                top = np.nan_to_num(np.abs(x), posinf=0.0).reshape(-1, x.shape[-1]).max(axis=0)
                peaks[name] = np.maximum(peaks.get(name, 0.0), top)
        if not peaks:
            return model, ()
        scales = {name: self.scales(peak, *weights(view, name)) for name, peak in peaks.items()}
        return smooth(model, scales), (f"outliers of {len(scales)} tensors smoothed into weights",)

    def scales(self, peaks: NDArray[np.float64], *weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """s (C,) for the peaks of x (C,) and the weights (C, outputs) that read it."""
        rows = np.max([np.abs(w).max(axis=1) for w in weights], axis=0)
        live = (peaks > 0) & (rows > 0)
        s = np.ones(peaks.shape)
        s[live] = peaks[live] ** self.alpha / rows[live] ** (1 - self.alpha)
        s[~live] = np.median(s[live]) if live.any() else 1.0
        result: NDArray[np.float64] = np.clip(s, s.max() / _WIDEST, None)
        return result


def readable(view: GraphView, name: str) -> bool:
    """Whether nothing but Gemm and MatMul by constant matrices reads the tensor."""
    if view.is_external(name) or not view.consumers[name]:
        return False
    return all(_is_product(view, index, position) for index, position in view.consumers[name])


def weights(view: GraphView, name: str) -> list[NDArray[np.float64]]:
    """Weights (C, outputs) of the products that read the tensor."""
    found = []
    for index, _ in view.consumers[name]:
        w = view.value(view.nodes[index].input[1]).astype(np.float64)
        found.append(w.T if attribute(view.nodes[index], "transB", 0) else w)
    return found


def slots(view: GraphView, name: str) -> list[Slot] | None:
    """Constants to divide by s so that the tensor's last axis is divided by s; None if there are none."""
    index = view.producer.get(name)
    if index is None:
        return None
    node = view.nodes[index]
    constants = [i for i, value in enumerate(node.input) if value in view.constants]
    if node.op_type in HOMOGENEOUS:
        return slots(view, node.input[0]) if view.is_private(node.input[0]) else None
    if node.op_type == "LayerNormalization":
        rank = len(view.shapes.get(name) or ())
        last = attribute(node, "axis", -1) in (-1, rank - 1)
        return [(index, i, -1) for i in constants] if last and 1 in constants else None
    if node.op_type in {"Add", "Mul"} and len(constants) == 1 and _last_axis(view, name, constants[0]):
        own: list[Slot] = [(index, constants[0], -1)]
        other = node.input[1 - constants[0]]
        if node.op_type == "Mul":
            return own
        before = slots(view, other) if view.is_private(other) else None
        return None if before is None else before + own
    if node.op_type in PRODUCTS and _is_product(view, index, 0):
        if len(node.input) > 2 and node.input[2] and 2 not in constants:
            return None
        axis = 0 if attribute(node, "transB", 0) else -1
        return [(index, 1, axis), *((index, i, -1) for i in constants if i == 2)]
    return None


def smooth(model: onnx.ModelProto, scales: dict[str, NDArray[np.float64]]) -> onnx.ModelProto:
    """A copy that computes the same, with the last axis of some tensors divided by their scales (C,)."""
    view = GraphView(copy_model(model))
    editor = GraphEditor(view)
    constants = {name: slots(view, name) for name in scales}
    for name, s in scales.items():
        found = constants[name]
        for index, position, axis in found or ():
            value = view.value(view.nodes[index].input[position]).astype(np.float64)
            value = np.broadcast_to(value, s.shape) if value.size == 1 else value
            shape = [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)]
            editor.replace_constant(index, position, value / s.reshape(shape))
        if found is None:
            editor.multiply(name, 1 / s, "smooth")
        for index, _ in view.consumers[name]:
            w = view.value(view.nodes[index].input[1]).astype(np.float64)
            side = s[None, :] if attribute(view.nodes[index], "transB", 0) else s[:, None]
            editor.replace_constant(index, 1, w * side)
    editor.commit()
    return view.model


def _is_product(view: GraphView, index: int, position: int) -> bool:
    node = view.nodes[index]
    if node.op_type not in PRODUCTS or position != 0 or node.input[1] not in view.constants:
        return False
    plain = not attribute(node, "transA", 0)
    return plain and len(view.constants[node.input[1]].dims) == 2


def _last_axis(view: GraphView, name: str, position: int) -> bool:
    """Whether a constant varies at most along the last axis of the node's output."""
    dims = tuple(view.constants[view.nodes[view.producer[name]].input[position]].dims)
    shape = view.shapes.get(name)
    if not shape or shape[-1] is None:
        return False
    return all(size == 1 for size in dims[:-1]) and (not dims or dims[-1] in (1, shape[-1]))
