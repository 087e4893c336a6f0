"""An ONNX file made elsewhere, or by an earlier command, taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.files import sha256_file
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import Job, PipelineStep


def _wanted(artifact: Artifact, job: Job) -> bool:  # noqa: ARG001
    return Path(job.source).suffix.lower() == ".onnx"


def _decides(artifact: Artifact, job: Job) -> Any:  # noqa: ARG001
    return {"file": Path(job.source).name, "sha256": sha256_file(Path(job.source))}


def _adopt(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG001
    from edgedeploy.export.adopt import adopt

    source = Path(job.source)
    return adopt(source, folder / source.name, name=source.stem)


ADOPT = PipelineStep("adopt", "check the ONNX file", _adopt, _decides, wanted=_wanted)
