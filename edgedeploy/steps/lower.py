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


def check_precision(job: Job, until: str) -> None:
    """Refuse at once what would fail only after minutes of work; raises UsageError, CalibrationError."""
    precision = _asked(job, until)
    if job.recipe.precision == "auto":
        _check_auto(job, until)
    elif precision is not None and precision not in job.target.precisions:
        raise UsageError(
            f"target {job.target.name} does not run {precision}",
            f"it runs {', '.join(job.target.precisions)}",
        )
    elif job.data is not None and job.recipe.calibration.random:
        raise UsageError("there is data, and random data too", "leave out --random-data, or --data")
    elif Path(job.source).suffix.lower() != ".onnx":
        check_data("fp32", job, until)


def check_data(precision: Precision, job: Job, until: str) -> None:
    """Raise CalibrationError where a model of this precision has to be calibrated and the job has no data."""
    needed = until in ("lower", "build") and precision == "fp32" and _asked(job, until) in CALIBRATED
    if needed and job.data is None and not job.recipe.calibration.random:
        raise CalibrationError(
            f"{_asked(job, until)} needs calibration data: a few dozen typical images",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz; or --random-data 8, for a trial only: "
            "random data gives random accuracy",
        )


def _asked(job: Job, until: str) -> str | None:
    """The precision asked for, else of a build the target's default."""
    return job.recipe.precision or (job.target.default_precision if until == "build" else None)


def _check_auto(job: Job, until: str) -> None:
    if until == "lower":
        raise UsageError("auto is decided by building", "use edgedeploy build, or name a precision")
    if until == "build" and job.data is None:
        raise CalibrationError(
            "auto needs data: to calibrate int8 on some of it, and to score what was built on the rest",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz",
        )


def _wanted(artifact: Artifact, job: Job) -> bool:
    if job.recipe.precision == "auto":  # the contest lowers to every precision
        return False
    wanted = _precision(artifact, job)
    if artifact.precision not in ("fp32", wanted):
        raise UsageError(
            f"{artifact.model} is {artifact.precision} already and cannot become {wanted}",
            "start from the fp32 model",
        )
    return wanted != artifact.precision


def _precision(artifact: Artifact, job: Job) -> Precision:
    """The precision asked for, else the one that the model has already, else the target's default."""
    if job.recipe.precision is not None and job.recipe.precision != "auto":
        return job.recipe.precision
    return artifact.precision if artifact.precision != "fp32" else job.target.default_precision


def _decides(artifact: Artifact, job: Job) -> Any:
    wanted = _precision(artifact, job)
    if wanted not in CALIBRATED:
        return {"precision": wanted, "surgery": job.recipe.surgery.model_dump()}
    return {
        "precision": wanted,
        # Memory decides how often the data is read, and nothing else.
        "calibration": job.recipe.calibration.model_dump(exclude={"memory_mb"}),
        "rules": placement_rules(job),
        "data": None if job.data is None else data_digest(job.data),
        "size": job.size,
    }


def _lower(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    wanted, out = _precision(artifact, job), folder / artifact.path.name
    return lower(artifact, wanted, job, out, progress, statistics_root(folder)).artifact


def _notes(artifact: Artifact) -> list[str]:
    return [*artifact_warnings(artifact), *artifact.details.calibration.problems]


LOWER = PipelineStep("lower", "lower to the target's precision", _lower, _decides, _notes, _wanted)
