"""`edgedeploy lint`: judge a quantized model, anybody's, by the rules of its targets, and repair what can
be.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next, print_table
from edgedeploy.cli.options import Json, Out, names
from edgedeploy.core.errors import LintError, UsageError

if TYPE_CHECKING:
    from edgedeploy.calibration.lint import Finding, Repaired

FEW = 12  # findings of one rule that the table shows


def command(
    source: Annotated[
        Path | None, typer.Argument(help="An .onnx file with Q/DQ.", show_default=False)
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TARGET,…",
            help="Devices, or rule sets; DEVICE@BACKEND for one of its backends.",
            show_default=False,
        ),
    ] = None,
    repair: Annotated[bool, typer.Option("--fix", help="Repair what is mechanical, and prove it.")] = False,
    out: Out = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="ED101,…", help="These rules alone; --fix then takes advice too.", show_default=False
        ),
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules instead.")] = False,
    json: Json = False,
) -> None:
    if rules:
        _print_rules(json)
        return
    if source is None or not targets:
        raise UsageError(
            "lint needs a model and --for", "edgedeploy lint MODEL.onnx --for jetson-orin-nano,cpu"
        )
    from edgedeploy.verbs.lint import lint

    reporter = Reporter(quiet=json)
    report = lint(source, names(targets) or [], fix=repair, out=out, only=names(only) or (), monitor=reporter)
    document: dict[str, Any] = {
        "path": str(source),
        "findings": [dataclasses.asdict(entry) for entry in report.findings],
    }
    if report.repaired is not None and report.artifact is not None:
        repaired, path = report.repaired, report.artifact.path
        document |= {
            "fixed": str(path),
            "repairs": [dataclasses.asdict(entry) for entry in repaired.repairs],
            "sqnr_db": repaired.sqnr_db,
            "notes": list(repaired.notes),
            "left": [dataclasses.asdict(entry) for entry in report.left],
        }
        if not json:
            _print_repairs(repaired, path)
            for note in repaired.notes:
                reporter.note(note)
    if json:
        print_json(document)
    else:
        _print_findings(report.left)
    _end(report.left, source, targets, repair)


def _end(found: Sequence[Finding], source: Path, targets: str, repaired: bool) -> None:
    """Exit code 4 where an error or a warning stands; advice alone is none."""
    counts = Counter(entry.severity for entry in found)
    faults = counts["error"] + counts["warning"]
    if faults:
        fixable = any(entry.fixable and entry.severity != "advice" for entry in found)
        hint = "what is left nobody can repair mechanically: do what the remedies say"
        if fixable and not repaired:
            hint = f"repair what is mechanical: {command_line('lint', source, '--for', targets, '--fix')}"
        raise LintError(f"{counts['error']} errors and {counts['warning']} warnings for {targets}", hint)
    print_next(command_line("build", source, "--target", targets.split(",")[0].partition("@")[0]))


def _print_findings(found: Sequence[Finding]) -> None:
    if not found:
        print_table(("lint",), [("clean",)])
        return
    shown, seen = [], Counter[tuple[str, str]]()
    for entry in found:
        seen[entry.target, entry.id] += 1
        if seen[entry.target, entry.id] <= FEW:
            shown.append(entry)
    rows = [
        (entry.id, entry.severity, entry.target, entry.node or "(model)", entry.why, _cure(entry))
        for entry in shown
    ]
    print_table(("rule", "severity", "for", "node", "why", "fix"), rows, dispensable=("fix", "severity"))
    more = [(target, code, count - FEW) for (target, code), count in seen.items() if count > FEW]
    if more:
        print_table(("for", "rule", "more of them"), more)


def _cure(entry: Finding) -> str:
    return f"--fix; {entry.remedy}" if entry.fixable else entry.remedy


def _print_repairs(repaired: Repaired, path: Path) -> None:
    rows = [
        (
            entry.id,
            entry.rule,
            0 if entry.reverted else entry.faults,
            "not run" if entry.sqnr_db is None else f"{entry.sqnr_db:.1f}",
            entry.reverted or "kept",
        )
        for entry in repaired.repairs
    ]
    total = (
        "not verified" if repaired.sqnr_db is None else f"{repaired.sqnr_db:.1f} dB SQNR to the file before"
    )
    print_table(("rule", "name", "repairs", "SQNR dB", "kept or why not"), rows, title=f"{path}: {total}")


def _print_rules(json: bool) -> None:
    from edgedeploy.core.extras import require_onnx

    require_onnx()
    from edgedeploy.calibration.lint import all_rules
    from edgedeploy.calibration.place.ruleset import load_rules, rule_names

    entries = [
        {
            "id": rule.id,
            "name": rule.name,
            "severity": rule.severity,
            "title": rule.title,
            "source": list(rule.source),
            "for": [name for name in rule_names() if rule.applies(load_rules(name))],
            "fix": rule.fixable,
            "remedy": rule.remedy,
        }
        for rule in all_rules()
    ]
    if json:
        print_json(entries)
        return
    rows = [(e["id"], e["name"], e["severity"], e["title"], "yes" if e["fix"] else "") for e in entries]
    print_table(("rule", "name", "severity", "fires where", "--fix"), rows)
