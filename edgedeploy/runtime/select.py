"""Which backend opens an artifact, and how users name one."""

from __future__ import annotations

from pathlib import Path

from edgedeploy.backend import BACKENDS, Backend, OpenOptions, Session
from edgedeploy.core.errors import ArtifactError, MissingDependencyError, UnknownNameError
from edgedeploy.core.spec import Artifact

PLAIN_ONNX = ("openvino", "onnxruntime")


def open_artifact(
    artifact: Artifact, options: OpenOptions | None = None, backend: str | None = None
) -> Session:
    """Open with `backend`, else with the artifact's own, else with the first of PLAIN_ONNX that is installed.

    Raises ArtifactError for an engine opened with another backend than it was built for.
    """
    if artifact.kind == "engine" and backend not in (None, artifact.backend):
        raise ArtifactError(
            f"{artifact.path} is an engine of {artifact.backend}, not of {backend}",
            "open the .onnx that it was built from instead",
        )
    return backend_for(artifact, backend).open(artifact, options)


def backend_for(artifact: Artifact, backend: str | None = None) -> Backend:
    """The backend that `open_artifact` takes."""
    name = backend or artifact.backend
    if name:
        return BACKENDS.get(name)
    for candidate in PLAIN_ONNX:
        if not BACKENDS.get(candidate).why_not():
            return BACKENDS.get(candidate)
    raise MissingDependencyError("no runtime for .onnx files is installed", 'pip install "edgedeploy[cpu]"')


def split_backend(name: str) -> tuple[Path, str | None]:
    """(file, backend or None) of `FILE` or `FILE@BACKEND`; a file may have an @ in its name.

    Raises UnknownNameError for a backend that is none.
    """
    file, at, backend = name.rpartition("@")
    if not at or Path(name).exists():
        return Path(name), None
    if Path(file).is_file() and backend not in BACKENDS.names():
        raise UnknownNameError("backend", backend, BACKENDS.names())
    return Path(file), backend
