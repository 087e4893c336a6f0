"""The contract of a lint rule: a stable id, the rule sets it is about, models that break it or keep it.

A rule is one file: `@lint_rule` on a function that yields the nodes at fault. A rule whose faults an edit
mends offers a `fix`, and promises the least signal-to-noise ratio of the fixed model against the model
before. The driver measures that ratio in ONNX Runtime at every use and reverts a fix that does worse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from edgedeploy.calibration.lint.editor import Editor
from edgedeploy.calibration.lint.scene import Scene
from edgedeploy.calibration.lint.sketch import Sketch
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.core.registry import Registry

__all__ = [
    "LINT", "SEVERITIES", "TENSORRT", "Case", "Cases", "Editor", "Fault", "LintRule", "Scene", "Severity",
    "Sketch", "lint_rule",
]  # fmt: skip

TENSORRT = ("tensorrt", "tensorrt-rtx", "dla")  # runtimes that share NVIDIA's parser
Severity = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
Fault = tuple[int, str]  # index of a node, -1 for the model as a whole; what is wrong there
# A model, and the name of its rule set or target; without a name it is the first that the rule applies to.
Case = onnx.ModelProto | tuple[onnx.ModelProto, str]


@dataclass(frozen=True)
class Cases:
    """Models on which a rule must fire, and models on which it must not."""

    bad: Sequence[Case]
    good: Sequence[Case]


@dataclass(frozen=True)
class LintRule:
    """A registered rule. The fields after `check` are the arguments of the decorator `lint_rule`.

    Attributes:
        check: scene -> faults.
        name: file name with dashes.
        id: ED1xx for what a parser refuses, ED2xx for placement that costs time or accuracy, ED3xx for
            advice; no two rules ever have the same id.
        severity: "error": the runtime refuses the file or computes it wrongly; "warning": it runs slower or
            less exactly than it could; "advice": consider.
        source: H and P numbers of docs/lint.md.
        remedy: what to do, in one line.
        cases: models that break and keep the rule; the generator draws their weights.
        where: field of RuleSet -> values; the rule applies to rule sets that have one of them in each field.
        fix: (scene, editor, index of the node at fault) -> None edits the graph, once for every fault;
            None where no edit mends it.
        fix_all: (scene, editor, indices) -> None in place of `fix`, for faults that one edit mends together.
        promise: least SQNR in dB of the outputs after `fix` against those before.
    """

    check: Callable[[Scene], Iterable[Fault]]
    name: str
    id: str
    severity: Severity
    source: tuple[str, ...]
    remedy: str
    cases: Callable[[np.random.Generator], Cases]
    where: Mapping[str, Collection[Any]] = field(default_factory=dict)
    fix: Callable[[Scene, Editor, int], None] | None = None
    fix_all: Callable[[Scene, Editor, Sequence[int]], None] | None = None
    promise: float = 20.0

    @property
    def title(self) -> str:
        """First line of the rule's docstring, without its full stop."""
        return (self.check.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @property
    def fixable(self) -> bool:
        """Whether the rule has a fix."""
        return bool(self.fix or self.fix_all)

    def mend(self, scene: Scene, editor: Editor) -> None:
        """Edit every fault that the rule finds; the caller commits the edits."""
        indices = [index for index, _ in self.check(scene)]
        if self.fix_all is not None:
            self.fix_all(scene, editor, indices)
        elif self.fix is not None:
            for index in indices:
                self.fix(scene, editor, index)

    def applies(self, rules: RuleSet) -> bool:
        """Whether the rule applies to files for this rule set."""
        return all(getattr(rules, name) in values for name, values in self.where.items())


LINT: Registry[LintRule] = Registry("lint rule", "edgedeploy.calibration.lint.rules")
lint_rule = LINT.decorator(LintRule)
