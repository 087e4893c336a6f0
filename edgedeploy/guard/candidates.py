"""The forms of a model that compete: every precision of the target, built, scored, and timed in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.backend import BACKENDS, BuildOptions, OpenOptions, Session
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.details import Details
from edgedeploy.core.errors import DeviceError, EdgeDeployError, EngineMismatchError, MissingDependencyError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision, Step
from edgedeploy.guard.score import Scorer, misses
from edgedeploy.steps.base import Job

if TYPE_CHECKING:
    from edgedeploy.bench.measure import BenchResult
    from edgedeploy.calibration import QuantizeResult

# The most exact first. Not int4: weights alone in 4 bits save memory, which is not what is timed here.
ORDER: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "fp8", "int8")


@dataclasses.dataclass
class Candidate:
    """One form of the model.

    Attributes:
        name: "fp32", "int8 in openvino", "int8 but 3 layers".
        backend: that it is built for.
        lowered, built: its ONNX and what was built of it; None where that was refused.
        quantized: how it became INT8.
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
    backend: str
    lowered: Artifact | None = None
    built: Artifact | None = None
    quantized: QuantizeResult | None = None
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
            "backend": self.backend,
            "milliseconds": self.milliseconds,
            "interval": None if self.timing is None else [self.timing.low_ms, self.timing.high_ms],
            "estimated": self.timing is None and self.estimated_ms is not None,
            "scored_in": "" if self.built is None else (self.backend if self.here else "onnxruntime"),
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

    def make_all(self) -> list[Candidate]:
        """Every precision of the target in every runtime of it that is installed and has it.

        Raises MissingDependencyError where none is installed.
        """
        target = self.job.target
        usable = [name for name in target.backends if not BACKENDS.get(name).why_not()]
        if not usable:
            backend = BACKENDS.get(target.backends[0])
            raise MissingDependencyError(
                f"no runtime for {target.title} is installed: {backend.why_not()}", backend.install_hint()
            )
        pairs: list[tuple[Precision, str]] = [
            (precision, name)
            for precision in ORDER
            for name in usable
            if precision in target.precisions and precision in BACKENDS.get(name).precisions
        ]
        made = [self.make(precision, name, several=len(usable) > 1) for precision, name in pairs]
        return [*made, *self._sign_forms(usable)]

    def make(
        self,
        precision: Precision,
        backend: str,
        *,
        several: bool = False,
    ) -> Candidate:
        """Lower to a precision, build in one runtime, and score."""
        made = Candidate(f"{precision} in {backend}" if several else precision, precision, backend)
        self._attempt(made, lambda folder: self._lower(made, folder))
        return made

    def mix(self, int8: Candidate, kept: Mapping[str, str], *, exact: bool = False) -> Candidate:
        """An INT8 candidate with some layers back in float: layer -> why; the rest is as it was quantized.

        `exact` has them in float32, where the runtime would choose less.
        """
        count = f"int8 but {len(kept)} layer{'s' * (len(kept) > 1)}{' in fp32' * exact}"
        made = Candidate(int8.name.replace("int8", count, 1), "int8", int8.backend, kept=kept)
        self._attempt(made, lambda folder: self._mixed(int8, kept, folder), exact)
        return made

    def _mixed(self, int8: Candidate, kept: Mapping[str, str], folder: Path) -> Artifact:
        from edgedeploy.calibration.mix.switches import mix
        from edgedeploy.calibration.place.ruleset import load_rules
        from edgedeploy.graphs.metadata import save_model

        assert int8.quantized is not None  # noqa: S101  only what was quantized is mixed
        assert int8.lowered is not None  # noqa: S101
        rules = load_rules(self.job.target.rules(int8.backend))
        model = mix(int8.quantized, rules, kept)
        details = int8.lowered.details | Details(kept_float=dict(kept))
        step = Step(name="mix", options={"layers": sorted(kept)}, hits=len(kept))
        lowered = int8.lowered.with_step(step, details=details)
        return save_model(model, lowered, folder / int8.lowered.path.name)

    def _sign_forms(self, backends: Sequence[str]) -> list[Candidate]:
        """Forms of a binary network that take its products in INT8, exactly; none of other networks."""
        from edgedeploy.steps.build import sign_forms

        found = []
        for name, form in sign_forms(self.artifact, self._job("fp32", backends), self._folder()).items():
            made = Candidate(f"signs in INT8 in {name}", "fp32", name)
            self._attempt(made, lambda folder, form=form: form)  # type: ignore[misc]  # noqa: ARG005
            found.append(made)
        return found

    def _attempt(self, made: Candidate, lower: Callable[[Path], Artifact], exact: bool = False) -> None:
        """Lower, build and score; what a step or runtime refuses is noted, not raised."""
        folder = self._folder()
        backend = BACKENDS.get(made.backend)
        try:
            made.lowered = lower(folder)
            shapes = run_shapes(made.lowered, self.job)
            # What an engine that does not fit its device tells the user to build again.
            details = made.lowered.details | Details(source=self.job.source)
            known = made.lowered.model_copy(update={"details": details})
            out = folder / f"{self.artifact.path.stem}.{self.job.target.name}{backend.suffix}"
            options = BuildOptions(opt_shapes=shapes, exact_float=exact)
            made.built = backend.build(known, self.job.target, options, out)
            made.here = _opens(made.built, shapes)
            self._score(made)
        except EdgeDeployError as error:
            made.built, made.refusal, made.verdict = None, str(error), f"cannot be had: {error}"

    def _lower(self, made: Candidate, folder: Path) -> Artifact:
        from edgedeploy.steps.lower import LOWER, to_int8

        job = self._job(made.precision, [made.backend])
        place = folder / "lowered"
        place.mkdir()
        if made.precision == "int8":
            out = place / self.artifact.path.name
            lowered, made.quantized = to_int8(self.artifact, job, out, self.progress, self.statistics)
            return lowered
        if LOWER.wanted(self.artifact, job):
            return LOWER.work(self.artifact, job, place, self.progress)
        return self.artifact

    def _score(self, made: Candidate) -> None:
        """Score where it ships; in ONNX Runtime where the device is not here."""
        assert made.built is not None  # noqa: S101  `_attempt` built them
        assert made.lowered is not None  # noqa: S101
        if made.here:
            made.scores = self.scorer.score(made.built)
        else:
            made.scores = self.scorer.score(made.lowered, "onnxruntime")
        made.missed = misses(self.budgets, made.scores, self.scorer.reference)

    def _job(self, precision: Precision, backends: Sequence[str]) -> Job:
        """The job for one precision, and with the placement of these runtimes alone."""
        target = self.job.target
        rules = {name: target.rules(name) for name in backends}
        narrow = target.model_copy(update={"backends": tuple(backends), "qdq": rules})
        recipe = self.job.recipe.model_copy(update={"precision": precision})
        return dataclasses.replace(self.job, recipe=recipe, target=narrow)

    def _folder(self) -> Path:
        folder = self.folder / str(sum(1 for _ in self.folder.iterdir()))
        folder.mkdir()
        return folder


