"""Judge a model by every rule of its targets, and put right what can be put right mechanically."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import onnx

from edgedeploy.calibration.lint._base import LINT, SEVERITIES, LintRule, Severity
from edgedeploy.calibration.lint._editor import Editor
from edgedeploy.calibration.lint._scene import Device, Scene
from edgedeploy.calibration.lint._verify import Feeds, NotRunnable, agreement, drawn_feeds, run
from edgedeploy.calibration.ruleset import RuleSet, load_rules, rule_names
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.target import load_target, target_names

LOSS_DB = 8.0  # of symmetric codes for what was unsigned: one bit of eight is 6 dB
ROUNDS = 4  # a fix may show another fault, seldom a third


@dataclass(frozen=True)
class Finding:
    """One fault: which rule, where, why it matters there, and what to do.

    Attributes:
        target: name of the target, or rule set, that the model was judged for.
        node, op: "" for what is wrong with the model as a whole.
        fixable: whether `fix` can put it right.
    """

    target: str
    id: str
    rule: str
    severity: Severity
    node: str
    op: str
    why: str
    remedy: str
    fixable: bool


@dataclass(frozen=True)
class Subject:
    """What a model is judged for: a rule set, and what is known of the device."""

    rules: RuleSet
    device: Device = Device()

    @property
    def name(self) -> str:
        return self.device.name or self.rules.name


def subject_named(name: str, backend: str | None = None) -> Subject:
    """By the name of a target, whose `backend`, else its first, decides; or of a rule set."""
    if name not in target_names():
        return Subject(load_named_rules(name))
    target = load_target(name)
    rules = load_rules(target.rules(backend or target.backends[0]))
    return Subject(rules, Device(name, "int8" in target.precisions, target.compute_capability))


def load_named_rules(name: str) -> RuleSet:
    """A rule set; the closest names in the error are those of targets, too."""
    if name not in rule_names():
        raise UnknownNameError("target or Q/DQ rule set", name, [*target_names(), *rule_names()])
    return load_rules(name)


@dataclass(frozen=True)
class Repair:
    """What a fix came to: faults put right, and the SQNR in dB against the model before it (None: not run)."""

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
    notes: tuple[str, ...] = field(default=())


def all_rules() -> list[LintRule]:
    """Every rule, by id."""
    return sorted((LINT.get(name) for name in LINT.names()), key=lambda rule: rule.id)


def lint(model: onnx.ModelProto, *subjects: Subject) -> list[Finding]:
    """What is wrong with a model for each of the targets, errors first, in graph order.

    Raises CalibrationError where its shapes cannot be inferred.
    """
    found = []
    for subject in subjects:
        scene = Scene(model, subject.rules, subject.device)
        for rule in all_rules():
            if rule.applies(subject.rules):
                found += [_finding(subject, rule, scene, index, why) for index, why in rule.check(scene)]
    return sorted(found, key=lambda entry: SEVERITIES.index(entry.severity))


def _finding(subject: Subject, rule: LintRule, scene: Scene, index: int, why: str) -> Finding:
    node = scene.label(index) if index >= 0 else ""
    return Finding(
        subject.name,
        rule.id,
        rule.name,
        rule.severity,
        node,
        scene.op(index),
        why,
        rule.remedy,
        rule.fix is not None,
    )


def fix(model: onnx.ModelProto, *subjects: Subject, only: Collection[str] = ()) -> Repaired:
    """A copy of the model with the fixes of every rule that is broken for a target.

    `only` names ids; without it errors and warnings are put right, and advice is left to people.

    Every fix is run against the model before it; one that neither keeps its rule's promise, nor leaves the
    numbers as near as they were to those of the same model without rounding, is taken back.
    A model that ONNX Runtime does not run is fixed all the same, and the notes say that nothing was verified.
    """
    current, repairs, notes = _copy(model), list[Repair](), list[str]()
    first = Scene(model, subjects[0].rules, subjects[0].device)
    feeds = drawn_feeds(first)
    try:
        start = before = run(model, feeds)
    except NotRunnable as reason:
        start = before = None
        notes.append(f"not verified: {reason}")
    refused = set[str]()
    for _ in range(ROUNDS):
        done = 0
        for subject in subjects:
            for rule in all_rules():
                wanted = rule.id in only if only else rule.severity != "advice"
                if rule.fix is None or rule.id in refused or not wanted or not rule.applies(subject.rules):
                    continue
                changed, faults = _apply(current, rule, subject)
                if not faults:
                    continue
                sqnr, reverted, after = None, "", None
                try:
                    onnx.checker.check_model(changed)
                    after = run(changed, feeds) if before is not None else None
                except (NotRunnable, onnx.checker.ValidationError) as reason:
                    reverted = f"the model is not sound after it: {' '.join(str(reason).split())[:200]}"
                if before is not None and after is not None:
                    sqnr = agreement(before, after).sqnr_db
                    if sqnr < rule.promise:
                        reverted = _worse(_float_twin(current, subject), feeds, before, after)
                repairs.append(Repair(rule.id, rule.name, faults, sqnr, reverted))
                if reverted:
                    refused.add(rule.id)
                    continue
                current, before, done = changed, after, done + 1
        if not done:
            break
    total = agreement(start, before).sqnr_db if start is not None and before is not None else None
    return Repaired(current, tuple(repairs), total, tuple(notes))


def _worse(twin: onnx.ModelProto, feeds: Sequence[Feeds], before: list[Feeds], after: list[Feeds]) -> str:
    """Why a fix that changed the numbers is wrong; "" where they are as near to unrounded ones as they were.

    In a deep network another rounding of the same tensors shows as much as the rounding itself.
    """
    try:
        exact = run(twin, feeds)
    except NotRunnable as reason:
        return str(reason)
    old, new = agreement(exact, before).sqnr_db, agreement(exact, after).sqnr_db
    if new >= old - LOSS_DB:
        return ""
    return f"{new:.1f} dB against the same model without rounding, where it had {old:.1f} dB"


def _float_twin(model: onnx.ModelProto, subject: Subject) -> onnx.ModelProto:
    """The model without Q/DQ on activations, its weights as rounded as they are."""
    twin = _copy(model)
    editor = Editor(Scene(twin, subject.rules, subject.device))
    editor.strip()
    editor.commit()
    return twin


def _apply(model: onnx.ModelProto, rule: LintRule, subject: Subject) -> tuple[onnx.ModelProto, int]:
    """A copy with one rule's fix, and the number of faults that are gone by it; 0 where there are none."""
    copy = _copy(model)
    scene = Scene(copy, subject.rules, subject.device)
    faults = list(rule.check(scene))
    if not faults or rule.fix is None:
        return model, 0
    editor = Editor(scene)
    rule.fix(scene, editor, faults)
    editor.commit()
    left = list(rule.check(Scene(copy, subject.rules, subject.device)))
    return copy, len(faults) - len(left)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result
