"""A deployment as one list of steps, each an artifact from the one before, each made once per content.

This file alone knows the order; what the steps do is in `edgedeploy.steps`.
"""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from edgedeploy.core.cache import Cache, step_key
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.files import replacing
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, sidecar_path
from edgedeploy.steps.adapt import ADAPT
from edgedeploy.steps.adopt import ADOPT
from edgedeploy.steps.base import Job, PipelineStep
from edgedeploy.steps.build import BUILD
from edgedeploy.steps.capture import CAPTURE
from edgedeploy.steps.lower import LOWER, check_data, check_precision
from edgedeploy.steps.optimize import OPTIMIZE

# Where precision is "auto", LOWER rests: BUILD lowers to every precision.
STEPS = (ADOPT, CAPTURE, OPTIMIZE, ADAPT, LOWER, BUILD)


class Stage(Protocol):
    """Handle of a step under way."""

    summary: str

    def progress(self, done: int, total: int | None) -> None: ...


S = TypeVar("S", bound=Stage, covariant=True)


class Monitor(Protocol[S]):
    """Who is told what happens; the command line prints it."""

    def stage(self, title: str) -> AbstractContextManager[S]: ...

    def note(self, text: str) -> None: ...


def run(job: Job, monitor: Monitor[Stage], cache: Cache, until: str = "build") -> Artifact:
    """Run the steps up to and including `until`; the result lies in the cache, see `deliver`.

    Raises the EdgeDeployError family; the cache then holds the steps before the failed one, and no half one.
    """
    if until not in {step.name for step in STEPS}:
        raise UnknownNameError("step", until, [step.name for step in STEPS])
    check_precision(job, until)
    # Nothing is known of it before the first step.
    artifact = Artifact(path=Path(job.source), kind="onnx", model="", inputs=(), outputs=())
    for step in STEPS:
        if step.wanted(artifact, job):
            with monitor.stage(step.title) as stage:
                artifact, cached = _run_step(step, artifact, job, cache, stage.progress)
                stage.summary = "(from cache)" if cached else ""
            for note in step.notes(artifact):
                monitor.note(note)
            if step is ADOPT:  # what precision a file has is known now; the next step takes minutes
                check_data(artifact.precision, job, until)
        if step.name == until:
            break
    return artifact


def deliver(artifact: Artifact, out: Path) -> Artifact:
    """Copy an artifact out of the cache: the file, its sidecar, and weights that lie beside it."""
    for beside in sorted(artifact.path.parent.glob(f"{artifact.path.name}.data")):
        with replacing(out.with_name(beside.name)) as temporary:
            shutil.copyfile(beside, temporary)
    with replacing(out) as temporary:
        shutil.copyfile(artifact.path, temporary)
    delivered = artifact.model_copy(update={"path": out})
    if artifact.kind == "engine":
        delivered.save_sidecar()
    elif sidecar_path(out).exists():  # of an engine that stood here before
        sidecar_path(out).unlink()
    return delivered


def _run_step(
    step: PipelineStep, artifact: Artifact, job: Job, cache: Cache, progress: Progress
) -> tuple[Artifact, bool]:
    decides = step.decides(artifact, job)
    key = None if decides is None else step_key(step.name, artifact.digest, decides)
    return cache.get_or_make(key, lambda folder: step.work(artifact, job, folder, progress))
