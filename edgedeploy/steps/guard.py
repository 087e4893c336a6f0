"""`precision=auto`: every precision that the target runs is built, timed and scored; the best one ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.cache import data_digest
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep
from edgedeploy.steps.build import BUILD


def _wanted(artifact: Artifact, job: Job) -> bool:  # noqa: ARG001
    return job.recipe.precision == "auto"


def _decides(artifact: Artifact, job: Job) -> Any:
    assert job.data is not None  # noqa: S101  `check_precision` refused it
    return {
        **BUILD.decides(artifact, job),
        "calibration": job.recipe.calibration.model_dump(),
        "guard": job.recipe.guard.model_dump(),
        "data": data_digest(job.data),
        "labeled": None if job.labeled is None else data_digest(job.labeled),
    }


def _guard(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    from edgedeploy.guard.guarding import guard

    return guard(artifact, job, folder, progress)


def _notes(artifact: Artifact) -> list[str]:
    return [*artifact.details.calibration.problems, artifact.details.guard.sentence]


GUARD = PipelineStep("guard", "build, time and score every precision", _guard, _decides, _notes, _wanted)