def time_in_turns(candidates: Sequence[Candidate], job: Job) -> None:
    """Time all candidates that open here in one interleaved run, the first as the baseline."""
    from edgedeploy.bench.measure import run
    from edgedeploy.runtime.feeds import random_feeds

    runnable = [c for c in candidates if c.built is not None and c.here]
    if not runnable:
        return
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        feeds = {}
        for candidate in runnable:
            assert candidate.built is not None  # noqa: S101  `runnable` has those alone
            shapes = run_shapes(candidate.built, job)
            backend = BACKENDS.get(candidate.built.backend)
            session = backend.open(candidate.built, OpenOptions(shapes=shapes))
            sessions[candidate.name] = stack.enter_context(session)
            feeds[candidate.name] = random_feeds(candidate.built, shapes)
        seconds = job.recipe.guard.seconds * len(runnable)
        for candidate, result in zip(runnable, run(sessions, feeds, min_seconds=seconds), strict=True):
            candidate.timing = result


def run_shapes(artifact: Artifact, job: Job) -> dict[str, tuple[int, ...]]:
    """Shapes to time at: the size asked for, else the model's own, else a usual one."""
    from edgedeploy.runtime.feeds import representative_shapes
    from edgedeploy.task import task_for

    asked = task_for(artifact).input_shapes(*job.size) if job.size else {}
    return representative_shapes(artifact, asked)


def _opens(built: Artifact, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    try:
        BACKENDS.get(built.backend).open(built, OpenOptions(shapes=shapes)).close()
    except (DeviceError, EngineMismatchError):
        return False
    return True
