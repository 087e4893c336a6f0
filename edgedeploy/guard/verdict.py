"""Which candidate ships, and why the others do not, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import BudgetError
from edgedeploy.core.target import Target
from edgedeploy.guard.candidates import ORDER, Candidate

# What a lower precision has to gain to be worth its error; measurements repeat no better.
CLEARLY_FASTER = 0.98
NAMED = 5  # layers that a report names


@dataclass(frozen=True)
class Decision:
    """The candidate that ships, and one sentence on why; `late` are those that miss a budget of time."""

    winner: Candidate
    sentence: str


def decide(
    candidates: Sequence[Candidate],
    late: dict[str, str],
    budgets: Sequence[AccuracyBudget],
    target: Target,
    sensitivity: Sensitivity | None,
) -> Decision:
    """Choose; writes the verdict of each into it. Raises BudgetError where nothing keeps the budgets."""
    able = [c for c in candidates if c.within and c.name not in late]
    if not able:
        raise BudgetError(*_nothing(candidates, late, budgets))
    measured = any(c.timing is not None for c in able)
    winner = _fastest(able) if measured else _by_default(able, target)
    for candidate in candidates:
        if candidate.built is not None:
            candidate.verdict = _verdict(candidate, winner, late)
    return Decision(winner, _sentence(candidates, winner, late, sensitivity, target))


def _fastest(able: Sequence[Candidate]) -> Candidate:
    """The fastest that was measured; a more exact one where that is as fast but for noise."""
    timed = [c for c in able if c.timing is not None]
    least = min(c.milliseconds or 0.0 for c in timed)
    close = [c for c in timed if (c.milliseconds or 0.0) * CLEARLY_FASTER <= least]
    return min(close, key=lambda c: (ORDER.index(c.precision), -len(c.kept)))


def _by_default(able: Sequence[Candidate], target: Target) -> Candidate:
    """Where nothing can be timed: what the target is known to be best at, else the least estimate."""
    usual = [c for c in able if c.precision == target.default_precision]
    if usual:
        return usual[0]
    return min(able, key=lambda c: (c.milliseconds is None, c.milliseconds or 0.0))


def _verdict(candidate: Candidate, winner: Candidate, late: dict[str, str]) -> str:
    if candidate is winner:
        return "ships"
    told = list(candidate.missed)
    if candidate.name in late:
        told.append(late[candidate.name])
    ratio = _ratio(candidate, winner)
    if ratio is not None:
        about = "" if candidate.timing is not None else "about "
        told.append(f"{about}{ratio:.2f} times as long as {winner.name}")
    return "; ".join(told) or "no time is known"


def _ratio(candidate: Candidate, other: Candidate) -> float | None:
    if candidate.milliseconds is None or not other.milliseconds:
        return None
    return candidate.milliseconds / other.milliseconds


def _sentence(
    candidates: Sequence[Candidate],
    winner: Candidate,
    late: dict[str, str],
    sensitivity: Sensitivity | None,
    target: Target,
) -> str:
    int8 = best_int8(candidates)
    if int8 is None:
        return f"{winner.name} ships: {target.title} does not run int8."
    if winner.precision == "int8" and not winner.kept:
        int8 = winner
        rest = [c for c in candidates if c is not int8 and c.milliseconds and c.within]
        nearest = min(rest, key=lambda c: c.milliseconds or 0.0, default=None)
        ratio = _ratio(nearest, int8) if nearest is not None else None
        gain = f", {ratio:.2f} times as fast as {nearest.name}" if nearest is not None and ratio else ""
        return f"{int8.name} ships: it keeps the budget{gain}."
    return f"{winner.name} ships, not {int8.name}: {why_not_int8(int8, winner, late, sensitivity, target)}."


def best_int8(candidates: Sequence[Candidate]) -> Candidate | None:
    """The INT8 candidate with all its layers that is to be talked of: built, and the fastest of those."""
    whole = [c for c in candidates if c.precision == "int8" and not c.kept]
    return min(whole, key=lambda c: (c.built is None, c.milliseconds or math.inf), default=None)


def why_not_int8(
    int8: Candidate,
    winner: Candidate,
    late: dict[str, str],
    sensitivity: Sensitivity | None,
    target: Target,
) -> str:
    """One reason, the weightiest."""
    if int8.built is None:
        return f"it cannot be had ({int8.refusal})"
    if int8.missed:
        costs = f"it loses too much, {' and '.join(int8.missed)}"
        return f"{costs}{_culprits(sensitivity)}"
    if int8.name in late:
        return late[int8.name]
    ratio = _ratio(int8, winner)
    if int8.timing is not None and ratio is not None:
        if ratio >= 1:
            return f"it keeps the budget but takes {ratio:.2f} times as long"
        return f"its gain of {(1 - ratio) * 100:.1f} % is within the noise of the measurement"
    if ratio is not None and ratio > 1:
        return f"it is estimated to take {ratio:.2f} times as long ({target.precision_note or 'roofline'})"
    return f"nothing was measured, the device is not here ({target.precision_note or 'the default stays'})"


def _culprits(sensitivity: Sensitivity | None) -> str:
    if sensitivity is None or not sensitivity.layers:
        return ""
    names = ", ".join(f"{layer.name} ({layer.output_db:.0f} dB)" for layer in sensitivity.worst_first[:3])
    return f"; the dearest layers are {names}"


def _nothing(
    candidates: Sequence[Candidate], late: dict[str, str], budgets: Sequence[AccuracyBudget]
) -> tuple[str, str]:
    built = [c for c in candidates if c.built is not None]
    if not built:
        first = next(c for c in candidates if c.refusal)
        return f"nothing could be built: {first.refusal}", "build one precision for the whole message"
    nearest = min(built, key=lambda c: (len(c.missed) + (c.name in late), ORDER.index(c.precision)))
    misses = [*nearest.missed, *([late[nearest.name]] if nearest.name in late else [])]
    wanted = ", ".join(budget.text for budget in budgets)
    return (
        f"nothing keeps the budget ({wanted}); {nearest.name} came closest: {'; '.join(misses)}",
        "allow more, e.g. --budget with a lower limit, or choose another target or size",
    )


def layer_document(layer: LayerSensitivity) -> dict[str, Any]:
    """A layer for the report."""
    return {
        "layer": layer.name,
        "op": layer.op,
        "output_db": round(layer.output_db, 2),
        "own_db": round(layer.own_db, 2),
        "agreement": None if layer.agreement is None else round(layer.agreement, 5),
    }
