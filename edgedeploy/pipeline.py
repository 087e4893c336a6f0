"""A deployment as one list of steps: each makes an artifact from the one before, once per content.

This file alone knows the order; `edgedeploy/steps/` has the steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.files import replacing
from edgedeploy.core.job import Job
from edgedeploy.core.spec import Artifact, sidecar_path
from edgedeploy.steps.adopt import Adopt
from edgedeploy.steps.base import PipelineStep
from edgedeploy.steps.build import Build
from edgedeploy.steps.capture import Capture
from edgedeploy.steps.lower import Lower
from edgedeploy.steps.optimize import Optimize
from edgedeploy.steps.replace import Replace

# With precision "auto", Lower is not wanted: Build lowers to every precision.
STEPS: tuple[type[PipelineStep], ...] = (Adopt, Capture, Optimize, Replace, Lower, Build)


class Stage(Protocol):
    """Handle of a running step."""

    summary: str

    def progress(self, done: int, total: int | None) -> None: ...


S = TypeVar("S", bound=Stage, covariant=True)


class Monitor(Protocol[S]):
    """Receives progress and notes; the command line prints them."""

    def stage(self, title: str) -> AbstractContextManager[S]: ...

    def note(self, text: str) -> None: ...


class Silent:
    """A monitor that prints nothing."""

    summary = ""

    @contextmanager
    def stage(self, title: str) -> Iterator[Silent]:  # noqa: ARG002
        yield self

    def progress(self, done: int, total: int | None) -> None: ...

    def note(self, text: str) -> None: ...


def run(
    job: Job,
    monitor: Monitor[Stage],
    cache: Cache,
    until: str = "build",
    since: str | None = None,
    start: Artifact | None = None,
) -> Artifact:
    """Run the steps up to and including `until`; the result lies in the cache, see `deliver`.

    Args:
        since: name of the step to start at, whatever the artifact; that step takes `start` as it is.

    Raises the EdgeDeployError family; the cache then holds the steps before the failed one, and no half one.
    """
    names = [step.name for step in STEPS]
    for name in (until, *((since,) if since else ())):
        if name not in names:
            raise UnknownNameError("step", name, names)
    for kind in STEPS:
        kind.check(job, until)
    artifact = start or Artifact(path=Path(job.source), kind="onnx", model="", inputs=(), outputs=())
    for kind in STEPS[names.index(since) if since else 0 : names.index(until) + 1]:
        step = kind(artifact, job)
        if kind.name == since or step.wanted():
            artifact = _run_step(step, monitor, cache)
            if kind is Adopt:  # the precision of a file is known now; the next step takes minutes
                for later in STEPS:
                    later.check(job, until, artifact)
    return artifact


def _run_step(step: PipelineStep, monitor: Monitor[Stage], cache: Cache) -> Artifact:
    with monitor.stage(step.title) as stage:
        made, cached = cache.get_or_make(step.key, lambda folder: step.run(folder, stage.progress))
        stage.summary = "(from cache)" if cached else ""
    for note in step.notes(made):
        monitor.note(note)
    return made


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
