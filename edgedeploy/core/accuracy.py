"""Accuracy budgets: `miou>=-0.3`, `psnr>=-0.05`, `agreement>=0.985`.

A metric of the task is held against the float model's on the same images: how much it may change, in points
of 100 for shares, in its own unit (dB) for others. `agreement`, `agreement_low`, `worst` and `sqnr` need no
labels: they are of the outputs against the float model's, and are held as they are.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgedeploy.core.errors import UsageError

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# Of a model's outputs against the float model's: mean agreement, what other inputs' is at least with 95 %
# confidence, the least of any input, and SQNR in dB.
WITHOUT_LABELS = ("agreement", "agreement_low", "worst", "sqnr")
SHORT = {"psnr": "psnr_y", "ssim": "ssim_y", "f": "f_measure", "iou": "miou"}
POINTS = 100.0
# Metrics that are not shares of 1, by how their names begin: budgets of those are in their own unit.
OWN_UNIT = {"psnr": "dB", "sqnr": "dB", "cup_to_disc_error": ""}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class AccuracyBudget:
    """One condition; `limit` is a change in points or units for a metric, else a value."""

    text: str
    metric: str
    comparison: str
    limit: float

    @property
    def needs_labels(self) -> bool:
        return self.metric not in WITHOUT_LABELS

    def value(self, scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
        """The figure that the limit is for; raises UsageError where the scores do not have it."""
        if self.metric not in scores or (self.needs_labels and self.metric not in reference):
            known = sorted({*scores, *reference} - {"images", "pairs"})
            close = difflib.get_close_matches(self.metric, known, 1) or known
            bound = self.metric == "agreement_low"
            raise UsageError(
                f"budget {self.text}: there is no figure called {self.metric} for this model and data",
                "a bound takes two inputs at least" if bound else f"there is {', '.join(close)}",
            )
        if not self.needs_labels:
            return scores[self.metric]
        return change(self.metric, scores[self.metric], reference[self.metric])

    def kept(self, scores: Mapping[str, float], reference: Mapping[str, float]) -> bool:
        """Whether the scores keep it; what is not a number does not."""
        return bool(COMPARISONS[self.comparison](self.value(scores, reference), self.limit))

    def shown(self, scores: Mapping[str, float], reference: Mapping[str, float]) -> str:
        """The figure in words, e.g. "miou -0.41 points", "agreement 0.912"."""
        figure = self.value(scores, reference)
        return f"{self.metric} {figure:+.2f} {unit(self.metric)}".rstrip() if self.needs_labels else (
            f"{self.metric} {figure:.1f} dB" if self.metric == "sqnr" else f"{self.metric} {figure:.3f}"
        )  # fmt: skip


def change(metric: str, value: float, reference: float) -> float:
    """By how much a metric differs: in points of 100, or in its own unit."""
    # Rounded: 0.697 - 0.7 is not quite -0.003 in binary, and a budget may be spent to the last digit.
    return round((value - reference) * (1.0 if _is_own_unit(metric) else POINTS), 9)


def unit(metric: str) -> str:
    """What `change` counts in."""
    return next((u for start, u in OWN_UNIT.items() if metric.startswith(start)), "points")


def parse_accuracy(texts: Iterable[str]) -> tuple[AccuracyBudget, ...]:
    """Budgets from strings, each with one or several between commas; raises UsageError for a wrong one."""
    return tuple(_parse(part) for text in texts for part in text.split(",") if part.strip())


def _parse(text: str) -> AccuracyBudget:
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"'{text.strip()}' is not an accuracy budget",
            "write e.g. 'miou>=-0.3' (points lost), 'psnr>=-0.05' (dB) or 'agreement>=0.985'",
        )
    metric = SHORT.get(match[1], match[1])
    return AccuracyBudget(text.strip(), metric, match[2], float(match[3]))


def _is_own_unit(metric: str) -> bool:
    return any(metric.startswith(start) for start in OWN_UNIT)
