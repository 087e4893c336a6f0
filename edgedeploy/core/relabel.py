"""Other metadata on the same graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.files import sha256_file
from edgedeploy.core.onnx_header import with_metadata
from edgedeploy.core.spec import METADATA_KEY, Artifact


def relabeled(artifact: Artifact, out: Path | None = None, **changes: Any) -> Artifact:
    """The same graph with these fields of the artifact changed, at `out` or in place; raises OutputError."""
    out = out or artifact.path
    changed = artifact.model_copy(update={**changes, "path": out})
    with_metadata(artifact.path, METADATA_KEY, changed.to_json(), out)
    return changed.model_copy(update={"digest": sha256_file(out)})
