"""What a contest found, as records for the details of the artifact that ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edgedeploy.bench.budget import Budget
from edgedeploy.calibration.mix.sensitivity import LayerSensitivity
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.details import CandidateDetails, ConsideredBackend, GuardDetails, LayerDetails
from edgedeploy.guard.candidates import Built, Candidate, Status
from edgedeploy.guard.mixing import Mixing
from edgedeploy.guard.score import Scorer
from edgedeploy.guard.split import Parts
from edgedeploy.runtime.compare import Comparison

LAYERS_NAMED = 5  # of those that save least


def precision_report(
    sentence: str,
    candidates: Sequence[Candidate],
    mixing: Mixing,
    budgets: Sequence[AccuracyBudget | Budget],
    scorer: Scorer,
    parts: Parts,
) -> GuardDetails:
    """`details.guard`: the sentence on what ships, all candidates, and the layers of INT8."""
    least = sorted(mixing.savings.items(), key=lambda item: item[1])[:LAYERS_NAMED]
    layers = [] if mixing.sensitivity is None else mixing.sensitivity.worst_first
    return GuardDetails(
        sentence=sentence,
        budget=tuple(budget.text for budget in budgets),
        calibrated_on=parts.calibrating,
        scored_on=parts.scoring,
        labels=scorer.labeled,
        no_labels_because=scorer.why_not,
        reference=dict(scorer.reference),
        candidates=tuple(_candidate(candidate) for candidate in candidates),
        layers=tuple(_layer(layer) for layer in layers),
        least_saved=tuple({"layer": name, "milliseconds": round(value, 4)} for name, value in least),
        savings_estimated=mixing.estimated,
    )


def backend_report(
    candidates: Sequence[Candidate], compared: Mapping[str, Comparison] = MappingProxyType({})
) -> tuple[ConsideredBackend, ...]:
    """`details.considered`: each runtime with how it compares to the reference, its median and verdict."""
    entries = []
    for candidate in candidates:
        verdict = candidate.verdict
        figures = dict(compared[candidate.name].figures) if candidate.name in compared else {}
        if isinstance(candidate, Built) and candidate.timing is not None:
            figures["milliseconds"] = round(candidate.timing.p50_ms, 4)
        if isinstance(candidate, Built) and candidate.status is Status.SHIPS:
            verdict = f"kept, not measured: {candidate.not_here}" if candidate.not_here else "kept"
        status = candidate.status.value
        entries.append(ConsideredBackend(backend=candidate.name, **figures, status=status, verdict=verdict))
    return tuple(entries)


def _candidate(candidate: Candidate) -> CandidateDetails:
    built = candidate if isinstance(candidate, Built) else None
    timing = built.timing if built else None
    milliseconds = built.milliseconds if built else None
    return CandidateDetails(
        name=candidate.name,
        precision=candidate.precision,
        backend=candidate.backend,
        milliseconds=milliseconds,
        interval=None if timing is None else (timing.low_ms, timing.high_ms),
        estimated=timing is None and milliseconds is not None,
        scored_in="" if built is None else ("onnxruntime" if built.not_here else built.backend),
        scores=built.scores if built else {},
        within=built is not None and not built.missed,
        missed=tuple(built.missed) if built else (),
        kept_float=dict(built.kept_float) if built else {},
        status=candidate.status.value,
        verdict=candidate.verdict,
    )


def _layer(layer: LayerSensitivity) -> LayerDetails:
    return LayerDetails(
        layer=layer.name,
        op=layer.op,
        output_db=round(layer.output_db, 2),
        own_db=round(layer.own_db, 2),
        agreement=None if layer.agreement is None else round(layer.agreement, 5),
    )
