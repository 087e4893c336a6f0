"""INT8 with some layers in float: proposed by their noise and time, decided by building and scoring.

The float layers run in whatever the runtime takes between INT8 ones. Layers are judged on calibration inputs;
what is proposed is scored on the others, whole, in the runtime that ships, for a few rounds of bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from edgedeploy.backend import BACKENDS
from edgedeploy.calibration.mix.costs import layer_costs, layer_names
from edgedeploy.calibration.mix.emulate import Emulator
from edgedeploy.calibration.mix.mixed import float_order, least_prefix, negligible, reason
from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity, measure
from edgedeploy.core.accuracy import AccuracyBudget, parse_accuracy
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.guard.candidates import Candidate, Workshop, run_shapes
from edgedeploy.guard.score import agreement_scores, misses
from edgedeploy.steps.base import Job
from edgedeploy.task import task_for

FLOATS = ("fp32", "bf16", "fp16")
IMAGES = 2  # that sensitivity is measured on: its order settles after very few
IDLE = 0.2  # share of what INT8 saves that is not worth noise: the layers with the least of it
WORTH = 0.03  # share of INT8's time that layers must lose in INT8 for a mix without them to be tried


@dataclass
class Mixing:
    """What is known of the layers of an INT8 candidate.

    Attributes:
        sensitivity: noise and agreement of each layer; None where it was not asked for.
        savings: milliseconds that each layer saves in INT8 over the float candidate; estimated where the
            device is not here; empty where neither is known.
        tried: mixed candidates, in order.
    """

    sensitivity: Sensitivity | None = None
    savings: dict[str, float] = field(default_factory=dict)
    estimated: bool = False
    tried: list[Candidate] = field(default_factory=list)


def analyze(int8: Candidate, shop: Workshop) -> tuple[Sensitivity, Emulator]:
    """Sensitivity of the layers of an INT8 candidate, on calibration inputs."""
    assert int8.quantized is not None  # noqa: S101  it was made by quantizing
    assert int8.lowered is not None  # noqa: S101
    task, result = task_for(int8.lowered), int8.quantized
    return measure(
        result.float_model,
        result.model,
        result.report.placement.quantized,
        calibration_inputs(shop, IMAGES),
        agreement=task.agreement,
        memory_mb=shop.job.recipe.calibration.memory_mb,
        progress=shop.progress,
    )


def calibration_inputs(shop: Workshop, count: int) -> list[Mapping[str, Any]]:
    """A few inputs out of those calibrated on."""
    data = shop.job.data
    assert data is not None  # noqa: S101  `check_precision` refused it
    return list(islice(replace(shop.scorer, data=data, limit=count, kept=None).feeds(), count))


def savings(int8: Candidate, other: Candidate, job: Job) -> tuple[dict[str, float], bool]:
    """Milliseconds that each layer saves in INT8 over another candidate, and whether that is an estimate."""
    assert int8.quantized is not None  # noqa: S101
    model = int8.quantized.float_model
    if int8.built is None or other.built is None:
        return {}, True
    shapes = run_shapes(int8.built, job)
    costs = layer_costs(model, shapes)
    if int8.here and other.here:  # the float candidate may be of another runtime: names are the model's
        from edgedeploy.bench.layers import layer_times
        from edgedeploy.runtime.feeds import random_feeds

        feeds = random_feeds(int8.built, shapes)
        names = layer_names(model, costs)
        ours, theirs = (layer_times(c.built, names, feeds, shapes) for c in (int8, other))  # type: ignore[arg-type]  # both were built
        return {name: theirs[name] - ours[name] for name in ours if name in theirs}, False
    figures = job.target.figures
    # TensorRT-RTX writes the outputs of INT8 convolutions as float32, which is what makes it slow.
    wide: Precision | None = "fp32" if int8.built.backend == "tensorrt-rtx" else None
    estimates = {
        name: cost.milliseconds(figures, other.precision) - cost.milliseconds(figures, "int8", wide)
        for name, cost in costs.items()
    }
    return {name: value for name, value in estimates.items() if value == value}, True


def rescue(int8: Candidate, other: Candidate, shop: Workshop, forms: Sequence[Candidate] = ()) -> Mixing:
    """Mixes that may keep the budget that INT8 misses and yet be faster than `other`, built and scored.

    `forms` are the candidates that there are, to compare layers with. Where no mix keeps the budget with the
    float layers in what the runtime likes best, they are tried in float32.
    """
    found = Mixing()
    found.sensitivity, emulator = analyze(int8, shop)
    inputs = [(feed, emulator.run(feed, ())) for feed in calibration_inputs(shop, IMAGES)]
    proxy = _proxy(shop.budgets, shop.artifact)
    for exact in (False, True):
        if exact and not BACKENDS.get(int8.backend).rounds_float:
            break
        form = float_form(int8, other, forms, exact=exact)
        found.savings, found.estimated = savings(int8, form, shop.job)
        least = negligible(found.savings, IDLE)
        order, idle = float_order(found.sensitivity, found.savings, least)
        if idle == len(order):
            continue
        names = [layer.name for layer in order]
        count = least_prefix(names, lambda kept: _emulated(emulator, inputs, kept, shop.artifact, proxy))
        reach = order[: max(idle, _affordable(order, found.savings, int8, other))]
        if _bisect(int8, reach, max(1, idle, count), max(0, idle - 1), least, shop, found, exact=exact):
            break
    return found


def float_form(int8: Candidate, other: Candidate, forms: Sequence[Candidate], *, exact: bool) -> Candidate:
    """What tells the time of the layers that a mix keeps in float: the float model in the same runtime.

    Where that may round, and `exact` does not forbid it, the fastest of its precisions; `other` where there
    is none, or the runtime computes float layers as they are written.
    """
    if not BACKENDS.get(int8.backend).rounds_float:
        return other
    there = {c.precision: c for c in reversed(forms) if c.backend == int8.backend and c.built and not c.kept}
    known = [c for c in there.values() if c.precision in FLOATS and c.milliseconds is not None]
    able = [c for c in known if c.precision == "fp32"] if exact else known
    return min(able, key=lambda c: c.milliseconds or 0.0, default=other)


def _bisect(
    int8: Candidate,
    order: Sequence[LayerSensitivity],
    count: int,
    low: int,
    least: float,
    shop: Workshop,
    found: Mixing,
    *,
    exact: bool,
) -> bool:
    """Mixes without the first layers of `order`, `count` of them at first; whether one keeps the budgets.

    So many as `low` are too few; `least` is what a layer has to save.
    """
    high, kept_it = len(order) + 1, False
    count = min(count, len(order))
    for _ in range(shop.job.recipe.guard.rounds):
        if not low < count < high:
            break
        kept = {layer.name: reason(layer, found.savings.get(layer.name), least) for layer in order[:count]}
        made = shop.mix(int8, kept, exact=exact)
        found.tried.append(made)
        if made.within:
            kept_it, high = True, count
            count = (low + high) // 2
        else:
            low = count
            count = (low + high) // 2 if kept_it else min(2 * count, high - 1)
    return kept_it


def without_slow(int8: Candidate, other: Candidate, shop: Workshop) -> Mixing:
    """INT8 without the layers that are slower in it, where they cost a share of its time worth the build."""
    found = Mixing()
    found.savings, found.estimated = savings(int8, other, shop.job)
    lost = {name: value for name, value in found.savings.items() if value < 0}
    quantized = {note.node for note in int8.quantized.report.placement.quantized} if int8.quantized else set()
    lost = {name: value for name, value in lost.items() if name in quantized}
    whole = int8.milliseconds
    if not lost or whole is None or found.estimated or -sum(lost.values()) < WORTH * whole:
        return found
    kept = {name: f"INT8 is slower here by {-value:.3f} ms" for name, value in lost.items()}
    if len(kept) < len(quantized):
        found.tried.append(shop.mix(int8, kept))
    return found


def _affordable(
    order: Sequence[LayerSensitivity], saved: Mapping[str, float], int8: Candidate, other: Candidate
) -> int:
    """How many layers may go to float before the mix is as slow as the float candidate."""
    most = len(order) - 1  # all of them would be the float candidate
    if int8.milliseconds is None or other.milliseconds is None or not saved:
        return most
    left = other.milliseconds - int8.milliseconds
    for count, layer in enumerate(order):
        left -= max(saved.get(layer.name, 0.0), 0.0)
        if left < 0:
            return min(count, most)
    return most


def _proxy(budgets: tuple[AccuracyBudget, ...], artifact: Artifact) -> tuple[AccuracyBudget, ...]:
    """What can be told of an emulated mix: calibration inputs have no labels."""
    known = tuple(budget for budget in budgets if not budget.needs_labels)
    return known or parse_accuracy(task_for(artifact).budget_without_labels)


def _emulated(
    emulator: Emulator,
    inputs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    kept: Sequence[str],
    artifact: Artifact,
    budgets: tuple[AccuracyBudget, ...],
) -> bool:
    """Whether a mix keeps budgets that need no labels, on inputs with the float model's outputs."""
    on = set(emulator.layers) - set(kept)
    run: Callable[..., dict[str, Any]] = emulator.run
    pairs = [(exact, run(feed, on)) for feed, exact in inputs]
    return not misses(budgets, agreement_scores(task_for(artifact), pairs), {})
