"""Which candidate ships, and one sentence on why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgedeploy.calibration.mix.sensitivity import Sensitivity
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import BudgetError, BuildError, MissingDependencyError, UnsupportedOpError
from edgedeploy.core.target import Target
from edgedeploy.guard.candidates import ORDER, Built, Candidate, Refused, Status, built_of

# A lower precision has to gain this much to be worth its error; measurements repeat no better.
CLEARLY_FASTER = 0.98


def decide(
    candidates: Sequence[Candidate],
    budgets: Sequence[AccuracyBudget],
    target: Target,
    sensitivity: Sensitivity | None,
) -> tuple[Built, str]:
    """The candidate that ships and one sentence on why; sets status and verdict of each candidate.

    Raises BudgetError where no candidate keeps the budgets.
    """
    able = [c for c in built_of(candidates) if not c.missed and not c.late]
    if not able:
        raise BudgetError(*_nothing(candidates, budgets))
    winner = choose(candidates, able, target)
    return winner, _sentence(candidates, winner, sensitivity, target)


def choose(candidates: Sequence[Candidate], able: Sequence[Built], target: Target) -> Built:
    """The one of `able` that ships; sets status and verdict of all candidates.

    The fastest of those timed, and of candidates within the noise of it the most exact one. Where nothing is
    timed, the target's default precision, else the least estimate.
    """
    timed = [(c.timing.p50_ms, c) for c in able if c.timing is not None]
    usual = [c for c in able if c.precision == target.default_precision]
    if timed:
        least = min(milliseconds for milliseconds, _ in timed)
        close = [c for milliseconds, c in timed if milliseconds * CLEARLY_FASTER <= least]
        winner = min(close, key=lambda c: (_coarseness(c), -len(c.kept_float)))
    else:
        winner = min(usual[:1] or able, key=lambda c: (c.milliseconds is None, c.milliseconds or 0.0))
    for candidate in built_of(candidates):
        candidate.status, candidate.verdict = _verdict(candidate, winner)
    return winner


def best_int8(candidates: Sequence[Candidate]) -> Built | Refused | None:
    """The INT8 candidate without float layers that the sentence is about: the fastest that was built."""
    pure = [c for c in candidates if c.precision == "int8" and not (isinstance(c, Built) and c.kept_float)]
    built = sorted(built_of(pure), key=lambda c: c.milliseconds or math.inf)
    return next(iter([*built, *pure]), None)


def first_refusal(candidates: Sequence[Candidate]) -> Exception:
    """The failure to raise where nothing was built: a refusal of the model before an absent runtime."""
    kinds = (UnsupportedOpError, BuildError)

    def rank(error: Exception) -> tuple[bool, ...]:
        return (*(not isinstance(error, kind) for kind in kinds), isinstance(error, MissingDependencyError))

    return min((c.error for c in candidates if isinstance(c, Refused)), key=rank)


def _verdict(candidate: Built, winner: Built) -> tuple[Status, str]:
    if candidate is winner:
        return Status.SHIPS, "ships"
    reasons = [*candidate.missed, *filter(None, [candidate.late])]
    ratio = _ratio(candidate, winner)
    if ratio is not None:
        about = "" if candidate.timing is not None else "about "
        reasons.append(f"{about}{ratio:.2f} times as long as {winner.name}")
    if candidate.missed or candidate.late:
        status = Status.OVER_BUDGET
    else:
        status = Status.NOT_TIMED if candidate.timing is None else Status.SLOWER
    return status, "; ".join(reasons) or f"not measured: {candidate.not_here}"


def _coarseness(candidate: Built) -> int:
    """Rank by precision, the most exact first; INT4, which no contest of precisions has, last."""
    return ORDER.index(candidate.precision) if candidate.precision in ORDER else len(ORDER)


def _ratio(candidate: Built, other: Built) -> float | None:
    if candidate.milliseconds is None or not other.milliseconds:
        return None
    return candidate.milliseconds / other.milliseconds


def _sentence(
    candidates: Sequence[Candidate], winner: Built, sensitivity: Sensitivity | None, target: Target
) -> str:
    int8 = best_int8(candidates)
    if int8 is None:
        return f"{winner.name} ships: {target.title} does not run int8."
    if winner.precision == "int8" and not winner.kept_float:
        rest = [c for c in built_of(candidates) if c is not winner and c.milliseconds and not c.missed]
        nearest = min(rest, key=lambda c: c.milliseconds or 0.0, default=None)
        ratio = _ratio(nearest, winner) if nearest is not None else None
        gain = f", {ratio:.2f} times as fast as {nearest.name}" if nearest is not None and ratio else ""
        return f"{winner.name} ships: it keeps the budget{gain}."
    return f"{winner.name} ships, not {int8.name}: {_why_not(int8, winner, sensitivity, target)}."


def _why_not(int8: Built | Refused, winner: Built, sensitivity: Sensitivity | None, target: Target) -> str:
    """The weightiest reason against INT8."""
    if isinstance(int8, Refused):
        return f"it is unavailable ({int8.verdict})"
    if int8.missed:
        return f"it loses too much, {' and '.join(int8.missed)}{_most_sensitive(sensitivity)}"
    if int8.late:
        return int8.late
    ratio = _ratio(int8, winner)
    if int8.timing is not None and ratio is not None:
        if ratio >= 1:
            return f"it keeps the budget but takes {ratio:.2f} times as long"
        return f"its gain of {(1 - ratio) * 100:.1f} % is within the noise of the measurement"
    if ratio is not None and ratio > 1:
        return f"it is estimated to take {ratio:.2f} times as long ({target.precision_note or 'roofline'})"
    return f"nothing was measured, the device is not here ({target.precision_note or 'the default stays'})"


def _most_sensitive(sensitivity: Sensitivity | None) -> str:
    if sensitivity is None or not sensitivity.layers:
        return ""
    names = ", ".join(f"{layer.name} ({layer.output_db:.0f} dB)" for layer in sensitivity.worst_first[:3])
    return f"; the most sensitive layers are {names}"


def _nothing(candidates: Sequence[Candidate], budgets: Sequence[AccuracyBudget]) -> tuple[str, str]:
    """Message and hint where no candidate keeps the budgets."""
    built = built_of(candidates)
    if not built:
        first = next(c for c in candidates if isinstance(c, Refused))
        return f"nothing could be built: {first.verdict}", "build one precision for the whole message"
    nearest = min(built, key=lambda c: (len(c.missed) + bool(c.late), _coarseness(c)))
    misses = "; ".join([*nearest.missed, *filter(None, [nearest.late])])
    wanted = ", ".join(budget.text for budget in budgets)
    return (
        f"nothing keeps the budget ({wanted}); {nearest.name} came closest: {misses}",
        "allow more, e.g. --budget with a lower limit, or choose another target or size",
    )
