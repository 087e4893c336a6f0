"""The report of graph passes, a file beside the model, so that cached results have it too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.files import write_text
from edgedeploy.export.counts import ModelCounts, count_model
from edgedeploy.export.graph_pass import Skipped
from edgedeploy.export.prove.trial import Offence
from edgedeploy.export.runner import OptimizeResult, PassStep


@dataclass(frozen=True)
class PassReport:
    """Result of a list of passes, without the model.

    Attributes:
        before, after: counts of the two models.
        steps: passes that fired, in order.
        skipped: (pass, candidate and reason) of the nodes that were not rewritten.
        verified: whether every step was proved.
        not_run: reason why no pass was run, or "".
        notes: messages besides the problems of the passes.
        problems: reverted rewrites and their reasons, one line each.
        repros: folders with small models, one for each reverted rewrite.
    """

    before: ModelCounts
    after: ModelCounts
    steps: tuple[PassStep, ...] = ()
    skipped: tuple[tuple[str, Skipped], ...] = ()
    verified: bool = True
    not_run: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    repros: tuple[Path, ...] = ()

    @property
    def offences(self) -> tuple[Offence, ...]:
        """The reverted rewrites."""
        return tuple(offence for step in self.steps for offence in step.offences)

    def then(self, later: PassReport) -> PassReport:
        """This report joined with the report of passes that ran on its model later."""
        skipped = {**dict.fromkeys(self.skipped), **dict.fromkeys(later.skipped)}
        return replace(
            later,
            before=self.before,
            steps=(*self.steps, *later.steps),
            skipped=tuple(skipped),
            notes=(*self.notes, *later.notes),
            problems=(*self.problems, *later.problems),
        )

    @staticmethod
    def beside(model: Path) -> PassReport | None:
        """The report of the model at this path; None where no pass was run for it."""
        path = _path(model)
        if not path.is_file():
            return None
        document: dict[str, Any] = json.loads(path.read_text())
        return PassReport(
            **{
                **document,
                "before": ModelCounts(**document["before"]),
                "after": ModelCounts(**document["after"]),
                "steps": tuple(_step(step) for step in document["steps"]),
                "skipped": tuple((name, Skipped(**entry)) for name, entry in document["skipped"]),
                "notes": tuple(document["notes"]),
                "problems": tuple(document["problems"]),
                "repros": tuple(model.parent / folder for folder in document["repros"]),
            }
        )


def save_report(
    model: Path, before: onnx.ModelProto, result: OptimizeResult, notes: Sequence[str], earlier: Path
) -> None:
    """Write the report of a result, and its small models, beside the model; raises OutputError.

    `earlier` is the model before the passes; its report, if any, is the first part of the new one.
    """
    known = PassReport.beside(earlier)
    repros = [] if known is None else list(known.repros)
    for offence in result.offences:
        if offence.repro is not None:
            # Relative: the folder of the model is renamed when it is complete.
            repros.append(Path("repro") / f"{len(repros) + 1:02}-{offence.name}")
            offence.repro.save(model.parent / repros[-1], offence.name, offence.reason)
    steps = tuple(
        replace(step, offences=tuple(replace(entry, repro=None) for entry in step.offences))
        for step in result.steps
    )
    report = PassReport(
        before=count_model(before),
        after=count_model(result.model),
        steps=steps,
        skipped=result.skipped,
        verified=result.verified,
        not_run=result.not_run,
        notes=tuple(notes),
        problems=tuple(result.problems()),
    )
    report = report if known is None else known.then(report)
    write_text(_path(model), json.dumps(asdict(report) | {"repros": list(map(str, repros))}))


def _path(model: Path) -> Path:
    return model.with_name("passes.json")


def _step(document: dict[str, Any]) -> PassStep:
    return PassStep(**{**document, "offences": tuple(Offence(**entry) for entry in document["offences"])})
