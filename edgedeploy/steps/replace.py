"""Replace operators and the opset that the target's runtime does not read; before precision is lowered."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from edgedeploy.core.onnx_header import operators, read_onnx_header
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import PipelineStep


class Replace(PipelineStep):
    """The model in operators and an opset that the target reads; what cannot be replaced is noted."""

    name = "replace"
    title = "rewrite operators that the target lacks"

    def wanted(self) -> bool:
        return bool(self._lacking) or self._opset is not None

    def decides(self) -> Any:
        opset = {} if self._opset is None else {"opset": self._opset}
        return {"ops": self._lacking, "optimize": self.job.recipe.optimize.model_dump(), **opset}

    def run(self, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG002
        from edgedeploy.export.replace import replace_operators

        ops, out = self.job.target.unsupported_ops, folder / self.artifact.path.name
        options = self.job.recipe.optimize
        return replace_operators(self.artifact, ops, self._lacking, self._opset, options, out)

    @staticmethod
    def notes(made: Artifact) -> list[str]:
        return [*made.details.adapted.problems]

    @cached_property
    def _lacking(self) -> list[str]:
        """Operators of the model that the target does not have."""
        lacking = set(self.job.target.unsupported_ops)
        return sorted(lacking & {kind for kind, _ in operators(self.artifact.path)}) if lacking else []

    @cached_property
    def _opset(self) -> int | None:
        """The opset that the model has to come down to; None if it may stay."""
        newest, known = self.job.target.newest_opset, self.artifact.precision
        default = known if known != "fp32" else self.job.target.default_precision
        if newest is None or (self.job.recipe.precision or default) == "int8":
            return None  # Q/DQ are written in opset 19, whatever else is read
        return newest if newest < read_onnx_header(self.artifact.path).opset else None
