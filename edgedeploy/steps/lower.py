"""The step that brings a float32 model to the precision that the target runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.artifact_warnings import artifact_warnings
from edgedeploy.core.cache import data_digest, statistics_root
from edgedeploy.core.errors import CalibrationError, UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.lowering import CALIBRATED, lower, placement_rules
from edgedeploy.steps.base import PipelineStep


def _asked(job: Job, until: str) -> str | None:
    """The precision asked for, else of a build the target's default."""
    return job.recipe.precision or (job.target.default_precision if until == "build" else None)


def _check_data(precision: Precision, job: Job, until: str) -> None:
    """Raise CalibrationError where a model of this precision has to be calibrated and the job has no data."""
    needed = until in ("lower", "build") and precision == "fp32" and _asked(job, until) in CALIBRATED
    if needed and job.data is None and not job.recipe.calibration.random:
        raise CalibrationError(
            f"{_asked(job, until)} needs calibration data: a few dozen typical images",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz; or --random-data 8, for a trial only: "
            "random data gives random accuracy",
        )


def _check_auto(job: Job, until: str) -> None:
    if until == "lower":
        raise UsageError("auto is decided by building", "use edgedeploy build, or name a precision")
    if until == "build" and job.data is None:
        raise CalibrationError(
            "auto needs data: to calibrate int8 on some of it, and to score what was built on the rest",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz",
        )


class Lower(PipelineStep):
    """The model in the precision that the target runs."""

    name = "lower"
    title = "lower to the target's precision"

    @classmethod
    def check(cls, job: Job, until: str, source: Artifact | None = None) -> None:
        """Raises UsageError for a precision that the target lacks, CalibrationError for missing data."""
        precision = _asked(job, until)
        if job.recipe.precision == "auto":
            _check_auto(job, until)
        elif precision is not None and precision not in job.target.precisions:
            raise UsageError(
                f"target {job.target.name} does not run {precision}",
                f"it runs {', '.join(job.target.precisions)}",
            )
        elif source is not None and until == "lower" and source.precision == precision != "fp32":
            raise UsageError(f"{job.source} is {precision} already", f"edgedeploy build {job.source}")
        elif job.data is not None and job.recipe.calibration.random:
            raise UsageError("there is data, and random data too", "leave out --random-data, or --data")
        elif source is not None or Path(job.source).suffix.lower() != ".onnx":
            _check_data(source.precision if source is not None else "fp32", job, until)

    def wanted(self) -> bool:
        if self.job.recipe.precision == "auto":  # the contest lowers to every precision
            return False
        wanted, known = self._precision(), self.artifact.precision
        if known not in ("fp32", wanted):
            raise UsageError(
                f"{self.artifact.model} is {known} already and cannot become {wanted}",
                "start from the fp32 model",
            )
        return wanted != known

    def decides(self) -> Any:
        wanted, job = self._precision(), self.job
        if wanted not in CALIBRATED:
            return {"precision": wanted, "optimize": job.recipe.optimize.model_dump()}
        return {
            "precision": wanted,
            # Memory decides how often the data is read, and nothing else.
            "calibration": job.recipe.calibration.model_dump(exclude={"memory_mb"}),
            "rules": placement_rules(job),
            "data": None if job.data is None else data_digest(job.data),
            "size": job.size,
        }

    def run(self, folder: Path, progress: Progress) -> Artifact:
        out, statistics = folder / self.artifact.path.name, statistics_root(folder)
        return lower(self.artifact, self._precision(), self.job, out, progress, statistics).artifact

    @staticmethod
    def notes(made: Artifact) -> list[str]:
        return [*artifact_warnings(made), *made.details.calibration.problems]

    def _precision(self) -> Precision:
        """The precision asked for, else the one that the model has already, else the target's default."""
        asked, known = self.job.recipe.precision, self.artifact.precision
        if asked is not None and asked != "auto":
            return asked
        return known if known != "fp32" else self.job.target.default_precision
