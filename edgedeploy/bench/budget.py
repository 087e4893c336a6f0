"""Budgets: `p99<20ms`, `throughput>=24`, `memory<500MB`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgedeploy.bench.measure import BenchResult
from edgedeploy.core.errors import BudgetError, UsageError

# Name in a budget: (field of BenchResult, unit of that field)
METRICS = {
    "mean": ("mean_ms", "ms"),
    "p50": ("p50_ms", "ms"),
    "p90": ("p90_ms", "ms"),
    "p95": ("p95_ms", "ms"),
    "p99": ("p99_ms", "ms"),
    "throughput": ("throughput", "/s"),
    "fps": ("throughput", "/s"),
    "speedup": ("speedup", "x"),
    "memory": ("memory_mb", "MB"),
}
UNITS = {"ms": {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}, "/s": {"": 1.0, "/s": 1.0, "fps": 1.0}}
UNITS |= {"x": {"": 1.0, "x": 1.0}, "MB": {"": 1.0, "KB": 1e-3, "MB": 1.0, "GB": 1e3}}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*([a-zA-Z/]*)\s*")


@dataclass(frozen=True)
class Budget:
    """One condition on every model of a bench; `limit` is in the field's own unit."""

    text: str
    metric: str
    comparison: str
    limit: float

    def miss(self, result: BenchResult) -> str:
        """How a result misses the budget, as a sentence; "" if it does not. An unknown figure misses it."""
        field, unit = METRICS[self.metric]
        value = getattr(result, field)
        if value is None:
            return f"{result.name}: {self.metric} is not known here, budget {self.text}"
        if COMPARISONS[self.comparison](value, self.limit):
            return ""
        return f"{result.name}: {self.metric} is {value:.4g} {unit}, budget {self.text}"


def parse_budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Budgets from strings of one or more budgets separated by commas; raises UsageError."""
    return tuple(_parse(part) for text in texts for part in text.split(",") if part.strip())


def check_budgets(results: Iterable[BenchResult], budgets: Iterable[Budget]) -> None:
    """Raise BudgetError, naming every miss, unless all results keep all budgets."""
    wanted = tuple(budgets)
    misses = [miss for result in results for budget in wanted if (miss := budget.miss(result))]
    if misses:
        raise BudgetError("; ".join(misses), "choose a faster precision or target, or a smaller size")


def _parse(text: str) -> Budget:
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in METRICS:
        raise UsageError(f"'{text}' is not a budget", f"write e.g. p99<20ms; figures: {', '.join(METRICS)}")
    unit = METRICS[match[1]][1]
    if match[4] not in UNITS[unit]:
        offered = ", ".join(name for name in UNITS[unit] if name)
        raise UsageError(f"'{match[4]}' is not a unit of {match[1]}", f"use one of: {offered}")
    return Budget(text.strip(), match[1], match[2], float(match[3]) * UNITS[unit][match[4]])
