"""Accuracy budgets: `miou>=-0.3`, `psnr>=-0.05`, `agreement>=0.985`.

A budget of a task metric limits its change against the float model on the same images: in points of 100 for
shares, in the metric's unit (dB) for others. `agreement`, `agreement_low`, `worst` and `sqnr` compare outputs
with the float model's: they need no labels, and their budgets limit the value itself.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgedeploy.core.errors import UsageError

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# Mean agreement, its lower 95 % confidence bound, the least of any input, SQNR in dB; see guard/score.py.
WITHOUT_LABELS = ("agreement", "agreement_low", "worst", "sqnr")
SHORT = {"psnr": "psnr_y", "ssim": "ssim_y", "f": "f_measure", "iou": "miou"}
POINTS = 100.0
# Start of the name of a metric that is not a share of 1 -> its unit.
OWN_UNIT = {"psnr": "dB", "sqnr": "dB", "cup_to_disc_error": ""}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class AccuracyBudget:
    """One condition; `limit` is a change for a task metric, else a value."""

    text: str
    metric: str
    comparison: str
    limit: float

    @property
    def needs_labels(self) -> bool:
        return self.metric not in WITHOUT_LABELS

    def value(self, scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
        """The figure that `limit` applies to; raises UsageError where the scores lack it."""
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
        """Whether the scores keep the budget; NaN does not."""
        return bool(COMPARISONS[self.comparison](self.value(scores, reference), self.limit))

    def shown(self, scores: Mapping[str, float], reference: Mapping[str, float]) -> str:
        """The figure in words, e.g. "miou -0.41 points", "agreement 0.912"."""
        figure = self.value(scores, reference)
        if self.needs_labels:
            return f"{self.metric} {figure:+.2f} {unit(self.metric)}".rstrip()
        return f"{self.metric} {figure:.1f} dB" if self.metric == "sqnr" else f"{self.metric} {figure:.3f}"


def change(metric: str, value: float, reference: float) -> float:
    """Change of a metric against the float model, in `unit(metric)`."""
    # Rounded: 0.697 - 0.7 is not quite -0.003 in binary, and a budget may be spent to the last digit.
    return round((value - reference) * (POINTS if unit(metric) == "points" else 1.0), 9)


def unit(metric: str) -> str:
    """Unit of `change`: points of 100, or the metric's own."""
    return next((u for start, u in OWN_UNIT.items() if metric.startswith(start)), "points")


def parse_accuracy(texts: Iterable[str]) -> tuple[AccuracyBudget, ...]:
    """Budgets from strings of one or several, comma-separated; raises UsageError for an invalid one."""
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
