"""The one way to rewrite an artifact: run graph passes, prove them, record them, write the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.errors import ParityError, UsageError
from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.graphs.metadata import save_model
from edgedeploy.graphs.read import read_model
from edgedeploy.graphs.run import Feeds


@dataclass(frozen=True)
class Policy:
    """How passes are proved, and whether they are required.

    Attributes:
        verify, seeds, feeds: as `runner.optimize` takes them.
        required: hint of the error that is raised where a pass is not applied. With "" the passes that keep
            inputs and outputs are optional, and the result lists reverted passes.
    """

    verify: bool = True
    seeds: int = 2
    feeds: Sequence[Feeds] = ()
    required: str = ""

    @staticmethod
    def of(options: OptimizeOptions, feeds: Sequence[Feeds] = (), required: str = "") -> Policy:
        """The policy of a recipe."""
        return Policy(options.verify, options.seeds, feeds, required)


def rewrite(
    artifact: Artifact,
    passes: Sequence[str],
    out: Path,
    policy: Policy,
    *,
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Artifact:
    """Run passes on an artifact and write the result, with other fields of the artifact changed, to `out`.

    Args:
        options: per pass name, an object of that pass's options_type.

    Raises what `run_passes` and `write` raise.
    """
    result = run_passes(artifact, [passes], policy, options=options)
    return write(artifact, result, out, **changes)


def run_passes(
    artifact: Artifact,
    stages: Sequence[Sequence[str]],
    policy: Policy,
    *,
    options: Mapping[str, Any] | None = None,
    model: onnx.ModelProto | None = None,
) -> OptimizeResult:
    """Run lists of passes on an artifact's model, each list until none of its passes fires; writes nothing.

    Args:
        model: the artifact's model, if in memory.

    Raises UsageError where a required pass cannot run, and ParityError where its result is not the same. A
    pass that changes inputs or outputs is always required: the artifact describes its result.
    """
    result = OptimizeResult(read_model(artifact.path) if model is None else model)
    for stage in stages:
        result = result.then(
            optimize(
                result.model,
                stage,
                verify=policy.verify,
                seeds=policy.seeds,
                feeds=policy.feeds,
                options=options,
            )
        )
        if result.not_run:
            break
    names = [name for stage in stages for name in stage]
    contract = [name for name in names if not PASSES.get(name).keeps_contract]
    if policy.required or contract:
        _require(artifact, result, names if policy.required else contract, policy.required)
    return result


def write(artifact: Artifact, result: OptimizeResult, out: Path, **changes: Any) -> Artifact:
    """Write a rewritten model, its passes in the history; raises OutputError."""
    history = (*artifact.history, *result.history())
    return save_model(result.model, artifact.model_copy(update={"history": history, **changes}), out)


def _require(artifact: Artifact, result: OptimizeResult, names: Sequence[str], hint: str) -> None:
    """Raise unless the named passes were applied, or had nothing to do where they keep the contract."""
    hint = hint or "leave the option out"
    if result.not_run:
        raise UsageError(f"{artifact.path}: {result.not_run}", f"{hint}, or set optimize.verify=false")
    for step in result.reverted:
        if step.name in names:
            raise ParityError(f"{step.name} breaks {artifact.model}, so it was reverted: {step.reason}", hint)
    for name, skipped in result.skipped:
        if name in names and not PASSES.get(name).keeps_contract:
            raise UsageError(f"{name} does not fit {artifact.model}: {skipped.reason}", hint)
