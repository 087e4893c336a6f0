"""The step that builds for the target, in the fastest runtime and, where asked, the fastest precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.artifact_warnings import saturation_warnings
from edgedeploy.core.cache import data_digest
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import PipelineStep


class Build(PipelineStep):
    """The artifact that the target's runtime opens."""

    name = "build"
    title = "build for the target"

    def decides(self) -> Any:
        from edgedeploy.core.cpu import processor

        job = self.job
        decides = {
            "target": job.target.model_dump(mode="json"),
            "size": job.size,
            "source": job.source,
            # Candidates were timed on this machine: another one that shares the cache must ask again.
            "processor": processor(),
            "optimize": job.recipe.optimize.model_dump(),
            "data": data_digest(job.data) if job.data else None,
        }
        if job.recipe.precision != "auto":
            return decides
        return {
            **decides,
            "calibration": job.recipe.calibration.model_dump(),
            "guard": job.recipe.guard.model_dump(),
            "labeled": None if job.labeled is None else data_digest(job.labeled),
        }

    def run(self, folder: Path, progress: Progress) -> Artifact:
        from edgedeploy.guard.contest import choose_backend, choose_precision

        choose = choose_precision if self.job.recipe.precision == "auto" else choose_backend
        return choose(self.artifact, self.job, folder, progress)

    @staticmethod
    def notes(made: Artifact) -> list[str]:
        """Why this precision ships; else what this machine cannot know of the one that it was built for."""
        from edgedeploy.bench.machine import cpu_class

        details = made.details
        if details.guard.sentence:
            return [*details.calibration.problems, details.guard.sentence]
        made_for, here = details.cpu, cpu_class()
        if not made_for or made_for == here:
            return saturation_warnings(made)
        return [
            f"timed on this {here or 'unknown'} CPU: on {made_for} another runtime or precision may be faster"
        ]
