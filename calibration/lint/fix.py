"""Put right what can be put right mechanically, each fix proved in ONNX Runtime as it is made.

In a deep network another rounding of the same tensors shows as much as the rounding itself. So a fix that
changes the numbers by more than it promises is judged against the model without rounding: it may be no
farther from that than the file was, but for the bit that symmetric codes take from what was unsigned.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from edgedeploy.calibration.lint.editor import Editor
from edgedeploy.calibration.lint.rule import LintRule
from edgedeploy.calibration.lint.run import Subject, all_rules
from edgedeploy.calibration.lint.scene import Scene
from edgedeploy.calibration.lint.verify import Feeds, NotRunnable, agreement, drawn_feeds, run

LOSS_DB = 8.0  # a bit is 6 dB
ROUNDS = 4  # a fix may show another fault, seldom a third


@dataclass(frozen=True)
class Repair:
    """What a fix came to: faults put right, and the SQNR in dB against the model before (None: not run)."""

    id: str
    rule: str
    faults: int
    sqnr_db: float | None
    reverted: str = ""


@dataclass(frozen=True)
class Repaired:
    """A model after its fixes, each of which was verified; `sqnr_db` is that of all together."""

    model: onnx.ModelProto
    repairs: tuple[Repair, ...] = ()
    sqnr_db: float | None = None
    notes: tuple[str, ...] = ()


def fix(model: onnx.ModelProto, *subjects: Subject, only: Collection[str] = ()) -> Repaired:
    """A copy of the model with the fixes of every rule that is broken for a target.

    `only` names ids; without it errors and warnings are put right, and advice is left to people.
    Every fix is run against the model before it; one that neither keeps its rule's promise, nor leaves the
    numbers as near as they were to those of the same model without rounding, is taken back.
    A model that ONNX Runtime does not run is fixed all the same, and the notes say that nothing was verified.
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
    """The model as it is so far, and its outputs."""

    def __init__(self, model: onnx.ModelProto, subject: Subject) -> None:
        self.model = _copy(model)
        self.scenes: dict[str, Scene] = {}  # by subject, of the model as it is
        self.repairs: list[Repair] = []
        self.notes: list[str] = []
        self.refused: set[str] = set()
        self.feeds: list[Feeds] = []
        self.start: list[Feeds] | None = None
        self.outputs: list[Feeds] | None = None
        try:
            self.feeds = drawn_feeds(Scene(model, subject.rules, subject.device))
            self.start = self.outputs = run(model, self.feeds)
        except NotRunnable as reason:
            self.notes.append(f"not verified: {reason}")

    def repair(self, rule: LintRule, subject: Subject) -> bool:
        """Whether a rule was broken, and its fix was kept."""
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
    ) -> tuple[float | None, list[Feeds] | None, str]:
        """SQNR against the model before, the outputs, and why the fix is wrong ("" if it is not)."""
        try:
            onnx.checker.check_model(changed)
            if self.outputs is None:
                return None, None, ""
            outputs = run(changed, self.feeds)
            sqnr = agreement(self.outputs, outputs).sqnr_db
            if sqnr >= rule.promise:
                return sqnr, outputs, ""
            exact = run(_float_twin(self.model, subject), self.feeds)
        except (NotRunnable, onnx.checker.ValidationError) as reason:
            return None, None, f"the model is not sound after it: {' '.join(str(reason).split())[:200]}"
        old, new = agreement(exact, self.outputs).sqnr_db, agreement(exact, outputs).sqnr_db
        reverted = f"{new:.1f} dB against the same model without rounding, where it had {old:.1f} dB"
        return sqnr, outputs, "" if new >= old - LOSS_DB else reverted

    def result(self) -> Repaired:
        total = None
        if self.start is not None and self.outputs is not None:
            total = agreement(self.start, self.outputs).sqnr_db
        return Repaired(self.model, tuple(self.repairs), total, tuple(self.notes))


def _float_twin(model: onnx.ModelProto, subject: Subject) -> onnx.ModelProto:
    """The model without Q/DQ on activations, its weights as rounded as they are."""
    twin = _copy(model)
    editor = Editor(Scene(twin, subject.rules, subject.device))
    editor.strip()
    editor.commit()
    return twin


def _applied(model: onnx.ModelProto, rule: LintRule, subject: Subject) -> tuple[onnx.ModelProto, int]:
    """A copy with one rule's fix, and the number of faults that it leaves."""
    copy = _copy(model)
    scene = Scene(copy, subject.rules, subject.device)
    editor = Editor(scene)
    rule.mend(scene, editor)
    editor.commit()
    return copy, len(list(rule.check(Scene(copy, subject.rules, subject.device))))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result
