"""`lint`: a quantized model, anybody's, judged by the rules of its targets, and repaired."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.core.errors import UsageError
from edgedeploy.core.extras import require_onnx
from edgedeploy.core.spec import Artifact, Step

if TYPE_CHECKING:
    from edgedeploy.calibration.lint import Finding, Repaired, Subject
    from edgedeploy.pipeline import Monitor, Stage


@dataclass(frozen=True)
class LintReport:
    """Findings of one file.

    Attributes:
        findings: of the file as it is, errors first.
        repaired: the model after its fixes and their proofs; None where no fix was asked for.
        artifact: the repaired file.
        left: findings of the repaired file; those of the file itself where no fix was asked for.
    """

    findings: tuple[Finding, ...]
    left: tuple[Finding, ...]
    repaired: Repaired | None = None
    artifact: Artifact | None = None


def lint(
    source: Path | str,
    targets: str | Sequence[str],
    *,
    fix: bool = False,
    out: Path | str | None = None,
    only: Sequence[str] = (),
    monitor: Monitor[Stage] | None = None,
) -> LintReport:
    """Judge an ONNX file with Q/DQ by the rules of its targets.

    Args:
        source: the .onnx file.
        targets: devices or rule sets; "device@backend" for one backend of a device.
        fix: repair what is mechanical, prove it, and write the result.
        out: the file to write; by default `<source>.fixed.onnx` in the current folder.
        only: ids or names of rules; `fix` then also applies fixes of advice.
        monitor: receives the progress.

    Raises UsageError for an unknown rule or target, CalibrationError where shapes cannot be inferred.
    """
    require_onnx()
    if out is not None and not fix:
        raise UsageError("-o is for what --fix writes", "add --fix")
    from edgedeploy.calibration.lint import fix as repair
    from edgedeploy.calibration.lint import lint as judge
    from edgedeploy.graphs.metadata import save_model
    from edgedeploy.graphs.read import read_model

    source, names = Path(source), [targets] if isinstance(targets, str) else list(targets)
    artifact = Artifact.load(source)
    model = read_model(artifact.path)
    subjects = [_subject(name) for name in names]
    ids = _ids(only)
    findings = tuple(entry for entry in judge(model, *subjects) if not ids or entry.id in ids)
    if not fix:
        return LintReport(findings, findings)
    with monitor.stage("repair, prove each fix") if monitor else nullcontext() as stage:
        repaired = repair(model, *subjects, only=ids)
        kept = [entry for entry in repaired.repairs if not entry.reverted]
        if stage is not None:
            stage.summary = f"{sum(entry.faults for entry in kept)} repairs"
    options = {"for": ",".join(names), "rules": ",".join(dict.fromkeys(entry.id for entry in kept))}
    step = Step(name="lint-fix", options=options, hits=sum(entry.faults for entry in kept))
    path = Path(out) if out is not None else Path(f"{source.stem}.fixed.onnx")
    saved = save_model(repaired.model, artifact.with_step(step, precision="int8"), path)
    left = tuple(entry for entry in judge(repaired.model, *subjects) if not ids or entry.id in ids)
    return LintReport(findings, left, repaired, saved)


def _subject(name: str) -> Subject:
    from edgedeploy.backend import BACKENDS
    from edgedeploy.calibration.lint import subject_named
    from edgedeploy.core.target import load_target, target_names

    device, _, backend = name.partition("@")
    if device in target_names() and not backend:
        names = load_target(device).backends
        backend = next((entry for entry in names if not BACKENDS.get(entry).why_not()), names[0])
    elif device in target_names() and backend not in load_target(device).backends:
        raise UsageError(
            f"target {device} has no backend '{backend}'", f"it has {', '.join(load_target(device).backends)}"
        )
    return subject_named(device, backend or None)


def _ids(names: Sequence[str]) -> list[str]:
    """Ids of rules that are named by id or by name; raises UsageError."""
    from edgedeploy.calibration.lint import all_rules

    known = {rule.id: rule.id for rule in all_rules()} | {rule.name: rule.id for rule in all_rules()}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no lint rule '{name}'", "list them: edgedeploy lint --rules")
    return [known[name] for name in names]
