"""The contract of a pipeline step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgedeploy.core.cache import step_key
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact


@dataclass(frozen=True)
class PipelineStep(ABC):
    """One step of one deployment; heavy imports happen in its methods, so no step pays for another's.

    Attributes:
        name: of the step in `pipeline.run(until=...)` and in cache keys.
        title: of the step on the terminal.
        artifact: the result of the step before.
        job: the deployment.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    artifact: Artifact
    job: Job

    @classmethod  # noqa: B027  most steps have nothing to check
    def check(cls, job: Job, until: str, source: Artifact | None = None) -> None:
        """Raise at once what the step would raise after minutes of other steps' work.

        Args:
            until: name of the last step that runs.
            source: the job's .onnx file, once it has been read.
        """

    def wanted(self) -> bool:
        """Whether the job needs the step."""
        return True

    @abstractmethod
    def decides(self) -> Any:
        """All inputs of the result besides the artifact, as JSON; None where they are unknown.

        A user's own Python code is such an unknown; its results are not cached.
        """

    @abstractmethod
    def run(self, folder: Path, progress: Progress) -> Artifact:
        """Write the result into `folder` and return it; raises the EdgeDeployError family."""

    @staticmethod
    def notes(made: Artifact) -> list[str]:  # noqa: ARG004
        """Messages about the result, one line each."""
        return []

    @property
    def key(self) -> str | None:
        """Key of the result in the cache; None for a result that is not cached."""
        decides = self.decides()
        return None if decides is None else step_key(self.name, self.artifact.digest, decides)
