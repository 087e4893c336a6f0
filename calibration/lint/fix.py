"""Apply the fixes of lint rules; ONNX Runtime verifies each one.

In a deep network two roundings of the same tensors differ as much as either differs from float. So a fix that
changes the outputs by more than its promise is compared with the model without rounding: it may be at most
LOSS_DB farther from that model than the file was. Symmetric codes lose that bit to unsigned ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx

from edgedeploy.calibration.lint.editor import Editor
from edgedeploy.calibration.lint.rule import LintRule
from edgedeploy.calibration.lint.run import Subject, all_rules
from edgedeploy.calibration.lint.scene import Scene
from edgedeploy.calibration.lint.verify import random_runs, run
from edgedeploy.core.parity import FIX, Difference, worst_difference
from edgedeploy.graphs.edit import copy_model
from edgedeploy.graphs.run import Feeds, NotRunnable, Outputs

LOSS_DB = 8.0  # a bit is 6 dB
LOSS = 10 ** (LOSS_DB / 20)  # the same in amplitude, for the share of discrete outputs that differ
ROUNDS = 4  # a fix may uncover another fault


@dataclass(frozen=True)
class Repair:
    """Result of one fix: mended faults, and SQNR in dB against the model before (None: not run)."""

    id: str
    rule: str
    faults: int
    sqnr_db: float | None
    reverted: str = ""


@dataclass(frozen=True)
class Repaired:
    """A model after its fixes; `sqnr_db` is the SQNR of all fixes together against the original."""

    model: onnx.ModelProto
    repairs: tuple[Repair, ...] = ()
    sqnr_db: float | None = None
    notes: tuple[str, ...] = ()


def fix(model: onnx.ModelProto, *subjects: Subject, only: Collection[str] = ()) -> Repaired:
    """A copy of the model with the fixes of every rule that is broken for a target.

    `only` names ids; without it the rules of severity error and warning are applied, those of advice are
    not. Every fix is run against the model before it. A fix is reverted if it breaks its rule's promise and
    also moves the outputs away from those of the same model without rounding. A model that ONNX Runtime
    cannot run is fixed without verification, and a note says so.
    """
    work = _Work(model, subjects[0])
    wanted = [
        rule
        for rule in all_rules()
        if rule.fixable and (rule.id in only if only else rule.severity != "advice")
    ]
    for _ in range(ROUNDS):
        kept = [
            work.repair(rule, subject)
            for subject in subjects
            for rule in wanted
            if rule.applies(subject.rules)
        ]
        if not any(kept):
            break
    return work.result()


class _Work:
    """The model after the fixes so far, and its outputs."""

    def __init__(self, model: onnx.ModelProto, subject: Subject) -> None:
        self.model = copy_model(model)
        self.scenes: dict[str, Scene] = {}  # by subject, of the current model
        self.repairs: list[Repair] = []
        self.notes: list[str] = []
        self.refused: set[str] = set()
        self.feeds: list[Feeds] = []
        self.start: list[Outputs] | None = None
        self.outputs: list[Outputs] | None = None
        try:
            self.feeds, self.start = random_runs(Scene(model, subject.rules, subject.device))
            self.outputs = self.start
        except NotRunnable as reason:
            self.notes.append(f"not verified: {reason}")

    def repair(self, rule: LintRule, subject: Subject) -> bool:
        """Whether the rule found faults and its fix was kept."""
        if rule.id in self.refused:
            return False
        if subject.name not in self.scenes:
            self.scenes[subject.name] = Scene(self.model, subject.rules, subject.device)
        broken = len(list(rule.check(self.scenes[subject.name])))
        if not broken:
            return False
        changed, left = _applied(self.model, rule, subject)
        if left >= broken:
            return False
        sqnr, outputs, reverted = self._judge(changed, rule, subject)
        self.repairs.append(Repair(rule.id, rule.name, broken - left, sqnr, reverted))
        if reverted:
            self.refused.add(rule.id)
            return False
        self.model, self.outputs, self.scenes = changed, outputs, {}
        return True

    def _judge(
        self, changed: onnx.ModelProto, rule: LintRule, subject: Subject
    ) -> tuple[float | None, list[Outputs] | None, str]:
        """SQNR against the model before, the outputs, and the reason to revert the fix ("": keep it)."""
        try:
            onnx.checker.check_model(changed)
            if self.outputs is None:
                return None, None, ""
            outputs = run(changed, self.feeds)
            change = _difference(self.outputs, outputs)
            if replace(FIX, sqnr_db=rule.promise).accepts(change):
                return change.sqnr_db, outputs, ""
            exact = run(_float_twin(self.model, subject), self.feeds)
        except (NotRunnable, onnx.checker.ValidationError) as reason:
            return None, None, f"the model is invalid after the fix: {' '.join(str(reason).split())[:200]}"
        old, new = _difference(exact, self.outputs), _difference(exact, outputs)
        limits = replace(FIX, sqnr_db=old.sqnr_db - LOSS_DB, unequal=max(FIX.unequal, LOSS * old.unequal))
        reverted = f"{new} against the same model without rounding, where it had {old}"
        return change.sqnr_db, outputs, "" if limits.accepts(new) else reverted

    def result(self) -> Repaired:
        total = None
        if self.start is not None and self.outputs is not None:
            total = _difference(self.start, self.outputs).sqnr_db
        return Repaired(self.model, tuple(self.repairs), total, tuple(self.notes))


def _difference(before: Sequence[Feeds], after: Sequence[Feeds]) -> Difference:
    return worst_difference(zip(before, after, strict=True))


def _float_twin(model: onnx.ModelProto, subject: Subject) -> onnx.ModelProto:
    """The model without Q/DQ on activations; its weights stay rounded."""
    twin = copy_model(model)
    editor = Editor(Scene(twin, subject.rules, subject.device))
    editor.strip()
    editor.commit()
    return twin


def _applied(model: onnx.ModelProto, rule: LintRule, subject: Subject) -> tuple[onnx.ModelProto, int]:
    """A copy with one rule's fix, and the number of remaining faults."""
    copy = copy_model(model)
    scene = Scene(copy, subject.rules, subject.device)
    editor = Editor(scene)
    rule.mend(scene, editor)
    editor.commit()
    return copy, len(list(rule.check(Scene(copy, subject.rules, subject.device))))
