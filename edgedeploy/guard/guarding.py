"""The guard at work: candidates of every precision, mixes where they help, one winner and the report.

The data is divided: ranges come from one part, scores from the other. Without the device nothing is timed:
estimates are called so, and the target's default ships unless it breaks the budget.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgedeploy.core.accuracy import AccuracyBudget, parse_accuracy
from edgedeploy.core.cache import statistics_root
from edgedeploy.core.details import ConsideredBackend, Details
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import replacing
from edgedeploy.core.progress import Progress
from edgedeploy.core.relabel import relabeled
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.guard.candidates import Candidate, Workshop, time_in_turns
from edgedeploy.guard.estimate import estimate
from edgedeploy.guard.mixing import Mixing, analyze, rescue, without_slow
from edgedeploy.guard.score import Scorer, default_budgets, make_scorer
from edgedeploy.guard.split import Parts, split
from edgedeploy.guard.verdict import NAMED, Decision, best_int8, decide, layer_document
from edgedeploy.steps.base import Job
from edgedeploy.task import task_for


def guard(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    """The artifact of the candidate that ships, in `folder`, with `details.guard` on all of them.

    Raises BudgetError where none keeps the budgets; UsageError where there is nothing to choose, or a budget
    needs labels that are not there.
    """
    if artifact.precision != "fp32":
        raise UsageError(
            f"{artifact.model} is {artifact.precision} already: there is nothing to choose",
            "start from the fp32 model, or build it without --precision auto",
        )
    assert job.data is not None  # noqa: S101
    options = job.recipe.guard
    with tempfile.TemporaryDirectory(dir=folder, prefix=".guard-") as name:
        place = Path(name)
        limit = job.recipe.calibration.limit
        parts = split(job.data, place / "data", limit, options.scored, job.labeled)
        job = dataclasses.replace(job, data=parts.calibration)
        (place / "exact").mkdir()
        scorer = make_scorer(artifact, parts.scored, job, place / "exact")
        accuracy, clock = _budgets(artifact, job, scorer)
        (place / "built").mkdir()
        kept = statistics_root(folder)
        shop = Workshop(artifact, job, scorer, accuracy, place / "built", kept, progress)
        candidates = shop.make_all()
        estimate(candidates, artifact, job)
        time_in_turns(candidates, job)
        mixing = _mix(candidates, shop)
        if mixing.tried:
            candidates += _worth_timing(mixing.tried)
            time_in_turns(candidates, job)
        late = _late(candidates, clock)
        decision = decide(candidates, late, accuracy, job.target, mixing.sensitivity)
        report = _report(decision, candidates, mixing, accuracy, clock, scorer, parts)
        return _keep(decision.winner, report, folder)


def _budgets(
    artifact: Artifact, job: Job, scorer: Scorer
) -> tuple[tuple[AccuracyBudget, ...], tuple[Any, ...]]:
    """The budgets of accuracy and of time; UsageError for one that needs labels where there are none."""
    from edgedeploy.bench.budget import METRICS, parse_budgets

    asked = [part.strip() for text in job.recipe.guard.budget for part in text.split(",") if part.strip()]
    clock = [part for part in asked if part.split("<")[0].split(">")[0].strip() in METRICS]
    words = [part for part in asked if part not in clock]
    accuracy = parse_accuracy(words or default_budgets(task_for(artifact), scorer.labeled))
    for budget in accuracy:
        if budget.needs_labels and not scorer.labeled:
            raise UsageError(
                f"budget {budget.text} needs labels: {scorer.why_not}",
                "name labeled images with --labels, or a budget without: --budget 'agreement>=0.98'",
            )
    return accuracy, parse_budgets(clock)


def _mix(candidates: list[Candidate], shop: Workshop) -> Mixing:
    """Mixed candidates where they could win; where INT8 fails, at least what its layers cost."""
    int8 = best_int8(candidates)
    others = [c for c in candidates if c.precision != "int8" and c.within and c.milliseconds is not None]
    if int8 is None or int8.built is None or not others:
        return Mixing()
    other = min(others, key=lambda c: c.milliseconds or 0.0)
    slower = (int8.milliseconds or 0.0) >= (other.milliseconds or 0.0)
    if not shop.job.recipe.guard.mixed or (int8.missed and slower) or not int8.here:
        return Mixing(analyze(int8, shop)[0]) if int8.missed else Mixing()
    return rescue(int8, other, shop, candidates) if int8.missed else without_slow(int8, other, shop)


def _worth_timing(tried: list[Candidate]) -> list[Candidate]:
    """Of the mixes those that keep the budget; else the nearest, for the report."""
    within = [c for c in tried if c.within]
    return within or tried[-1:]


def _late(candidates: list[Candidate], clock: tuple[Any, ...]) -> dict[str, str]:
    """Candidates that miss a budget of time -> in words."""
    found = {}
    for candidate in candidates:
        if candidate.built is None or not clock:
            continue
        if candidate.timing is None:
            found[candidate.name] = f"its time is not known here, budget {clock[0].text}"
            continue
        missed = [miss for budget in clock if (miss := budget.miss(candidate.timing))]
        if missed:
            found[candidate.name] = "; ".join(missed)
    return found


def _report(
    decision: Decision,
    candidates: list[Candidate],
    mixing: Mixing,
    accuracy: tuple[AccuracyBudget, ...],
    clock: tuple[Any, ...],
    scorer: Scorer,
    parts: Parts,
) -> dict[str, Any]:
    """Everything that was found, as JSON."""
    slow = sorted(mixing.savings.items(), key=lambda item: item[1])[:NAMED]
    return {
        "sentence": decision.sentence,
        "budget": [budget.text for budget in (*accuracy, *clock)],
        "calibrated_on": parts.calibrating,
        "scored_on": parts.scoring,
        "labels": scorer.labeled,
        "no_labels_because": scorer.why_not,
        "reference": dict(scorer.reference),
        "candidates": [candidate.document() for candidate in candidates],
        "layers": []
        if mixing.sensitivity is None
        else [layer_document(layer) for layer in mixing.sensitivity.worst_first],
        "least_saved": [{"layer": name, "milliseconds": round(value, 4)} for name, value in slow],
        "savings_estimated": mixing.estimated,
    }


def _keep(winner: Candidate, report: dict[str, Any], folder: Path) -> Artifact:
    """The winner's file in the step's folder, with the report inside."""
    built = winner.built
    assert built is not None  # noqa: S101  `decide` takes none else
    out = folder / built.path.name
    step = Step(name="guard", options={"kept": winner.name, "budget": report["budget"]}, hits=1)
    details = built.details | Details.model_validate({"guard": report})
    if not winner.here:
        entry = ConsideredBackend(backend=winner.backend, verdict="kept, not measured: not here")
        details |= Details(considered=(entry,))
    changes = {"details": details, "history": (*built.history, step)}
    if built.kind == "onnx":
        return relabeled(built, out, **changes)
    with replacing(out) as temporary:
        shutil.copyfile(built.path, temporary)
    kept = built.model_copy(update={"path": out, **changes})
    kept.save_sidecar()
    return kept
