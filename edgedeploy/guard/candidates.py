"""Candidates of a contest: one form of the model in one runtime each, built or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.backend import BACKENDS, BuildOptions
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.details import Details
from edgedeploy.core.errors import (
    DeviceError,
    EdgeDeployError,
    EngineMismatchError,
    MissingDependencyError,
    ParityError,
    first_line,
)
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision, Step
from edgedeploy.guard.score import Scorer, misses
from edgedeploy.lowering import Lowered, lower, sign_forms
from edgedeploy.runtime.feeds import representative_shapes
from edgedeploy.task import task_for

if TYPE_CHECKING:
    from edgedeploy.bench.measure import BenchResult
    from edgedeploy.calibration import QuantizeResult

# The most exact first. INT4 is absent: weights alone in 4 bits save memory, and a contest measures time.
ORDER: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "fp8", "int8")
# Errors of a candidate that was built, and cannot run on this machine.
NOT_HERE = (DeviceError, EngineMismatchError, MissingDependencyError)
SIGN_FORM = "signs in INT8"


class Status(str, Enum):
    """What became of a candidate; the `status` of its entry in a report."""

    SHIPS = "ships"
    SLOWER = "slower"
    NOT_TIMED = "not timed"
    OVER_BUDGET = "over budget"
    WRONG = "wrong results"
    REFUSED = "refused"


@dataclass(frozen=True)
class Refused:
    """A candidate that failed to be lowered, built, opened or run, or that computes wrong results."""

    name: str
    precision: Precision
    backend: str
    error: Exception

    @property
    def status(self) -> Status:
        return Status.WRONG if isinstance(self.error, ParityError) else Status.REFUSED

    @property
    def verdict(self) -> str:
        """The failure in words; an error that is not ours with its type."""
        if isinstance(self.error, EdgeDeployError):
            return str(self.error)
        return f"{type(self.error).__name__}: {first_line(self.error)}"


@dataclass
class Built:
    """A candidate that was built.

    Attributes:
        name: "fp32", "int8 in openvino", "int8 but 3 layers".
        precision, backend: of the model, and the runtime that it was built for.
        lowered: the ONNX artifact that the runtime was given.
        artifact: what the runtime made of it.
        quantized: placement and ranges of INT8 and FP8; None for other precisions.
        kept_float: layers kept in float -> why.
        not_here: why this machine cannot run it; empty where it can.
        scores: metrics, see Scorer.
        missed: budgets of accuracy that it misses, in words.
        late: budgets of time that it misses, in words.
        timing: of the last interleaved run.
        estimated_ms: a lower bound in milliseconds, where it cannot be timed.
        status, verdict: what became of it, and why in words.
    """

    name: str
    precision: Precision
    backend: str
    lowered: Artifact
    artifact: Artifact
    quantized: QuantizeResult | None = None
    kept_float: Mapping[str, str] = field(default_factory=dict)
    not_here: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    late: str = ""
    timing: BenchResult | None = None
    estimated_ms: float | None = None
    status: Status = Status.NOT_TIMED
    verdict: str = ""

    @property
    def milliseconds(self) -> float | None:
        """Median measured here, else the estimate; None where neither is known."""
        return self.timing.p50_ms if self.timing is not None else self.estimated_ms

    def refused(self, error: Exception) -> Refused:
        """The same candidate after it failed to open or to run."""
        return Refused(self.name, self.precision, self.backend, error)


Candidate = Built | Refused


def built_of(candidates: Sequence[Candidate]) -> list[Built]:
    """The candidates that were built."""
    return [candidate for candidate in candidates if isinstance(candidate, Built)]


@dataclass(frozen=True)
class Builder:
    """Builds candidates for one job. Whatever fails is refused, and the contest goes on.

    Attributes:
        artifact: the model; float32 where candidates are of several precisions.
        job: its `data` is the part to calibrate on.
        folder: to build in; every candidate takes a folder of its own.
        statistics: folder that keeps the statistics of calibration data.
        progress: of calibration.
        scorer, budgets: score candidates on other data; without a scorer they are only built.
    """

    artifact: Artifact
    job: Job
    folder: Path
    statistics: Path
    progress: Progress
    scorer: Scorer | None = None
    budgets: tuple[AccuracyBudget, ...] = ()

    def every_precision(self) -> list[Candidate]:
        """Every precision of the target in every runtime of it that is installed and has it.

        Raises MissingDependencyError where no runtime is installed.
        """
        target = self.job.target
        usable = [name for name in target.backends if not BACKENDS.get(name).why_not()]
        if not usable:
            backend = BACKENDS.get(target.backends[0])
            raise MissingDependencyError(
                f"no runtime for {target.title} is installed: {backend.why_not()}", backend.install_hint()
            )
        made = [
            self.lowered_to(precision, name, f"{precision} in {name}" if len(usable) > 1 else precision)
            for precision in ORDER
            for name in usable
            if precision in target.precisions and precision in BACKENDS.get(name).precisions
        ]
        return [*made, *self._sign_forms("{form} in {backend}")]

    def every_backend(self) -> list[Candidate]:
        """The model as it is in every runtime of the target; those that are not installed are refused."""
        plain = [
            self._build(name, self.artifact.precision, name, lambda _: Lowered(self.artifact))
            for name in self.job.target.backends
        ]
        # Other forms first: the first candidate ships where the device is absent.
        return [*self._sign_forms("{backend}, {form}"), *plain]

    def lowered_to(self, precision: Precision, backend: str, name: str) -> Candidate:
        """The model lowered to a precision by the rules of one runtime, and built for that runtime."""

        def lowered(folder: Path) -> Lowered:
            if precision == self.artifact.precision:
                return Lowered(self.artifact)
            out = folder / self.artifact.path.name
            return lower(self.artifact, precision, self.job, out, self.progress, self.statistics, backend)

        return self._build(name, precision, backend, lowered)

    def mixed(self, int8: Built, kept_float: Mapping[str, str], *, exact_float: bool = False) -> Candidate:
        """An INT8 candidate with some layers back in float: layer -> why; the others stay as quantized.

        `exact_float` computes the float layers in float32, where the runtime would choose less.
        """
        count = f"{len(kept_float)} layer{'s' * (len(kept_float) > 1)}{' in fp32' * exact_float}"
        name = int8.name.replace("int8", f"int8 but {count}", 1)

        def lowered(folder: Path) -> Lowered:
            from edgedeploy.calibration.mix.switches import mix
            from edgedeploy.calibration.place.ruleset import load_rules
            from edgedeploy.graphs.metadata import save_model

            assert int8.quantized is not None  # noqa: S101  an int8 candidate was quantized
            model = mix(int8.quantized, load_rules(self.job.target.rules(int8.backend)), kept_float)
            details = int8.lowered.details | Details(kept_float=dict(kept_float))
            step = Step(name="mix", options={"layers": sorted(kept_float)}, hits=len(kept_float))
            artifact = int8.lowered.with_step(step, details=details)
            return Lowered(save_model(model, artifact, folder / int8.lowered.path.name))

        made = self._build(name, "int8", int8.backend, lowered, exact_float=exact_float)
        if isinstance(made, Built):
            made.kept_float = kept_float
        return made

    def _sign_forms(self, name: str) -> list[Candidate]:
        """Forms of a binary network with products of signs in INT8, which are exact; none of others."""
        return [
            self._build(
                name.format(form=SIGN_FORM, backend=backend),
                self.artifact.precision,
                backend,
                lambda _, form=form: Lowered(form),  # type: ignore[misc]
            )
            for backend, form in sign_forms(self.artifact, self.job, self._new_folder()).items()
        ]

    def _build(
        self,
        name: str,
        precision: Precision,
        backend: str,
        lower: Callable[[Path], Lowered],
        *,
        exact_float: bool = False,
    ) -> Candidate:
        """Lower into an empty folder, build what that gives, and score it."""
        try:
            folder = self._new_folder()
            lowered = lower(folder)
            # The hint of an engine that does not fit its device names the source to build again from.
            details = lowered.artifact.details | Details(source=self.job.source)
            known = lowered.artifact.model_copy(update={"details": details})
            target, runtime = self.job.target, BACKENDS.get(backend)
            out = folder / "built" / f"{self.artifact.path.stem}.{target.name}{runtime.suffix}"
            options = BuildOptions(opt_shapes=run_shapes(known, self.job), exact_float=exact_float)
            artifact = runtime.build(known, target, options, out)
            made = Built(name, precision, backend, lowered.artifact, artifact, lowered.quantized)
            if self.scorer is not None:
                self._score(made, self.scorer)
        except Exception as error:  # noqa: BLE001  a fault of one candidate must not end the contest
            return Refused(name, precision, backend, error)
        return made

    def _score(self, made: Built, scorer: Scorer) -> None:
        """Score in the candidate's runtime; in ONNX Runtime where this machine cannot run it."""
        try:
            made.scores = scorer.score(made.artifact)
        except NOT_HERE as error:
            made.not_here = str(error)
            made.scores = scorer.score(made.lowered, "onnxruntime")
        made.missed = misses(self.budgets, made.scores, scorer.reference)

    def _new_folder(self) -> Path:
        folder = self.folder / str(sum(1 for _ in self.folder.iterdir()))
        folder.mkdir()
        return folder


def run_shapes(artifact: Artifact, job: Job) -> dict[str, tuple[int, ...]]:
    """Input shapes to build and time at: of the size asked for, else the model's own, else usual ones."""
    asked = task_for(artifact).input_shapes(*job.size) if job.size else {}
    return representative_shapes(artifact, asked)
