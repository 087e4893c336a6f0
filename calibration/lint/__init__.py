"""Rules that a quantised model has to keep for its target, one a file, and their fixes."""

from edgedeploy.calibration.lint._base import LINT, Cases, LintRule, lint_rule
from edgedeploy.calibration.lint._fix import Repair, Repaired, fix
from edgedeploy.calibration.lint._run import Finding, Subject, all_rules, lint, subject_named
from edgedeploy.calibration.lint._scene import Device

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
