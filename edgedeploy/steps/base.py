"""What a pipeline step is, and the job that all steps work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy.core.progress import Progress
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target


@dataclass(frozen=True)
class Job:
    """What to deploy, and how.

    Attributes:
        source: zoo model, `pkg.module:factory`, `.pt2` or `.onnx`.
        recipe: the options of every step.
        target: the device to deploy to.
        data: calibration images, video or .npz; needed for int8.
        weights: bundled weights by name, a checkpoint file, "random", or None for the default.
        size: (height, width) at which a model of dynamic size is calibrated and timed.
        model_options: for the builder of a zoo model or a factory.
        labeled: images with their truth, to score candidates on; by default a part of `data` is taken.
    """

    source: str
    recipe: Recipe
    target: Target
    data: Path | None = None
    weights: str | None = None
    size: tuple[int, int] | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    labeled: Path | None = None


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
