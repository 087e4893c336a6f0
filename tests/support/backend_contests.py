"""Runtimes of one model against each other: the target, the contest, and what it says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.backend import BACKENDS, Feeds
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target
from edgedeploy.guard.contest import choose_backend


def cpu_target() -> Target:
    """Both runtimes of a CPU; skips where one is absent."""
    for name in ("onnxruntime", "openvino"):
        if BACKENDS.get(name).why_not():
            pytest.skip(BACKENDS.get(name).why_not())
    return Target(
        name="cpu",
        title="CPU",
        backends=("openvino", "onnxruntime"),
        precisions=("fp32", "bf16", "int8"),
        default_precision="fp32",
    )


def fastest(
    model: Artifact,
    target: Target,
    folder: Path,
    forms: Mapping[str, Artifact] | None = None,
    inputs: Sequence[Feeds] = (),
) -> Artifact:
    """What ships of a model, into `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgedeploy.guard.candidates.sign_forms", lambda *_: forms or {})
        patch.setattr("edgedeploy.guard.contest.real_inputs", lambda *_: inputs)
        return choose_backend(model, Job(str(model.path), Recipe(), target), folder, lambda *_: None)


def considered(built: Artifact) -> dict[str, dict[str, Any]]:
    """The entry of each candidate by its name."""
    return {entry.backend: entry.model_dump() for entry in built.details.considered}
