"""conv(x, w) = conv(x / r, w r), r_c = (max |x_c| / max |x|)^strength: equal channel ranges for INT8.

An activation has one scale, so a channel of a tenth of the range has a tenth of the levels. The convolution
that computes x absorbs 1/r in its weights, also through homogeneous operators (relu(a / r) = relu(a) / r), at
no cost. After Tanh or ReLU6 the factor is a Mul that fuses with them. Nagel et al., ICCV 2019 (cross-layer
equalization); Xiao et al., ICML 2023 (exponent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.collect.collect import collect
from edgedeploy.calibration.correction import CORRECTIONS, BeforePlacement, Setting
from edgedeploy.calibration.place.exclusions import trained_for_int8, weight_shape, weighted_after
from edgedeploy.calibration.place.plan import Plan
from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.core.operators import HOMOGENEOUS
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.view import GraphView, attribute

# f(a / r) = f(a) / r for r > 0 that differs from channel to channel.
_TRANSPARENT = HOMOGENEOUS | {"PRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}
_LEAST = 1 / 64  # least r: the factor of a dead channel would otherwise overflow its weights


@CORRECTIONS.register
@dataclass(frozen=True)
class Equalize(BeforePlacement):
    """Equalizes every tensor that only convolutions read and whose producer can absorb the factor.

    Attributes:
        strength: 0 (off) to 1 (equal ranges); levels that x gains, w may lose.
        depthwise: strength for tensors that only depthwise convolutions read.
        multiply: operators after which a Mul is inserted if no weight can absorb the factor.
        trained: strength for tensors whose consumers' weights lie on the int8 grid. Factors move weights off
            the grid, so this needs a correction that chooses codes by the layer's output.
    """

    name = "equalize"
    order = 10
    strength: float = 0.5
    depthwise: float = 0.5
    multiply: tuple[str, ...] = ("Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh")
    trained: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= strength <= 1 for strength in (self.strength, self.depthwise, self.trained)):
            raise ValueError("strength, depthwise and trained must be 0 to 1")

    def prepare(self, model: onnx.ModelProto, setting: Setting) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        view = GraphView(model)
        plan = make_plan(view, setting.rules, keep_float=setting.keep_float)
        names = candidates(view, plan, frozenset(self.multiply), trained=self.trained > 0)
        if not setting.rules.last:  # a trained last layer is quantized as it is
            names = [name for name in names if not _ends(view, name, setting.rules)]
        strengths = {name: self._strength(view, name) for name in names}
        names = [name for name in names if strengths[name]]
        if not names:
            return model, ()
        found = collect(
            model,
            names,
            setting.feeds,
            histograms=False,
            channels=True,
            memory_mb=setting.memory_mb,
            progress=setting.progress,
        )
        ratios = {
            name: factors(entry.peaks, strengths[name])
            for name, entry in found.statistics.items()
            if entry.peaks is not None
        }
        return equalize(model, ratios), (f"channels of {len(ratios)} tensors equalized",)

    def _strength(self, view: GraphView, name: str) -> float:
        if any(trained_for_int8(view, index) for index, _ in view.consumers[name]):
            return self.trained
        deep = any(weight_shape(view, index)[1] > 1 for index, _ in view.consumers[name])
        return self.strength if deep else self.depthwise


def candidates(
    view: GraphView, plan: Plan, multiply: frozenset[str] = frozenset(), *, trained: bool = False
) -> list[str]:
    """Tensors that only quantized convolutions read and whose producer can absorb the factor.

    Weights on the int8 grid are exact in INT8, and a factor would move them off the grid. Their tensors
    qualify only with `trained`.
    """
    found = []
    for name, edges in plan.reads.items():
        convolutions = all(position == 0 and view.nodes[index].op_type == "Conv" for index, position in edges)
        on_grid = not trained and any(trained_for_int8(view, index) for index, _ in edges)
        private = sorted(view.consumers[name]) == sorted(edges) and not view.is_external(name)
        if convolutions and not on_grid and private and plan.leader_of(name) == name:
            producer = view.producer.get(name)
            kind = view.nodes[producer].op_type if producer is not None else ""
            if kind in multiply or source_of(view, name) is not None:
                found.append(name)
    return found


def _ends(view: GraphView, name: str, rules: RuleSet) -> bool:
    """Whether a last layer whose weights lie on the int8 grid reads the tensor."""
    return any(
        trained_for_int8(view, index) and not weighted_after(view, index, rules)
        for index, _ in view.consumers[name]
    )


def factors(peaks: NDArray[np.float64], strength: float) -> NDArray[np.float32]:
    """r per channel, in [1/64, 1], from the largest magnitude of each channel."""
    top = peaks.max(initial=0.0)
    if top <= 0:
        return np.ones(peaks.shape, dtype=np.float32)
    r: NDArray[np.float64] = np.maximum((peaks / top) ** strength, _LEAST)
    return r.astype(np.float32)


def equalize(model: onnx.ModelProto, ratios: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """A copy that computes the same, with the channels of some tensors divided by their `ratios`."""
    view = GraphView(copy_model(model))
    editor = GraphEditor(view)
    for name, r in ratios.items():
        source = source_of(view, name)
        if source is not None:
            for position in (1, 2):
                if len(view.nodes[source].input) > position and view.nodes[source].input[position]:
                    _scale(editor, source, position, 1 / r)
        else:
            rank = len(weight_shape(view, view.readers(name)[0]))
            editor.multiply(name, (1 / r).reshape([1, -1, *[1] * (rank - 2)]), "equalize")
        for index, _ in view.consumers[name]:
            _scale_inputs(editor, index, r)
    editor.commit()
    return view.model


def source_of(view: GraphView, name: str) -> int | None:
    """The convolution that can absorb the factor: conv -> homogeneous nodes -> `name`, no other reader."""
    made = view.producer.get(name)
    while made is not None and view.nodes[made].op_type in _TRANSPARENT:
        inner = view.nodes[made].input[0]
        if not view.is_private(inner):
            return None
        made = view.producer.get(inner)
    if made is None or view.nodes[made].op_type != "Conv":
        return None
    constants = all(value in view.constants for value in view.nodes[made].input[1:] if value)
    return made if constants else None


def _scale_inputs(editor: GraphEditor, index: int, r: NDArray[np.float32]) -> None:
    """Multiply a convolution's weights by the factors of their input channels."""
    outputs, depth, *kernel = weight_shape(editor.view, index)
    groups = int(attribute(editor.view.nodes[index], "group", 1))
    factor = np.repeat(r.reshape(groups, depth), outputs // groups, axis=0)
    _scale(editor, index, 1, factor.reshape(outputs, depth, *[1] * len(kernel)))


def _scale(editor: GraphEditor, index: int, position: int, factor: NDArray[np.floating[Any]]) -> None:
    """Multiply a constant of one node by factors, along its first axis or of its rank."""
    value = editor.view.value(editor.view.nodes[index].input[position]).astype(np.float64)
    if factor.ndim == 1:
        factor = factor.reshape([-1, *[1] * (value.ndim - 1)])
    editor.replace_constant(index, position, value * factor)
