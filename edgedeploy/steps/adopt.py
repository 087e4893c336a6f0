"""Take in an ONNX file made elsewhere, or by an earlier command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.steps.base import PipelineStep


class Adopt(PipelineStep):
    """The file checked, with its shapes inferred and its metadata written."""

    name = "adopt"
    title = "check the ONNX file"

    def wanted(self) -> bool:
        return Path(self.job.source).suffix.lower() == ".onnx"

    def decides(self) -> Any:
        source, task = Path(self.job.source), self.job.recipe.task
        return {
            "file": source.name,
            "sha256": Artifact.load(source).digest,
            "task": task.model_dump(),
            "size": self.job.size if task.name else None,
        }

    def run(self, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG002
        from edgedeploy.export.capture.adopt import adopt

        source = Path(self.job.source)
        return adopt(source, folder / source.name, name=source.stem, task=self._task())

    def _task(self) -> TaskSpec | None:
        """The task that the user names for the file, None where the user names none; raises UsageError."""
        asked = self.job.recipe.task
        if asked.name is None and not asked.options:
            return None
        known = Artifact.load(self.job.source).task
        if asked.name is None or asked.name == known.name:
            return known.model_copy(update={"options": {**known.options, **asked.options}})
        from edgedeploy.task import task_spec

        return task_spec(asked.name, self.job.size, asked.options)
