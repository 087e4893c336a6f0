"""Replace operators that a target lacks, and an opset that it does not read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedeploy.core.details import AdaptDetails, Details
from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.order import default_passes
from edgedeploy.export.passes.lower_opset import NewestOpset
from edgedeploy.export.report import save_report
from edgedeploy.export.rewrite import Policy, run_passes, write
from edgedeploy.export.runner import OptimizeResult
from edgedeploy.graphs.opset import opset_of
from edgedeploy.graphs.read import read_model


def replace_operators(
    artifact: Artifact,
    ops: Sequence[str],
    lacking: Sequence[str],
    opset: int | None,
    options: OptimizeOptions,
    out: Path,
) -> Artifact:
    """Replace what a target lacks, run the cleaning passes, write the model with its pass report.

    Args:
        ops: operators that the target lacks; a replacement may introduce one of them.
        lacking: the operators of `ops` that the model has.
        opset: the newest that the target reads; None keeps that of the model.

    `details.adapted.problems` has the reasons for operators that stay.
    """
    replacing = replacing_passes(ops)
    # Passes of the phase "recognize" would bring the operators back. The opset comes last.
    names = [*replacing, *default_passes("clean", "fold", "merge", "pack")]
    names += ["lower-opset"] if opset is not None else []
    chosen: dict[str, Any] = {} if opset is None else {"lower-opset": NewestOpset(opset)}
    model = read_model(artifact.path)
    stages = [[name for name in names if name not in options.skip]]
    result = run_passes(artifact, stages, Policy.of(options), options=chosen, model=model)
    left = _left(result, replacing, opset)
    problems = [result.not_run] if result.not_run else []
    problems += [f"{step.name} was reverted: {step.reason}" for step in result.reverted]
    adapted = AdaptDetails(ops=tuple(lacking), problems=tuple(dict.fromkeys((*problems, *left))))
    made = write(artifact, result, out, details=artifact.details | Details(adapted=adapted))
    save_report(out, model, result, left, artifact.path)
    return made


def replacing_passes(ops: Sequence[str]) -> list[str]:
    """Names of the passes that replace these operators: `lower-*` and `decompose-*`."""
    return [
        name
        for name in PASSES.names()
        if name.startswith(("lower-", "decompose-")) and {*PASSES.get(name).ops} & {*ops}
    ]


def _left(result: OptimizeResult, replacing: Sequence[str], opset: int | None) -> list[str]:
    """Reasons for all that the target still lacks after the passes, one line each."""
    lines = [
        f"{entry.op} stays, which the target lacks: {entry.reason}"
        for name, entry in result.skipped
        if name in replacing
    ]
    version = opset_of(result.model)
    if opset is not None and version > opset:
        why = next((entry.reason for name, entry in result.skipped if name == "lower-opset"), "")
        lines.append(f"the model has opset {version}, and the target reads {opset}: {why}")
    return list(dict.fromkeys(lines))
