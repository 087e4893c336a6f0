"""Rules that a quantised model has to keep for its target, one a file, with models that break them and fixes."""

from edgedeploy.calibration.lint._base import LINT, Cases, LintRule, lint_rule
from edgedeploy.calibration.lint._run import (
    Finding,
    Repair,
    Repaired,
    Subject,
    all_rules,
    fix,
    lint,
    subject_named,
)
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
