"""Check a model against every rule of its targets."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from edgedeploy.calibration.lint.rule import LINT, SEVERITIES, LintRule, Severity
from edgedeploy.calibration.lint.scene import Device, Scene
from edgedeploy.calibration.place.ruleset import RuleSet, load_rules, rule_names
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.target import load_target, target_names


@dataclass(frozen=True)
class Finding:
    """One fault: the rule, the node, the reason, and the remedy.

    Attributes:
        target: name of the target or rule set that the model was checked for.
        node, op: "" for a fault of the whole model.
        fixable: whether `fix` can mend it.
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
    """A rule set and a device that a model is checked for."""

    rules: RuleSet
    device: Device = field(default_factory=Device)

    @property
    def name(self) -> str:
        return self.device.name or self.rules.name


def subject_named(name: str, backend: str | None = None) -> Subject:
    """The subject of a target (rule set of `backend`, by default of its first backend) or of a rule set."""
    if name not in target_names():
        return Subject(load_named_rules(name))
    target = load_target(name)
    rules = load_rules(target.rules(backend or target.backends[0]))
    return Subject(rules, Device(name, "int8" in target.precisions, target.compute_capability))


def load_named_rules(name: str) -> RuleSet:
    """A rule set; the error for an unknown name also suggests targets."""
    if name not in rule_names():
        raise UnknownNameError("target or Q/DQ rule set", name, [*target_names(), *rule_names()])
    return load_rules(name)


def all_rules() -> list[LintRule]:
    """Every rule, by id."""
    return sorted(LINT.all(), key=lambda rule: rule.id)


def lint(model: onnx.ModelProto, *subjects: Subject) -> list[Finding]:
    """Faults of a model for each of the targets, errors first, in graph order.

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
        rule.fixable,
    )
