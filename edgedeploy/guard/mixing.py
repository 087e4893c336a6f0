"""INT8 with some layers in float: proposed by noise and time of each layer, decided by building and scoring.

The float layers run in what the runtime chooses between INT8 layers. Layers are measured on calibration
inputs; a proposal is scored on the other inputs, in the runtime that ships, for a few rounds of bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from edgedeploy.backend import BACKENDS
from edgedeploy.calibration.mix.float_order import float_order, least_prefix, negligible, reason
from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity
from edgedeploy.core.accuracy import AccuracyBudget, parse_accuracy
from edgedeploy.guard.candidates import Builder, Built, Candidate, built_of, run_shapes
from edgedeploy.guard.choice import best_int8
from edgedeploy.guard.layers import EmulatedMixes, estimated_savings, profiled_savings
from edgedeploy.guard.score import Scorer
from edgedeploy.task import task_for

FLOATS = ("fp32", "bf16", "fp16")
IMAGES = 2  # that sensitivity is measured on: the order of layers changes little with more
IDLE = 0.2  # share of INT8's saving that is not worth its noise: the layers that save least
WORTH = 0.03  # share of INT8's time that layers must lose in INT8 for a mix without them to be built


@dataclass
class Mixing:
    """What is known of the layers of an INT8 candidate, and the mixes that were built.

    Attributes:
        sensitivity: noise and agreement of each layer; None where it was not measured.
        savings: milliseconds that each layer saves in INT8 over the float candidate; empty where not known.
        estimated: whether `savings` is a roofline.
        tried: mixed candidates, in order.
    """

    sensitivity: Sensitivity | None = None
    savings: dict[str, float] = field(default_factory=dict)
    estimated: bool = False
    tried: list[Candidate] = field(default_factory=list)

    @property
    def worth_timing(self) -> list[Candidate]:
        """The mixes that keep the budgets; else the last one, for the report."""
        return [c for c in built_of(self.tried) if not c.missed] or self.tried[-1:]


def find_mixes(candidates: Sequence[Candidate], builder: Builder) -> Mixing:
    """Build mixes where they could win; where INT8 misses its budget, at least measure its layers."""
    int8 = best_int8(candidates)
    others = [
        c
        for c in built_of(candidates)
        if c.precision != "int8" and not c.missed and c.milliseconds is not None
    ]
    if not isinstance(int8, Built) or not others:
        return Mixing()
    other = min(others, key=lambda c: c.milliseconds or 0.0)
    slower = (int8.milliseconds or 0.0) >= (other.milliseconds or 0.0)
    if not builder.job.recipe.guard.mixed or (int8.missed and slower) or int8.not_here:
        return Mixing(_measured(int8, builder).sensitivity) if int8.missed else Mixing()
    if int8.missed:
        return mixes_for_accuracy(int8, other, builder, candidates)
    return mix_for_speed(int8, other, builder)


def mixes_for_accuracy(
    int8: Built, other: Built, builder: Builder, candidates: Sequence[Candidate] = ()
) -> Mixing:
    """Mixes that may keep the budget that INT8 misses, and yet be faster than `other`.

    `candidates` are those to compare layers with. Where no mix keeps the budget with float layers in the
    precision that the runtime chooses, mixes with float layers in float32 are built.
    """
    mixes = _measured(int8, builder)
    mixing = Mixing(mixes.sensitivity)
    budgets = _budgets_without_labels(builder)

    def keeps(order: Sequence[LayerSensitivity], least: float, exact: bool, count: int) -> bool:
        saved = mixing.savings
        kept = {layer.name: reason(layer, saved.get(layer.name), least) for layer in order[:count]}
        made = builder.mixed(int8, kept, exact_float=exact)
        mixing.tried.append(made)
        return isinstance(made, Built) and not made.missed

    for exact in (False, True):
        if exact and not BACKENDS.get(int8.backend).rounds_float:
            break
        form = float_form(int8, other, candidates, exact=exact)
        mixing.savings, mixing.estimated = _savings(int8, form, builder)
        least = negligible(mixing.savings, IDLE)
        order, idle = float_order(mixes.sensitivity, mixing.savings, least)
        if idle == len(order):
            continue
        count = least_prefix([layer.name for layer in order], lambda kept: mixes.keeps(kept, budgets))
        reach = max(idle, _affordable(order, mixing.savings, int8, other))
        rounds = builder.job.recipe.guard.rounds
        if bisect(partial(keeps, order, least, exact), max(1, idle, count), max(0, idle - 1), reach, rounds):
            break
    return mixing


def mix_for_speed(int8: Built, other: Built, builder: Builder) -> Mixing:
    """INT8 without the layers that are slower in it, where they lose a share of its time worth a build."""
    mixing = Mixing()
    mixing.savings, mixing.estimated = _savings(int8, other, builder)
    quantized = {note.node for note in int8.quantized.report.placement.quantized} if int8.quantized else set()
    lost = {name: -value for name, value in mixing.savings.items() if value < 0 and name in quantized}
    total = int8.milliseconds
    if not lost or total is None or mixing.estimated or sum(lost.values()) < WORTH * total:
        return mixing
    if len(lost) < len(quantized):
        kept = {name: f"INT8 is slower here by {value:.3f} ms" for name, value in lost.items()}
        mixing.tried.append(builder.mixed(int8, kept))
    return mixing


def float_form(int8: Built, other: Built, candidates: Sequence[Candidate], *, exact: bool) -> Built:
    """The candidate whose profile tells the time of layers kept in float: a float one in the same runtime.

    Where the runtime may round float layers, and `exact` does not forbid it, the fastest float precision;
    `other` where there is none, or the runtime computes float layers as they are written.
    """
    if not BACKENDS.get(int8.backend).rounds_float:
        return other
    allowed = ("fp32",) if exact else FLOATS
    first = {
        c.precision: c
        for c in reversed(built_of(candidates))
        if c.backend == int8.backend and not c.kept_float
    }
    known = [c for c in first.values() if c.precision in allowed and c.milliseconds is not None]
    return min(known, key=lambda c: c.milliseconds or 0.0, default=other)


def bisect(keeps: Callable[[int], bool], first: int, too_few: int, most: int, rounds: int) -> bool:
    """Look for the fewest layers in float that keep the budgets, in so many rounds; whether any number does.

    The first try is `first`, none is above `most`; `too_few` layers are known to be too few.
    """
    low, high, found = too_few, most + 1, False
    count = min(first, most)
    for _ in range(rounds):
        if not low < count < high:
            break
        if keeps(count):
            found, high = True, count
        else:
            low = count
        count = (low + high) // 2 if found else min(2 * count, high - 1)
    return found


def _measured(int8: Built, builder: Builder) -> EmulatedMixes:
    """The layers of an INT8 candidate, measured on some of the inputs that it was calibrated on."""
    job = builder.job
    assert int8.quantized is not None  # noqa: S101  an int8 candidate was quantized
    assert job.data is not None  # noqa: S101  `Lower.check` refused it
    inputs = list(islice(Scorer(builder.artifact, job.data, IMAGES, job.size).feeds(), IMAGES))
    memory_mb = job.recipe.calibration.memory_mb
    return EmulatedMixes.of(int8.quantized, int8.lowered, inputs, builder.progress, memory_mb)


def _savings(int8: Built, other: Built, builder: Builder) -> tuple[dict[str, float], bool]:
    """Milliseconds that each layer saves in INT8 over another candidate, and whether that is an estimate."""
    assert int8.quantized is not None  # noqa: S101  an INT8 candidate was quantized
    model, job = int8.quantized.float_model, builder.job
    shapes = run_shapes(int8.artifact, job)
    if int8.not_here or other.not_here:
        return estimated_savings(model, shapes, job.target, int8.backend, other.precision), True
    return profiled_savings(int8.artifact, other.artifact, model, shapes), False


def _affordable(
    order: Sequence[LayerSensitivity], saved: Mapping[str, float], int8: Built, other: Built
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


def _budgets_without_labels(builder: Builder) -> tuple[AccuracyBudget, ...]:
    """The budgets that can be judged on calibration inputs, which have no labels; else the task's own."""
    known = tuple(budget for budget in builder.budgets if not budget.needs_labels)
    return known or parse_accuracy(task_for(builder.artifact).budget_without_labels)
