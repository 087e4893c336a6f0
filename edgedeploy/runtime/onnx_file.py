"""Shared by backends that run .onnx files: label the built file, turn a runtime's message into an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedeploy.backend import Feeds
from edgedeploy.core.details import Details
from edgedeploy.core.errors import ArtifactError, BuildError, UnsupportedOpError, UsageError
from edgedeploy.core.onnx_header import QUANTIZED, external_files, operators
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.core.target import Target

UNSUPPORTED = (
    re.compile(r"No Op registered for (?P<op>[\w.]+)"),
    re.compile(r"(?P<op>[\w.:]+)\(-?\d+\) is not a registered function/op"),
    re.compile(
        r"Could not find an implementation for (?P<op>[\w.]+)\(\d+\) node with name '(?P<node>[^']*)'"
    ),
    re.compile(r"No conversion rule found for operations: (?P<op>[\w.-]+)"),
    re.compile(r"No registered schema for operator '(?P<op>[^']+)'"),
    re.compile(r"Node type '(?P<op>[^']+)' from domain '[^']*' is unknown"),
)
OTHER_RUNTIMES = "another runtime may take it; to see which are here: edgedeploy doctor"
_LONGEST_MESSAGE = 400


def label(
    artifact: Artifact, backend: str, target: str, out: Path, details: Mapping[str, Any], milliseconds: float
) -> Artifact:
    """Copy an ONNX artifact to `out` with backend, target and details in its metadata; atomic.

    Raises ArtifactError for a model with external weight files if `out` is in another folder.
    """
    apart = external_files(artifact.path)
    if apart and out.resolve().parent != artifact.path.resolve().parent:
        raise ArtifactError(
            f"{artifact.path} keeps weights in {apart[0]}",
            "save it as one file, or build into the same folder",
        )
    step = Step(name="build", options={"backend": backend, "target": target}, milliseconds=milliseconds)
    return artifact.saved_at(
        out,
        history=(*artifact.history, step),
        backend=backend,
        target=target,
        details=artifact.details | Details.model_validate({"onnx_sha256": artifact.digest, **details}),
    )


def made_for(target: Target) -> dict[str, str]:
    """{"cpu": class of the target's CPU} for the artifact's details; empty for other devices."""
    return {"cpu": target.cpu_class} if target.cpu_class else {}


def is_quantized(artifact: Artifact) -> bool:
    """Whether the graph has quantized operators; a file from another tool does not state its precision."""
    return any(kind in QUANTIZED for kind, _ in operators(artifact.path))


def refusal(backend: str, artifact: Artifact, message: str) -> BuildError:
    """The error for a model that a runtime cannot load, with operator and node if the message has them."""
    for pattern in UNSUPPORTED:
        match = pattern.search(message)
        if match:
            # OpenVINO appends the opset to the name of a standard operator: Frobnicate-20
            op = re.sub(r"-\d+$", "", re.split(r"[.:]", match["op"])[-1])
            first = next((name for kind, name in operators(artifact.path) if kind == op), "")
            node = match.groupdict().get("node") or first
            return UnsupportedOpError(op, node, backend, OTHER_RUNTIMES)
    return BuildError(f"{backend} refuses {artifact.path}: {shortened(message)}", OTHER_RUNTIMES)


def run_error(backend: str, feeds: Feeds, error: Exception) -> UsageError:
    """The error for a run that failed on these feeds."""
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
    message = f"{backend} cannot run the model on {shapes}: {shortened(str(error))}"
    return UsageError(message, "check that the model takes inputs of this size")


def shortened(message: str) -> str:
    """An SDK's message on one line, without leading source positions."""
    text = " ".join(message.split())
    text = re.sub(r"^Exception from \S+:\d+: ", "", text)
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
