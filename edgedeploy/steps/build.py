"""For the target: an engine, or the model in the fastest runtime that computes the right thing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.cache import data_digest
from edgedeploy.core.details import Details
from edgedeploy.core.progress import Progress
from edgedeploy.core.saturation import saturation_caveats
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep

if TYPE_CHECKING:
    from edgedeploy.backend import Feeds, Shapes

REAL_INPUTS = 2


def _decides(artifact: Artifact, job: Job) -> Any:  # noqa: ARG001
    from edgedeploy.core.cpu import processor

    # Backends were timed on this machine: another one that shares the cache must ask again.
    return {
        "target": job.target.model_dump(mode="json"),
        "size": job.size,
        "source": job.source,
        "processor": processor(),
        "surgery": job.recipe.surgery.model_dump(),
        "data": data_digest(job.data) if job.data else None,
    }


def _build(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.backend import BACKENDS
    from edgedeploy.runtime.select import build_fastest

    suffix = BACKENDS.get(job.target.backends[0]).suffix
    out = folder / f"{artifact.path.stem}.{job.target.name}{suffix}"
    # What an engine that does not fit the device it is opened on tells the user to build again.
    known = artifact.model_copy(update={"details": artifact.details | Details(source=job.source)})
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        forms = sign_forms(known, job, Path(workplace))
        inputs = _real_inputs(artifact, job)
        return build_fastest(known, job.target, None, out, _run_shapes(artifact, job), forms, inputs)


def _notes(artifact: Artifact) -> list[str]:
    """What the machine that built it cannot know of the one that it was built for."""
    from edgedeploy.bench.machine import cpu_class

    made_for, here = artifact.details.cpu, cpu_class()
    if not made_for or made_for == here:
        return saturation_caveats(artifact)
    return [
        f"timed on this {here or 'unknown'} CPU: on {made_for} another runtime or precision may be faster"
    ]


def sign_forms(artifact: Artifact, job: Job, folder: Path) -> dict[str, Artifact]:
    """For every backend the form of a binary network that takes its products in INT8; empty for others."""
    from edgedeploy.core.onnx_header import operators

    if "int8" not in job.target.precisions or "Sign" not in {kind for kind, _ in operators(artifact.path)}:
        return {}
    from edgedeploy.backend import BACKENDS
    from edgedeploy.calibration.place.ruleset import load_rules
    from edgedeploy.export.signs import lower_signs

    made: dict[str, Artifact | None] = {}
    wanted = {
        name: load_rules(job.target.rules(name)).signs
        for name in job.target.backends
        if not BACKENDS.get(name).why_not()
    }
    for form in set(wanted.values()):
        out = folder / f"{artifact.path.stem}.signs-{form}.onnx"
        made[form] = lower_signs(artifact, form, job.recipe.surgery, out)
    return {name: lowered for name, form in wanted.items() if (lowered := made[form]) is not None}


def _real_inputs(artifact: Artifact, job: Job) -> list[Feeds]:
    """A few of the job's data, to compare runtimes on; none where it has no data."""
    if job.data is None:
        return []
    from edgedeploy.calibration.collect.data import calibration_feeds
    from edgedeploy.task import task_for

    names = tuple(spec.name for spec in artifact.inputs)
    preprocess = task_for(artifact).preprocess
    return list(
        calibration_feeds(
            job.data, preprocess, REAL_INPUTS, inputs=names, specs=artifact.inputs, size=job.size
        )
    )


def _run_shapes(artifact: Artifact, job: Job) -> Shapes:
    """Shapes to build and time for: the size asked for, in the layout of the task's one image input."""
    if job.size is None:
        return {}
    from edgedeploy.task import task_for

    return task_for(artifact).input_shapes(*job.size)


def _wanted(artifact: Artifact, job: Job) -> bool:  # noqa: ARG001
    return job.recipe.precision != "auto"  # the guard builds the candidates itself


BUILD = PipelineStep("build", "build for the target", _build, _decides, _notes, _wanted)
