"""Rules that a quantized model has to keep for its target, one a file, and their fixes."""

from edgedeploy.calibration.lint.fix import Repair, Repaired, fix
from edgedeploy.calibration.lint.rule import LINT, Cases, LintRule, lint_rule
from edgedeploy.calibration.lint.run import Finding, Subject, all_rules, lint, subject_named
from edgedeploy.calibration.lint.scene import Device

__all__ = [
    "LINT",
    "Cases",
    "Device",
    "Finding",
    "LintRule",
    "Repair",
    "Repaired",
    "Subject",
    "all_rules",
    "fix",
    "lint",
    "lint_rule",
    "subject_named",
]
