"""An ONNX file made elsewhere, or by an earlier command, taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.steps.base import Job, PipelineStep


def _wanted(artifact: Artifact, job: Job) -> bool:  # noqa: ARG001
    return Path(job.source).suffix.lower() == ".onnx"


def _decides(artifact: Artifact, job: Job) -> Any:  # noqa: ARG001
    return {
        "file": Path(job.source).name,
        "sha256": Artifact.load(job.source).digest,
        "task": job.recipe.task.model_dump(),
        "size": job.size if job.recipe.task.name else None,
    }


def _adopt(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.export.capture.adopt import adopt

    source = Path(job.source)
    return adopt(source, folder / source.name, name=source.stem, task=_task(job))


def _task(job: Job) -> TaskSpec | None:
    """The task that the user names for the file, None where they say nothing; raises UsageError."""
    asked = job.recipe.task
    if asked.name is None and not asked.options:
        return None
    known = Artifact.load(job.source).task
    if asked.name is None or asked.name == known.name:
        return known.model_copy(update={"options": {**known.options, **asked.options}})
    from edgedeploy.task import task_spec

    return task_spec(asked.name, job.size, asked.options)


ADOPT = PipelineStep("adopt", "check the ONNX file", _adopt, _decides, wanted=_wanted)
