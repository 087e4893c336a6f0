"""The forms of a model that compete: every precision of the target, built, scored, and timed in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.backends.base import BACKENDS, OpenOptions, Session
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import DeviceError, EdgeDeployError, MissingDependencyError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.steps.base import Job
from edgedeploy.steps.score import Scorer, misses

if TYPE_CHECKING:
    from edgedeploy.bench.measure import BenchResult
    from edgedeploy.calibration import QuantizeResult

ORDER: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8")  # the most exact first


@dataclasses.dataclass
class Candidate:
    """One form of the model.

    Attributes:
        name: "fp32", "int8", "int8 but 3 layers".
        lowered, built: its ONNX and what was built of it; None where that was refused.
        quantised: how it became INT8.
        kept: layers kept in float -> why.
        refusal: why it cannot be had.
        here: whether it can be opened on this machine.
        scores: metrics, see Scorer.
        missed: budgets it does not keep, in words.
        timing: of the last interleaved run.
        estimated_ms: where it cannot be timed.
        verdict: what became of it, in words.
    """

    name: str
    precision: Precision
    lowered: Artifact | None = None
    built: Artifact | None = None
    quantised: QuantizeResult | None = None
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refusal: str = ""
    here: bool = True
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    missed: list[str] = dataclasses.field(default_factory=list)
    timing: BenchResult | None = None
    estimated_ms: float | None = None
    verdict: str = ""

    @property
    def milliseconds(self) -> float | None:
        """Measured, else estimated; None where neither is known."""
        return self.timing.p50_ms if self.timing is not None else self.estimated_ms

    @property
    def within(self) -> bool:
        """Whether it was built and keeps every budget of accuracy."""
        return self.built is not None and not self.missed

    def document(self) -> dict[str, Any]:
        """All figures, for the artifact's details."""
        return {
            "name": self.name,
            "precision": self.precision,
            "backend": "" if self.built is None else self.built.backend,
            "milliseconds": self.milliseconds,
            "interval": None if self.timing is None else [self.timing.low_ms, self.timing.high_ms],
            "estimated": self.timing is None and self.estimated_ms is not None,
            "scored_in": "" if self.built is None else (self.built.backend if self.here else "onnxruntime"),
            "scores": self.scores,
            "within": self.within,
            "missed": self.missed,
            "kept_float": dict(self.kept),
            "verdict": self.verdict,
        }


@dataclasses.dataclass(frozen=True)
class Workshop:
    """What candidates are made from, and judged by.

    Attributes:
        artifact: the float model.
        job: whose `data` is the part that is calibrated on.
        scorer, budgets: with the other part.
        folder: to build in.
        statistics: where those of the calibration data are kept.
        progress: of the step.
    """

    artifact: Artifact
    job: Job
    scorer: Scorer
    budgets: tuple[AccuracyBudget, ...]
    folder: Path
    statistics: Path
    progress: Progress

    def make(self, precision: Precision, kept: Mapping[str, str] | None = None) -> Candidate:
        """Lower to a precision but for the layers `kept`, build, and score."""
        name = precision if not kept else f"{precision} but {len(kept)} layer{'s' * (len(kept) > 1)}"
        made = Candidate(name, precision, kept=kept or {})
        folder = self.folder / str(sum(1 for _ in self.folder.iterdir()))
        _build(made, self, folder)
        _score(made, self.scorer, self.budgets)
        return made


def _build(made: Candidate, shop: Workshop, folder: Path) -> None:
    """Lower and build; what a step or runtime refuses is noted, not raised."""
    from edgedeploy.steps.build import BUILD
    from edgedeploy.steps.lower import LOWER, to_int8

    recipe = shop.job.recipe.model_copy(update={"precision": made.precision})
    job, artifact = dataclasses.replace(shop.job, recipe=recipe), shop.artifact
    (folder / "lowered").mkdir(parents=True)
    (folder / "built").mkdir()
    try:
        made.lowered = artifact
        if made.precision == "int8":
            out = folder / "lowered" / artifact.path.name
            made.lowered, made.quantised = to_int8(
                artifact, job, out, shop.progress, shop.statistics, made.kept
            )
        elif LOWER.wanted(artifact, job):
            made.lowered = LOWER.work(artifact, job, folder / "lowered", shop.progress)
        made.built = BUILD.work(made.lowered, job, folder / "built", shop.progress)
    except EdgeDeployError as error:
        # Without a runtime for the target none of the others will do either.
        if isinstance(error, MissingDependencyError):
            raise
        made.refusal = str(error)
        made.verdict = f"cannot be had: {error}"
        return
    made.here = _opens(made.built, scorer_shapes(made.built, job))


def _score(candidate: Candidate, scorer: Scorer, budgets: tuple[AccuracyBudget, ...]) -> None:
    """Score where it ships; in ONNX Runtime where the device is not here."""
    if candidate.built is None or candidate.lowered is None:
        return
    if candidate.here:
        candidate.scores = scorer.score(candidate.built)
    else:
        candidate.scores = scorer.score(candidate.lowered, "onnxruntime")
    candidate.missed = misses(budgets, candidate.scores, scorer.reference)


def time_in_turns(candidates: Sequence[Candidate], job: Job) -> None:
    """Time all candidates that open here in one interleaved run, the first as the baseline."""
    from edgedeploy.backends.feeds import random_feeds
    from edgedeploy.bench.measure import run

    runnable = [c for c in candidates if c.built is not None and c.here]
    if not runnable:
        return
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        feeds = {}
        for candidate in runnable:
            assert candidate.built is not None  # noqa: S101  `runnable` has those alone
            shapes = scorer_shapes(candidate.built, job)
            backend = BACKENDS.get(candidate.built.backend)
            session = backend.open(candidate.built, OpenOptions(shapes=shapes))
            sessions[candidate.name] = stack.enter_context(session)
            feeds[candidate.name] = random_feeds(candidate.built, shapes)
        seconds = job.recipe.guard.seconds * len(runnable)
        for candidate, result in zip(runnable, run(sessions, feeds, min_seconds=seconds), strict=True):
            candidate.timing = result


def scorer_shapes(artifact: Artifact, job: Job) -> dict[str, tuple[int, ...]]:
    """Shapes to time at: the size asked for, else the model's own, else a usual one."""
    from edgedeploy.backends.feeds import representative_shapes
    from edgedeploy.tasks.base import task_for

    asked = task_for(artifact).input_shapes(*job.size) if job.size else {}
    return representative_shapes(artifact, asked)


def _opens(built: Artifact, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    try:
        BACKENDS.get(built.backend).open(built, OpenOptions(shapes=shapes)).close()
    except DeviceError:
        return False
    return True
