"""Warnings about an artifact on this machine: INT8 layers that saturate, INT8 ranges of random data."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.core.int8_layers import SaturatingLayers, saturating_layers
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import THIS_CPU, Target, load_target

RANDOM_DATA = "random data"
NONE = SaturatingLayers((), 0)


def artifact_warnings(artifact: Artifact) -> list[str]:
    """Everything to know before running or judging the artifact, one warning a line."""
    lines = saturation_warnings(artifact)
    if artifact.details.calibration.random:
        noise = f"INT8 ranges from {RANDOM_DATA}: its accuracy means nothing; quantize it with --data FOLDER"
        lines.insert(0, noise)
    return lines


def saturation(artifact: Artifact, target: Target | None = None) -> SaturatingLayers:
    """Layers that can saturate on a target's CPU, by default on this one; none where sums are 32-bit."""
    if artifact.kind != "onnx":
        return NONE
    try:
        target = target or load_target(THIS_CPU)
    except EdgeDeployError:  # unknown CPU
        return NONE
    if target.cpu is None or target.cpu.sums == "int32":
        return NONE
    return _layers(artifact.path, artifact.digest)


def saturation_warnings(artifact: Artifact) -> list[str]:
    """One line with the remedy where INT8 layers of the artifact can saturate on this CPU, else none."""
    found = saturation(artifact)
    if not found.names:
        return []
    made_for = artifact.details.cpu or "CPUs with VNNI"
    here = load_target(THIS_CPU).cpu_class
    effect = "exact but slower in ONNX Runtime, wrong in OpenVINO"
    if found.shared_zeros:
        effect = "results can be wrong"
    source = artifact.details.source or "MODEL"
    remedy = f"edgedeploy build {source} --target cpu --precision int8 --data PHOTOS"
    layers = f"{len(found.names)} of {found.of} INT8 layers can saturate on this CPU ({here}): {effect}"
    return [f"{layers}. The file was made for {made_for}; make it for this one: {remedy}"]


@lru_cache(maxsize=32)
def _layers(path: Path, digest: str) -> SaturatingLayers:  # noqa: ARG001  a path's content may change
    return saturating_layers(path)
