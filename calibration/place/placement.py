"""Write a model with explicit QuantizeLinear/DequantizeLinear from ranges and a rule set.

A tensor has one pair (P4). A weight becomes an INT8 initializer behind DequantizeLinear, a quarter of the
size (H5). The graph stays standard ONNX of opset 19 or newer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgedeploy.calibration.calibrator import Range
from edgedeploy.calibration.place.exclusions import trained_for_int8
from edgedeploy.calibration.place.plan import Note, Plan
from edgedeploy.calibration.place.planner import make_plan
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.calibration.place.weights import SMALLEST_SCALE
from edgedeploy.calibration.place.writer import QdqWriter, Scale
from edgedeploy.core.errors import CalibrationError, first_line
from edgedeploy.core.operators import PRODUCTS, QDQ
from edgedeploy.core.pair_sums import LEVELS
from edgedeploy.graphs.edit import copy_model
from edgedeploy.graphs.opset import NotConvertible, converted, opset_of
from edgedeploy.graphs.run import Feeds
from edgedeploy.graphs.view import GraphView

OPSET = 19
# Asymmetric activations: type, least code, number of steps.
CODES = {
    "uint8": (np.uint8, 0, 255),
    "int8-asymmetric": (np.int8, -128, 255),
    "uint16": (np.uint16, 0, 65535),
}
NEWEST_NEEDED = {"uint16": 21}
TRAINED = "trained for INT8"  # doc_string of a layer; lint accepts such a last layer


@dataclass(frozen=True)
class PlacementReport:
    """Result of placement.

    Attributes:
        quantized, excluded: notes on nodes, in graph order; every excluded node has a reason.
        pairs: number of tensors with a Q/DQ pair.
        scales: quantized tensor -> scale.
        notes: other changes to the model, e.g. a raised opset.
    """

    quantized: tuple[Note, ...]
    excluded: tuple[Note, ...]
    pairs: int
    scales: dict[str, float]
    notes: tuple[str, ...] = ()


def prepared(
    model: onnx.ModelProto, rules: RuleSet | None = None, feeds: Iterable[Feeds] = ()
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of the model at an opset of the rule set (default: 19 or newer), and the changes.

    A conversion is proved on random inputs and on `feeds`. Raises CalibrationError if the model cannot be
    converted, or is quantized already.
    """
    if any(node.op_type in QDQ for node in model.graph.node):
        raise CalibrationError("the model is quantized already", "start from the float model")
    result = copy_model(model)
    constants = {entry.name for entry in result.graph.initializer}
    for position in reversed(range(len(result.graph.input))):
        # Before IR version 4 weights were inputs too; INT8 weights cannot be overridden.
        if result.graph.input[position].name in constants:
            del result.graph.input[position]
    result.ir_version = max(result.ir_version, 9)
    opset = opset_of(model)
    least = max(rules.opset, NEWEST_NEEDED.get(rules.activation, 0)) if rules else OPSET
    most = rules.max_opset if rules and rules.max_opset else max(opset, least)
    wanted_opset = min(max(opset, least), most)
    notes: tuple[str, ...] = ()
    if opset != wanted_opset:
        try:
            result = converted(result, wanted_opset, feeds)
        except NotConvertible as error:
            raise CalibrationError(
                f"the model of opset {opset} cannot be converted to {wanted_opset}: {error}",
                "rewrite what is newer first: edgedeploy optimize MODEL.onnx --for TARGET"
                if wanted_opset < opset
                else "export it again with capture.opset=20",
            ) from error
        result.ir_version = max(result.ir_version, 9)
        notes = (f"opset {'raised' if wanted_opset > opset else 'lowered'} from {opset} to {wanted_opset}",)
    _name_nodes(result)
    return result, notes


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name, its `GraphView.label`: insertion of Q/DQ shifts positions."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        node.name = f"{name}_{index}" if name in taken else name
        taken.add(node.name)


