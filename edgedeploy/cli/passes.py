"""Reports of graph passes: tables for people, a document for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgedeploy.cli.console import print_table
from edgedeploy.cli.report import describe

if TYPE_CHECKING:
    from edgedeploy.export.counts import ModelCounts
    from edgedeploy.export.graph_pass import Skipped
    from edgedeploy.export.report import PassReport
    from edgedeploy.verbs.optimize import Optimized

FEW = 3  # node names that a table shows
SKIPPED = ("pass", "operator", "not rewritten:", "nodes", "named")


def describe_optimized(done: Optimized) -> dict[str, Any]:
    """The artifact, the counts, every step, the nodes that were not rewritten and the reverted rewrites."""
    report = done.report
    steps = [
        {
            "pass": step.name,
            "rewrites": step.hits,
            "milliseconds": step.milliseconds,
            "error": step.error,
            "granted": step.granted,
            "nodes_before": step.nodes_before,
            "nodes_after": step.nodes_after,
            "reverted": step.reverted,
            "reason": step.reason,
            "taken_back": [{"node": o.node, "op": o.op, "reason": o.reason} for o in step.offences],
        }
        for step in report.steps
    ]
    skipped = [
        {"pass": name, "node": entry.node, "op": entry.op, "reason": entry.reason}
        for name, entry in report.skipped
    ]
    tail = {} if done.tail is None else {"tail": describe_optimized(done.tail)}
    return {
        **describe(done.artifact),
        "before": report.before.as_dict(),
        "after": report.after.as_dict(),
        "verified": report.verified,
        "steps": steps,
        "skipped": skipped,
        "repros": [str(folder) for folder in report.repros],
        "notes": [*report.notes, *report.problems],
        **tail,
    }


def print_optimized(done: Optimized, *, explain: bool) -> None:
    """Print the passes that fired, counts before and after, and on request the nodes not rewritten."""
    report = done.report
    fired, counts = _fired(report), _counts(report.before, report.after)
    skipped = _skipped(report.skipped) if explain else []
    if fired:
        print_table(("pass", "rewrites", "nodes", "ms", "max error / max |y|"), fired)
    print_table(("", "before", "after"), counts, title=str(done.artifact.path))
    if skipped:
        print_table(SKIPPED, skipped, dispensable=("named",))


def print_skips(report: PassReport) -> None:
    """Print the nodes that were not rewritten, and why."""
    rows = _skipped(report.skipped)
    if rows:
        print_table(SKIPPED, rows, dispensable=("named",))


def _fired(report: PassReport) -> list[tuple[object, ...]]:
    return [
        (
            step.name,
            f"0 of {step.hits}" if step.reverted else step.hits,
            f"{step.nodes_before} to {step.nodes_after}",
            f"{step.milliseconds:.0f}",
            "reverted" if step.reverted else "not measured" if step.error is None else f"{step.error:.1e}",
        )
        for step in report.steps
    ]


def _skipped(skipped: Iterable[tuple[str, Skipped]]) -> list[tuple[object, ...]]:
    """Nodes grouped by pass, operator and reason, the most frequent first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in skipped:
        groups.setdefault((name, entry.op, entry.reason), []).append(entry.node)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1]), group[0][1:]))
    return [(name, op, reason, len(nodes), _few(nodes)) for (name, op, reason), nodes in ordered]


def _counts(before: ModelCounts, after: ModelCounts) -> list[tuple[str, str, str]]:
    """Totals, after the operators whose number changed."""
    rows: list[tuple[str, str, str]] = []
    for name in dict.fromkeys((*before.operators, *after.operators)):
        old, new = before.operators.get(name, 0), after.operators.get(name, 0)
        if old != new:
            rows.append((name, str(old), str(new)))
    rows.append(("nodes", str(before.nodes), str(after.nodes)))
    rows.append(("of them norms", str(before.norms), str(after.norms)))
    rows.append(("parameters", f"{before.parameters:,}", f"{after.parameters:,}"))
    rows.append(("constants, kB", f"{before.bytes / 1e3:.0f}", f"{after.bytes / 1e3:.0f}"))
    if after.macs is not None:
        old_macs = "?" if before.macs is None else f"{before.macs / 1e6:.1f}"
        rows.append(("million multiply-adds", old_macs, f"{after.macs / 1e6:.1f}"))
    return rows


def _few(nodes: list[str]) -> str:
    named = [name for name in nodes if name]
    return ", ".join(named[:FEW]) + (", …" if len(named) > FEW else "")
