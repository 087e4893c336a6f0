"""Reports of graph passes: tables for people, a document for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgedeploy.cli.console import print_table
from edgedeploy.cli.report import describe

if TYPE_CHECKING:
    from edgedeploy.export.counts import ModelCounts
    from edgedeploy.export.graph_pass import Skipped
    from edgedeploy.verbs.optimize import Optimized

FEW = 3  # node names that a table shows


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


def print_optimized(done: Optimized) -> None:
    """Print the passes that fired, and counts before and after, with the operators whose number changed."""
    report = done.report
    rows = [
        (
            step.name,
            f"0 of {step.hits}" if step.reverted else step.hits,
            f"{step.nodes_before} to {step.nodes_after}",
            f"{step.milliseconds:.0f}",
            "reverted" if step.reverted else "not measured" if step.error is None else f"{step.error:.1e}",
        )
        for step in report.steps
    ]
    if rows:
        print_table(("pass", "rewrites", "nodes", "ms", "max error / max |y|"), rows)
    print_table(("", "before", "after"), _rows(report.before, report.after), title=str(done.artifact.path))


def print_skips(skipped: Iterable[tuple[str, Skipped]]) -> None:
    """Print nodes that were not rewritten, grouped by pass, operator and reason, most frequent first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in skipped:
        groups.setdefault((name, entry.op, entry.reason), []).append(entry.node)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1]), group[0][1:]))
    rows = [(name, op, reason, len(nodes), _few(nodes)) for (name, op, reason), nodes in ordered]
    if rows:
        print_table(("pass", "operator", "not rewritten:", "nodes", "named"), rows, dispensable=("named",))


def _rows(before: ModelCounts, after: ModelCounts) -> list[tuple[str, str, str]]:
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
