"""Post-training quantization in one call: plan, collect statistics, compute ranges, write Q/DQ."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import onnx

from edgedeploy.calibration.calibrator import Range, TensorStatistics, make_calibrator
from edgedeploy.calibration.collect.collect import Collected, FeedsFactory, collect
from edgedeploy.calibration.correction import (
    AfterPlacement,
    BeforePlacement,
    Setting,
    make_corrections,
)
from edgedeploy.calibration.place.fp8 import to_fp8
from edgedeploy.calibration.place.placement import PlacementReport, place, prepared, wanted
from edgedeploy.calibration.place.ruleset import RuleSet, load_rules
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.progress import Progress

PROOFS = 1  # calibration inputs that prove an opset conversion
Corrections = Sequence[str] | Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True)
class QuantizeReport:
    """How a model was quantized.

    Attributes:
        placement: nodes in INT8 and in float, with reasons.
        images, passes: number of feeds, and of passes over them.
        problems: tensors with NaN, infinite or constant values, one line each.
        seconds: wall time.
    """

    placement: PlacementReport
    images: int
    passes: int
    problems: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class QuantizeResult:
    """The INT8 model, the range of each quantized tensor, and a report.

    `float_model` is the model right before Q/DQ: its nodes have names, and corrections have edited it.
    """

    model: onnx.ModelProto
    ranges: dict[str, Range]
    report: QuantizeReport
    float_model: onnx.ModelProto


def quantize(
    model: onnx.ModelProto,
    feeds_factory: FeedsFactory,
    *,
    method: str = "entropy",
    options: Mapping[str, Any] | None = None,
    rules: str | RuleSet = "tensorrt",
    corrections: Corrections = None,
    memory_mb: int = 512,
    keep_float: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """A copy of a float32 model, quantized to INT8 with explicit Q/DQ.

    Args:
        model: float model after the graph passes, which change weights and so their scales.
        feeds_factory: every call iterates over the calibration inputs (arrays by input name) from the start.
        method, options: a file of calibration/methods and the fields of its dataclass.
        rules: name of a file of calibration/rules, or a rule set.
        corrections: names of files of calibration/corrections, or name -> options. None: those of the rule
            set. A name without options has the options of the rule set.
        memory_mb: bound on memory for activations; a small bound takes more passes over the data.
        keep_float: label of a node that stays in float (its name, or operator and position) -> reason.
        progress: called with (feeds done, feeds in total or None) over all passes.

    Raises:
        CalibrationError: no data, a model that does not run, or nothing in it to quantize.
        UnknownNameError, RecipeError: no such method, rule set, correction or option.
    """
    start = time.perf_counter()
    calibrator = make_calibrator(method, options or {})
    rules = load_rules(rules) if isinstance(rules, str) else rules
    model, notes = prepared(model, rules, islice(feeds_factory(), PROOFS))
    tools = make_corrections(_chosen(corrections, rules))
    setting = Setting(rules, feeds_factory, memory_mb, progress, keep_float or {})
    for tool in tools:
        if isinstance(tool, BeforePlacement):
            model, done = tool.prepare(model, setting)
            notes = (*notes, *done)
    tensors = wanted(model, rules, keep_float)
    collected = Collected()
    if tensors:
        histograms = calibrator.needs_histogram
        collected = collect(
            model, tensors, feeds_factory, histograms=histograms, memory_mb=memory_mb, progress=progress
        )
    usable = {name: entry for name, entry in collected.statistics.items() if entry.count}
    ranges = {name: calibrator.range_of(entry) for name, entry in usable.items()}
    quantized, placement = place(model, ranges, rules, keep_float)
    if not placement.quantized:
        why = "; ".join(f"{note.node}: {note.reason}" for note in placement.excluded[:3])
        raise CalibrationError(
            f"no operator can run in {rules.number.upper()} ({why or 'none has weights'})",
            "deploy it in fp16 or fp32 instead",
        )
    for tool in tools:
        if isinstance(tool, AfterPlacement) and rules.number == "int8":  # corrections choose integer codes
            quantized, done = tool.correct(quantized, model, setting)
            notes = (*notes, *done)
    if rules.number == "fp8":
        quantized = to_fp8(quantized, model)
    if notes:
        placement = dataclasses.replace(placement, notes=(*notes, *placement.notes))
    problems = tuple(line for name, entry in collected.statistics.items() for line in _problems(name, entry))
    problems = (*filter(None, [collected.note]), *problems)
    seconds = time.perf_counter() - start
    report = QuantizeReport(placement, collected.images, collected.passes, problems, seconds)
    return QuantizeResult(quantized, ranges, report, model)


def _chosen(corrections: Corrections, rules: RuleSet) -> Mapping[str, Mapping[str, Any]]:
    if corrections is None:
        return rules.corrections
    if isinstance(corrections, Mapping):
        return corrections
    return {name: rules.corrections.get(name, {}) for name in corrections}


def _problems(name: str, entry: TensorStatistics) -> list[str]:
    if not entry.count:
        return [f"'{name}' has no finite value: what reads it stays in float"]
    lines = []
    if entry.nonfinite:
        share = entry.nonfinite / (entry.nonfinite + entry.count)
        lines.append(f"'{name}' has NaN or infinite values ({share:.2%}), left out of its range")
    if entry.minimum == entry.maximum:
        lines.append(f"'{name}' is constant ({entry.minimum:g}) over all calibration data")
    return lines