def place(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    rules: RuleSet,
    keep_float: Mapping[str, str] | None = None,
) -> tuple[onnx.ModelProto, PlacementReport]:
    """The quantized model, and a report on its nodes.

    `ranges` are those of the tensors that `wanted` names. A node stays in float if a range is missing, or if
    its label is in `keep_float` (-> reason). Raises CalibrationError as `prepared` does.
    """
    result, notes = prepared(model, rules)
    view = GraphView(result)
    missing = {
        name: f"no range is known for its input '{name}'"
        for name in make_plan(view, rules, keep_float=keep_float).tensors
        if name not in ranges
    }
    plan = make_plan(view, rules, missing, keep_float)
    writer = QdqWriter(view, plan, _scales(view, plan, ranges, rules), rules)
    trained = {view.label(index) for index, _ in plan.weights if trained_for_int8(view, index)}
    writer.write()
    for node in result.graph.node:
        if node.name in trained:
            node.doc_string = TRAINED
    try:
        onnx.checker.check_model(result)
    except onnx.checker.ValidationError as error:
        raise CalibrationError(
            f"the quantized model is not valid ONNX: {first_line(error)}", "export the model again"
        ) from None
    report = PlacementReport(
        tuple(plan.quantized),
        tuple(plan.excluded),
        len(plan.tensors),
        {name: float(scale) for name, (scale, _) in writer.scales.items()},
        notes,
    )
    return result, report


def wanted(model: onnx.ModelProto, rules: RuleSet, keep_float: Mapping[str, str] | None = None) -> list[str]:
    """Tensors whose ranges `place` needs."""
    return make_plan(GraphView(model), rules, keep_float=keep_float).tensors


def _scales(view: GraphView, plan: Plan, ranges: Mapping[str, Range], rules: RuleSet) -> dict[str, Scale]:
    """Scale and zero-point per tensor; tensors that share a scale have the union of their ranges."""
    merged: dict[str, Range] = {}
    for name in plan.tensors:
        leader = plan.leader_of(name)
        own = _known_range(view, name, rules) or ranges[name]
        merged[leader] = merged[leader].union(own) if leader in merged else own
    joins = {
        plan.leader_of(name) for name in plan.tensors if rules.symmetric_joins and _is_join(view, plan, name)
    }
    scales = {}
    for leader, covered in merged.items():
        wide = _widened(covered, rules)
        scale, zero = scale_of(wide, rules.activation)
        scales[leader] = scale_of(wide, "int8") if zero and leader in joins else (scale, zero)
    return {name: scales[plan.leader_of(name)] for name in plan.tensors}


def _is_join(view: GraphView, plan: Plan, name: str) -> bool:
    """Whether a MatMul reads joined tokens (lint rule ED117)."""
    readers = (view.nodes[index].op_type for index, _ in plan.reads.get(name, ()))
    return any(op in PRODUCTS for op in readers) and view.joins_tokens(name)


def _widened(covered: Range, rules: RuleSet) -> Range:
    """The range, at least `rules.least_range` wide; `scale_of` refuses a range that is not finite."""
    low, high = min(covered.low, 0.0), max(covered.high, 0.0)
    return covered if not high - low < rules.least_range else Range(low, low + rules.least_range)


def _known_range(view: GraphView, name: str, rules: RuleSet) -> Range | None:
    producer = view.producer.get(name)
    known = rules.known_ranges.get(view.nodes[producer].op_type) if producer is not None else None
    return Range(*known) if known else None


def scale_of(covered: Range, kind: str) -> Scale:
    """Scale and zero-point: int8 s = amax / 127, or s = (high - low) / 255 (65535) with zero covered exactly.

    The scale of an all-zero tensor is 1. Raises CalibrationError for a range that is not finite.
    """
    if not (math.isfinite(covered.low) and math.isfinite(covered.high)):
        raise CalibrationError(
            f"a range is not finite: [{covered.low}, {covered.high}]", "leave such a tensor out of the ranges"
        )
    if kind == "int8":
        scale = max(covered.amax / LEVELS, SMALLEST_SCALE) if covered.amax > 0 else 1.0
        return np.float32(scale), np.int8(0)
    code, least, steps = CODES[kind]
    low, high = min(covered.low, 0.0), max(covered.high, 0.0)
    scale = max((high - low) / steps, SMALLEST_SCALE) if high > low else 1.0
    return np.float32(scale), code(least + int(np.clip(np.rint(-low / scale), 0, steps)))
