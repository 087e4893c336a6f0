"""What a pipeline step is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.core.job import Job as Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact


@dataclass(frozen=True)
class PipelineStep:
    """One arrow of the deployment; imports happen inside it, so no step pays for another's libraries.

    Attributes:
        name: what `run(until=…)` and the cache call it.
        title: what a person reads.
        work: does it: (artifact so far, job, folder to write into, progress) -> artifact.
        decides: all that decides the result besides the artifact, as JSON; None where it cannot be told
            (a user's own Python code), so that nothing is cached.
        notes: what of the result a person should be told.
        wanted: whether the job needs it, given the artifact so far.
    """

    name: str
    title: str
    work: Callable[[Artifact, Job, Path, Progress], Artifact]
    decides: Callable[[Artifact, Job], Any]
    notes: Callable[[Artifact], list[str]] = lambda artifact: []  # noqa: ARG005
    wanted: Callable[[Artifact, Job], bool] = lambda artifact, job: True  # noqa: ARG005
