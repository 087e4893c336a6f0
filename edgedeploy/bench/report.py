"""The report of a benchmark as Markdown, CSV or, complete, as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgedeploy.bench.budget import Budget, check_budgets
from edgedeploy.bench.measure import BenchResult
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import write_text

SCHEMA = 1
REPORTS = (".md", ".json", ".csv")
# Column heading -> how a result shows there.
COLUMNS: dict[str, Callable[[BenchResult], str]] = {
    "model": lambda r: r.name,
    "precision": lambda r: r.precision,
    "backend": lambda r: r.backend,
    "p50 ms": lambda r: _ms(r.p50_ms),
    "95 % interval": lambda r: f"{_ms(r.low_ms)} to {_ms(r.high_ms)}",
    "p90": lambda r: _ms(r.p90_ms),
    "p95": lambda r: _ms(r.p95_ms),
    "p99": lambda r: _ms(r.p99_ms),
    "device ms": lambda r: "" if r.device_p50_ms is None else _ms(r.device_p50_ms),
    "per second": lambda r: f"{r.throughput:.1f}",
    "speed-up": lambda r: f"{r.speedup:.2f} ({r.speedup_low:.2f} to {r.speedup_high:.2f})",
    "memory MB": lambda r: "" if r.memory_mb is None else f"{r.memory_mb:.0f}",
    "runs": lambda r: str(r.runs),
    "note": lambda r: r.note,
}


@dataclass(frozen=True)
class BenchReport:
    """Results in the requested order, machine, settings and budgets.

    `columns` and `rows` are the table as text, without empty columns.
    """

    results: tuple[BenchResult, ...]
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    budgets: tuple[Budget, ...] = ()

    @property
    def columns(self) -> list[str]:
        return [name for name, show in COLUMNS.items() if any(show(result) for result in self.results)]

    @property
    def rows(self) -> list[list[str]]:
        return [[COLUMNS[name](result) for name in self.columns] for result in self.results]

    def check(self) -> None:
        """Raise BudgetError unless every model keeps every budget."""
        check_budgets(self.results, self.budgets)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "results": [asdict(result) for result in self.results],
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "budgets": [budget.text for budget in self.budgets],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """One line per model: every field of BenchResult except `times_ms`."""
        names = [field.name for field in fields(BenchResult) if field.name != "times_ms"]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(result, name) for name in names] for result in self.results)
        return stream.getvalue()

    def to_markdown(self) -> str:
        def line(cells: list[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        table = [line(self.columns), line(["---"] * len(self.columns)), *map(line, self.rows)]
        about = [f"- {name}: {value}" for name, value in (*self.machine.items(), *self.settings.items())]
        return "\n".join([*table, "", *about]) + "\n"

    def write(self, path: Path) -> None:
        """Write .md, .json or .csv by the suffix; raises UsageError for another suffix."""
        require_report_name(path)
        writers = {".md": self.to_markdown, ".json": self.to_json, ".csv": self.to_csv}
        write_text(path, writers[path.suffix]())


def require_report_name(path: Path) -> None:
    """Raise UsageError unless the suffix is that of a report."""
    if path.suffix not in REPORTS:
        raise UsageError(f"{path} is no report file", f"end its name in {', '.join(REPORTS)}")


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.1f}"
