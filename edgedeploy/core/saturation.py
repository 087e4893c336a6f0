"""Whether an artifact's INT8 layers can saturate on a CPU, and what to tell people who run it there."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.core.int8_layers import SaturatingLayers, saturating_layers
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import THIS_CPU, Target, load_target

NONE = SaturatingLayers((), 0)


def saturation(artifact: Artifact, target: Target | None = None) -> SaturatingLayers:
    """The layers that can saturate on a target's CPUs, by default on this one; none where sums are 32-bit."""
    if artifact.kind != "onnx":
        return NONE
    try:
        target = target or load_target(THIS_CPU)
    except EdgeDeployError:  # a CPU of which nothing is known
        return NONE
    if target.cpu is None or target.cpu.sums == "int32":
        return NONE
    return _layers(artifact.path, artifact.digest)


def saturation_caveats(artifact: Artifact) -> list[str]:
    """A line of warning where INT8 layers of the artifact can saturate on this CPU; with what to do."""
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
