"""conv(x, w) = conv(x / r, w r), r_c = (max |x_c| / max |x|)^strength: channels made alike for INT8.

An activation has one scale, so a channel a tenth as large as the largest gets a tenth of the levels. Where a
convolution, depthwise or not, makes x, 1/r goes into its weights, through what is homogeneous between
(relu(a / r) = relu(a) / r), and costs nothing; after Tanh or ReLU6 it is a Mul that fuses with them. Nagel et
al., ICCV 2019 (cross-layer equalization); Xiao et al., ICML 2023 (the exponent).
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
from edgedeploy.calibration.place.exclusions import trained_for_int8, weighted_after
from edgedeploy.calibration.place.plan import Plan
from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.core.operators import HOMOGENEOUS
from edgedeploy.graphs.edit import GraphEditor, copy_model
from edgedeploy.graphs.view import GraphView, attribute

# f(a / r) = f(a) / r for r > 0 that differs from channel to channel.
_TRANSPARENT = HOMOGENEOUS | {"PRelu", "MaxPool", "AveragePool", "GlobalAveragePool"}
_LEAST = 1 / 64  # of the largest channel: a dead channel would otherwise blow up its weights


@CORRECTIONS.register
@dataclass(frozen=True)
class Equalize(BeforePlacement):
    """Equalizes every tensor that only convolutions read and whose producer can absorb the factor.

    Attributes:
        strength: 0 (off) to 1 (channels fully alike); what x gains in levels w may lose.
        depthwise: the same for tensors that only depthwise convolutions read.
        multiply: operators behind which a Mul is put where no weight can absorb the factor.
        trained: the same for tensors whose readers' weights lie on the int8 grid already. Factors move them
            off it, so this pays only with a correction that chooses codes by the layer's output.
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
        if not setting.rules.last:  # a last layer is quantized only for its grid
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
        deep = any(view.constants[view.nodes[i].input[1]].dims[1] > 1 for i, _ in view.consumers[name])
        return self.strength if deep else self.depthwise


def candidates(
    view: GraphView, plan: Plan, multiply: frozenset[str] = frozenset(), *, trained: bool = False
) -> list[str]:
    """Tensors read by nothing but quantized convolutions, whose producer can absorb the factor.

    Where the weights lie on the int8 grid already, quantizing them loses nothing and any factor would:
    without `trained` they are not equalized.
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
            rank = len(view.constants[view.nodes[view.readers(name)[0]].input[1]].dims)
            editor.multiply(name, (1 / r).reshape([1, -1, *[1] * (rank - 2)]), "equalize")
        for index, _ in view.consumers[name]:
            _scale_inputs(editor, index, r)
    editor.commit()
    return view.model


def source_of(view: GraphView, name: str) -> int | None:
    """The convolution that can absorb the factor: conv -> homogeneous nodes -> name, read by nothing else."""
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
    """Multiply a convolution's weights by the factors of the channels that they read."""
    view, node = editor.view, editor.view.nodes[index]
    outputs, depth = view.constants[node.input[1]].dims[:2]
    groups = int(attribute(node, "group", 1))
    factor = np.repeat(r.reshape(groups, depth), outputs // groups, axis=0)
    rank = len(view.constants[node.input[1]].dims)
    _scale(editor, index, 1, factor.reshape(outputs, depth, *[1] * (rank - 2)))


def _scale(editor: GraphEditor, index: int, position: int, factor: NDArray[np.floating[Any]]) -> None:
    """Give a node its own copy of a constant, multiplied by factors (of its first axis, or of its rank)."""
    value = editor.view.value(editor.view.nodes[index].input[position]).astype(np.float64)
    if factor.ndim == 1:
        factor = factor.reshape([-1, *[1] * (value.ndim - 1)])
    editor.replace_constant(index, position, value * factor)
